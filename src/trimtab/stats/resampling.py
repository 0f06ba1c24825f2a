"""Intervals from draws of the rows seen, or from leaving some out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.stats import t as student

from trimtab.stats.estimate import TAIL, Array, Estimate
from trimtab.stats.statistic import ratio

RESAMPLES = 2000
_FEWEST_TO_RESAMPLE = 10
_LEAST_ERROR = 0.2
"""Of θ̂'s own error, what a resample's is taken to be at least."""
_BLOCK = 2_000_000
"""As many counts of rows as are held in memory at once."""


def loss_estimate(
    nats: Array, tokens: Array, unit: str, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """θ = Σxᵢ/Σtᵢ of one sample, both of shape (rows,), by the studentised bootstrap.

    [θ − q₀.₉₇₅·se, θ − q₀.₀₂₅·se], with q the quantiles of (θ* − θ)/se* over resampled rows and se
    by the delta method: unlike the percentile bootstrap it allows for the skew of losses. Under
    ten rows, where resamples are too much alike, Student's t takes the place of q. Where few rows
    carry the loss, resamples without them have next to no spread, and a quotient by it no meaning:
    se is taken to be a fifth of θ's at least. Where no row is below 0, the interval is not.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 12.5.
    """
    loss = ratio(np.stack([nats, tokens]))
    count, error = len(nats), loss.standard_error
    least = 0.0 if nats.min() >= 0 else -math.inf
    if count < _FEWEST_TO_RESAMPLE or error == 0:
        return loss.estimate(unit).cut(least, math.inf)
    # Of what is left beside θ̂t, so that no near numbers are subtracted.
    residuals = nats - loss.value * tokens
    columns = np.stack([residuals, tokens, residuals**2, residuals * tokens, tokens**2], axis=1)
    draws = resampled_means(columns, resamples, seed)
    shift = draws[:, 0] / draws[:, 1]
    spread = draws[:, 2] - 2 * shift * draws[:, 3] + shift**2 * draws[:, 4]
    errors = np.sqrt(np.maximum(spread, 0) / (count - 1)) / draws[:, 1]
    quotients = shift / np.maximum(errors, _LEAST_ERROR * error)
    low, high = loss.value - np.quantile(quotients, [1 - TAIL, TAIL]) * error
    return Estimate(loss.value, float(low), float(high), unit, "estimate").cut(least, math.inf)


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
    return value(all_parts), float(student.isf(TAIL, parts - 1)) * math.sqrt(variance)
