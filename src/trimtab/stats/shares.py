"""Shares of prompts, their changes, and how many rows tell them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import binomtest
from scipy.stats import t as student

from trimtab.stats.estimate import NORMAL, TAIL, Array, Estimate

_NEARLY_0 = 1e-12


def share(flags: ArrayLike, unit: str) -> Estimate:
    """The share of flags that are set, shape (n,), with Wilson's interval.

    Where all or none are set, the exact one of Clopper and Pearson.

    >>> estimate = share(np.array([1.0, 1.0, 0.0, 1.0]), "share of prompts")
    >>> estimate.value, round(estimate.low, 2), round(estimate.high, 2)
    (0.75, 0.3, 0.95)

    Source: Brown, Cai and DasGupta, "Interval Estimation for a Binomial Proportion", 2001.
    """
    array = np.asarray(flags, dtype=float)
    hits, count = int(array.sum()), len(array)
    if hits in (0, count):
        return exact_share(hits, count, unit)
    interval = binomtest(hits, count).proportion_ci(1 - 2 * TAIL, "wilson")
    return Estimate(hits / count, float(interval.low), float(interval.high), unit, "estimate")


def exact_share(hits: int, count: int, unit: str) -> Estimate:
    """hits/count with the interval of Clopper and Pearson, which covers at least 95 %, always.

    >>> round(exact_share(0, 20, "share").high, 3)
    0.168
    """
    interval = binomtest(hits, count).proportion_ci(1 - 2 * TAIL, "exact")
    return Estimate(hits / count, float(interval.low), float(interval.high), unit, "estimate")


def share_with_variance(
    value: float, variance: float, count: int, unit: str, freedom: int
) -> Estimate:
    """A share of n whose variance is not the binomial's: Wilson's interval with n_eff in n's place.

    n_eff = (z/t)² p(1 − p)/variance, at most n, where t is Student's with the variance's degrees
    of freedom. Where p is 0 or 1 it is the exact interval of n.

    >>> plain, wider = (share_with_variance(0.5, v, 100, "share", 14) for v in (0.002, 0.01))
    >>> round(plain.low, 2), round(wider.low, 2)
    (0.4, 0.3)

    Source: the effective sample size, Kish, "Survey Sampling", 1965; intervals by it, Korn and
    Graubard, "Confidence Intervals for Proportions", 1998.
    """
    if value in (0.0, 1.0):
        return exact_share(round(value * count), count, unit)
    binomial = value * (1 - value)
    inflated = variance * (float(student.isf(TAIL, freedom)) / NORMAL) ** 2
    effective = min(count, binomial / inflated) if inflated > 0 else count
    z2 = NORMAL**2 / effective
    centre = (value + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * binomial + z2**2 / 4) / (1 + z2)
    return Estimate(value, centre - half, centre + half, unit, "estimate")


def rows_to_tell_share(value: float, limit: float) -> int | None:
    """The fewest rows of which a share of `value` has its interval's upper end within `limit`.

    The interval is that of `share`, solved for n: of 0 hits, (0.025)^(1/n) ≥ 1 − limit; else, as
    Wilson's ends are where the normal test of the limit turns, n = z²·limit(1 − limit)/(limit −
    value)². None where no number of rows is enough, as the share is not below the limit.

    >>> rows_to_tell_share(0.0, 0.02), rows_to_tell_share(0.01, 0.02), rows_to_tell_share(0.1, 0.02)
    (183, 753, None)
    """
    if not value < limit:
        return None
    if limit >= 1:
        return 1
    if value == 0:
        return math.ceil(math.log(TAIL) / math.log1p(-limit))
    return math.ceil(NORMAL**2 * limit * (1 - limit) / (limit - value) ** 2)


def counted_by_row(flags: ArrayLike) -> Array:
    """Flags of shape (n,) as nats and tokens, shape (2, n), whose ratio is their share."""
    array = np.asarray(flags, dtype=float)
    return np.stack([array, np.ones_like(array)])


def share_change(after: ArrayLike, before: ArrayLike, unit: str) -> Estimate:
    """The change of a share on the same items, flags 0 or 1 of shape (n,), with Tango's interval.

    Of n items b were set and c cleared. The interval holds every change δ that the score test does
    not refuse, |b − c − nδ| ≤ z·√(n(2q + δ(1 − δ))), with q the likeliest share of items cleared
    under δ. Unlike Student's, it covers where few items change.

    >>> estimate = share_change([1, 1, 1, 0] * 10, [1, 1, 0, 0] * 10, "share")
    >>> estimate.value, round(estimate.low, 2), round(estimate.high, 2)
    (0.25, 0.14, 0.4)

    Source: Tango, "Equivalence test and confidence interval for the difference in proportions for
    the paired-sample design", Statistics in Medicine 17, 1998.
    """
    changed = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    count, set_, cleared = len(changed), int((changed > 0).sum()), int((changed < 0).sum())
    value = (set_ - cleared) / count

    def score(change: float) -> float:
        linear = (2 * count - set_ + cleared) * change - set_ - cleared
        root = math.sqrt(max(linear**2 + 8 * count * cleared * change * (1 - change), 0.0))
        variance = count * ((root - linear) / (2 * count) + change * (1 - change))
        return (set_ - cleared - count * change) / math.sqrt(max(variance, _NEARLY_0))

    def end(of_score: float, farthest: float) -> float:
        if abs(score(farthest)) <= abs(of_score):
            return math.copysign(1.0, farthest)
        return float(brentq(lambda change: score(change) - of_score, value, farthest))

    low, high = (end(side * NORMAL, -side * (1 - _NEARLY_0)) for side in (1, -1))
    return Estimate(value, low, high, unit, "estimate")
