"""The most capable setting between two ends that keeps to a budget, in few looks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from trimtab.stats import Estimate, verdict

_FINEST = 1 / 64
_LOOKS = 7
"""One more than halving [0, 1] down to the finest step takes."""
_UNSPENT = 0.05
"""The share of a budget within which the end of an interval is close enough."""
_FIRST_ORDER = 2.0
_FAR = 100.0
"""Beyond any place, as a logarithm."""


def largest_within(rise_at: Callable[[float], Estimate], budget: float) -> tuple[float, Estimate]:
    """The largest α found at which the interval of the rise ends within a budget, and the rise.

    α = 1 is looked at first, and α = 0 where no other is within. Between a setting that is within
    and one that is beyond, the interval's end is taken for a power of α, at first the square, then
    the one through the last two looks, and where that meets the budget is looked at next, in so far
    as halving could still bring the two within 1/64 of each other in seven looks. It ends there, or
    at a setting within whose interval reaches to 5 % of the budget. Where the rise is no power of α
    it takes more looks, and what is found is no less sure: it was itself measured, and is within.

    >>> alpha, rise = largest_within(lambda a: Estimate.exact(a**2, "nats"), 0.25)
    >>> round(alpha, 3), round(rise.value, 3)
    (0.494, 0.244)

    Source of the bound on looks: Oliveira and Takahashi, "An enhancement of the bisection method
    average performance preserving minmax optimality", ACM TOMS 47, 2020.
    """
    rise = rise_at(1.0)
    if verdict(rise, budget) == "within":
        return 1.0, rise
    power = _Power(1.0, rise.high)
    low, high, within = 0.0, 1.0, None
    for looks_left in range(_LOOKS, 0, -1):
        middle = (low + high) / 2
        if high - low <= _FINEST:
            break
        farthest = _FINEST / 2 * 2**looks_left - (high - low) / 2
        place = power.meets((1 - _UNSPENT / 2) * budget, middle)
        place = min(max(place, middle - farthest), middle + farthest)
        place = min(max(place, low + _FINEST / 2), high - _FINEST / 2)
        rise = rise_at(place)
        power = power.through(place, rise.high)
        if verdict(rise, budget) == "within":
            low, within = place, rise
            if rise.high >= (1 - _UNSPENT) * budget > 0:
                break
        else:
            high = place
    return low, within or rise_at(0.0)


@dataclass(frozen=True)
class _Power:
    """A rise as a power of α, through the last look at it."""

    alpha: float
    rise: float
    order: float = _FIRST_ORDER

    def through(self, alpha: float, rise: float) -> _Power:
        """The one through this look and another, where a power goes through both."""
        order = self.order
        if self.rise > 0 and rise > 0 and self.rise != rise:
            order = math.log(self.rise / rise) / math.log(self.alpha / alpha)
        return _Power(alpha, rise, order if order > 0 else _FIRST_ORDER)

    def meets(self, level: float, otherwise: float) -> float:
        """The α at which it comes to a level; another where it comes to none."""
        if level <= 0 or self.rise <= 0:
            return otherwise
        return self.alpha * math.exp(min(math.log(level / self.rise) / self.order, _FAR))
