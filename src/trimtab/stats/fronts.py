"""How far a place lies above the front of others, both losses better the lower."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from trimtab.stats.statistic import Statistic, mean_of


def front(places: Sequence[tuple[float, float]]) -> list[int]:
    """Which places (x, y), both better the lower, no other is as good as in both and better in one.

    In the order of their x.

    >>> front([(0.9, 0.9), (1.0, 0.0), (0.1, 0.2), (0.0, 1.0)])
    [3, 2, 1]
    """
    return [
        place
        for place in sorted(range(len(places)), key=places.__getitem__)
        if not any(
            rival != places[place] and rival[0] <= places[place][0] and rival[1] <= places[place][1]
            for rival in places
        )
    ]


def height_above(
    line: Sequence[tuple[Statistic, Statistic]], x: Statistic, y: Statistic
) -> Statistic | None:
    """How far y lies above the line's `front` at x, its points joined; None beyond its ends.

    >>> at = lambda x, y: (Statistic(x, {}), Statistic(y, {}))
    >>> height_above([at(1, 0), at(0, 2), at(0.1, 9)], *at(0.25, 1.75)).value
    0.25
    """
    heights = heights_above_means([line], [(x, y)])
    return heights[0] if heights else None


def height_above_at_most(
    line: Sequence[tuple[Statistic, Statistic]], x: Statistic, y: Statistic
) -> Statistic | None:
    """The same, and left of the line's least x how far y lies above the y there.

    To the left a falling front is at least as high as at its end, so this is an upper bound of the
    height. None beyond the other end.

    >>> at = lambda x, y: (Statistic(x, {}), Statistic(y, {}))
    >>> line = [at(1, 0), at(0, 2)]
    >>> [height_above_at_most(line, *at(*place)).value for place in ((0.25, 1.75), (-1, 1.5))]
    [0.25, -0.5]
    >>> height_above_at_most([at(0, 5), *line], *at(-1, 1.5)).value  # of two there the lower
    -0.5
    """
    left = min(line, key=lambda place: (place[0].value, place[1].value))
    return y - left[1] if x.value < left[0].value else height_above(line, x, y)


def heights_above_means(
    lines: Sequence[Sequence[tuple[Statistic, Statistic]]],
    places: Sequence[tuple[Statistic, Statistic]],
) -> list[Statistic] | None:
    """By seed, what adds up to the height of the mean place over the line of the means.

    Which points are the means' `front`, and which two the mean x lies between, is decided once;
    what makes a row hard for all cancels, and an end that moves sideways lifts the line by its
    slope (the delta method). None beyond the line's ends.

    Args:
        lines: the line's points (x, y) of each seed, in one order.
        places: the (x, y) to compare with it, of each seed.
    """
    means = [_mean_place(points) for points in zip(*lines, strict=True)]
    at, _ = _mean_place(places)
    for before, after in pairwise(front(means)):
        (x0, y0), (x1, y1) = means[before], means[after]
        if x0 <= at <= x1 and x0 < x1:
            slope, share = (y1 - y0) / (x1 - x0), (at - x0) / (x1 - x0)
            heights = []
            for line, (x, y) in zip(lines, places, strict=True):
                (start_x, start_y), (end_x, end_y) = line[before], line[after]
                moved = (x - start_x * (1 - share) - end_x * share) * slope
                heights.append(y - start_y * (1 - share) - end_y * share - moved)
            return heights
    return None


def _mean_place(points: Sequence[tuple[Statistic, Statistic]]) -> tuple[float, float]:
    across, up = zip(*points, strict=True)
    return mean_of(across).value, mean_of(up).value
