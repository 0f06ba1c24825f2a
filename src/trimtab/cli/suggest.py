"""trimtab suggest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.answer import command_to_make, saved_models
from trimtab.cli.command import say
from trimtab.cli.options import Folder, MaxHarmful, MinAnswered, MinRefused, rate_limits
from trimtab.config.ranges import Finite
from trimtab.errors import UserError

if TYPE_CHECKING:
    from trimtab.analysis.selection import Suggestion
    from trimtab.analysis.standing import Limit, Metric
    from trimtab.config.experiment import Experiment
    from trimtab.stats import Estimate


def suggest(
    folder: Folder,
    budget: Annotated[
        Finite | None,
        typer.Option(help="What the safety loss may rise by, in nats per token."),
    ] = None,
    max_harmful: MaxHarmful = None,
    min_refused: MinRefused = None,
    min_answered: MinAnswered = None,
    max_task_loss: Annotated[
        Finite | None,
        typer.Option(help="What the task loss may lie over the start's; below 0 it has to learn."),
    ] = None,
) -> None:
    """Name the setting that keeps to your limits at the least task loss."""
    from trimtab.analysis.selection import suggestions
    from trimtab.analysis.standing import Limit
    from trimtab.config.yaml_io import EXPERIMENT_FILE, read_experiment
    from trimtab.results.per_row_losses import RowLosses
    from trimtab.results.store import read_points

    limits = [
        *([Limit("safety loss", budget)] if budget is not None else []),
        *rate_limits(max_harmful, min_refused, min_answered),
        *([Limit("task loss", max_task_loss)] if max_task_loss is not None else []),
    ]
    recorded = folder / EXPERIMENT_FILE
    experiment = read_experiment(recorded) if recorded.exists() else None
    longest = experiment.lengths.response if experiment else None
    proposals = suggestions(read_points(folder), limits, RowLosses(folder), longest)
    if not proposals:
        raise UserError(f"{folder}: no trained model is here yet. Let 'trimtab sweep' make one.")
    for place, suggestion in enumerate(proposals):
        for line in [""] * (place > 0) + _suggestion_lines(suggestion, limits, experiment, folder):
            say(line)


def _suggestion_lines(
    suggestion: Suggestion, limits: list[Limit], experiment: Experiment | None, folder: Path
) -> list[str]:
    from trimtab.analysis.labels import listed, nats

    candidate, setting = suggestion.held_out, suggestion.held_out.setting
    limits_text = ", ".join(limit.in_words for limit in limits)
    lines = [f"Task {suggestion.task}, safety data {suggestion.proxy}: {limits_text}."]
    if suggestion.chosen_by.verdict == "within":
        lines.append(f"  {setting.name}")
    else:
        pronoun = "it" if len(limits) == 1 else "them"
        lines.append(f"  No setting is within {pronoun}. Nearest comes {setting.name}")
    verdicts = {limit.metric: verdict for limit, verdict in candidate.verdicts.items()}
    for metric, measured in candidate.measured.items():
        verdict_text = f": {verdicts[metric]}" if metric in verdicts else ""
        where = f" on the {suggestion.safety}" if metric == "safety loss" else ""
        over = " over the start's" if metric.endswith("loss") else ""
        lines.append(f"  {metric}{over}{where} {_value(measured)}{verdict_text}")
        if metric == "safety loss" and metric in verdicts and suggestion.limit_at_every_look:
            limit = nats(suggestion.limit_at_every_look)
            lines.append(f"    if no row rises by more than 1 nat per token, at most {limit}")
        if metric == "task loss" and suggestion.plain is not None:
            beside = _beside_plain(suggestion.plain.cost)
            lines.append(f"    plain fine-tuning: {_value(suggestion.plain.task_change)}{beside}")
    saved = saved_models(setting, folder)
    if saved:
        kind = "model" if len(saved) == 1 else "models"
        lines.append(f"  {kind}: {', '.join(map(str, saved))}")
    elif experiment and (command := command_to_make(setting, experiment, folder)):
        lines += ["  to make it:", *(f"    {line}" for line in command)]
    lines += _what_chose(suggestion)
    if suggestion.left_out:
        names = listed([setting.name for setting in suggestion.left_out])
        lines.append(f"Not compared, since seeds of theirs are lacking: {names}.")
    if suggestion.leaves_out_seeds:
        seeds = [str(point.seed) for point in setting.points]
        plural = "s" if len(seeds) > 1 else ""
        lines.append(f"Over seed{plural} {listed(seeds)} alone, which all that is compared has.")
    if suggestion.note is not None:
        lines.append(f"Few rows ({suggestion.note}).")
    return lines


def _beside_plain(cost: Estimate | None) -> str:
    if cost is None or (cost.kind == "exact" and cost.value == 0):
        return ""
    side, distance = ("above", cost) if cost.value >= 0 else ("below", -cost)
    return f"; this lies {side} it by {_value(distance)}"


def _what_chose(suggestion: Suggestion) -> list[str]:
    """On which rows and prompts it was chosen, and on which others its numbers are."""
    from trimtab.analysis.labels import listed

    candidate, divided = suggestion.held_out, suggestion.divided
    chosen_by = dict.fromkeys([*(limit.metric for limit in candidate.verdicts), "task loss"])
    flattering = [
        metric
        for metric in chosen_by
        if metric not in divided and candidate.measured[metric].kind != "exact"
    ]
    lines = []
    if divided:
        read = [f"{count} {_what_was_read(metric)}" for metric, (count, _) in divided.items()]
        told = listed([str(count) for _, count in divided.values()])
        lines.append(f"Chosen by {listed(read)}; these numbers are of {told} others.")
    if flattering:
        verb = "is" if len(flattering) == 1 else "are"
        lines.append(
            f"The {listed(flattering)} {verb} of all that it was chosen by, and so flattering."
        )
    return lines


def _what_was_read(metric: Metric) -> str:
    from trimtab.analysis.standing import RATE_OF

    if metric in RATE_OF:
        (kind,) = RATE_OF[metric].kinds
        return f"{kind} prompts"
    return f"held-out {metric.removesuffix(' loss')} rows"


def _value(measured: Estimate) -> str:
    from trimtab.analysis.labels import estimate_in_words, share_in_words

    is_share = measured.unit.startswith("share")
    return share_in_words(measured) if is_share else estimate_in_words(measured)
