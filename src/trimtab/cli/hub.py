"""Putting a finished model on the Hugging Face Hub."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.command import say
from trimtab.errors import UserError

PushToHub = Annotated[
    str | None,
    typer.Option(
        "--push-to-hub",
        metavar="ID",
        help="Upload the model and its card to this repository of the Hugging Face Hub; a new one "
        "is private.",
    ),
]


def require_access(repository: str | None) -> None:
    """Before anything is trained: a name the Hub takes, and a token. Raises UserError."""
    if repository is None:
        return
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--push-to-hub {repository!r}: {reason} Write USER/NAME.") from None
    if get_token() is None:
        raise UserError("--push-to-hub: no token is set. Run 'hf auth login', or set HF_TOKEN.")


def push(model: Path, repository: str | None) -> None:
    """Upload a model's folder; nothing without a repository.

    Raises:
        UserError: the Hub cannot be reached, or refuses.
    """
    if repository is None:
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    hub = HfApi()
    try:
        place = hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(
            repo_id=repository, folder_path=model, commit_message="A model trained with trimtab"
        )
    except (HTTPError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        upload = shlex.join(["hf", "upload", repository, str(model)])
        raise UserError(
            f"--push-to-hub {repository}: the Hub did not take it ({reason}). The model is in "
            f"{model}; upload it later with: {upload}"
        ) from None
    say(f"It is at {place}.")
