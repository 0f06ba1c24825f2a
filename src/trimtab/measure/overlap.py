"""How many of one data set's prompts could as well be another's: the context overlap, both ways."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.sparse import csr_matrix
from sklearn import config_context
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trimtab.measure.hidden_states import States
from trimtab.measure.similarity import TooFewPromptsError, split_groups
from trimtab.stats import Array, Estimate, first_of_each, share_with_variance

Vectors: TypeAlias = NDArray[np.float32] | csr_matrix
"""A vector per row: of words, or a hidden state."""

MISSED_SHARE = 0.05
"""The share of a data set's own prompts that the threshold leaves outside it."""

TASK_PROMPTS, SAFETY_PROMPTS = "share of task prompts", "share of safety prompts"

_SPLITS = 8
"""Cross-fits whose shares are averaged, so that the luck of one split does not show."""
_BLOCKS, _BLOCKINGS = 8, 2
"""Blocks that the data are cut into for the interval, and how often: each cut says 7 numbers."""
_MOST_TRAINED = 2000
"""Prompts of either set that a classifier learns from; every prompt is scored."""
_WORKING_MEMORY = 256
"""MiB of cosines at once, where the nearest prompts are sought."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Neighbours:
    """A task prompt and the safety prompt nearest to it."""

    prompt: str
    nearest: str
    cosine: float
    place: int
    """The prompt's place among the task's."""


@dataclass(frozen=True)
class Overlap:
    """The overlap of task and safety prompts both ways, and what every prompt was scored."""

    task_on_safety: Estimate
    safety_on_task: Estimate
    task_posterior: Array
    """c(x), the calibrated balanced posterior of safety, of every task prompt: shape (n,)."""
    safety_posterior: Array
    """c(x) of every safety prompt: shape (m,)."""
    among: NDArray[np.bool_]
    """Which task prompts fall among the safety prompts in most cross-fits, shape (n,)."""
    pairs: tuple[Neighbours, ...]
    """Of the task prompts among them those nearest to a safety prompt, nearest first, and no
    safety prompt twice."""


def context_overlap(
    task: Sequence[str],
    safety: Sequence[str],
    states: tuple[States, States] | None = None,
    pairs: int = 5,
    seed: int = 0,
    repeats: bool = False,
) -> Overlap:
    """o = P_f(s(x) ≥ q₀.₀₅ of s under D_ŝ), and ρ the other way round, s a classifier's score.

    A classifier learns to tell safety from task prompts and scores prompts that it has not seen:
    both sets are halved, and each half is scored by what the other taught. Prompts of equal text
    stay in one half. A task prompt is among the safety prompts when it scores as high as all but
    5 % of them: so a data set overlaps itself at about 0.95, one of another topic at 0, and the
    threshold needs no choosing. The share is the mean over eight such splits, each with a threshold
    of its own.
    Classes are balanced, whatever the sizes of the sets.

    Args:
        task, safety: texts, n and m of them.
        states: hidden states of the two, shapes (n, h) and (m, h), to be told apart in place of
            TF-IDF of words and word pairs.
        pairs: how many nearest pairs to keep for a person to judge, by cosine.
        seed: of the splits.
        repeats: prompts are draws that may come again, of few contexts: each goes its own way.

    Returns:
        Both shares with 95 % intervals. They cover the long-run mean of this estimate over new
        draws of as many prompts of *both* sets, with classifiers that learn from the new draws:
        what halves of the data say, each split, taught and scored by itself, tells how many
        independent prompts the whole is worth, n_eff = 2h(1 − h)/var(share of a half), h the
        halves' mean; the interval is that of a share of so many, at most n. A half has fewer
        prompts to learn from and three splits for eight, so the intervals are rather too wide than
        too narrow. Whatever a better classifier would tell apart they do not cover: a weak one, or
        one with few prompts to learn from, sees too much overlap. Coverage by simulation:
        benchmarks/overlap_coverage.py.

    Raises:
        TooFewPromptsError: too few different prompts to learn from.

    In Theorems 1 and 2 of Chen et al. 2025 (arXiv 2503.20807) they stand for the context overlaps
    D_f(X_ŝ) and D_ŝ(X_f). The half-samples: McCarthy, "Pseudo-replication: Half Samples", 1969. An
    effective number with Student's t: Korn and Graubard, "Confidence Intervals for Proportions",
    1998.
    """
    prompts = _Prompts.of(task, safety, states, repeats)
    kinds = prompts.kinds
    generator = np.random.default_rng(seed)
    scores = _scores_of_splits(prompts, generator)
    forth, back = np.mean([_shares(split_scores, kinds) for split_scores in scores], axis=0)
    worth = _relative_variances(prompts, generator)
    variances = worth * [forth * (1 - forth), back * (1 - back)]
    freedom = _BLOCKINGS * (_BLOCKS - 1)
    posterior = _calibrated(np.mean(scores, axis=0), kinds)
    among = np.mean([_among(split_scores, kinds) for split_scores in scores], axis=0) >= 0.5
    return Overlap(
        share_with_variance(float(forth), variances[0], len(task), TASK_PROMPTS, freedom),
        share_with_variance(float(back), variances[1], len(safety), SAFETY_PROMPTS, freedom),
        posterior[kinds == 0],
        posterior[kinds == 1],
        among,
        _nearest_pairs(task, safety, prompts.vectors, among, pairs)
        if pairs and among.any()
        else (),
    )


def task_posterior(
    task: Sequence[str],
    safety: Sequence[str],
    states: tuple[States, States],
    seed: int = 0,
    repeats: bool = False,
) -> Array:
    """c(x) of every task prompt as `context_overlap` has it, shape (n,), and nothing besides."""
    prompts = _Prompts.of(task, safety, states, repeats)
    scores = _scores_of_splits(prompts, np.random.default_rng(seed))
    return _calibrated(np.mean(scores, axis=0), prompts.kinds)[prompts.kinds == 0]


def prompt_overlap(task: Sequence[str], safety: Sequence[str], repeats: bool = False) -> Estimate:
    """D_f(X_ŝ), the share of task prompts that fall among the safety prompts, by their words.

    With `repeats` both are draws that may come again.

    Raises:
        TooFewPromptsError: too few different prompts to learn from.

    >>> poems = [f"write a poem about the colour of number {n}" for n in range(60)]
    >>> sums = [f"add {n} to {n + 1}" for n in range(60)]
    >>> prompt_overlap(poems[:30], poems[30:]).value > 0.8
    True
    >>> prompt_overlap(sums, poems).value
    0.0
    """
    return context_overlap(task, safety, pairs=0, repeats=repeats).task_on_safety


def alignment_overlap_term(safety_posterior: Array, penalty: float) -> float:
    """E_ŝ log(1 + 1/(λ r(x))), r = c/(1 − c): Theorem 1's overlap term with no threshold.

    Args:
        safety_posterior: c(x) of the safety prompts, shape (m,), each above 0 and below 1; then
            r(x) estimates the density ratio D_ŝ(x)/D_f(x).
        penalty: λ, above 0.

    Returns:
        Nats per response. Of the true ratio it bounds the alignment gap of the exact minimiser on
        the proxy, and is at most ρ log(1 + o/(λρ)); of an estimated one it is an estimate.

    >>> round(alignment_overlap_term(np.full(10, 0.5), penalty=1.0), 4)  # the same prompts: log 2
    0.6931

    Source: the proof of Theorem 1 of Chen et al. 2025, arXiv 2503.20807.
    """
    return float(np.log1p(_odds(1 - safety_posterior) / penalty).mean())


def capability_overlap_term(task_posterior: Array, penalty: float) -> float:
    """E_f log(1 + λ r(x)), r = c/(1 − c): Theorem 2's overlap term with no threshold.

    Args:
        task_posterior: c(x) of the task prompts, shape (n,), each above 0 and below 1.
        penalty: λ, 0 or more.

    Returns:
        Nats per response: an estimate of what bounds the capability gap of the exact minimiser.
        Of the true ratio it is at most o log(1 + λρ/o).

    >>> round(capability_overlap_term(np.full(10, 0.5), penalty=3.0), 4)
    1.3863

    Source: the proof of Theorem 2 of Chen et al. 2025, arXiv 2503.20807.
    """
    return float(np.log1p(penalty * _odds(task_posterior)).mean())


def penalty_without_threshold(safety_posterior: Array, budget: float) -> float:
    """The λ at which `alignment_overlap_term` is the budget, in nats per response, above 0.

    >>> round(penalty_without_threshold(np.full(10, 0.5), budget=math.log(2)), 4)
    1.0
    """
    inverse = _odds(1 - safety_posterior)
    # Jensen below, log(1 + t) ≤ t above: between the two the term crosses the budget once.
    lowest = float(np.log(inverse).mean()) - budget
    highest = math.log(float(inverse.mean()) / budget)

    def excess(log_penalty: float) -> float:
        return alignment_overlap_term(safety_posterior, math.exp(log_penalty)) - budget

    return math.exp(float(brentq(excess, lowest - 1e-6, highest + 1e-6)))


def _odds(probability: Array) -> Array:
    odds: Array = probability / (1 - probability)
    return odds


@dataclass(frozen=True)
class _Prompts:
    """Both sets in one: a vector each, which set each is of (1 is safety), and whose text equals
    whose. A vector of words has unit length."""

    vectors: Vectors
    kinds: NDArray[np.intp]
    groups: NDArray[np.intp]

    @classmethod
    def of(
        cls,
        task: Sequence[str],
        safety: Sequence[str],
        states: tuple[States, States] | None,
        repeats: bool,
    ) -> Self:
        vectors = _of_words(task, safety) if states is None else np.concatenate(states)
        kinds = np.repeat([0, 1], [len(task), len(safety)])
        return cls(vectors, kinds, split_groups([*task, *safety], repeats))


def _of_words(task: Sequence[str], safety: Sequence[str]) -> Vectors:
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+", dtype=np.float32
    )
    return vectorizer.fit_transform([*task, *safety]).tocsr()


def _scores_of_splits(prompts: _Prompts, generator: np.random.Generator) -> list[Array]:
    return [_cross_fitted(prompts, generator) for _ in range(_SPLITS)]


def _cross_fitted(prompts: _Prompts, generator: np.random.Generator) -> Array:
    """The log-odds of safety of every prompt, by a classifier of the other half."""
    vectors, kinds = prompts.vectors, prompts.kinds
    second = _blocks(prompts, 2, generator) == 0
    scores = np.empty(len(kinds))
    for tested in (second, ~second):
        training = _training(kinds, ~tested, generator)
        scores[tested] = _scored(vectors[tested], vectors[training], kinds[training])
    return scores


def _scored(prompts: Vectors, taught: Vectors, kinds: NDArray[np.intp]) -> Array:
    """The log-odds of safety of the prompts asked, by what the prompts of these kinds taught."""
    if isinstance(taught, np.ndarray):
        classifier = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced")
        )
    else:
        classifier = LogisticRegression(C=10, max_iter=300, class_weight="balanced")
        # A word that no training prompt has weighs nothing, and most word pairs are such.
        known_words = taught.getnnz(axis=0) > 0
        taught, prompts = taught[:, known_words], prompts[:, known_words]
    scores: Array = classifier.fit(taught, kinds).decision_function(prompts)
    return scores


def _relative_variances(prompts: _Prompts, generator: np.random.Generator) -> Array:
    """1/n_eff of the two shares, shape (2,): over new draws of both sets, scored and learnt from.

    The difference of what two halves say has twice a half's variance, four times that of the
    whole. As h(1 − h) of the halves divides it, a half that tells less apart, and so overlaps
    more, widens nothing by that alone.
    """
    halves = np.array(
        [_of_halves(prompts, generator) for _ in range(_BLOCKINGS)]
    )  # (_BLOCKINGS, 70, 2)
    # In the order of combinations the i-th half and the i-th from last have no block in common.
    variances = np.square(halves - halves[:, ::-1]).mean(axis=(0, 1)) / 4
    means = halves.mean(axis=(0, 1))
    binomial = means * (1 - means)
    return np.divide(variances, binomial, out=np.zeros(2), where=binomial > 0)


def _of_halves(prompts: _Prompts, generator: np.random.Generator) -> Array:
    """Both shares of each four of eight blocks by itself, the mean of its three splits: (70, 2).

    A classifier of two blocks serves every half that holds them. So 28 fits give all halvings of
    the blocks, three splits of each half, and with them all that eight blocks say of a variance.
    """
    vectors, kinds = prompts.vectors, prompts.kinds
    blocks = _blocks(prompts, _BLOCKS, generator)
    scores = {}
    for pair in combinations(range(_BLOCKS), 2):
        training = _training(kinds, np.isin(blocks, pair), generator)
        scores[pair] = _scored(vectors, vectors[training], kinds[training])

    def of_half(a: int, b: int, c: int, d: int) -> Array:
        half = np.isin(blocks, (a, b, c, d))
        splits = (((a, b), (c, d)), ((a, c), (b, d)), ((a, d), (b, c)))
        scores_by_split = (
            np.where(np.isin(blocks[half], first), scores[second][half], scores[first][half])
            for first, second in splits
        )
        return np.mean(
            [_shares(split_scores, kinds[half]) for split_scores in scores_by_split], axis=0
        )

    return np.array([of_half(*four) for four in combinations(range(_BLOCKS), _BLOCKS // 2)])


def _blocks(prompts: _Prompts, count: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Which of `count` blocks every prompt is in, shape (n + m,), with no group in two of them.

    Groups of the task alone, of safety alone and of both are dealt out each by themselves.
    """
    group_kinds = np.zeros(prompts.groups.max() + 1, dtype=np.intp)
    np.bitwise_or.at(group_kinds, prompts.groups, 1 << prompts.kinds)
    blocks = np.empty(len(group_kinds), dtype=np.intp)
    for whose in (1, 2, 3):
        own = generator.permutation(np.flatnonzero(group_kinds == whose))
        # Which block is given the odd one is drawn: else one would hold more of every kind.
        blocks[own] = (np.arange(len(own)) + generator.integers(count)) % count
    return blocks[prompts.groups]


def _training(
    kinds: NDArray[np.intp], among: NDArray[np.bool_], generator: np.random.Generator
) -> NDArray[np.intp]:
    places = [generator.permutation(np.flatnonzero(among & (kinds == kind))) for kind in (0, 1)]
    if min(map(len, places)) == 0:
        raise TooFewPromptsError
    return np.concatenate([own[:_MOST_TRAINED] for own in places])


def _calibrated(scores: Array, kinds: NDArray[np.intp]) -> Array:
    """c(x) = 1/(1 + exp(−a s(x) − b)), balanced, a ≥ 0: Platt's scaling with his softened targets.

    Two numbers fitted to scores that are held out already, so they are not cross-fitted again.

    Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    """
    counts = np.bincount(kinds)
    of_safety = np.where(kinds == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    weights = 1 / counts[kinds]
    fitted = LogisticRegression(C=1e6, max_iter=1000).fit(
        np.tile(scores, 2)[:, None],
        np.repeat([1, 0], len(scores)),
        np.concatenate([weights * of_safety, weights * (1 - of_safety)]) * len(scores),
    )
    if fitted.coef_[0, 0] <= 0:
        return np.full(len(scores), 0.5)
    posterior: Array = fitted.predict_proba(scores[:, None])[:, 1]
    return posterior


def _threshold(scores: Array) -> float:
    """The score that all but 5 % of the known prompts reach."""
    rank = int(MISSED_SHARE * len(scores))
    return float(np.partition(scores, rank)[rank]) - _ROUNDING


def _among(scores: Array, kinds: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which task prompts score as high as all but 5 % of the safety prompts."""
    among: NDArray[np.bool_] = scores[kinds == 0] >= _threshold(scores[kinds == 1])
    return among


def _shares(scores: Array, kinds: NDArray[np.intp]) -> Array:
    """The share of task prompts among the safety prompts, and the other way round."""
    return np.array([_among(scores, kinds).mean(), _among(-scores, 1 - kinds).mean()])


def _nearest_pairs(
    task: Sequence[str],
    safety: Sequence[str],
    vectors: Vectors,
    among: NDArray[np.bool_],
    count: int,
) -> tuple[Neighbours, ...]:
    places = np.flatnonzero(among)
    if isinstance(vectors, np.ndarray):
        # All hidden states of a model share one large direction; without it the angles speak.
        vectors = vectors - vectors.mean(axis=0)
    with config_context(working_memory=_WORKING_MEMORY):
        nearest, distances = pairwise_distances_argmin_min(
            vectors[places], vectors[len(task) :], metric="cosine"
        )
    order = np.argsort(distances, kind="stable")
    return tuple(
        Neighbours(
            task[places[row]], safety[nearest[row]], float(1 - distances[row]), int(places[row])
        )
        for row in order[first_of_each(nearest[order])][:count]
    )
