"""trimtab suggest."""

from __future__ import annotations

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
    """Name the method and hyperparameter that keep a budget at the least capability loss."""
    from trimtab.analysis.selection import suggestions
    from trimtab.results.store import read_points

    found = suggestions(read_points(folder), budget)
    if not found:
        raise UserError(f"{folder}: no trained model is here yet. Let 'trimtab sweep' make one.")
    for place, one in enumerate(found):
        for line in [""] * (place > 0) + _told(one, budget):
            say(line)


def _told(one: Suggestion, budget: float) -> list[str]:
    from trimtab.analysis.labels import estimate_in_words
    from trimtab.config.methods import number

    lines = [
        f"Task {one.task}, safety data {one.proxy}: a rise of at most {number(budget)} nats per "
        f"token on the {one.safety}."
    ]
    if one.best is None:
        near = one.nearest
        lines.append(
            f"None of the points keeps it. Least rises {near.setting.name}: "
            f"{estimate_in_words(near.rise)}."
        )
        return lines
    best = one.best
    seeds = len(best.setting.points)
    lines += [
        f"  {best.setting.name}",
        f"  safety loss rises by {estimate_in_words(best.rise)}, kept in {best.kept_by} of {seeds} "
        f"seed{'s' if seeds > 1 else ''}",
        f"  capability loss {estimate_in_words(best.capability)} nats per token",
    ]
    if one.left_out is None:
        lines.append(
            "These are the numbers it was chosen by, and so flattering; with more seeds they "
            "could be checked."
        )
    else:
        left = one.left_out
        lines += [
            "These are the numbers it was chosen by. Chosen on the other seeds and measured on the "
            f"one left out: rise {estimate_in_words(left.rise)}, capability loss "
            f"{estimate_in_words(left.capability)}, kept in {left.kept} of {left.seeds}.",
        ]
        if len(set(left.choices)) > 1:
            lines.append(f"The choice was not always the same: {'; '.join(left.choices)}.")
    lines.append("All are estimates, none a guarantee.")
    return lines
