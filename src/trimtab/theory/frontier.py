"""The exact frontier: the best any model can do, penalty by penalty."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from trimtab.theory.profile import ALIGNMENT, CAPABILITY, PROXY, Profile, logistic
from trimtab.theory.world import Array, Distribution, check_same_world, follow


@dataclass(frozen=True, eq=False)
class Frontier:
    """λ ↦ (G_s, G_ŝ, G_f) at the optimum P_λ: four arrays of shape (K,), gaps in nats per response.

    Args:
        penalties: λ, in the order they were asked for.
        alignment_gap: G_s(P_λ), on the original safety data.
        proxy_gap: G_ŝ(P_λ), on the proxy. Never rises with λ.
        capability_gap: G_f(P_λ), on the task. Never falls with λ.

    It is indexed and gone through as the optima of its penalties, in their order.
    """

    penalties: Array
    alignment_gap: Array
    proxy_gap: Array
    capability_gap: Array

    def __len__(self) -> int:
        return len(self.penalties)

    def __getitem__(self, place: int) -> Optimum:
        """The optimum at one λ. Raises IndexError: there is no such place."""
        return Optimum(
            float(self.penalties[place]),
            float(self.alignment_gap[place]),
            float(self.proxy_gap[place]),
            float(self.capability_gap[place]),
        )

    def __iter__(self) -> Iterator[Optimum]:
        return (self[place] for place in range(len(self)))


class Optimum(NamedTuple):
    """P_λ at one λ: its gaps in nats per response, as in `Frontier`."""

    penalty: float
    alignment_gap: float
    proxy_gap: float
    capability_gap: float


def penalized_optimum(task: Distribution, proxy: Distribution, penalty: float) -> Array:
    """P_λ(·|x) = [D_f(x) D_f(·|x) + λ D_ŝ(x) D_ŝ(·|x)] / [D_f(x) + λ D_ŝ(x)], shape (N, V).

    The minimiser of L_f + λ L_ŝ over all models. Zero and infinity are limits: at λ = 0 a context
    without task data keeps the proxy's responses, because every λ > 0 gives it those; at λ = ∞ a
    context without proxy data keeps the task's. (Plain fine-tuning, with no safety term at all,
    leaves the former contexts free: it is not this limit.) Where neither has data every model is
    optimal, and the uniform one is returned.

    Raises:
        ValueError: if the penalty is negative or NaN, or the worlds differ in shape.

    >>> task = Distribution([1.0, 0.0], [[1.0, 0.0], [1.0, 0.0]])
    >>> proxy = Distribution([0.5, 0.5], [[0.0, 1.0], [0.0, 1.0]])
    >>> penalized_optimum(task, proxy, 2.0)
    array([[0.5, 0.5],
           [0. , 1. ]])

    Source: Lemma 0, derived here along the lines of Chen et al. 2025.
    """
    check_same_world(task, proxy)
    log_penalty = _log_penalty(penalty)
    a, b = task.contexts, proxy.contexts
    shared = task.support & proxy.support
    optimum = follow(a, task.responses, b, proxy.responses)
    log_odds = (log_penalty + np.log(b[shared]) - np.log(a[shared]))[:, None]
    optimum[shared] = (
        logistic(-log_odds) * task.responses[shared] + logistic(log_odds) * proxy.responses[shared]
    )
    return optimum


def exact_frontier(
    task: Distribution, proxy: Distribution, original: Distribution, penalties: ArrayLike
) -> Frontier:
    """λ ↦ (G_s, G_ŝ, G_f) at P_λ, exact to rounding, in one pass over the arrays for all λ.

    In the plane (proxy gap, capability gap) it is the Pareto front over all models: none lies
    below. In (alignment gap, capability gap) that is the oracle's frontier, and this one lies on
    or above it; a model trained on the proxy may fall on either side of this one.

    Args:
        task, proxy, original: D_f, D_ŝ, D_s over the same contexts and responses.
        penalties: λ, shape (K,), zero and infinity included as limits.

    Returns:
        One entry per penalty, in the order given. A gap is off by a few times the rounding of the
        largest log-odds of task over proxy: 1e-15 nats as a rule, at most 1e-12 where
        probabilities reach 1e-300 and log-odds 1400. One that vanishes as λ goes to 0 or ∞ is off
        by as much less.

    Raises:
        ValueError: if a penalty is negative or NaN, or the worlds differ in shape.

    >>> task = Distribution([1.0], [[1.0, 0.0]])
    >>> proxy = Distribution([1.0], [[0.0, 1.0]])
    >>> exact_frontier(task, proxy, proxy, [1.0, 3.0]).capability_gap.round(4)
    array([0.6931, 1.3863])

    Source: Lemma 0; the one-pass form is derived here (see `trimtab.theory.profile`).
    """
    values = np.atleast_1d(np.array(penalties, dtype=np.float64))
    if values.ndim != 1:
        raise ValueError(f"penalties has shape {values.shape}: give a list of numbers.")
    logs = [_log_penalty(penalty) for penalty in values.tolist()]
    profile = Profile(task, proxy, original)
    gaps = profile.gaps(np.array(logs))
    return Frontier(values, gaps[:, ALIGNMENT], gaps[:, PROXY], gaps[:, CAPABILITY])


def oracle_frontier(task: Distribution, original: Distribution, penalties: ArrayLike) -> Frontier:
    """The frontier with D_s in place of D_ŝ: the Pareto front in (alignment gap, capability gap).

    No model, whatever it is trained on, lies below it. Arguments, result and errors are those of
    `exact_frontier`; the proxy gap is the alignment gap.
    """
    return exact_frontier(task, original, original, penalties)


def exact_penalty_for_budget(
    task: Distribution, proxy: Distribution, original: Distribution, budget: float
) -> float:
    """inf{λ : G_s(P_λ) ≤ budget}: the smallest penalty whose optimum has that alignment gap.

    G_s need not be monotone in λ when the proxy is not the original; the search is certified not
    to pass over a smaller solution.

    Args:
        budget: the alignment gap allowed, in nats per response; met to within 1e-12.

    Returns:
        The penalty; 0 if the limit λ → 0 meets the budget already, infinity if no finite one does.

    Raises:
        ValueError: if the budget is negative or NaN, or the worlds differ in shape.

    >>> task = Distribution([1.0], [[1.0, 0.0]])
    >>> proxy = Distribution([1.0], [[0.0, 1.0]])
    >>> round(exact_penalty_for_budget(task, proxy, proxy, math.log(2)), 9)
    1.0

    Source: derived here.
    """
    return Profile(task, proxy, original).first_penalty(ALIGNMENT, _checked_gap(budget, "budget"))


def capability_limit(task: Distribution, safety: Distribution, safety_gap: float) -> float:
    """min{G_f(P) : P any model with G(P) ≤ safety_gap on `safety`}, in nats per response.

    The height of the Pareto front above one point of its axis. With the proxy as `safety` it is
    the limit in (proxy gap, capability gap), with the original the oracle's limit in (alignment
    gap, capability gap): a model measured below it has been measured wrongly.

    Raises:
        ValueError: if safety_gap is negative or NaN, or the worlds differ in shape.

    >>> task = Distribution([1.0], [[1.0, 0.0]])
    >>> safety = Distribution([1.0], [[0.0, 1.0]])
    >>> round(capability_limit(task, safety, math.log(2)), 9)
    0.693147181

    Source: derived here from Lemma 0.
    """
    profile = Profile(task, safety, safety)
    penalty = profile.first_penalty(PROXY, _checked_gap(safety_gap, "safety_gap"))
    return float(profile.gaps(np.array([_log_penalty(penalty)]))[0, CAPABILITY])


def _log_penalty(penalty: float) -> float:
    if not penalty >= 0:
        raise ValueError(f"penalty is {penalty}: give a number from 0 to infinity.")
    return math.log(penalty) if penalty > 0 else -math.inf


def _checked_gap(value: float, name: str) -> float:
    if not value >= 0:
        raise ValueError(f"{name} is {value}: a gap is zero or more, in nats per response.")
    return float(value)
