"""What intervals allow to be said: below, above, a trend, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, TypeVar

from trimtab.analysis.groups import Gap, Setting, measured_of
from trimtab.config.data_names import ORIGINAL, safety_data, task_data
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import Estimate, Statistic, over_seeds, statistic_over_seeds

Value = TypeVar("Value")
FindingVerdict = Literal["holds", "does not hold", "undecided", "too few to say"]
Order = Literal["below", "above", "within"]

AGAINST_THE_TREND = 0.1
"""A trend may have this share of its decided pairs in the wrong order: training is noisy."""


FEWEST_SETTINGS, FEWEST_SEEDS = 3, 2
"""Of a line: with fewer nothing is said of a trend, however narrow the intervals over rows."""


def speaks(line: Sequence[Setting]) -> bool:
    """Whether a line has settings and seeds enough to say something of a trend.

    Intervals over rows know nothing of what another seed would have trained.
    """
    return len(line) >= FEWEST_SETTINGS and all(
        len(setting.points) >= FEWEST_SEEDS for setting in line
    )


def compare(first: Estimate, second: Estimate) -> Order:
    """Whether `first` lies below or above `second` with their intervals apart.

    >>> loss = lambda v: Estimate(v, v - 0.1, v + 0.1, "nats per token", "estimate")
    >>> compare(loss(1.0), loss(1.3)), compare(loss(1.0), loss(1.1))
    ('below', 'within')
    """
    if first.high < second.low:
        return "below"
    return "above" if first.low > second.high else "within"


@dataclass(frozen=True)
class Pairs:
    """Two settings compared seed by seed and, where `rows` knows their losses, row by row.

    What makes a row hard for both models then cancels, and so does what a seed does to both.
    """

    rows: RowLosses | None = None

    def rise(self, first: Setting, second: Setting, which: Gap) -> Estimate:
        """How far the gap of `second` lies above that of `first`; both must have been measured."""
        by_seed = {point.seed: point for point in first.points}
        pairs = [(by_seed[point.seed], point) for point in second.points if point.seed in by_seed]
        if pairs:
            return self._over_seeds(pairs, which)
        first_gap, second_gap = first.measured(which), second.measured(which)
        assert first_gap is not None
        assert second_gap is not None
        return _difference(first_gap, second_gap)

    def order(self, which: Gap) -> Callable[[Setting, Setting], Order]:
        """Whether the gap of the first lies below or above that of the second, beyond chance."""

        def order(first: Setting, second: Setting) -> Order:
            rise = self.rise(first, second, which)
            if rise.low > 0:
                return "below"
            return "above" if rise.high < 0 else "within"

        return order

    def _over_seeds(self, pairs: Sequence[tuple[Point, Point]], which: Gap) -> Estimate:
        differences = [_between(first, second, which) for first, second in pairs]
        paired = [self._by_row(first, second, which) for first, second in pairs]
        known = [statistic for statistic in paired if statistic is not None]
        if len(known) < len(differences) or len({_samples(statistic) for statistic in known}) > 1:
            return over_seeds(differences)
        return statistic_over_seeds(known, differences[0].unit)

    def _by_row(self, first: Point, second: Point, which: Gap) -> Statistic | None:
        name = _dataset(first, which)
        if self.rows is None or first.model is None or second.model is None:
            return None
        if name != _dataset(second, which):
            return None
        return self.rows.difference(name, second.model, first.model)


def rises(values: Sequence[Value], compare: Callable[[Value, Value], Order]) -> FindingVerdict:
    """Whether the last lies beyond the first, and what lies between mostly goes the same way."""
    ends = compare(values[0], values[-1])
    if ends == "above":
        return "does not hold"
    orders = [compare(earlier, later) for earlier, later in combinations(values, 2)]
    wrong, right = orders.count("above"), orders.count("below")
    steady = wrong <= AGAINST_THE_TREND * (wrong + right)
    return "holds" if ends == "below" and steady else "undecided"


def falls(values: Sequence[Value], compare: Callable[[Value, Value], Order]) -> FindingVerdict:
    """`rises`, backwards."""
    return rises(values[::-1], compare)


def all_hold(verdicts: Sequence[FindingVerdict]) -> FindingVerdict:
    """One line against it refutes; one undecided leaves it open; lines too short say nothing.

    >>> all_hold(["holds", "undecided"]), all_hold(["holds", "too few to say"])
    ('undecided', 'holds')
    """
    verdicts = [verdict for verdict in verdicts if verdict != "too few to say"]
    if not verdicts:
        return "too few to say"
    if "does not hold" in verdicts:
        return "does not hold"
    return "undecided" if "undecided" in verdicts else "holds"


def all_lie(wanted: Order, orders: Sequence[Order]) -> FindingVerdict:
    """Whether every comparison came out as wanted: one the other way refutes.

    >>> all_lie("below", ["below", "below"]), all_lie("below", ["below", "within"])
    ('holds', 'undecided')
    """
    if any(order not in (wanted, "within") for order in orders):
        return "does not hold"
    return "holds" if all(order == wanted for order in orders) else "undecided"


def lies_above_zero(effect: Estimate) -> FindingVerdict:
    """Of an effect that is signed so that what is claimed of it lies above 0.

    >>> lies_above_zero(Estimate(0.2, 0.1, 0.3, "nats per token", "estimate"))
    'holds'
    """
    if effect.low > 0:
        return "holds"
    return "does not hold" if effect.high < 0 else "undecided"


def _between(first: Point, second: Point, which: Gap) -> Estimate:
    first_gap, second_gap = measured_of(first, which), measured_of(second, which)
    assert first_gap is not None
    assert second_gap is not None
    return _difference(first_gap, second_gap)


def _samples(statistic: Statistic) -> tuple[tuple[str, int], ...]:
    return tuple((name, len(rows)) for name, rows in statistic.influence.items())


def _difference(first: Estimate, second: Estimate) -> Estimate:
    """second − first when nothing is known of how their errors go together."""
    return replace(
        second,
        value=second.value - first.value,
        low=second.low - first.high,
        high=second.high - first.low,
    )


def _dataset(point: Point, which: Gap) -> str:
    """The name under which the losses behind a gap are kept."""
    match which:
        case "alignment gap":
            return ORIGINAL
        case "proxy gap":
            return safety_data(point.proxy)
        case "capability gap":
            return task_data(point.task)
