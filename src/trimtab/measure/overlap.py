"""How many of one data set's prompts fall among another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from trimtab.measure.hidden_states import States
from trimtab.measure.nearest import Vectors, nearest
from trimtab.stats import Estimate, share

MISSED_SHARE = 0.05
"""The share of the known data's own held-out prompts that the threshold leaves outside."""

_ROUNDING = 1e-5


@dataclass(frozen=True)
class Neighbours:
    """A prompt and the known prompt nearest to it."""

    prompt: str
    nearest: str
    cosine: float
    place: int
    """The prompt's place among those asked about."""


@dataclass(frozen=True)
class Overlap:
    """The share of prompts among the known ones, the threshold for it, and the nearest pairs."""

    share: Estimate
    threshold: float
    pairs: tuple[Neighbours, ...]
    """The nearest pairs, nearest first, and no known prompt twice while others are to be had."""
    among: NDArray[np.bool_]
    """Which prompts fall among the known ones, shape (n,)."""


def context_overlap(
    prompts: Sequence[str],
    known: Sequence[str],
    held_out: Sequence[str],
    states: tuple[States, States, States] | None = None,
    pairs: int = 5,
    unit: str = "share of prompts",
) -> Overlap:
    """D(X_known): the share of `prompts` that fall among the `known` ones.

    A prompt falls among them when its nearest known prompt is as near, by the cosine, as that of
    all but 5 % of `held_out` prompts, which are drawn as the known ones are. So a data set
    overlaps itself at about 0.95, and the threshold needs no choosing.

    Args:
        prompts, known, held_out: texts.
        states: hidden states of the three, shapes (n, h), to compare in place of words. Without,
            vectors are TF-IDF of words and word pairs, which see the wording alone: two prompts
            that ask the same in other words are far apart, and the overlap is then too small.
        pairs: how many nearest pairs to keep for a person to judge.
        unit: what the share is of.

    Returns:
        The share with its 95 % Wilson interval, a binomial over the prompts asked about.

    In Theorems 1 and 2 of Chen et al. 2025, with task prompts among safety prompts, it is the
    context overlap D_f(X_ŝ); the other way round D_ŝ(X_f).
    """
    vectors = _of_words(prompts, known, held_out) if states is None else _of_states(*states)
    own = nearest(vectors[2], vectors[1]).cosines
    threshold = max(float(np.quantile(own, MISSED_SHARE)) - _ROUNDING, _ROUNDING)
    found = nearest(vectors[0], vectors[1])
    among = found.cosines >= threshold
    order = np.argsort(-found.cosines, kind="stable")
    _, firsts = np.unique(found.places[order], return_index=True)
    fresh = order[np.sort(firsts)][:pairs]
    shown = tuple(
        Neighbours(
            prompts[place], known[found.places[place]], float(found.cosines[place]), int(place)
        )
        for place in fresh
    )
    return Overlap(share(among, unit), threshold, shown, among)


def prompt_overlap(
    task: Sequence[str], safety: Sequence[str], held_out_safety: Sequence[str]
) -> Estimate:
    """D_f(X_ŝ), the share of task prompts that fall among the safety prompts, by their words.

    >>> poems = [f"write a poem about the colour of number {n}" for n in range(40)]
    >>> sums = [f"add {n} to {n + 1}" for n in range(40)]
    >>> prompt_overlap(poems[:20], poems, poems[20:]).value
    1.0
    >>> prompt_overlap(sums, poems[:20], poems[20:]).value
    0.0
    """
    return context_overlap(
        task, safety, held_out_safety, pairs=0, unit="share of task prompts"
    ).share


def _of_words(
    prompts: Sequence[str], known: Sequence[str], held_out: Sequence[str]
) -> tuple[Vectors, Vectors, Vectors]:
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+", dtype=np.float32
    )
    fitted = vectorizer.fit_transform(known)
    return vectorizer.transform(prompts), fitted, vectorizer.transform(held_out)


def _of_states(prompts: States, known: States, held_out: States) -> tuple[Vectors, ...]:
    # All hidden states of a model share one large direction; without it the angles speak.
    centre = known.mean(axis=0)
    return tuple(_unit(states - centre) for states in (prompts, known, held_out))


def _unit(rows: States) -> States:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)
