"""How many of the task's prompts fall among the safety data's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from trimtab.points import Estimate

MISSED_SHARE = 0.05
"""The share of the safety data's own held-out prompts that the threshold leaves outside."""

_CHUNK = 1024


def prompt_overlap(
    task: Sequence[str], safety: Sequence[str], held_out_safety: Sequence[str]
) -> Estimate:
    """D_f(X_ŝ), the share of task prompts that fall among the safety prompts.

    A prompt falls among them when its nearest safety prompt, by the cosine of TF-IDF words and
    word pairs, is as near as that of all but 5 % of held-out safety prompts. So the safety data
    overlaps itself at about 0.95, and the threshold needs no choosing. Wording is all it sees: two
    prompts that ask the same in other words are far apart, and the overlap is then too small.

    Returns:
        The share, with the 95 % Wilson interval of a binomial over task prompts.

    >>> poems = [f"write a poem about the colour of number {n}" for n in range(40)]
    >>> sums = [f"add {n} to {n + 1}" for n in range(40)]
    >>> prompt_overlap(poems[:20], poems, poems[20:]).value
    1.0
    >>> prompt_overlap(sums, poems[:20], poems[20:]).value
    0.0
    """
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+")
    known = vectorizer.fit_transform(safety)
    own = _nearest_cosines(vectorizer.transform(held_out_safety), known)
    threshold = max(float(np.quantile(own, MISSED_SHARE)), 1e-6)
    among = _nearest_cosines(vectorizer.transform(task), known) >= threshold
    low, high = _wilson_interval(int(among.sum()), len(task))
    return Estimate(float(among.mean()), low, high, "share of task prompts", "estimate")


def _nearest_cosines(prompts: csr_matrix, known: csr_matrix) -> NDArray[np.float64]:
    """Rows of TF-IDF are unit vectors, so a dot product is a cosine."""
    return np.concatenate([chunk.max(axis=1) for chunk in _products(prompts, known)])


def _products(prompts: csr_matrix, known: csr_matrix) -> Iterator[NDArray[np.float64]]:
    for first in range(0, prompts.shape[0], _CHUNK):
        yield (prompts[first : first + _CHUNK] @ known.T).toarray()


def _wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    z = 1.959964
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    half = z * spread / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)
