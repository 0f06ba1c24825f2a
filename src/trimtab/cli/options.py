"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.errors import UserError

Out = Annotated[Path, typer.Option("--out", help="The folder to write to.")]
Restart = Annotated[
    bool, typer.Option("--restart", help="Discard what --out holds and start anew.")
]
Retry = Annotated[bool, typer.Option("--retry", help="Try again what failed before.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print points, tokens, memory and time; train nothing.")
]


def conditions_of(given: list[str] | None) -> dict[str, list[str]]:
    """Values by column of options such as harmful=0. Raises UserError."""
    conditions: dict[str, list[str]] = {}
    for condition in given or []:
        column, sign, value = condition.partition("=")
        if not sign:
            raise UserError(f"{condition!r} is no condition. Write column=value, as in harmful=0.")
        conditions.setdefault(column, []).append(value)
    return conditions
