"""Case II, the alignment parameter constraint: Theorems 3 and 4, from numbers."""

from __future__ import annotations

import math

from trimtab.theory.bounds import (
    Assumption,
    Bound,
    Term,
    check_non_negative,
    form_of,
    product,
    ratio,
)


def theorem_3(
    *,
    gap_at_start: float,
    gradient_norm: float,
    smoothness: float,
    lipschitz: float = math.inf,
    radius: float | None = None,
    penalty: float | None = None,
    task_gap_at_start: float | None = None,
    sharp: bool = True,
) -> Bound:
    """G_s(θ) ≤ G_s(θ_s) + ∫₀^ε min(g + H t, K) dt for every θ with ‖θ − θ_s‖ ≤ ε.

    Classical: G_s(θ_s) + min{ g ε + ½ H ε², K ε }. The minimiser of L_f + λ‖θ − θ_s‖² lies in the
    ball of radius √(G_f(θ_s)/λ); `penalty_radius` has smaller ones for those who know more.

    Args:
        gap_at_start: G_s(θ_s), in nats per response.
        gradient_norm: g = ‖∇L_s(θ_s)‖.
        smoothness: H, the largest |eigenvalue| of L_s's Hessian on the ball; infinite if unknown.
        lipschitz: K, the largest ‖∇L_s‖ on the ball; infinite if unknown.
        radius: ε. Give this or penalty.
        penalty: λ, and with it task_gap_at_start, G_f(θ_s).
        sharp: False for the classical form.

    Raises:
        ValueError: if a number is negative or NaN, if K < g, or unless exactly one of radius and
            penalty is given.

    >>> round(theorem_3(gap_at_start=0.1, gradient_norm=1, smoothness=2, radius=0.5).value, 4)
    0.85

    Source: after Theorem 3 of Chen et al. 2025; constants derived here. A quadratic attains it,
    continued linearly from slope K on.
    """
    check_non_negative(
        gap_at_start=gap_at_start,
        gradient_norm=gradient_norm,
        smoothness=smoothness,
        lipschitz=lipschitz,
    )
    if lipschitz < gradient_norm * (1 - 1e-9):
        raise ValueError(
            f"lipschitz is {lipschitz} but gradient_norm is {gradient_norm}: the constant has to "
            "cover the gradient at the start."
        )
    if penalty is None:
        reach = _exactly_one(radius, penalty)
    elif task_gap_at_start is None:
        raise ValueError("a penalty needs task_gap_at_start: give the start's capability gap.")
    else:
        _exactly_one(radius, penalty)
        reach = penalty_radius(penalty, gap_at_start=task_gap_at_start)
    drift, assumes = _drift(gradient_norm, smoothness, lipschitz, reach, sharp)
    attained = penalty is None and (sharp or lipschitz == math.inf)
    terms = (Term("start", gap_at_start, (), True), Term("drift", drift, assumes, attained))
    return Bound(3, "alignment gap", form_of(sharp), terms)


def theorem_4(
    *,
    gap_at_start: float,
    gradient_norm: float,
    smoothness: float,
    radius: float | None = None,
    penalty: float | None = None,
    distance_to_minimiser: float | None = None,
    sharp: bool = True,
) -> Bound:
    """G_f(θ) ≤ G_f(θ_s) − progress, for the θ that minimises L_f under the constraint.

        ‖θ − θ_s‖ ≤ ε            g t − ½ H t² with t = min(ε, g/H)      classical: ½ g t
        the same, L_f convex     at least min(1, ε/‖θ_f − θ_s‖) G_f(θ_s)
        + λ‖θ − θ_s‖²            g² (H + 4λ) / (2 (H + 2λ)²)            classical: g² / (2 (H + 2λ))

    Args:
        gap_at_start: G_f(θ_s), in nats per response.
        gradient_norm: g = ‖∇L_f(θ_s)‖.
        smoothness: H, the largest |eigenvalue| of L_f's Hessian on the ball; infinite if unknown.
        radius: ε. Give this or penalty.
        penalty: λ.
        distance_to_minimiser: ‖θ_f − θ_s‖, if L_f is convex on the segment; sharp ball form only.
        sharp: False for the classical form.

    Raises:
        ValueError: if a number is negative or NaN, or unless exactly one of radius and penalty is
            given.

    >>> round(theorem_4(gap_at_start=2, gradient_norm=1, smoothness=2, radius=0.25).value, 4)
    1.8125

    Source: after Theorem 4 of Chen et al. 2025; constants derived here. A quadratic attains the
    sharp first and third, a cone the second.
    """
    check_non_negative(
        gap_at_start=gap_at_start, gradient_norm=gradient_norm, smoothness=smoothness
    )
    size = _exactly_one(radius, penalty)
    if penalty is None:
        progress = _ball_progress(gradient_norm, smoothness, size, sharp)
    else:
        progress = _penalty_progress(gradient_norm, smoothness, size, sharp)
    assumes: tuple[Assumption, ...] = ("smooth",)
    if distance_to_minimiser is not None:
        if penalty is not None or not sharp:
            raise ValueError("distance_to_minimiser is for the sharp ball form: leave it out.")
        check_non_negative(distance_to_minimiser=distance_to_minimiser)
        chord = min(1.0, ratio(size, distance_to_minimiser)) * gap_at_start
        if chord > progress:
            progress, assumes = chord, ("convex",)
    terms = (
        Term("start", gap_at_start, (), True),
        Term("progress", -progress, assumes, sharp),
    )
    return Bound(4, "capability gap", form_of(sharp), terms)


def penalty_radius(
    penalty: float,
    *,
    gap_at_start: float,
    gradient_norm: float = math.inf,
    smoothness: float = math.inf,
    lipschitz: float = math.inf,
    convex: bool = False,
) -> float:
    """A radius that the minimiser of L_f + λ‖θ − θ_s‖² does not leave.

        min{ √(G_f(θ_s)/λ),  K/(2λ),  g/(2λ − H) if H < 2λ,  g/(2λ) if L_f is convex }

    Args:
        penalty: λ.
        gap_at_start: G_f(θ_s), in nats per response.
        gradient_norm, smoothness, lipschitz: g, H, K of L_f; H and K on the ball of radius
            √(G_f(θ_s)/λ). Infinite if unknown.
        convex: whether L_f is convex on that ball.

    Raises:
        ValueError: if a number is negative or NaN.

    >>> penalty_radius(2.0, gap_at_start=8.0, gradient_norm=6.0, convex=True)
    1.5

    Source: derived here. A concave quadratic attains the third, a linear loss the second and the
    fourth.
    """
    check_non_negative(
        penalty=penalty,
        gap_at_start=gap_at_start,
        gradient_norm=gradient_norm,
        smoothness=smoothness,
        lipschitz=lipschitz,
    )
    radii = [math.sqrt(ratio(gap_at_start, penalty)), ratio(lipschitz, 2 * penalty)]
    if smoothness < 2 * penalty:
        radii.append(ratio(gradient_norm, 2 * penalty - smoothness))
    if convex:
        radii.append(ratio(gradient_norm, 2 * penalty))
    return min(radii)


def _exactly_one(radius: float | None, penalty: float | None) -> float:
    if radius is not None and penalty is None:
        check_non_negative(radius=radius)
        return radius
    if penalty is not None and radius is None:
        check_non_negative(penalty=penalty)
        return penalty
    raise ValueError("give either a radius or a penalty: they are two forms of one constraint.")


def _drift(
    gradient_norm: float, smoothness: float, lipschitz: float, reach: float, sharp: bool
) -> tuple[float, tuple[Assumption, ...]]:
    curved = product(reach, gradient_norm + 0.5 * product(smoothness, reach))
    straight = product(lipschitz, reach)
    if lipschitz == math.inf or smoothness == 0:
        return curved, ("smooth",)
    bend = max(0.0, lipschitz - gradient_norm) / smoothness
    if bend >= reach:
        return curved, ("smooth",)
    if bend == 0:
        return straight, ("Lipschitz",)
    if sharp:
        climb = bend * (gradient_norm + 0.5 * smoothness * bend)
        return climb + product(lipschitz, reach - bend), ("smooth", "Lipschitz")
    return (curved, ("smooth",)) if curved <= straight else (straight, ("Lipschitz",))


def _ball_progress(gradient_norm: float, smoothness: float, radius: float, sharp: bool) -> float:
    step = min(radius, ratio(gradient_norm, smoothness))
    if sharp:
        return product(step, gradient_norm - 0.5 * min(gradient_norm, product(smoothness, step)))
    return 0.5 * product(gradient_norm, step)


def _penalty_progress(
    gradient_norm: float, smoothness: float, penalty: float, sharp: bool
) -> float:
    stiffness = smoothness + 2 * penalty
    classical = 0.5 * product(gradient_norm, ratio(gradient_norm, stiffness))
    return classical * (1 + ratio(2 * penalty, stiffness)) if sharp else classical
