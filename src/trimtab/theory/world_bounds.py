"""Theorems 1 and 2 in a finite world, with every number exact, and the world that attains them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trimtab.theory.bounds import Bound, check_non_negative, form_of, product, ratio
from trimtab.theory.frontier import penalized_optimum
from trimtab.theory.loss_constraint import (
    classical_overlap_term,
    classical_shift_term,
    hold_fast,
    overlap_term,
    shift_term,
)
from trimtab.theory.world import (
    Array,
    Distribution,
    check_same_world,
    context_conflict,
    context_overlap,
    follow,
    total_variation,
    visible,
)


def safety_bound(
    task: Distribution,
    proxy: Distribution,
    original: Distribution,
    penalty: float,
    *,
    log_bound: float | None = None,
    sharp: bool = True,
) -> Bound:
    """Theorem 1 with every number taken from the world; the sharp form also uses the conflict.

    Each place where A1's B occurs gets the smallest B that its proof needs: for −log P_λ where D_s
    exceeds D_ŝ, for −log D_s where D_ŝ exceeds D_s, for D_ŝ on the task's pairs and D_f on the
    proxy's.

    Args:
        task, proxy, original: D_f, D_ŝ, D_s over the same contexts and responses.
        penalty: λ, with 0 and infinity as limits.
        log_bound: one B for all of them instead; A1 is then checked.
        sharp: False for the classical form.

    Raises:
        ValueError: if A1 fails for the log_bound given, on a bad penalty, or if the worlds differ
            in shape.

    Source: after Theorem 1 of Chen et al. 2025; constants derived here.
    """
    check_same_world(task, proxy, original)
    overlap, reverse = context_overlap(task, proxy), context_overlap(proxy, task)
    excess = _scaled_joint(original) - _scaled_joint(proxy)
    distance = visible(total_variation(original, proxy), excess.any())
    follows_original = follow(
        original.contexts, original.responses, proxy.contexts, proxy.responses
    )
    optimum_bound = _largest_nll(penalized_optimum(task, proxy, penalty), excess > 0)
    original_bound = _largest_nll(follows_original, excess < 0)
    task_bound, proxy_bound = _switch_bounds(task, proxy)
    if log_bound is not None:
        _check_a1(log_bound, optimum_bound, original_bound, task_bound, proxy_bound)
        optimum_bound = original_bound = task_bound = proxy_bound = log_bound
    competing = ratio(overlap, penalty)
    if sharp:
        shift = shift_term(distance, optimum_bound, original_bound)
        conflict, reverse_conflict = context_conflict(task, proxy), context_conflict(proxy, task)
        cost = min(
            overlap_term(reverse_conflict, ratio(conflict, penalty), math.inf, math.inf),
            overlap_term(reverse, competing, proxy_bound, task_bound),
            key=lambda term: term.value,
        )
    else:
        shift = classical_shift_term(distance, optimum_bound, original_bound)
        cost = classical_overlap_term(hold_fast(task_bound, competing))
    return Bound(1, "alignment gap", form_of(sharp), (shift, cost))


def capability_bound(
    task: Distribution,
    proxy: Distribution,
    penalty: float,
    *,
    log_bound: float | None = None,
    sharp: bool = True,
) -> Bound:
    """Theorem 2 with every number taken from the world; the sharp form also uses the conflict.

    Args:
        task, proxy: D_f, D_ŝ over the same contexts and responses.
        penalty: λ, with 0 and infinity as limits.
        log_bound: one B instead of the smallest that the proof needs; A1 is then checked.
        sharp: False for the classical form.

    Raises:
        ValueError: if A1 fails for the log_bound given, on a bad penalty, or if the worlds differ
            in shape.

    Source: after Theorem 2 of Chen et al. 2025; constants derived here.
    """
    check_same_world(task, proxy)
    check_non_negative(penalty=penalty)
    overlap, reverse = context_overlap(task, proxy), context_overlap(proxy, task)
    task_bound, proxy_bound = _switch_bounds(task, proxy)
    if log_bound is not None:
        _check_a1(log_bound, task_bound, proxy_bound)
        task_bound = proxy_bound = log_bound
    if sharp:
        conflict, reverse_conflict = context_conflict(task, proxy), context_conflict(proxy, task)
        cost = min(
            overlap_term(conflict, product(penalty, reverse_conflict), math.inf, math.inf),
            overlap_term(overlap, product(penalty, reverse), task_bound, proxy_bound),
            key=lambda term: term.value,
        )
    else:
        cost = classical_overlap_term(product(task_bound, overlap))
    return Bound(2, "capability gap", form_of(sharp), (cost,))


def extremal_world(overlap: float, reverse_overlap: float) -> tuple[Distribution, Distribution]:
    """Task and proxy with D_f(X_ŝ) = o and D_ŝ(X_f) = ρ on whose frontier Theorems 1, 2 are tight.

    Three contexts: one shared, on which the two never give the same response, one of the task
    alone, one of the proxy alone. At every penalty G_ŝ = ρ log(1 + o/(λρ)) and
    G_f = o log(1 + λρ/o), so that the frontier is exp(−G_ŝ/ρ) + exp(−G_f/o) = 1: no world with
    these overlaps has a worse one.

    Args:
        overlap: o, in (0, 1].
        reverse_overlap: ρ, in (0, 1].

    Returns:
        (task, proxy), each over three contexts and two responses.

    Raises:
        ValueError: unless both overlaps are in (0, 1].

    >>> task, proxy = extremal_world(0.25, 0.5)
    >>> context_overlap(task, proxy), context_overlap(proxy, task)
    (0.25, 0.5)

    Source: derived here.
    """
    for name, value in (("overlap", overlap), ("reverse_overlap", reverse_overlap)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} is {value}: give a number above 0 and at most 1.")
    complies, refuses = np.array([[1.0, 0.0]] * 3), np.array([[0.0, 1.0]] * 3)
    return (
        Distribution(np.array([overlap, 1 - overlap, 0.0]), complies),
        Distribution(np.array([reverse_overlap, 0.0, 1 - reverse_overlap]), refuses),
    )


def _scaled_joint(d: Distribution) -> Array:
    # By a power of two: the product of two probabilities of 1e-300 then is a double.
    scaled: Array = 2.0**1000 * d.contexts[:, None] * d.responses
    return scaled


def _switch_bounds(task: Distribution, proxy: Distribution) -> tuple[float, float]:
    """B of D_ŝ on the task's pairs and of D_f on the proxy's, over the contexts they share."""
    shared = (task.support & proxy.support)[:, None]
    return (
        _largest_nll(proxy.responses, shared & (task.responses > 0)),
        _largest_nll(task.responses, shared & (proxy.responses > 0)),
    )


def _largest_nll(model: Array, pairs: NDArray[np.bool_]) -> float:
    rarest = float(np.min(model, where=pairs, initial=1.0))
    return abs(math.log(rarest)) if rarest > 0 else math.inf


def _check_a1(log_bound: float, *needed: float) -> None:
    check_non_negative(log_bound=log_bound)
    if max(needed) > log_bound * (1 + 1e-12):
        raise ValueError(
            f"A1 fails: log_bound is {log_bound:.6g} but a model compared reaches "
            f"−log P = {max(needed):.6g}: raise it, or leave it out to use the world's own."
        )
