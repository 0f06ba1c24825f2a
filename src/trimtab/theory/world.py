"""A finite world: distributions over contexts and responses, and the distances between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# Loose enough for a float32 softmax over a large vocabulary, tight enough to catch a forgotten
# normalisation. Whatever passes is divided by its sum, so that stored rows are exact to rounding.
SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Distribution:
    """A distribution D(x, y) = D(x) D(y|x) over finitely many contexts and responses.

    Args:
        contexts: D(x), shape (N,). Sums to one.
        responses: D(y|x), shape (N, V). The row of a context with mass sums to one. The row of a
            context without mass is never used: any finite numbers, zero or more, will do.

    Sums may be off by 1e-6 and are then divided out. The arrays are copied, and read-only.

    Raises:
        ValueError: on wrong shapes, NaN, infinity, a negative entry, or a sum that is not one.

    >>> d = Distribution([0.5, 0.5, 0.0], [[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]])
    >>> d.support
    array([ True,  True, False])
    >>> round(d.entropy, 4)
    0.3466
    """

    contexts: Array
    responses: Array

    def __post_init__(self) -> None:
        contexts = _probabilities(self.contexts, "contexts", dimensions=1)
        responses = _probabilities(self.responses, "responses", dimensions=2)
        if len(contexts) == 0 or responses.shape[1] == 0:
            raise ValueError(
                f"contexts has shape {contexts.shape} and responses {responses.shape}: "
                "a world needs at least one context and one response."
            )
        if len(contexts) != len(responses):
            raise ValueError(
                f"contexts has {len(contexts)} entries but responses has {len(responses)} rows: "
                "give one row of responses per context."
            )
        total = contexts.sum()
        if abs(total - 1.0) > SUM_TOLERANCE:
            raise ValueError(f"contexts sums to {total:.9g}, not 1: divide it by its sum.")
        _normalise_rows(responses, contexts > 0, "responses")
        contexts /= total
        contexts.setflags(write=False)
        responses.setflags(write=False)
        object.__setattr__(self, "contexts", contexts)
        object.__setattr__(self, "responses", responses)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, V): how many contexts, how many responses."""
        rows, columns = self.responses.shape
        return rows, columns

    @property
    def support(self) -> NDArray[np.bool_]:
        """X_D = {x : D(x) > 0} as a mask, shape (N,)."""
        mask: NDArray[np.bool_] = self.contexts > 0
        return mask

    def joint(self) -> Array:
        """D(x, y) = D(x) D(y|x), shape (N, V)."""
        product: Array = self.contexts[:, None] * self.responses
        return product

    @property
    def entropy(self) -> float:
        """H(y|x) = L*_D, the smallest loss any model can have, in nats per response."""
        return self.cross_entropy(self.responses)

    def cross_entropy(self, model: ArrayLike) -> float:
        """L_D(P) = E_D[-log P(y|x)], in nats per response.

        Args:
            model: P(y|x), shape (N, V). Rows of contexts without mass are not looked at.

        Returns:
            The loss; infinite if P gives probability zero to a pair that D can produce.
        """
        target, predicted = self._rows_with_mass(model)
        if np.any((target > 0) & (predicted == 0)):
            return float("inf")
        nll = -np.log(np.where(target > 0, predicted, 1.0))
        return float(self.contexts[self.support] @ (target * nll).sum(axis=1)) + 0.0

    def _rows_with_mass(self, model: ArrayLike) -> tuple[Array, Array]:
        predicted = _probabilities(model, "model", dimensions=2)
        if predicted.shape != self.shape:
            raise ValueError(
                f"model has shape {predicted.shape} but the distribution has {self.shape}: "
                "both need one row per context and one column per response."
            )
        support = self.support
        _normalise_rows(predicted, support, "model")
        return self.responses[support], predicted[support]


def total_variation(p: Distribution, q: Distribution) -> float:
    """TV(p, q) = ½ Σ |p(x, y) − q(x, y)|, in [0, 1].

    Raises:
        ValueError: if the two live in worlds of different shape.

    >>> p = Distribution([1.0], [[1.0, 0.0]])
    >>> q = Distribution([1.0], [[0.75, 0.25]])
    >>> total_variation(p, q)
    0.25
    """
    check_same_world(p, q)
    return min(1.0, 0.5 * float(np.abs(p.joint() - q.joint()).sum()))


def context_overlap(of: Distribution, on: Distribution) -> float:
    """of(X_on) = Σ over x with on(x) > 0 of of(x): how much of `of` falls on contexts of `on`.

    It is directional: the task data may lie wholly inside the proxy's contexts while the proxy
    lies almost wholly outside the task's.

    Raises:
        ValueError: if the two live in worlds of different shape.

    >>> of = Distribution([0.25, 0.75], [[1.0], [1.0]])
    >>> on = Distribution([1.0, 0.0], [[1.0], [1.0]])
    >>> context_overlap(of, on), context_overlap(on, of)
    (0.25, 1.0)
    """
    check_same_world(of, on)
    return min(1.0, float(of.contexts[on.support].sum()))


def context_conflict(of: Distribution, on: Distribution) -> float:
    """Σ over x in X_on of of(x) TV(of(·|x), on(·|x)): the overlap on which the two disagree.

    At most the context overlap, and the part of it that costs anything: where both give the same
    responses there is no trade-off however large the overlap.

    Raises:
        ValueError: if the two live in worlds of different shape.

    >>> of = Distribution([1.0], [[0.5, 0.5, 0.0]])
    >>> on = Distribution([1.0], [[0.5, 0.0, 0.5]])
    >>> context_overlap(of, on), context_conflict(of, on)
    (1.0, 0.5)
    """
    check_same_world(of, on)
    shared = of.support & on.support
    distance = 0.5 * np.abs(of.responses[shared] - on.responses[shared]).sum(axis=1)
    return min(1.0, visible(float(of.contexts[shared] @ distance), distance.any()))


def gap(distribution: Distribution, model: ArrayLike) -> float:
    """G_D(P) = L_D(P) − L*_D = Σ_x D(x) KL(D(·|x) ‖ P(·|x)), in nats per response.

    The safety alignment gap when D is the original safety data, the capability gap when it is the
    task data. Never negative, and zero when P is D's own conditional.

    Args:
        distribution: D.
        model: P(y|x), shape (N, V). Rows of contexts without mass are not looked at.

    Returns:
        The gap; infinite exactly when P gives probability zero to a pair that D can produce.

    Raises:
        ValueError: if model is not a conditional distribution of D's shape.

    >>> d = Distribution([1.0], [[0.5, 0.5]])
    >>> gap(d, [[0.5, 0.5]])
    0.0
    >>> gap(d, [[1.0, 0.0]])
    inf
    """
    target, predicted = distribution._rows_with_mass(model)
    return float(distribution.contexts[distribution.support] @ divergence(target, predicted))


def divergence(p: Array, q: Array) -> Array:
    """KL(p ‖ q) of each row, shapes (n, V) to (n,), in nats; infinite where q misses a part of p.

    Summed as p (r − log(1 + r)) + q on zeros of p, with r = q/p − 1: every term is at least zero,
    so that a small divergence is not the difference of two large entropies.
    """
    has_mass = p > 0
    numerator, denominator = np.where(has_mass, q, 1.0), np.where(has_mass, p, 1.0)
    close = (numerator >= 0.5 * denominator) & (numerator <= 2.0 * denominator)
    excess = (numerator - denominator) / np.where(close, denominator, 1.0)
    log_ratio = np.where(
        close,
        np.log1p(np.where(close, excess, 0.0)),
        np.log(np.where(numerator > 0, numerator, 1.0)) - np.log(denominator),
    )
    terms = np.where(has_mass, (q - p) - p * log_ratio, q)
    terms[has_mass & (q == 0)] = np.inf
    rows: Array = np.maximum(terms, 0.0).sum(axis=1)
    return rows


def follow(a: Array, p: Array, b: Array, q: Array) -> Array:
    """Rows of p where a has mass, else of q where b has, else uniform."""
    uniform = np.full_like(p, 1.0 / p.shape[1])
    rows: Array = np.where((a > 0)[:, None], p, np.where((b > 0)[:, None], q, uniform))
    return rows


def visible(mass: float, present: bool | np.bool_) -> float:
    """The mass; if there is some, though too little for a double, the smallest that there is.

    Zero mass and hardly any differ by an infinity: a model may miss the one but not the other.
    """
    return max(mass, math.ulp(0.0)) if present else 0.0


def check_same_world(*distributions: Distribution) -> None:
    """Raise ValueError unless all have the same N and V."""
    shapes = {d.shape for d in distributions}
    if len(shapes) > 1:
        listed = " and ".join(str(shape) for shape in sorted(shapes))
        raise ValueError(
            f"the distributions have shapes {listed}: "
            "put them on one list of contexts and one list of responses."
        )


def _probabilities(values: ArrayLike, name: str, dimensions: int) -> Array:
    array = np.array(values, dtype=np.float64, order="C")
    if array.ndim != dimensions:
        shape = "(N,)" if dimensions == 1 else "(N, V)"
        raise ValueError(f"{name} has shape {array.shape}: give an array of shape {shape}.")
    # A NaN fails both comparisons, so one look at the extremes finds it.
    if array.size and not (array.min() >= 0 and array.max() < np.inf):
        at = tuple(int(i) for i in np.argwhere(~((array >= 0) & (array < np.inf)))[0])
        place = ", ".join(map(str, at))
        raise ValueError(
            f"{name}[{place}] is {array[at]}: a probability is a finite number, zero or more."
        )
    return array


def _normalise_rows(rows: Array, needed: NDArray[np.bool_], name: str) -> None:
    totals = rows.sum(axis=1)
    fine = np.abs(totals - 1.0) <= SUM_TOLERANCE
    wrong = np.flatnonzero(needed & ~fine)
    if len(wrong):
        raise ValueError(
            f"{name}[{wrong[0]}] sums to {totals[wrong[0]]:.9g}, not 1: divide the row by its sum."
        )
    # What is exact to rounding stays as it is, so that normalising twice changes nothing.
    rough = fine & (np.abs(totals - 1.0) > 1e-14)
    rows /= np.where(rough, totals, 1.0)[:, None]
