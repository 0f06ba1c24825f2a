"""How alike the original data and a proxy are: a bound on total variation, and a model's view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from trimtab.config.audit_settings import FEWEST_ROWS
from trimtab.errors import UserError
from trimtab.measure.hidden_states import Array, Reading, States
from trimtab.measure.losses import PER_TOKEN
from trimtab.stats import (
    Estimate,
    exact_share,
    first_of_each,
    group_numbers,
    loss_estimate,
    ratio,
    summed,
)

TOTAL_VARIATION = "total variation, 0 to 1"

_FOLDS = 3
_TREES = 200


class TooFewPromptsError(UserError):
    """Two data sets have too few different prompts to be told apart."""

    def __init__(self) -> None:
        super().__init__(
            "too few different prompts to tell two data sets apart, where prompts with the same "
            "last message are one: give rows with more of them; if the rows of both are draws that "
            "may come again, many of few prompts, say so: --repeats, or repeats: true."
        )


@dataclass(frozen=True)
class Sample:
    """Draws (x, y) of one data set: keys of the prompts, and what a model made of the rows."""

    prompts: Sequence[str]
    reading: Reading
    repeats: bool = False
    """Whether rows are draws that may come again; else rows of one prompt are no independent draws,
    and what is told of a data set is told of its prompts."""

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, places: NDArray[np.intp]) -> Sample:
        return Sample(
            [self.prompts[place] for place in places],
            Reading(
                self.reading.nll[places],
                self.reading.tokens[places],
                self.reading.prompts[places],
                self.reading.responses[places],
            ),
            self.repeats,
        )

    @property
    def nats_and_tokens(self) -> Array:
        """Of each draw, shape (2, draws): of a row, or of all of a prompt's rows together."""
        rows = np.stack([self.reading.nll, self.reading.tokens])
        return rows if self.repeats else summed(rows, split_groups(self.prompts))


@dataclass(frozen=True)
class Similarity:
    """How a proxy D_ŝ compares with the original D_s, the quantities of Theorem 1.

    `total_variation` and `given_prompt` err low: they are what one classifier could tell apart.
    `excess_loss` is no bound on anything; see `similarity`.
    """

    total_variation: Estimate
    given_prompt: Estimate | None
    shared_prompts: float
    proxy_loss: Estimate
    original_loss: Estimate
    excess_loss: Estimate
    classifier: str


def similarity(
    original: Sample, proxy: Sample, features: tuple[States, States], seed: int = 0
) -> Similarity:
    """TV(D_s, D_ŝ) from below, the same given the prompt, and L_ŝ(θ_s) − L_s(θ_s).

    Args:
        original, proxy: draws of D_s and D_ŝ, read by the same model.
        features: what the classifier sees of either's rows, shapes (rows, k).

    **Total variation.** TV(P, Q) = max over classifiers of (share of P told as P) + (share of Q
    told as Q) − 1. One trained on half of the rows and tested on the other half is such a
    classifier, so twice its balanced accuracy less 1 is TV at most, but for the chance in the
    test half. The interval allows for that chance exactly (Clopper and Pearson): TV is below its
    low end for at most 2.5 % of samples, however bad the classifier; its high end bounds this
    classifier, not TV. Rows with one prompt stay in one half, and of those tested one of either set
    counts, unless rows are draws that may come again: answers to one prompt are like each other.

    **Given the prompt.** The same on as many rows of either for each shared prompt, which leaves
    the contexts nothing to tell: E_x TV(D_s(·|x), D_ŝ(·|x)) over the shared x. None where too few
    are shared.

    **Excess loss.** How much less the aligned model expects the proxy's responses than the
    original's, nats per token, paired where prompts are shared. A proxy that is merely more
    predictable has less.

    Raises:
        UserError: a side has fewer than 20 rows, or both hold the same rows.

    Source: Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", arXiv 1610.06545; in
    Theorem 1 of Chen et al. 2025 TV is the shift.
    """
    variation, name = total_variation_bound(original, proxy, features, seed)
    places = matched(original.prompts, proxy.prompts)
    conditional = None
    if len(places[0]) >= 2 * FEWEST_ROWS:
        conditional, _ = total_variation_bound(
            original.rows(places[0]),
            proxy.rows(places[1]),
            (features[0][places[0]], features[1][places[1]]),
            seed,
        )
    original_prompts = set(original.prompts)
    return Similarity(
        variation,
        conditional,
        float(np.mean([prompt in original_prompts for prompt in proxy.prompts])),
        mean_loss(proxy, seed),
        mean_loss(original, seed),
        excess_loss(original, proxy, places),
        name,
    )


def total_variation_bound(
    original: Sample, proxy: Sample, features: tuple[States, States], seed: int
) -> tuple[Estimate, str]:
    """The two-sample bound on TV, and which classifier gave it."""
    for side in (original, proxy):
        if len(side) < FEWEST_ROWS:
            raise UserError(
                f"{len(side)} rows are too few to tell two data sets apart: give at least "
                f"{FEWEST_ROWS} of each."
            )
    generator = np.random.default_rng(seed)
    count = min(len(original), len(proxy))
    chosen = [generator.permutation(len(side))[:count] for side in (original, proxy)]
    x = np.concatenate([part[places] for part, places in zip(features, chosen, strict=True)])
    y = np.repeat([0, 1], count)
    prompts = [
        side.prompts[place]
        for side, places in zip((original, proxy), chosen, strict=True)
        for place in places
    ]
    repeats = original.repeats and proxy.repeats
    groups = split_groups(prompts, repeats)
    training = _half_of(groups, generator)
    if not _has_both_kinds(y[training]) or not _has_both_kinds(y[~training]):
        raise TooFewPromptsError
    classifier, name = _best_classifier(x[training], y[training], groups[training], seed)
    classifier.fit(x[training], y[training])
    right = classifier.predict(x[~training]) == y[~training]
    # As many test rows of either, so that the share told right is the balanced accuracy.
    tested = _evenly(y[~training], groups[~training], generator)
    accuracy = exact_share(int(right[tested].sum()), len(tested), TOTAL_VARIATION)
    value, low, high = (
        min(1.0, max(0.0, 2 * share - 1)) for share in (accuracy.value, accuracy.low, accuracy.high)
    )
    return Estimate(value, low, high, TOTAL_VARIATION, "estimate"), name


def split_groups(prompts: Sequence[str], repeats: bool = False) -> NDArray[np.intp]:
    """The number of each row's group, of the rows that must not be on both sides of a split.

    They are those with one prompt. With `repeats` rows are draws from few contexts: independent as
    they are, and a split by prompt would ask a classifier about contexts it has never seen.

    >>> split_groups(["a", "b", "a"]), split_groups(["a", "b", "a"], repeats=True)
    (array([0, 1, 0]), array([0, 1, 2]))
    """
    return np.arange(len(prompts)) if repeats else group_numbers(prompts)


def matched(
    original: Sequence[str], proxy: Sequence[str]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places of rows with a common prompt, as often in one as in the other.

    >>> [places.tolist() for places in matched(["a", "b", "b"], ["b", "c", "a", "a"])]
    [[1, 0], [0, 2]]
    """
    waiting: dict[str, list[int]] = {}
    for place in reversed(range(len(original))):
        waiting.setdefault(original[place], []).append(place)
    pairs = [(waiting[p].pop(), place) for place, p in enumerate(proxy) if waiting.get(p)]
    ours, theirs = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(ours, dtype=np.intp), np.array(theirs, dtype=np.intp)


def mean_loss(sample: Sample, seed: int = 0) -> Estimate:
    """L_D(θ), nats per token, with a studentised bootstrap's interval over draws."""
    nats, tokens = sample.nats_and_tokens
    return loss_estimate(nats, tokens, PER_TOKEN, seed)


def excess_loss(
    original: Sample, proxy: Sample, places: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> Estimate:
    """L_ŝ(θ_s) − L_s(θ_s), nats per token; rows with common prompts are compared pair by pair."""
    ours, theirs = places
    paired = len(ours) >= FEWEST_ROWS
    if paired:
        original, proxy = original.rows(ours), proxy.rows(theirs)
        if original.repeats != proxy.repeats:  # then pair by pair is row by row
            original, proxy = replace(original, repeats=True), replace(proxy, repeats=True)
    original_loss = ratio(original.nats_and_tokens, "original")
    proxy_loss = ratio(proxy.nats_and_tokens, "original" if paired else "proxy")
    return (proxy_loss - original_loss).estimate(PER_TOKEN)


def _half_of(groups: NDArray[np.intp], generator: np.random.Generator) -> NDArray[np.bool_]:
    names = np.unique(groups)
    half = generator.permutation(names)[: len(names) // 2]
    chosen: NDArray[np.bool_] = np.isin(groups, half)
    return chosen


def _has_both_kinds(y: NDArray[np.intp]) -> bool:
    return 2 <= int(y.sum()) <= len(y) - 2


def _evenly(
    y: NDArray[np.intp], groups: NDArray[np.intp], generator: np.random.Generator
) -> NDArray[np.intp]:
    """Places of as many rows of either kind, in random order, none of one kind and group twice."""
    kinds = []
    for kind in (0, 1):
        places = generator.permutation(np.flatnonzero(y == kind))
        kinds.append(places[first_of_each(groups[places])])
    count = min(map(len, kinds))
    return np.concatenate([kind[:count] for kind in kinds])


def _best_classifier(
    x: States, y: NDArray[np.intp], groups: NDArray[np.intp], seed: int
) -> tuple[Pipeline, str]:
    """The one that does best in cross-validation on the training half alone."""
    candidates = {
        "logistic regression": make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, max_iter=500)
        ),
        "extremely randomized trees": make_pipeline(
            ExtraTreesClassifier(_TREES, min_samples_leaf=3, random_state=seed)
        ),
    }
    folds = GroupKFold(min(_FOLDS, len(np.unique(groups))))
    scores = {
        name: float(cross_val_score(candidate, x, y, groups=groups, cv=folds).mean())
        for name, candidate in candidates.items()
    }
    best = max(scores, key=scores.__getitem__)
    return candidates[best], best
