"""trimtab repair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.command import say, watched
from trimtab.cli.options import (
    AnswerTokens,
    BenignToLimit,
    HarmfulToLimit,
    JudgesOfLimit,
    MaxHarmful,
    MinAnswered,
    MinRefused,
    Out,
    PromptRows,
    rate_limits,
    sources_of,
)
from trimtab.config.ranges import Finite
from trimtab.errors import UserError

_STRENGTH = 0.5


def repair(
    method: Annotated[str, typer.Argument(help="wise-ft, resta or safe-lora.")],
    model: Annotated[Path, typer.Option(help="The fine-tuned model's folder, or its adapter's.")],
    aligned: Annotated[str, typer.Option(help="The model it was fine-tuned from.")],
    out: Out,
    unaligned: Annotated[
        str | None, typer.Option(help="The model from before it was aligned (resta, safe-lora).")
    ] = None,
    strength: Annotated[
        Finite | None,
        typer.Option(
            help=f"wise-ft: the aligned share; resta: γ; safe-lora: τ. [default: {_STRENGTH:g}]"
        ),
    ] = None,
    max_harmful: MaxHarmful = None,
    min_refused: MinRefused = None,
    min_answered: MinAnswered = None,
    harmful: HarmfulToLimit = None,
    benign: BenignToLimit = None,
    judge: JudgesOfLimit = None,
    rows: PromptRows = None,
    max_tokens: AnswerTokens = None,
) -> None:
    """Mend the safety of a fine-tuned model, after the fact.

    With limits on judged rates, wise-ft finds the least aligned share that keeps to them.
    """
    from trimtab.config.methods import PUBLISHED, number
    from trimtab.models import quiet_libraries
    from trimtab.runner.post_hoc import interpolate_to_rates, repair_saved
    from trimtab.runner.rates import Asking, rate_lines, require_limits_to_ask_for

    edit = [name for name, one in PUBLISHED.items() if one.stage == "after training"]
    if method not in edit:
        raise UserError(f"{method!r} mends no model. Give one of {', '.join(edit)}.")
    limits = rate_limits(max_harmful, min_refused, min_answered)
    asking = Asking(sources_of(harmful), sources_of(benign), tuple(judge or ()), rows, max_tokens)
    require_limits_to_ask_for(limits, asking)
    if limits:
        if method != "wise-ft" or strength is not None:
            raise UserError(
                "limits on rates choose the strength of wise-ft. Leave out --strength, or them."
            )
        with watched() as watcher:
            found = interpolate_to_rates(model, aligned, out, limits, asking, watcher)
        say(f"The aligned model's share is {number(found.share)}.")
        for line in rate_lines(found.rates):
            say(line)
        say(f"The model is in {out}, at a distance of {found.distance:.4g} from the aligned one.")
        return
    quiet_libraries()
    moved = repair_saved(
        method, _STRENGTH if strength is None else strength, model, aligned, unaligned, out
    )
    say(f"The model is in {out}, at a distance of {moved:.4g} from the aligned one.")
