"""trimtab suggest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.command import say
from trimtab.cli.options import Folder
from trimtab.config.ranges import Finite, From0To1
from trimtab.errors import UserError

if TYPE_CHECKING:
    from trimtab.analysis.selection import Limit, Suggestion
    from trimtab.stats import Estimate


_KEPT = {"within": "kept", "beyond": "not kept", "undecided": "undecided"}


def suggest(
    folder: Folder,
    budget: Annotated[
        Finite | None,
        typer.Option(help="What the safety loss may rise by, in nats per token."),
    ] = None,
    max_harmful: Annotated[
        From0To1 | None,
        typer.Option(help="The most harmful prompts complied with, a share."),
    ] = None,
    min_refused: Annotated[
        From0To1 | None, typer.Option(help="The least harmful prompts refused, a share.")
    ] = None,
    min_answered: Annotated[
        From0To1 | None, typer.Option(help="The least benign prompts answered, a share.")
    ] = None,
    max_task_loss: Annotated[
        Finite | None,
        typer.Option(help="What the task loss may lie over the start's; below 0 it has to learn."),
    ] = None,
) -> None:
    """Name the method and hyperparameter that keep to limits at the least task loss."""
    from trimtab.analysis.selection import Limit, suggestions
    from trimtab.results.per_row_losses import RowLosses
    from trimtab.results.store import read_points

    given = (
        Limit("safety loss", budget) if budget is not None else None,
        Limit("harmful rate", max_harmful) if max_harmful is not None else None,
        Limit("refusal rate", min_refused, at_least=True) if min_refused is not None else None,
        Limit("answer rate", min_answered, at_least=True) if min_answered is not None else None,
        Limit("task loss", max_task_loss) if max_task_loss is not None else None,
    )
    limits = [limit for limit in given if limit is not None]
    found = suggestions(read_points(folder), limits, RowLosses(folder))
    if not found:
        raise UserError(f"{folder}: no trained model is here yet. Let 'trimtab sweep' make one.")
    for place, one in enumerate(found):
        for line in [""] * (place > 0) + _told(one, limits, folder):
            say(line)


def _told(one: Suggestion, limits: list[Limit], folder: Path) -> list[str]:
    from trimtab.analysis.labels import nats

    told, setting = one.told, one.told.setting
    asked = ", ".join(_in_words(limit) for limit in limits)
    lines = [f"Task {one.task}, safety data {one.proxy}: {asked}."]
    if one.chosen_by.verdict == "within":
        lines.append(f"  {setting.name}")
    else:
        lines.append(f"  No setting is within it. Nearest comes {setting.name}")
    for metric, measured in told.measured.items():
        verdicts = {limit.metric: verdict for limit, verdict in told.verdicts.items()}
        said = f": {_KEPT[verdicts[metric]]}" if metric in verdicts else ""
        where = f" on the {one.safety}" if metric == "safety loss" else ""
        over = " over the start's" if metric.endswith("loss") else ""
        lines.append(f"  {metric}{over}{where} {_value(measured)}{said}")
    if one.certified is not None:
        lines.append(
            "  rise of the safety loss certified at 95 % without assuming a distribution: at most "
            f"{nats(one.certified)}"
        )
    models = dict.fromkeys(
        folder / "models" / point.model for point in setting.points if point.model is not None
    )
    kept = [str(path) for path in models if path.exists()]
    if kept:
        lines.append(f"  {'model' if len(kept) == 1 else 'models'}: {', '.join(kept)}")
    if one.rows is None:
        if told.rise.kind != "exact":
            lines.append("These are the numbers it was chosen by, and so flattering.")
    else:
        chosen, telling = one.rows
        lines.append(
            f"Chosen by {chosen} held-out safety rows; these numbers are of {telling} others."
        )
    if one.note is not None:
        lines.append(f"Few rows ({one.note}).")
    return lines


def _in_words(limit: Limit) -> str:
    from trimtab.config.methods import number

    side = "at least" if limit.at_least else "at most"
    if limit.metric.endswith("loss"):
        return f"{limit.metric} {side} {number(limit.value)} nats per token over the start's"
    return f"{limit.metric} {side} {number(limit.value)}"


def _value(measured: Estimate) -> str:
    from trimtab.analysis.labels import estimate_in_words, percent

    if measured.unit.startswith("share"):
        ends = f"[{percent(measured.low)}, {percent(measured.high)}]"
        return f"{percent(measured.value)} {ends}"
    return estimate_in_words(measured)
