"""Estimates and their 95 % intervals: every statistic that a number of trimtab goes by, once.

Rows are draws; arrays of rows have shape (rows,), "nats and tokens" shape (2, rows). Coverage by
simulation, beside the percentile bootstrap: benchmarks/results/coverage.txt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import binomtest
from scipy.stats import t as student

Array = NDArray[np.float64]
Kind = Literal["exact", "bound", "estimate"]
Key = TypeVar("Key")
Verdict = Literal["within", "beyond", "undecided"]

RESAMPLES = 2000
FEW_ROWS = 50
"""Below it, intervals from rows with heavy tails cover less than they say."""
_TAIL = 0.025
_ROUNDING = 1e-6
_NEARLY_0 = 1e-12
_LEAST_P = 1e-12
_SHARES_STAKED = np.geomspace(0.005, 0.95, 40)
_NORMAL = 1.959964
"""The quantile of the normal distribution for that tail."""
_FEWEST_TO_RESAMPLE = 10
_BLOCK = 2_000_000
"""As many counts of rows as are held in memory at once."""


@dataclass(frozen=True)
class Estimate:
    """A number that knows its 95 % interval, its unit and what it may be called.

    `kind` is "exact" (computed over a whole finite distribution), "estimate" (from a sample) or
    "bound" (no true value lies beyond it).

    >>> Estimate(1.5, 1.4, 1.7, "nats per token", "estimate").minus(1.0)
    Estimate(value=0.5, low=0.3999999999999999, high=0.7, unit='nats per token', kind='estimate')
    """

    value: float
    low: float
    high: float
    unit: str
    kind: Kind

    @classmethod
    def exact(cls, value: float, unit: str) -> Estimate:
        """A number without error."""
        return cls(value, value, value, unit, "exact")

    def minus(self, reference: float) -> Estimate:
        """The estimate shifted down by a reference in the same unit."""
        return replace(
            self,
            value=self.value - reference,
            low=self.low - reference,
            high=self.high - reference,
        )

    def cut(self, lowest: float, highest: float) -> Estimate:
        """With an interval that ends where the number itself has to.

        >>> Estimate(0.9, 0.7, 1.1, "share", "estimate").cut(0, 1).high
        1
        """
        return replace(self, low=max(lowest, self.low), high=min(highest, self.high))


def verdict(change: Estimate, limit: float) -> Verdict:
    """Whether a change keeps to a limit, by its 95 % interval: a point alone tells nothing.

    "within" where all of the interval does, so that a change beyond the limit is called within in
    2.5 % of samples at most, as far as the interval covers what it says (`FEW_ROWS`); "beyond"
    where none of it does.

    >>> rise = Estimate(0.04, 0.01, 0.07, "nats per token", "estimate")
    >>> verdict(rise, 0.1), verdict(rise, 0.05), verdict(rise, 0.0)
    ('within', 'undecided', 'beyond')
    """
    if change.high <= limit + _ROUNDING:
        return "within"
    return "beyond" if change.low > limit + _ROUNDING else "undecided"


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
        return self.half_width_at(_TAIL)

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
        return math.ceil(float(rows.var(ddof=1)) * (_NORMAL / half_width) ** 2)

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


def limit_at_every_look(
    after: Array, before: Array, longest: int, clip: float = 1.0, error: float = 0.05
) -> float:
    """An upper limit for L(θ) − L(θ'), nats per token, that holds at every look.

    Rows are read as bets against "the rise is b or more": with Zᵢ = xᵢ − x'ᵢ − b·tᵢ, the wealth
    ∏(1 − λZᵢ) has a mean of at most 1 where that is true, whenever one stops, so that it reaches
    1/error with probability `error` at most (Ville). Wealth is a mean over 40 stakes λ, each a
    share of the largest that no row can ruin, and grows with b: the limit is the smallest b at
    which it reaches 1/error. Of the distribution it assumes that no row is longer than one may be,
    and more rows may be read after a look; in return it is wider than Student's.

    Args:
        after, before: nats and tokens of the same rows, each of shape (2, rows).
        longest: the most tokens that any row can have, known before the rows are: the longest of
            those seen would let a longer one to come ruin a bet, and the limit with it.
        clip: a row's change counts as at most this many nats per token either way; what is limited
            is the rise of the clipped changes.
        error: how often the limit may be passed.

    Returns:
        The limit, at most `clip`.

    Raises:
        ValueError: a row is longer than `longest`.

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
    JRSS B 2024, arXiv 2010.09686.
    """
    tokens = after[1]
    if tokens.max() > longest:
        raise ValueError(f"a row has {tokens.max():g} tokens, and the longest may have {longest}.")
    changes = np.clip(after[0] - before[0], -clip * tokens, clip * tokens)

    def is_refuted(rise: float) -> bool:
        bets = (changes - rise * tokens) / ((clip - rise) * longest)
        wealth = np.log1p(-_SHARES_STAKED[:, None] * bets).sum(axis=1)
        return float(logsumexp(wealth)) - math.log(len(wealth)) >= -math.log(error)

    low, high = -clip, clip
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_refuted(middle) else (middle, high)
    return high


def loss_estimate(
    nats: Array, tokens: Array, unit: str, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """θ = Σxᵢ/Σtᵢ of one sample, both of shape (rows,), by the studentised bootstrap.

    [θ − q₀.₉₇₅·se, θ − q₀.₀₂₅·se], with q the quantiles of (θ* − θ)/se* over resampled rows and se
    by the delta method: unlike the percentile bootstrap it allows for the skew of losses. Under
    ten rows, where resamples are too much alike, Student's t takes the place of q.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 12.5.
    """
    loss = ratio(np.stack([nats, tokens]))
    count, error = len(nats), loss.standard_error
    if count < _FEWEST_TO_RESAMPLE or error == 0:
        return loss.estimate(unit)
    # Of what is left beside θ̂t, so that no near numbers are subtracted.
    residuals = nats - loss.value * tokens
    columns = np.stack([residuals, tokens, residuals**2, residuals * tokens, tokens**2], axis=1)
    draws = resampled_means(columns, resamples, seed)
    shift = draws[:, 0] / draws[:, 1]
    spread = draws[:, 2] - 2 * shift * draws[:, 3] + shift**2 * draws[:, 4]
    errors = np.sqrt(np.maximum(spread, 0) / (count - 1)) / draws[:, 1]
    has_error = errors > 1e-12 * error
    low, high = np.quantile(shift[has_error] / errors[has_error], [1 - _TAIL, _TAIL])
    return Estimate(
        loss.value, loss.value - low * error, loss.value - high * error, unit, "estimate"
    )


def resampled_means(columns: Array, resamples: int, seed: int) -> Array:
    """Means over bootstrap draws of the rows: shapes (rows, columns) to (resamples, columns)."""
    generator = np.random.default_rng(seed)
    count = len(columns)
    at_once = max(1, _BLOCK // count)
    blocks = []
    for begin in range(0, resamples, at_once):
        size = min(at_once, resamples - begin)
        # How often each row is drawn: counting is ten times faster than gathering the rows.
        drawn = generator.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        blocks.append(times @ columns / count)
    return np.concatenate(blocks)


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


def share_over_seeds(shares: Sequence[Estimate]) -> Estimate:
    """`over_seeds` of shares, which lie from 0 to 1."""
    return over_seeds(shares).cut(0.0, 1.0)


def share_change_over_seeds(changes: Sequence[Estimate]) -> Estimate:
    """`over_seeds` of changes of a share, which lie from −1 to 1."""
    return over_seeds(changes).cut(-1.0, 1.0)


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
    interval = binomtest(hits, count).proportion_ci(1 - 2 * _TAIL, "wilson")
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
    inflated = variance * (float(student.isf(_TAIL, freedom)) / _NORMAL) ** 2
    effective = min(count, binomial / inflated) if inflated > 0 else count
    z2 = _NORMAL**2 / effective
    centre = (value + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * binomial + z2**2 / 4) / (1 + z2)
    return Estimate(value, centre - half, centre + half, unit, "estimate")


def exact_share(hits: int, count: int, unit: str) -> Estimate:
    """hits/count with the interval of Clopper and Pearson, which covers at least 95 %, always.

    >>> round(exact_share(0, 20, "share").high, 3)
    0.168
    """
    interval = binomtest(hits, count).proportion_ci(1 - 2 * _TAIL, "exact")
    return Estimate(hits / count, float(interval.low), float(interval.high), unit, "estimate")


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
        return math.ceil(math.log(_TAIL) / math.log1p(-limit))
    return math.ceil(_NORMAL**2 * limit * (1 - limit) / (limit - value) ** 2)


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

    low, high = (end(side * _NORMAL, -side * (1 - _NEARLY_0)) for side in (1, -1))
    return Estimate(value, low, high, unit, "estimate")


def cohen_kappa(
    first: Sequence[str],
    second: Sequence[str],
    unit: str,
    of: Sequence[str] | None = None,
) -> Estimate | None:
    """κ = (pₒ − pₑ)/(1 − pₑ): agreement of two raters of the same rows, beyond that of chance.

    pₒ is the share of rows with one label from both, pₑ = Σₖ pₖ·qₖ of their shares of each label.
    The interval is the delta method's, cut to [−1, 1], of
    ψᵢ = ((dᵢ − pₒ)(1 − pₑ) − (1 − pₒ)(q(aᵢ) + p(bᵢ) − 2pₑ))/(1 − pₑ)² for row i with labels aᵢ
    and bᵢ, dᵢ = 1 where they are one. Where all ψᵢ are 0, as where all rows agree, it is that of
    the exact interval of pₒ. None where both raters have the same one label for every row: no
    agreement could then be told from chance. Where `of` names what a row is of, as the prompt of an
    answer, rows of one are not independent, their ψᵢ are added, and the exact interval is of as
    many as there are of those.

    >>> estimate = cohen_kappa(list("aabb" * 10), list("aaba" * 10), "κ")
    >>> estimate.value, round(estimate.low, 2), round(estimate.high, 2)
    (0.5, 0.26, 0.74)

    Source: Fleiss, Cohen and Everitt, "Large sample standard errors of kappa and weighted kappa",
    Psychological Bulletin 72, 1969.
    """
    labels = sorted({*first, *second})
    ours = np.array([[row_label == label for label in labels] for row_label in first], dtype=float)
    theirs = np.array(
        [[row_label == label for label in labels] for row_label in second], dtype=float
    )
    share_of_ours, share_of_theirs = ours.mean(axis=0), theirs.mean(axis=0)
    agrees = (ours * theirs).sum(axis=1)
    observed, expected = float(agrees.mean()), float(share_of_ours @ share_of_theirs)
    if len(labels) < 2:
        return None
    value = (observed - expected) / (1 - expected)
    by_chance = ours @ share_of_theirs + theirs @ share_of_ours - 2 * expected
    influence = (agrees - observed) * (1 - expected) - (1 - observed) * by_chance
    if np.abs(influence).max() < 1e-12:
        independent = len(first) if of is None else len(set(of))
        agreed = exact_share(round(observed * independent), independent, unit)
        ends = [(end - expected) / (1 - expected) for end in (agreed.low, agreed.high)]
        return Estimate(value, max(-1.0, ends[0]), ends[1], unit, "estimate")
    by_row = influence / (1 - expected) ** 2
    if of is not None:
        _, place = np.unique(list(of), return_inverse=True)
        sums = np.bincount(place, by_row)
        by_row = sums * (len(sums) / len(first))
    estimate = Statistic(value, {"rows": by_row}).estimate(unit)
    return replace(estimate, low=max(-1.0, estimate.low), high=min(1.0, estimate.high))


def jackknife(value: Callable[[Array], float], parts: int) -> tuple[float, float]:
    """The value of all parts, and t times the jackknife's error with n − 1 degrees of freedom.

    Args:
        value: takes which parts are kept, ones and zeros of shape (parts,).
        parts: how many there are, n.

    error² = (n − 1)/n · Σ(θ₋ᵢ − mean θ₋ᵢ)².

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 11.
    """
    all_parts = np.ones(parts)
    without = np.array([value(all_parts - part) for part in np.eye(parts)])
    variance = (parts - 1) / parts * float(np.square(without - without.mean()).sum())
    return value(all_parts), float(student.isf(_TAIL, parts - 1)) * math.sqrt(variance)


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


def adjusted_over_seeds(effects: Mapping[Key, Sequence[Statistic]]) -> dict[Key, float]:
    """Holm's p of effects that are each given by seed, by the same keys."""
    p_values = holm([p_value_over_seeds(by_seed) for by_seed in effects.values()])
    return dict(zip(effects, map(float, p_values), strict=True))


def note_on_rows(rows: int) -> str | None:
    """What to tell of intervals from few rows, or None.

    >>> note_on_rows(48), note_on_rows(50)
    ('48 rows: intervals are approximate', None)
    """
    return f"{rows} rows: intervals are approximate" if rows < FEW_ROWS else None


def _mean_place(points: Sequence[tuple[Statistic, Statistic]]) -> tuple[float, float]:
    across, up = zip(*points, strict=True)
    return mean_of(across).value, mean_of(up).value


def _with_seeds(of_rows: Estimate, values: Array) -> Estimate:
    spread, mean = _student_half_width(values), of_rows.value
    return replace(
        of_rows,
        low=mean - math.hypot(mean - of_rows.low, spread),
        high=mean + math.hypot(of_rows.high - mean, spread),
    )


def _student_half_width(values: Array, tail: float = _TAIL) -> float:
    count = len(values)
    if count < 2:
        return 0.0
    return float(student.isf(tail, count - 1) * values.std(ddof=1) / math.sqrt(count))
