"""Case I, the alignment loss constraint: Theorems 1 and 2, from numbers."""

from __future__ import annotations

import math

from trimtab.theory.bounds import (
    Bound,
    Term,
    check_masses,
    check_non_negative,
    form_of,
    product,
    ratio,
)


def theorem_1(
    *,
    total_variation: float,
    overlap: float,
    penalty: float,
    log_bound: float,
    reverse_overlap: float = 1.0,
    sharp: bool = True,
) -> Bound:
    """G_s(θ_λ) ≤ shift + overlap term, for θ_λ that minimises L_f + λ L_ŝ.

        shift     B·TV + min{ B·TV, h(TV) }                    classical: 2 B·TV
        overlap   min{ ρ log(1 + o/(λρ)),  B·o/λ,  B·ρ }       classical: B·o/λ

    with o = D_f(X_ŝ), ρ = D_ŝ(X_f) and h(t) = −t log t − (1 − t) log(1 − t). The shift holds for
    every model, however trained. `extremal_world` attains the logarithm.

    Args:
        total_variation: TV(D_s, D_ŝ), in [0, 1]: it sets a floor that no penalty removes.
        overlap: o, the mass of the task data on contexts of the proxy.
        penalty: λ, with 0 and infinity as limits.
        log_bound: B of A1, in nats per response; infinite if none is known.
        reverse_overlap: ρ, the mass of the proxy on contexts of the task; 1 is always safe.
        sharp: False for the classical form.

    Raises:
        ValueError: if a number is out of its range.

    >>> bound = theorem_1(total_variation=0.01, overlap=0.5, penalty=5.0, log_bound=8.0)
    >>> {term.name: round(term.value, 4) for term in bound.terms}
    {'shift': 0.136, 'overlap': 0.0953}
    >>> round(bound.value, 4)
    0.2313

    Source: after Theorem 1 of Chen et al. 2025; constants derived here.
    """
    check_masses(total_variation=total_variation, overlap=overlap, reverse_overlap=reverse_overlap)
    check_non_negative(penalty=penalty, log_bound=log_bound)
    competing = ratio(overlap, penalty)
    if sharp:
        shift = shift_term(total_variation, log_bound, log_bound)
        cost = overlap_term(reverse_overlap, competing, log_bound, log_bound)
    else:
        shift = classical_shift_term(total_variation, log_bound, log_bound)
        cost = classical_overlap_term(hold_fast(log_bound, competing))
    return Bound(1, "alignment gap", form_of(sharp), (shift, cost))


def theorem_2(
    *,
    overlap: float,
    penalty: float,
    log_bound: float = math.inf,
    reverse_overlap: float = 1.0,
    sharp: bool = True,
) -> Bound:
    """G_f(θ_λ) ≤ min{ o log(1 + λρ/o),  B·o,  B·λρ }, for θ_λ that minimises L_f + λ L_ŝ.

    With o = D_f(X_ŝ) and ρ = D_ŝ(X_f); classical: B·o. No overlap, no capability lost. The
    logarithm is at most λρ, and `extremal_world` attains it.

    Args:
        overlap: o, the mass of the task data on contexts of the proxy.
        penalty: λ, with 0 and infinity as limits.
        log_bound: B of A1, in nats per response; infinite if none is known.
        reverse_overlap: ρ, the mass of the proxy on contexts of the task; 1 is always safe.
        sharp: False for the classical form.

    Raises:
        ValueError: if a number is out of its range.

    >>> round(theorem_2(overlap=0.5, penalty=5.0, log_bound=8.0).value, 4)
    1.1989

    Source: after Theorem 2 of Chen et al. 2025; constants derived here.
    """
    check_masses(overlap=overlap, reverse_overlap=reverse_overlap)
    check_non_negative(penalty=penalty, log_bound=log_bound)
    if sharp:
        cost = overlap_term(overlap, product(penalty, reverse_overlap), log_bound, log_bound)
    else:
        cost = classical_overlap_term(product(log_bound, overlap))
    return Bound(2, "capability gap", form_of(sharp), (cost,))


def penalty_for_budget(
    budget: float, *, shift: float, overlap: float, reverse_overlap: float = 1.0
) -> float:
    """λ = (o/ρ) / (exp((budget − shift)/ρ) − 1): the smallest for which Theorem 1 promises budget.

    Never more than the classical o / (budget − shift) with B = 1.

    Args:
        budget: the alignment gap allowed, in nats per response.
        shift: the shift term of Theorem 1, or the shift measured; for every λ in question.
        overlap: o = D_f(X_ŝ). The conflicts of both directions may stand in for both overlaps.
        reverse_overlap: ρ = D_ŝ(X_f); 1 is always safe.

    Returns:
        The penalty; 0 if any λ > 0 will do, infinity if the shift alone takes up the budget.

    Raises:
        ValueError: if a number is out of its range.

    >>> round(penalty_for_budget(0.2313, shift=0.136, overlap=0.5), 2)
    5.0

    Source: after Theorem 1 of Chen et al. 2025; derived here.
    """
    check_masses(overlap=overlap, reverse_overlap=reverse_overlap)
    check_non_negative(budget=budget, shift=shift)
    if overlap == 0 or reverse_overlap == 0:
        return 0.0 if budget >= shift else math.inf
    if budget <= shift:
        return math.inf
    room = (budget - shift) / reverse_overlap
    # exp(−room) / (1 − exp(−room)) does not overflow where exp(room) would. The overlap comes last,
    # so that the smallest one is rounded once.
    return overlap * (math.exp(-room) / -math.expm1(-room) / reverse_overlap)


def penalty_per_response(penalty: float, task_tokens: float, safety_tokens: float) -> float:
    """The theorems' λ of a training that minimises L_f + λ L_ŝ with both losses per token.

    L_f/T_f + λ L_ŝ/T_ŝ, of losses per response and T tokens in a response of either data set, is
    1/T_f of L_f + λ (T_f/T_ŝ) L_ŝ.

    >>> penalty_per_response(1.0, task_tokens=20, safety_tokens=100)
    0.2
    """
    return penalty * task_tokens / safety_tokens


def penalty_per_token(penalty: float, task_tokens: float, safety_tokens: float) -> float:
    """The other way round: the λ to train with, of the theorems' λ.

    >>> penalty_per_token(0.2, task_tokens=20, safety_tokens=100)
    1.0
    """
    return penalty * safety_tokens / task_tokens


def overlap_from_sample(hits: int, samples: int, confidence: float = 0.95) -> float:
    """An upper limit on D_f(X_ŝ) that holds with the stated confidence (Clopper and Pearson 1934).

    Put into Theorems 1 and 2 it gives bounds that hold with that confidence over the draw of the
    sample: both rise with the overlap. The other inputs must be exact.

    Args:
        hits: how many of the sampled task contexts are contexts of the proxy.
        samples: how many independent task contexts were sampled.
        confidence: the probability, before sampling, that the limit is not below the overlap.

    Raises:
        ValueError: unless 0 ≤ hits ≤ samples, samples ≥ 1 and 0 < confidence < 1.

    >>> round(overlap_from_sample(0, 100), 4)
    0.0295

    Source: the interval is Clopper and Pearson's, its use here is ours.
    """
    if not 0 <= hits <= samples or samples < 1:
        raise ValueError(f"{hits} hits of {samples} samples: give 0 ≤ hits ≤ samples, one or more.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: give a number between 0 and 1.")
    if hits == samples:
        return 1.0
    from scipy.special import betaincinv  # a third of a second that nothing else here needs

    return float(betaincinv(hits + 1, samples - hits, confidence))


def shift_term(distance: float, optimum_bound: float, original_bound: float) -> Term:
    """What moving from proxy to original adds: B·TV, and the change of the smallest loss."""
    by_comparison = product(original_bound, distance)
    by_entropy = -product(distance, _log(distance)) - product(1 - distance, _log(1 - distance))
    value = product(optimum_bound, distance) + min(by_comparison, by_entropy)
    if by_entropy <= by_comparison:
        return Term("shift", value, ("A1",), distance == 0)
    return Term("shift", value, ("A1", "A2"), distance == 0)


def classical_shift_term(distance: float, optimum_bound: float, original_bound: float) -> Term:
    """The same with the comparison model's B for the change of the smallest loss."""
    # Two products, as in the sharp form: rounding then cannot put that one above this.
    value = product(optimum_bound, distance) + product(original_bound, distance)
    return Term("shift", value, ("A1", "A2"), distance == 0)


def overlap_term(kept: float, competing: float, kept_bound: float, competing_bound: float) -> Term:
    """What data of mass `kept` pay for a mixture in which `competing` mass has its say.

    Its branches compare with the mixture itself, with giving way on every shared context, and
    with holding fast on every one.
    """
    branches = (
        Term("overlap", _mixture_cost(kept, competing), ("A2",), True),
        Term("overlap", product(kept_bound, kept), ("A1", "A2"), competing == math.inf),
        Term("overlap", hold_fast(competing_bound, competing), ("A1", "A2"), False),
    )
    return min(branches, key=lambda term: term.value)


def hold_fast(log_bound: float, competing: float) -> float:
    """B·o/λ, infinite in the limit λ → 0 even for B = 0, which may be a rounded trifle."""
    return math.inf if competing == math.inf else product(log_bound, competing)


def _mixture_cost(kept: float, competing: float) -> float:
    odds = ratio(competing, kept)
    if kept == 0 or odds == 0:
        return 0.0
    return kept * (math.log1p(odds) if odds < math.inf else math.log(competing) - math.log(kept))


def classical_overlap_term(value: float) -> Term:
    """The comparison with a model that follows the proxy wherever the proxy has data."""
    return Term("overlap", value, ("A1", "A2"), value == 0)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
