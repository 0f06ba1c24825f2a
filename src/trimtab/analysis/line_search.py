"""The most capable place on a line of models at which every limit is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trimtab.analysis.standing import Standing

GRID = (1.0, 0.75, 0.5, 0.25, 0.0)
"""From the most capable place to the safest."""
REFINEMENTS = 4


@dataclass(frozen=True)
class Found:
    """A place on the line, from 0, the safest, to 1, how it stands, and all that was looked at.

    Where no place looked at is within all limits, it is the one that comes nearest.
    """

    place: float
    standing: Standing
    tried: Mapping[float, Standing]

    @property
    def is_within(self) -> bool:
        """Whether it keeps to every limit."""
        return self.standing.verdict == "within"


def most_capable_within(standing_at: Callable[[float], Standing]) -> Found:
    """The most capable place found at which the intervals keep to all limits.

    Places 1, ¾, ½, ¼ and 0 are looked at from the top until one is within; between it and the one
    above, four halvings look for a more capable one.

    What is guaranteed: the place found was itself measured, and is within; every place of the grid
    above it was measured too, and is not. That does not rest on rates that only rise along the
    line. Where they fall and rise again, a more capable place between two of the grid may be
    missed, never one that is beyond be taken. It is the best of up to nine on the rows that
    chose, so that what it is worth is to be told on others.
    """
    tried: dict[float, Standing] = {}

    def is_within(place: float) -> bool:
        tried[place] = standing_at(place)
        return tried[place].verdict == "within"

    beyond = None
    for place in GRID:
        if is_within(place):
            break
        beyond = place
    else:
        nearest = min(tried, key=lambda candidate: tried[candidate].shortfall)
        return Found(nearest, tried[nearest], tried)
    if beyond is not None:
        for _ in range(REFINEMENTS):
            middle = (place + beyond) / 2
            place, beyond = (middle, beyond) if is_within(middle) else (place, middle)
    return Found(place, tried[place], tried)
