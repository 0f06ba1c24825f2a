"""A limit that holds however often one looks."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import logsumexp

from trimtab.stats.estimate import Array

_SHARES_STAKED = np.geomspace(0.005, 0.95, 40)


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
