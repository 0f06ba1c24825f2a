"""trimtab repair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.answer import tell_budget
from trimtab.cli.command import say, watched
from trimtab.cli.hub import PushToHub, push, require_access
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
    SafetyWhere,
    conditions_of,
    rate_limits,
    sources_of,
)
from trimtab.config.data_source import DataSource
from trimtab.config.ranges import Above0, Finite
from trimtab.errors import UserError
from trimtab.results.checksums import CARD_FILE, sha256_of

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
            help="wise-ft: the aligned model's share, from 0 (the model as it was) to 1; resta: γ, "
            "how much of the safety vector is added; safe-lora: τ, the similarity below which a "
            f"layer is projected, −1 to 1. [default: {_STRENGTH:g}]"
        ),
    ] = None,
    budget: Annotated[
        Above0 | None,
        typer.Option(help="wise-ft: what the safety loss may rise by, in nats per token."),
    ] = None,
    safety: Annotated[
        str | None,
        typer.Option(help="With a budget: safety rows; half of them choose, half tell."),
    ] = None,
    safety_where: SafetyWhere = None,
    max_harmful: MaxHarmful = None,
    min_refused: MinRefused = None,
    min_answered: MinAnswered = None,
    harmful: HarmfulToLimit = None,
    benign: BenignToLimit = None,
    judge: JudgesOfLimit = None,
    rows: PromptRows = None,
    max_tokens: AnswerTokens = None,
    push_to_hub: PushToHub = None,
) -> None:
    """Mend the safety of a fine-tuned model, after the fact.

    With a budget, or with limits on judged rates, wise-ft finds the least aligned share that keeps
    to it.
    """
    from trimtab.config.methods import PUBLISHED, number
    from trimtab.models import quiet_libraries
    from trimtab.runner.post_hoc import (
        interpolate_to_budget,
        interpolate_to_rates,
        repair_saved,
    )
    from trimtab.runner.rates import Asking, rate_lines, require_limits_to_ask_for

    names = [name for name, known in PUBLISHED.items() if known.is_post_hoc]
    if method not in names:
        raise UserError(f"{method!r} mends no model. Give one of {', '.join(names)}.")
    require_access(push_to_hub)
    limits = rate_limits(max_harmful, min_refused, min_answered)
    asking = Asking(sources_of(harmful), sources_of(benign), tuple(judge or ()), rows, max_tokens)
    require_limits_to_ask_for(limits, asking)
    if (budget is None) != (safety is None):
        raise UserError("a budget is kept on safety rows. Give both --budget and --safety.")
    if safety_where and safety is None:
        raise UserError("--safety-where chooses safety rows. Give --safety too.")
    if unaligned is not None and not PUBLISHED[method].needs_unaligned:
        raise UserError(f"{method} needs no --unaligned. Leave it out.")
    if limits and budget is not None:
        raise UserError("a budget and limits on rates are given. Give one of the two.")
    if (limits or budget is not None) and (method != "wise-ft" or strength is not None):
        raise UserError(
            "a budget, or limits on rates, choose the strength of wise-ft. Leave out --strength, "
            "or them."
        )
    if budget is not None and safety is not None:
        source = DataSource(safety, where=conditions_of(safety_where))
        _warn_of_rows_trained_on(model, safety)
        quiet_libraries()
        interpolation = interpolate_to_budget(model, aligned, out, budget, source)
    elif limits:
        with watched() as watcher:
            interpolation = interpolate_to_rates(model, aligned, out, limits, asking, watcher)
    else:
        quiet_libraries()
        share = _STRENGTH if strength is None else strength
        moved = repair_saved(method, share, model, aligned, unaligned, out)
        _tell_where(out, moved)
        push(out, push_to_hub)
        return
    share_text = f"The aligned model's share is {number(interpolation.share)}"
    as_it_is = ": the model keeps to it as it is, and the new one is a copy"
    say(f"{share_text}{as_it_is if interpolation.share == 0 else ''}.")
    if interpolation.rise is not None:
        tell_budget(
            interpolation.rise.budget, interpolation.rise.chosen_rise, interpolation.rise.rise
        )
    if interpolation.rates is not None:
        for line in rate_lines(interpolation.rates):
            say(line)
    _tell_where(out, interpolation.distance)
    push(out, push_to_hub)


def _warn_of_rows_trained_on(model: Path, safety: str) -> None:
    """Say where the model's own card names the file that is to tell how safe it is."""
    from trimtab.report.model_card import was_trained_on

    card, file = model / CARD_FILE, Path(safety)
    if not card.is_file() or not file.is_file():
        return
    if was_trained_on(card.read_text(encoding="utf-8"), sha256_of(file)):
        say(
            f"warning {safety} is among the data that the model was trained on, by its card: of "
            "such rows the safety loss flatters it. Give others.",
            error=True,
        )


def _tell_where(out: Path, moved: float) -> None:
    say(f"The model is in {out}, at a distance of {moved:.4g} from the aligned one.")
    if moved == 0:
        say("That is the aligned model itself: the two are one, or all of the way was gone back.")
