"""Means over seeds, with the error of the rows and that of the seeds, and their p-values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import t as student

from trimtab.stats.estimate import TAIL, Array, Estimate
from trimtab.stats.shares import exact_share
from trimtab.stats.statistic import Statistic, mean_of

Key = TypeVar("Key")

_LEAST_P = 1e-12


def student_mean(values: ArrayLike, unit: str) -> Estimate:
    """mean ± t·sd/√n of values, shape (n,), such as one number a seed.

    One value alone has no interval: its low and high are itself.
    """
    array = np.asarray(values, dtype=float)
    half = _student_half_width(array)
    mean = float(array.mean())
    return Estimate(mean, mean - half, mean + half, unit, "estimate")


def bounded_mean(values: ArrayLike, lowest: float, highest: float, unit: str) -> Estimate:
    """Student's mean of values that lie within [lowest, highest], cut to that range.

    Where all values are at one end, sd is 0 and Student's interval a point; the exact one is then
    of the share of values elsewhere (Clopper and Pearson), each at worst at the other end.

    >>> estimate = bounded_mean([1.0] * 20, -1.0, 1.0, "Kendall's tau")
    >>> estimate.value, round(estimate.low, 2), estimate.high
    (1.0, 0.66, 1.0)
    """
    array = np.asarray(values, dtype=float)
    elsewhere = exact_share(0, len(array), unit).high * (highest - lowest)
    if (array == highest).all():
        return Estimate(highest, highest - elsewhere, highest, unit, "estimate")
    if (array == lowest).all():
        return Estimate(lowest, lowest, lowest + elsewhere, unit, "estimate")
    return student_mean(array, unit).cut(lowest, highest)


def student_p_value(values: ArrayLike) -> float:
    """Of a mean of 0, two-sided, of values of shape (n,); 1 of one value alone.

    >>> round(student_p_value([0.1, 0.2, 0.15]), 3)
    0.035
    """
    array = np.asarray(values, dtype=float)
    error = float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else 0.0
    if error == 0:
        return 0.0 if len(array) > 1 and array.mean() else 1.0
    return float(2 * student.sf(abs(float(array.mean())) / error, len(array) - 1))


def over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over seeds, with an interval for the rows and for the seeds.

    Every seed is measured on the same held-out rows, so their error does not average out: the mean
    half-width stays, and Student's half-width of the mean over seeds is added in quadrature. Where
    the rows are known, `statistic_over_seeds` is narrower.

    >>> loss = lambda v: Estimate(v, v - 0.1, v + 0.1, "nats per token", "estimate")
    >>> over_seeds([loss(1.0)]) == loss(1.0)
    True
    >>> both = over_seeds([loss(1.0), loss(1.02)])
    >>> round(both.value, 2), round(both.high - both.value, 2)
    (1.01, 0.16)
    """
    if len(estimates) == 1:
        return estimates[0]
    values = np.array([estimate.value for estimate in estimates])
    low = float(np.mean([estimate.low for estimate in estimates]))
    high = float(np.mean([estimate.high for estimate in estimates]))
    of_rows = Estimate(float(values.mean()), low, high, estimates[0].unit, "estimate")
    return _with_seeds(of_rows, values)


def share_over_seeds(shares: Sequence[Estimate]) -> Estimate:
    """`over_seeds` of shares, which lie from 0 to 1."""
    return over_seeds(shares).cut(0.0, 1.0)


def share_change_over_seeds(changes: Sequence[Estimate]) -> Estimate:
    """`over_seeds` of changes of a share, which lie from −1 to 1."""
    return over_seeds(changes).cut(-1.0, 1.0)


def statistic_over_seeds(statistics: Sequence[Statistic], unit: str) -> Estimate:
    """The mean over seeds of a statistic of the same rows.

    What each row contributes is averaged over the seeds first, which leaves the error that all
    seeds share; Student's half-width over the seeds is added in quadrature. Of one seed it is the
    rows' interval.
    """
    of_rows = mean_of(statistics).estimate(unit)
    return _with_seeds(of_rows, np.array([statistic.value for statistic in statistics]))


def p_value_over_seeds(statistics: Sequence[Statistic]) -> float:
    """Of a mean of 0 over seeds, two-sided: 1 less the confidence whose interval would end at 0.

    The interval is that of `statistic_over_seeds`, so that the two never disagree; where the seeds
    differ most, its tails are those of Student's t with as few degrees of freedom.

    >>> seeds = [Statistic(value, {"rows": np.zeros(9)}) for value in (0.1, 0.2, 0.15)]
    >>> round(p_value_over_seeds(seeds), 3) == round(student_p_value([0.1, 0.2, 0.15]), 3)
    True
    """
    mean = mean_of(statistics)
    values = np.array([statistic.value for statistic in statistics])
    if mean.value == 0 or mean.half_width == _student_half_width(values) == 0:
        return 0.0 if mean.value else 1.0

    def beyond_0(log_p: float) -> float:
        tail = math.exp(log_p) / 2
        halves = mean.half_width_at(tail), _student_half_width(values, tail)
        return abs(mean.value) - math.hypot(*halves)

    least = math.log(_LEAST_P)
    return _LEAST_P if beyond_0(least) >= 0 else math.exp(brentq(beyond_0, least, 0.0))


def adjusted_over_seeds(effects: Mapping[Key, Sequence[Statistic]]) -> dict[Key, float]:
    """Holm's p of effects that are each given by seed, by the same keys."""
    p_values = holm([p_value_over_seeds(by_seed) for by_seed in effects.values()])
    return dict(zip(effects, map(float, p_values), strict=True))


def holm(p_values: ArrayLike) -> Array:
    """p-values of a family of comparisons, adjusted so that 0.05 holds for the family.

    p₍ₖ₎ becomes the largest of (m − j + 1)·p₍ⱼ₎ over j ≤ k, at most 1.

    >>> [round(float(p), 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    array = np.asarray(p_values, dtype=float)
    order = np.argsort(array)
    adjusted = np.empty_like(array)
    factors = np.arange(len(array), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * array[order]))
    return adjusted


def _with_seeds(of_rows: Estimate, values: Array) -> Estimate:
    spread, mean = _student_half_width(values), of_rows.value
    return replace(
        of_rows,
        low=mean - math.hypot(mean - of_rows.low, spread),
        high=mean + math.hypot(of_rows.high - mean, spread),
    )


def _student_half_width(values: Array, tail: float = TAIL) -> float:
    count = len(values)
    if count < 2:
        return 0.0
    return float(student.isf(tail, count - 1) * values.std(ddof=1) / math.sqrt(count))
