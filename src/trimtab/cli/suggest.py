"""trimtab suggest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.command import say
from trimtab.cli.options import Folder
from trimtab.config.ranges import Finite
from trimtab.errors import UserError

if TYPE_CHECKING:
    from trimtab.analysis.selection import Suggestion


def suggest(
    folder: Folder,
    budget: Annotated[
        Finite, typer.Option(help="What the safety loss may rise by, in nats per token.")
    ],
) -> None:
    """Name the method and hyperparameter that keep a budget at the least task loss."""
    from trimtab.analysis.selection import suggestions
    from trimtab.results.per_row_losses import RowLosses
    from trimtab.results.store import read_points

    found = suggestions(read_points(folder), budget, RowLosses(folder))
    if not found:
        raise UserError(f"{folder}: no trained model is here yet. Let 'trimtab sweep' make one.")
    for place, one in enumerate(found):
        for line in [""] * (place > 0) + _told(one, budget, folder):
            say(line)


def _told(one: Suggestion, budget: float, folder: Path) -> list[str]:
    from trimtab.analysis.labels import VERDICTS, estimate_in_words, nats
    from trimtab.config.methods import number

    told, setting = one.told, one.told.setting
    lines = [
        f"Task {one.task}, safety data {one.proxy}: a rise of at most {number(budget)} nats per "
        f"token on the {one.safety}."
    ]
    if one.chosen_by.verdict == "within":
        lines.append(f"  {setting.name}")
    else:
        lines.append(f"  No setting is within it. Nearest comes {setting.name}")
    lines += [
        f"  safety loss rises by {estimate_in_words(told.rise)}: {VERDICTS[told.verdict]}",
        f"  task loss over the start's: {estimate_in_words(told.task_change)}",
    ]
    if one.certified is not None:
        lines.append(
            f"  rise certified at 95 % without assuming a distribution: at most "
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
