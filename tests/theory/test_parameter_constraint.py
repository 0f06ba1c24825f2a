from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad, minimize

from tests.theory.random_worlds import many, random_world
from trimtab.theory import (
    Distribution,
    SoftmaxModel,
    gap,
    penalty_radius,
    theorem_3,
    theorem_4,
)

sizes = st.sampled_from([0.0, 1e-300, 1e300, math.inf]) | st.floats(0, 100)
seeds = st.integers(0, 10**6)
solved = settings(max_examples=75, deadline=None)


def softmax_world(seed: int) -> tuple[SoftmaxModel, Distribution, Distribution, np.ndarray]:
    """A model, task, original data and a start, of random sizes and scales."""
    rng = np.random.default_rng(seed)
    contexts, width, responses = rng.integers(1, 5), rng.integers(1, 4), rng.integers(2, 5)
    task, _, original = random_world(seed, contexts, responses)
    if seed % 3 == 0:  # some tasks give one response only, and have their minimum at infinity
        answers = np.eye(responses)[rng.integers(0, responses, contexts)]
        task = Distribution(task.contexts, answers)
    features = rng.normal(size=(contexts, width)) * 10 ** rng.uniform(-1, 0.5)
    return SoftmaxModel(features), task, original, rng.normal(size=(width, responses))


@pytest.mark.parametrize("seed", range(20))
def test_gradient_and_hessian_are_derivatives(seed: int) -> None:
    model, task, _, start = softmax_world(seed)
    shape = start.shape

    def loss(flat: np.ndarray) -> float:
        return model.loss(task, flat.reshape(shape))

    def gradient(flat: np.ndarray) -> np.ndarray:
        return model.gradient(task, flat.reshape(shape)).ravel()

    assert check_grad(loss, gradient, start.ravel()) < 1e-5 * (1 + np.abs(model.features).max())
    step = 1e-5
    columns = [
        (gradient(start.ravel() + step * e) - gradient(start.ravel() - step * e)) / (2 * step)
        for e in np.eye(start.size)
    ]
    np.testing.assert_allclose(model.hessian(task, start), np.array(columns).T, atol=1e-7)


@many
@given(seeds, st.floats(0, 3))
def test_the_constants_are_certified(seed: int, spread: float) -> None:
    model, task, _, start = softmax_world(seed)
    weights = start * 10**spread
    curvature = np.linalg.eigvalsh(model.hessian(task, weights))
    assert curvature[0] >= -1e-12 * (1 + curvature[-1])
    assert curvature[-1] <= model.smoothness(task) * (1 + 1e-12)
    assert np.linalg.norm(model.gradient(task, weights)) <= model.lipschitz(task) * (1 + 1e-12)


def test_the_constants_are_attained() -> None:
    model = SoftmaxModel(np.array([[3.0]]))
    sure = Distribution(np.array([1.0]), np.array([[1.0, 0.0]]))
    level, wrong = np.zeros((1, 2)), np.array([[-50.0, 50.0]])
    assert np.linalg.norm(model.hessian(sure, level), 2) == pytest.approx(model.smoothness(sure))
    assert np.linalg.norm(model.gradient(sure, wrong)) == pytest.approx(model.lipschitz(sure))


def test_independent_features_hold_every_conditional_distribution() -> None:
    task, _, _ = random_world(0, 3, 3)
    free, tied = SoftmaxModel(np.eye(3)), SoftmaxModel(np.ones((3, 1)))
    assert free.unrestricted
    assert not tied.unrestricted
    assert gap(task, free.probabilities(np.log(task.responses))) == pytest.approx(0, abs=1e-15)
    assert free.loss(task, np.log(task.responses)) == pytest.approx(task.entropy)


@solved
@given(seeds, st.floats(-4, 4))
def test_the_penalised_solution_is_stationary(seed: int, log_penalty: float) -> None:
    model, task, _, start = softmax_world(seed)
    penalty = 10**log_penalty
    solution = model.penalty_solution(task, start, penalty)
    slope = model.gradient(task, solution) + 2 * penalty * (solution - start)
    assert np.abs(slope).max() <= 1e-11 * (1 + np.abs(model.features).max())


@solved
@given(seeds, st.floats(-3, 2))
def test_no_point_of_the_ball_beats_the_ball_solution(seed: int, log_radius: float) -> None:
    model, task, _, start = softmax_world(seed)
    radius = 10**log_radius
    solution = model.ball_solution(task, start, radius)
    slope = model.gradient(task, solution)
    assert np.linalg.norm(solution - start) <= radius * (1 + 1e-12)
    # A convex loss cannot fall below its tangent plane, whose lowest point on the ball is known.
    inward = float(np.vdot(slope, solution - start))
    assert radius * np.linalg.norm(slope) + inward <= 1e-9 * (1 + radius)


@pytest.mark.parametrize("seed", range(6))
def test_scipy_finds_the_same_ball_solution(seed: int) -> None:
    model, task, _, start = softmax_world(seed)
    within = {
        "type": "ineq",
        "fun": lambda w: 0.25 - ((w - start.ravel()) ** 2).sum(),
        "jac": lambda w: -2 * (w - start.ravel()),
    }
    minimum = minimize(
        lambda w: model.loss(task, w.reshape(start.shape)),
        start.ravel(),
        jac=lambda w: model.gradient(task, w.reshape(start.shape)).ravel(),
        constraints=[within],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    ours = model.loss(task, model.ball_solution(task, start, 0.5))
    assert ours == pytest.approx(minimum.fun, abs=1e-8)


@solved
@given(seeds, st.floats(-3, 2), st.booleans(), st.booleans())
def test_theorems_3_and_4_hold_on_the_ball(
    seed: int, log_radius: float, sharp: bool, with_lipschitz: bool
) -> None:
    model, task, original, start = softmax_world(seed)
    radius = 10**log_radius
    solution = model.probabilities(model.ball_solution(task, start, radius))
    third = theorem_3(
        gap_at_start=gap(original, model.probabilities(start)),
        gradient_norm=float(np.linalg.norm(model.gradient(original, start))),
        smoothness=model.smoothness(original),
        lipschitz=model.lipschitz(original) if with_lipschitz else math.inf,
        radius=radius,
        sharp=sharp,
    )
    fourth = theorem_4(
        gap_at_start=gap(task, model.probabilities(start)),
        gradient_norm=float(np.linalg.norm(model.gradient(task, start))),
        smoothness=model.smoothness(task),
        radius=radius,
        sharp=sharp,
    )
    assert gap(original, solution) <= third.value + 1e-9
    assert gap(task, solution) <= fourth.value + 1e-9


@solved
@given(seeds, st.floats(-3, 3), st.booleans())
def test_theorems_3_and_4_hold_under_a_penalty(seed: int, log_penalty: float, sharp: bool) -> None:
    model, task, original, start = softmax_world(seed)
    penalty = 10**log_penalty
    weights = model.penalty_solution(task, start, penalty)
    solution = model.probabilities(weights)
    task_gap = gap(task, model.probabilities(start))
    slope = float(np.linalg.norm(model.gradient(task, start)))
    third = theorem_3(
        gap_at_start=gap(original, model.probabilities(start)),
        gradient_norm=float(np.linalg.norm(model.gradient(original, start))),
        smoothness=model.smoothness(original),
        lipschitz=model.lipschitz(original),
        penalty=penalty,
        task_gap_at_start=task_gap,
        sharp=sharp,
    )
    fourth = theorem_4(
        gap_at_start=task_gap,
        gradient_norm=slope,
        smoothness=model.smoothness(task),
        penalty=penalty,
        sharp=sharp,
    )
    assert gap(original, solution) <= third.value + 1e-9
    assert gap(task, solution) <= fourth.value + 1e-9
    distance = float(np.linalg.norm(weights - start))
    for known in (
        {},
        {"lipschitz": model.lipschitz(task)},
        {"gradient_norm": slope, "smoothness": model.smoothness(task)},
        {"gradient_norm": slope, "convex": True},
    ):
        radius = penalty_radius(penalty, gap_at_start=task_gap, **known)
        assert distance <= radius * (1 + 1e-9) + 1e-12


@solved
@given(seeds, st.floats(-2, 1))
def test_the_chord_of_theorem_4_holds_for_a_convex_loss(seed: int, log_radius: float) -> None:
    task, _, _ = random_world(seed, 3, 3)
    model, minimiser = SoftmaxModel(np.eye(3)), np.log(task.responses)
    start = minimiser + np.random.default_rng(seed).normal(size=(3, 3))
    radius = 10**log_radius
    solution = model.ball_solution(task, start, radius)
    bound = theorem_4(
        gap_at_start=gap(task, model.probabilities(start)),
        gradient_norm=0.0,
        smoothness=0.0,
        radius=radius,
        distance_to_minimiser=float(np.linalg.norm(start - minimiser)),
    )
    assert bound.term("progress").assumes == ("convex",)
    assert gap(task, model.probabilities(solution)) <= bound.value + 1e-9


@many
@given(st.floats(0, 10), st.floats(0.01, 10), st.floats(0, 10), st.floats(0, 5), st.floats(0, 5))
def test_a_quadratic_attains_theorems_3_and_4(
    slope: float, smoothness: float, penalty: float, radius: float, steeper: float
) -> None:
    def climbed(t: float, lipschitz: float) -> float:
        bend = (lipschitz - slope) / smoothness
        curved = min(t, bend)
        return slope * curved + 0.5 * smoothness * curved**2 + lipschitz * (t - curved)

    common = {"gradient_norm": slope, "smoothness": smoothness}
    third = theorem_3(gap_at_start=0.0, radius=radius, lipschitz=slope + steeper, **common)
    assert third.tight
    assert third.value == pytest.approx(climbed(radius, slope + steeper), abs=1e-12)

    lowest = 0.5 * slope**2 / smoothness

    def remaining_gap(t: float) -> float:
        return 0.5 * smoothness * (slope / smoothness - t) ** 2

    on_ball = theorem_4(gap_at_start=lowest, radius=radius, **common)
    assert on_ball.value == pytest.approx(remaining_gap(min(radius, slope / smoothness)), abs=1e-9)
    under_penalty = theorem_4(gap_at_start=lowest, penalty=penalty, **common)
    best = slope / (smoothness + 2 * penalty)
    assert under_penalty.value == pytest.approx(remaining_gap(best), rel=1e-9, abs=1e-9)
    assert on_ball.tight
    assert under_penalty.tight


@many
@given(sizes, sizes, sizes, sizes, sizes, sizes)
def test_sharp_never_exceeds_classical_in_parameter_space(
    start: float, slope: float, smoothness: float, steeper: float, size: float, task_gap: float
) -> None:
    common = {"gap_at_start": start, "gradient_norm": slope, "smoothness": smoothness}
    for constraint in ({"radius": size}, {"penalty": size}):
        task = {"task_gap_at_start": task_gap} if "penalty" in constraint else {}
        third, fourth = (
            (
                theorem_3(**common, **constraint, **task, lipschitz=slope + steeper, sharp=sharp),
                theorem_4(**common, **constraint, sharp=sharp),
            )
            for sharp in (True, False)
        )
        for sharp, classical in zip(third, fourth, strict=True):
            assert 0 <= sharp.value <= classical.value * (1 + 1e-12)


@many
@given(sizes, sizes, sizes, st.floats(0, 10), st.floats(1, 10))
def test_a_wider_ball_costs_safety_and_buys_capability(
    start: float, slope: float, smoothness: float, radius: float, factor: float
) -> None:
    common = {"gap_at_start": start, "gradient_norm": slope, "smoothness": smoothness}
    narrow, wide = radius, radius * factor
    rounding = 1 + 1e-12
    assert (
        theorem_3(**common, radius=narrow).value
        <= theorem_3(**common, radius=wide).value * rounding
    )
    assert (
        theorem_4(**common, radius=wide).value
        <= theorem_4(**common, radius=narrow).value * rounding
    )


def test_no_room_leaves_the_start() -> None:
    common = {"gap_at_start": 0.7, "gradient_norm": 2.0, "smoothness": 5.0}
    assert theorem_3(**common, radius=0.0).value == 0.7
    assert theorem_4(**common, radius=0.0).value == 0.7
    assert theorem_3(**common, penalty=math.inf, task_gap_at_start=3.0).value == 0.7
    assert theorem_4(**common, penalty=math.inf).value == 0.7
    model, task, _, start = softmax_world(1)
    assert np.array_equal(model.ball_solution(task, start, 0.0), start)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda c: theorem_3(**c), "either a radius or a penalty"),
        (lambda c: theorem_4(**c, radius=1.0, penalty=1.0), "either a radius or a penalty"),
        (lambda c: theorem_3(**c, penalty=1.0), "task_gap_at_start"),
        (lambda c: theorem_3(**c, radius=1.0, lipschitz=0.5), "lipschitz is 0.5 but gradient"),
        (lambda c: theorem_3(**c, radius=-1.0), "radius is -1"),
        (lambda c: theorem_4(**c, penalty=1.0, distance_to_minimiser=1.0), "sharp ball form"),
        (lambda c: theorem_4(**{**c, "smoothness": math.nan}, radius=1.0), "smoothness is nan"),
        (lambda c: penalty_radius(-1.0, gap_at_start=1.0), "penalty is -1"),
    ],
)
def test_impossible_constraints_are_refused(call: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call({"gap_at_start": 1.0, "gradient_norm": 1.0, "smoothness": 1.0})  # type: ignore[operator]


def test_impossible_models_are_refused() -> None:
    model, task, _, start = softmax_world(4)
    with pytest.raises(ValueError, match="features has shape"):
        SoftmaxModel(np.ones(3))
    with pytest.raises(ValueError, match="penalty is 0"):
        model.penalty_solution(task, start, 0.0)
    with pytest.raises(ValueError, match="radius is inf"):
        model.ball_solution(task, start, math.inf)
    with pytest.raises(ValueError, match="one row per context"):
        model.loss(random_world(0, 9, start.shape[1])[0], start)


def test_a_loss_that_is_linear_to_rounding_has_its_ball_solution() -> None:
    """Steep features and a tiny ball: the safe penalty's solution lies at the radius itself."""
    data = Distribution([1.0], [[0.0, 1.0]])
    model = SoftmaxModel(np.array([[17.0]]))
    start = np.array([[2.0, -2.0]])
    for radius in np.geomspace(1e-6, 0.2, 25):
        solution = model.ball_solution(data, start, radius)
        assert np.linalg.norm(solution - start) == pytest.approx(radius)
        downhill = start - radius * model.gradient(data, start) / np.linalg.norm(
            model.gradient(data, start)
        )
        assert model.loss(data, solution) <= model.loss(data, downhill) + 1e-9
