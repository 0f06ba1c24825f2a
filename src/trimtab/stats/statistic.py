"""Functions of means over rows, with what each row contributes: they add row by row."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from trimtab.stats.estimate import NORMAL, TAIL, Array, Estimate


@dataclass(frozen=True)
class Statistic:
    """A function of means over rows, θ, with what each row contributes to its error.

    `influence` holds by sample, as "task:code", an array of shape (rows,): ψᵢ, with
    θ̂ − θ ≈ Σ over samples of mean ψᵢ (the delta method). Of one sample, statistics add row by row,
    so that what makes a row hard for two models cancels in their difference; different samples are
    independent. Sums, differences, multiples and quotients of statistics are statistics.

    >>> both = Statistic(1.0, {"a": np.array([-0.5, 0.5])}) - Statistic(
    ...     0.2, {"a": np.array([-0.5, 0.5])})
    >>> both.value, both.standard_error
    (0.8, 0.0)

    Source: van der Vaart, "Asymptotic Statistics", 1998, sections 3 and 20.
    """

    value: float
    influence: Mapping[str, Array]

    def __add__(self, other: Statistic) -> Statistic:
        merged = dict(self.influence)
        for sample, rows in other.influence.items():
            merged[sample] = merged[sample] + rows if sample in merged else rows
        return Statistic(self.value + other.value, merged)

    def __mul__(self, factor: float) -> Statistic:
        scaled = {sample: factor * rows for sample, rows in self.influence.items()}
        return Statistic(factor * self.value, scaled)

    def __sub__(self, other: Statistic) -> Statistic:
        return self + other * -1.0

    def __truediv__(self, other: Statistic) -> Statistic:
        """a/b, with ψ = (ψ_a − (a/b)·ψ_b)/b.

        >>> rows = {"a": np.array([-0.5, 0.5])}
        >>> both = Statistic(3.0, {"a": 3 * rows["a"]}) / Statistic(1.0, rows)
        >>> both.value, both.standard_error
        (3.0, 0.0)
        """
        value = self.value / other.value
        return Statistic(value, ((self - other * value) * (1 / other.value)).influence)

    @property
    def standard_error(self) -> float:
        """√(Σ over samples of var ψ / n)."""
        return math.sqrt(sum(self._variances))

    @property
    def half_width(self) -> float:
        """t · standard error, with n − 1 degrees of freedom; of several samples, Welch's."""
        return self.half_width_at(TAIL)

    def half_width_at(self, tail: float) -> float:
        """The same, of an interval that leaves out this much on either side."""
        error = self.standard_error
        return 0.0 if error == 0 else float(student.isf(tail, self._freedom)) * error

    def estimate(self, unit: str) -> Estimate:
        """θ ± t · standard error."""
        half = self.half_width
        return Estimate(self.value, self.value - half, self.value + half, unit, "estimate")

    @property
    def p_value(self) -> float:
        """Of θ = 0, two-sided, by the same Student's t as the interval."""
        if self.standard_error == 0:
            return 0.0 if self.value else 1.0
        return float(2 * student.sf(abs(self.value) / self.standard_error, self._freedom))

    def rows_for(self, half_width: float) -> int:
        """How many rows would bring the half-width to this, were they like those seen.

        Only a statistic of one sample knows.

        >>> seen = Statistic(0.0, {"rows": np.array([-1.0, 1.0, -1.0, 1.0] * 12)})
        >>> 0.28 < seen.half_width < 0.3, seen.rows_for(0.1)
        (True, 393)
        """
        (rows,) = self.influence.values()
        return math.ceil(float(rows.var(ddof=1)) * (NORMAL / half_width) ** 2)

    @property
    def _freedom(self) -> float:
        counts = map(len, self.influence.values())
        samples = [(v, n) for v, n in zip(self._variances, counts, strict=True) if v > 0]
        total = sum(variance for variance, _ in samples)
        return total**2 / sum(variance**2 / (rows - 1) for variance, rows in samples)

    @property
    def _variances(self) -> list[float]:
        return [
            float(rows.var(ddof=1)) / len(rows) if len(rows) > 1 else 0.0
            for rows in self.influence.values()
        ]


def ratio(nats_and_tokens: Array, sample: str = "rows") -> Statistic:
    """θ = Σxᵢ/Σtᵢ of rows (x, t), shape (2, rows), as a loss per token is.

    Its ψᵢ = (xᵢ − θtᵢ)/t̄, so that the interval is θ ± t·sd(xᵢ − θtᵢ)/(√n·t̄). One row alone tells
    nothing of its spread: its low and high are its value.

    Source: Cochran, "Sampling Techniques", 1977, section 2.11.
    """
    nats, tokens = nats_and_tokens
    value = float(nats.sum() / tokens.sum())
    return Statistic(value, {sample: (nats - value * tokens) / tokens.mean()})


def paired_difference(after: Array, before: Array, sample: str = "rows") -> Statistic:
    """L(θ) − L(θ') of two models on the same rows, each of shape (2, rows): nats and tokens.

    >>> same = np.array([[1.0, 3.0, 2.0], [1.0, 2.0, 2.0]])
    >>> round(paired_difference(same + [[0.5], [0.0]], same).value, 3)
    0.3
    """
    return ratio(after, sample) - ratio(before, sample)


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of statistics, itself one."""
    return reduce(add, statistics) * (1 / len(statistics))


def group_numbers(values: Iterable[Hashable]) -> NDArray[np.intp]:
    """Which group of equal values each is in, numbered as they first come: shape (values,).

    >>> group_numbers(["a", "b", "a"])
    array([0, 1, 0])
    """
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.intp)


def first_of_each(groups: NDArray[np.intp]) -> NDArray[np.intp]:
    """The places where each group first comes, in their order.

    >>> first_of_each(np.array([5, 2, 5, 9]))
    array([0, 1, 3])
    """
    _, firsts = np.unique(groups, return_index=True)
    return np.sort(firsts)


def summed(rows: Array, groups: NDArray[np.intp] | None) -> Array:
    """Rows of one group added, as columns: shape (k, rows) to (k, groups); without groups, as is.

    Several responses to one prompt are no independent draws, and what one is like says something
    of the others. Added up they are one draw each, whose `ratio` is the same and whose interval
    allows for that (Cochran, chapter 9A: clusters of unequal size).

    >>> summed(np.array([[1.0, 2.0, 4.0]]), np.array([0, 1, 0]))
    array([[5., 2.]])
    """
    if groups is None:
        return rows
    return np.stack([np.bincount(groups, row) for row in rows])
