"""What intervals allow to be said: below, above, a trend, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

from trimtab.points import Estimate

Verdict = Literal["holds", "does not hold", "undecided"]
Order = Literal["below", "above", "within"]

AGAINST_THE_TREND = 0.1
"""A trend may have this share of its decided pairs in the wrong order: training is noisy."""


def compare(one: Estimate, other: Estimate) -> Order:
    """Whether `one` lies below or above `other` with their intervals apart.

    >>> loss = lambda v: Estimate(v, v - 0.1, v + 0.1, "nats per token", "estimate")
    >>> compare(loss(1.0), loss(1.3)), compare(loss(1.0), loss(1.1))
    ('below', 'within')
    """
    if one.high < other.low:
        return "below"
    return "above" if one.low > other.high else "within"


def rises(values: Sequence[Estimate]) -> Verdict:
    """Whether the last lies beyond the first, and what lies between mostly goes the same way."""
    ends = compare(values[0], values[-1])
    if ends == "above":
        return "does not hold"
    orders = [compare(earlier, later) for earlier, later in combinations(values, 2)]
    wrong, right = orders.count("above"), orders.count("below")
    steady = wrong <= AGAINST_THE_TREND * (wrong + right)
    return "holds" if ends == "below" and steady else "undecided"


def falls(values: Sequence[Estimate]) -> Verdict:
    """`rises`, backwards."""
    return rises(values[::-1])


def all_hold(verdicts: Sequence[Verdict]) -> Verdict:
    """One line against it refutes; one undecided leaves it open.

    >>> all_hold(["holds", "undecided"])
    'undecided'
    """
    if "does not hold" in verdicts:
        return "does not hold"
    return "undecided" if "undecided" in verdicts else "holds"


def all_lie(wanted: Order, orders: Sequence[Order]) -> Verdict:
    """Whether every comparison came out as wanted: one the other way refutes.

    >>> all_lie("below", ["below", "below"]), all_lie("below", ["below", "within"])
    ('holds', 'undecided')
    """
    if any(order not in (wanted, "within") for order in orders):
        return "does not hold"
    return "holds" if all(order == wanted for order in orders) else "undecided"
