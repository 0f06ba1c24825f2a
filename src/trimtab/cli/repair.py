"""trimtab repair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.command import say
from trimtab.cli.options import Out
from trimtab.config.ranges import Finite
from trimtab.errors import UserError


def repair(
    method: Annotated[str, typer.Argument(help="wise-ft, resta or safe-lora.")],
    model: Annotated[Path, typer.Option(help="The fine-tuned model's folder, or its adapter's.")],
    aligned: Annotated[str, typer.Option(help="The model it was fine-tuned from.")],
    out: Out,
    unaligned: Annotated[
        str | None, typer.Option(help="The model from before it was aligned (resta, safe-lora).")
    ] = None,
    strength: Annotated[
        Finite, typer.Option(help="wise-ft: the aligned share; resta: γ; safe-lora: τ.")
    ] = 0.5,
) -> None:
    """Mend the safety of a fine-tuned model, after the fact."""
    from trimtab.config.methods import PUBLISHED
    from trimtab.models import quiet_libraries
    from trimtab.runner.post_hoc import repair_saved

    edit = [name for name, one in PUBLISHED.items() if one.stage == "after training"]
    if method not in edit:
        raise UserError(f"{method!r} mends no model. Give one of {', '.join(edit)}.")
    quiet_libraries()
    moved = repair_saved(method, strength, model, aligned, unaligned, out)
    say(f"The model is in {out}, at a distance of {moved:.4g} from the aligned one.")
