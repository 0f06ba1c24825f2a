from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax

from tests.theory.random_worlds import (
    PENALTIES,
    World,
    many,
    models,
    penalties,
    random_world,
    relabelled,
    some,
    worlds,
)
from trimtab.data.synthetic import make_world
from trimtab.theory import (
    Distribution,
    capability_limit,
    exact_frontier,
    exact_penalty_for_budget,
    extremal_world,
    gap,
    oracle_frontier,
    penalized_optimum,
)
from trimtab.theory.profile import CHUNK

# What `exact_frontier` promises: log-odds of 1400 are rounded to 2e-13, some of them add up.
ROUNDING = 1e-12


def answered(d: Distribution) -> np.ndarray:
    """The pairs that D can produce, those among them whose D(x) D(y|x) is too small a double."""
    return d.support[:, None] & (d.responses > 0)


def objective(world: World, model: np.ndarray, penalty: float) -> float:
    task, proxy, _ = world
    return gap(task, model) + penalty * gap(proxy, model)


@many
@given(worlds())
def test_the_frontier_is_the_gaps_of_the_optimum(world: World) -> None:
    task, proxy, original = world
    frontier = exact_frontier(*world, PENALTIES)
    for k, penalty in enumerate(PENALTIES):
        model = penalized_optimum(task, proxy, penalty)
        if 0 < penalty < math.inf and model[answered(task) | answered(proxy)].min() < 1e-300:
            continue  # The optimum is too small for a double; its gaps are not.
        for d, exact in (
            (original, frontier.alignment_gap),
            (proxy, frontier.proxy_gap),
            (task, frontier.capability_gap),
        ):
            assert exact[k] == pytest.approx(gap(d, model), rel=1e-13, abs=ROUNDING)


def test_gaps_are_exact_where_the_optimum_is_too_small_for_a_double() -> None:
    task = Distribution(np.array([1e-300, 1.0]), np.array([[1e-200, 1.0], [0.0, 1.0]]))
    proxy = Distribution(np.array([1.0, 0.0]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    original = Distribution(np.array([1.0, 0.0]), np.array([[0.5, 0.5], [0.0, 1.0]]))
    frontier = exact_frontier(task, proxy, original, [1.0])
    assert penalized_optimum(task, proxy, 1.0)[0, 0] == 0
    assert frontier.alignment_gap[0] == pytest.approx(250 * math.log(10) - math.log(2))


def test_a_gap_is_infinite_however_little_mass_makes_it_so() -> None:
    rare = Distribution(np.array([1.0, 1e-300]), np.array([[0.5, 0.5], [1e-300, 1.0]]))
    never = Distribution(np.array([0.5, 0.5]), np.array([[0.5, 0.5], [0.0, 1.0]]))
    assert rare.joint()[1, 0] == 0
    assert exact_frontier(rare, never, never, [1e12, math.inf]).capability_gap[1] == math.inf
    assert exact_frontier(never, rare, rare, [0.0, 1e-12]).proxy_gap[0] == math.inf
    assert exact_frontier(never, never, rare, [1.0]).alignment_gap[0] == math.inf
    for frontier in (
        exact_frontier(rare, never, rare, [1.0]),
        exact_frontier(never, rare, rare, [1.0]),
    ):
        assert max(frontier.alignment_gap[0], frontier.capability_gap[0]) < 1


@some
@given(worlds(full=True))
def test_the_frontier_is_exact_to_rounding_in_ordinary_worlds(world: World) -> None:
    frontier = exact_frontier(*world, PENALTIES)
    for k, penalty in enumerate(PENALTIES):
        model = penalized_optimum(world[0], world[1], penalty)
        assert frontier.alignment_gap[k] == pytest.approx(gap(world[2], model), abs=5e-15)
        assert frontier.proxy_gap[k] == pytest.approx(gap(world[1], model), abs=5e-15)
        assert frontier.capability_gap[k] == pytest.approx(gap(world[0], model), abs=5e-15)


def test_the_frontier_of_a_world_of_many_chunks() -> None:
    rng = np.random.default_rng(1)
    world = random_world(1, 900, 80)
    assert 2 * CHUNK < 900 * 80
    sparse = []
    for d in world:
        keep = rng.random(d.shape) < 0.8
        keep[:, 0] = True
        rows = d.responses * keep
        mass = d.contexts * (rng.random(900) < 0.7)
        sparse.append(Distribution(mass / mass.sum(), rows / rows.sum(axis=1, keepdims=True)))
    task, proxy, _ = sparse
    original = Distribution(proxy.contexts, proxy.responses * 0.5 + task.responses * 0.5)
    frontier = exact_frontier(task, proxy, original, PENALTIES)
    for k, penalty in enumerate(PENALTIES):
        model = penalized_optimum(task, proxy, penalty)
        assert frontier.alignment_gap[k] == pytest.approx(gap(original, model), rel=1e-12)
        assert frontier.proxy_gap[k] == pytest.approx(gap(proxy, model), rel=1e-12, abs=1e-14)
        assert frontier.capability_gap[k] == pytest.approx(gap(task, model), rel=1e-12, abs=1e-14)


@many
@given(st.data(), worlds(), st.floats(1e-6, 1e6))
def test_no_model_beats_the_optimum(data: st.DataObject, world: World, penalty: float) -> None:
    best = penalized_optimum(world[0], world[1], penalty)
    alternative = data.draw(models(world[0]))
    assert np.allclose(best.sum(axis=1), 1, atol=1e-14)
    at = exact_frontier(*world, [penalty])
    lowest = at.capability_gap[0] + penalty * at.proxy_gap[0]
    for share in (1.0, 1e-2, 1e-4):
        model = (1 - share) * best + share * alternative
        assert lowest <= objective(world, model, penalty) * (1 + 1e-12) + 1e-12 * (1 + penalty)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalty", [0.1, 3.0])
def test_scipy_finds_the_same_optimum(seed: int, penalty: float) -> None:
    world = random_world(seed, 3, 3)
    task, proxy, _ = world

    def losses(logits: np.ndarray) -> tuple[float, np.ndarray]:
        logs = log_softmax(logits.reshape(3, 3), axis=1)
        weights = task.joint() + penalty * proxy.joint()
        slope = weights.sum(axis=1, keepdims=True) * np.exp(logs) - weights
        return -float((weights * logs).sum()), slope.ravel()

    minimum = minimize(losses, np.zeros(9), jac=True, method="BFGS", options={"gtol": 1e-10})
    model = np.exp(log_softmax(minimum.x.reshape(3, 3), axis=1))
    np.testing.assert_allclose(model, penalized_optimum(task, proxy, penalty), atol=1e-7)


@pytest.mark.parametrize("seed", range(2))
def test_cvxpy_finds_the_same_frontier(seed: int) -> None:
    cvxpy = pytest.importorskip("cvxpy")
    task, proxy, original = random_world(seed, 3, 4)
    model = cvxpy.Variable((3, 4))
    simplex = [cvxpy.sum(model, axis=1) == 1]
    frontier = exact_frontier(task, proxy, original, [0.2, 5.0])
    for k, penalty in enumerate([0.2, 5.0]):
        weights = task.joint() + penalty * proxy.joint()
        loss = -cvxpy.sum(cvxpy.multiply(weights, cvxpy.log(model)))
        cvxpy.Problem(cvxpy.Minimize(loss), simplex).solve(solver="CLARABEL")
        solution = np.maximum(model.value, 0) / np.maximum(model.value, 0).sum(
            axis=1, keepdims=True
        )
        assert gap(task, solution) == pytest.approx(frontier.capability_gap[k], abs=1e-5)
        assert gap(proxy, solution) == pytest.approx(frontier.proxy_gap[k], abs=1e-5)


@many
@given(worlds())
def test_a_larger_penalty_trades_capability_for_the_proxy(world: World) -> None:
    frontier = exact_frontier(*world, [0.0, *np.logspace(-12, 12, 49), math.inf])
    proxy, capability = frontier.proxy_gap, frontier.capability_gap
    assert np.all(proxy[1:] <= proxy[:-1] + 1e-12)
    assert np.all(capability[:-1] <= capability[1:] + 1e-12)


@many
@given(worlds())
def test_zero_penalty_follows_the_task_and_an_infinite_one_the_proxy(world: World) -> None:
    task, proxy, _ = world
    ends = exact_frontier(*world, [0.0, math.inf])
    assert ends.capability_gap[0] == 0
    assert ends.proxy_gap[1] == 0
    at_zero = penalized_optimum(task, proxy, 0.0)
    at_infinity = penalized_optimum(task, proxy, math.inf)
    for x in range(task.shape[0]):
        in_task, in_proxy = task.contexts[x] > 0, proxy.contexts[x] > 0
        if in_task:
            assert np.array_equal(at_zero[x], task.responses[x])
        if in_proxy:
            assert np.array_equal(at_infinity[x], proxy.responses[x])
        if in_proxy and not in_task:
            assert np.array_equal(at_zero[x], proxy.responses[x])
        if in_task and not in_proxy:
            assert np.array_equal(at_infinity[x], task.responses[x])
        if not in_task and not in_proxy:
            assert np.allclose(at_zero[x], 1 / task.shape[1])


@some
@given(worlds(full=True))
def test_the_limits_are_limits(world: World) -> None:
    task, proxy, _ = world
    for penalty, limit in ((1e-12, 0.0), (1e12, math.inf)):
        near = penalized_optimum(task, proxy, penalty)
        np.testing.assert_allclose(near, penalized_optimum(task, proxy, limit), atol=1e-9)


@many
@given(worlds())
def test_no_overlap_means_no_tradeoff(world: World) -> None:
    task, proxy, _ = world
    contexts, responses = task.shape
    nothing, rows = np.zeros(contexts), np.full((contexts, responses), 1 / responses)
    apart = (
        Distribution(np.append(task.contexts, nothing), np.vstack([task.responses, rows])),
        Distribution(np.append(nothing, proxy.contexts), np.vstack([rows, proxy.responses])),
    )
    frontier = exact_frontier(*apart, apart[1], PENALTIES)
    assert np.all(frontier.alignment_gap == 0)
    assert np.all(frontier.capability_gap == 0)


@many
@given(worlds())
def test_no_conflict_means_no_tradeoff(world: World) -> None:
    task, proxy, _ = world
    agreeing = Distribution(proxy.contexts, task.responses)
    frontier = exact_frontier(task, agreeing, agreeing, PENALTIES)
    assert np.all(frontier.alignment_gap <= 1e-12)
    assert np.all(frontier.capability_gap <= 1e-12)


@many
@given(st.data(), worlds())
def test_no_model_lies_below_the_limit(data: st.DataObject, world: World) -> None:
    task, proxy, original = world
    model = data.draw(models(task))
    for safety in (proxy, original):
        limit = capability_limit(task, safety, gap(safety, model))
        assert limit <= gap(task, model) * (1 + 1e-9) + 1e-9


@some
@given(worlds(full=True), st.floats(1e-3, 1e3))
def test_the_optimum_lies_on_the_limit(world: World, penalty: float) -> None:
    task, proxy, original = world
    at = exact_frontier(*world, [penalty])
    limit = capability_limit(task, proxy, at.proxy_gap[0])
    # The budget is met to 1e-12, and the front's slope there is the penalty.
    assert limit == pytest.approx(at.capability_gap[0], rel=1e-6, abs=1e-8)
    oracle = capability_limit(task, original, at.alignment_gap[0])
    assert oracle <= at.capability_gap[0] + 1e-9


@many
@given(worlds(), penalties)
def test_the_oracle_is_the_proxy_that_is_the_original(world: World, penalty: float) -> None:
    task, _, original = world
    oracle = oracle_frontier(task, original, [penalty])
    assert oracle.alignment_gap[0] == oracle.proxy_gap[0]
    model = penalized_optimum(task, original, penalty)
    if np.all(model[answered(task) | answered(original)] > 1e-300):
        assert oracle.alignment_gap[0] == pytest.approx(gap(original, model), abs=1e-12)


@some
@given(worlds(), st.floats(0, 4))
def test_the_penalty_for_a_budget_is_the_smallest(world: World, budget: float) -> None:
    smallest = exact_penalty_for_budget(*world, budget)
    grid = np.concatenate([[0.0], np.logspace(-15, 15, 301)])
    gaps = exact_frontier(*world, grid).alignment_gap
    assert np.all(gaps[grid < smallest * (1 - 1e-9)] > budget)
    if math.isfinite(smallest):
        assert exact_frontier(*world, [smallest]).alignment_gap[0] <= budget + 1e-11


def test_a_penalty_that_few_doubles_are_near_still_meets_its_budget() -> None:
    task, proxy = extremal_world(1e-300, 1.0)
    for budget in (3.0, 30.0, 45.0, 60.0):
        penalty = exact_penalty_for_budget(task, proxy, proxy, budget)
        assert 0 < penalty < 1e-300
        assert exact_frontier(task, proxy, proxy, [penalty]).alignment_gap[0] <= budget + 1e-12


def test_an_alignment_gap_that_dips_and_rises_is_met_where_it_first_dips() -> None:
    task = Distribution(np.array([1.0]), np.array([[0.9, 0.1]]))
    proxy = Distribution(np.array([1.0]), np.array([[0.1, 0.9]]))
    original = Distribution(np.array([1.0]), np.array([[0.6, 0.4]]))
    gaps = exact_frontier(task, proxy, original, np.logspace(-2, 2, 401)).alignment_gap
    assert gaps[0] > 0.01 < gaps[-1]
    assert gaps.min() < 1e-4
    penalty = exact_penalty_for_budget(task, proxy, original, 0.0)
    assert penalty == pytest.approx(0.6, rel=1e-5)
    assert exact_penalty_for_budget(task, proxy, proxy, 10.0) == 0


@pytest.mark.parametrize("overlap", [1.0, 0.3, 1e-6])
@pytest.mark.parametrize("reverse", [1.0, 0.05])
def test_gaps_keep_relative_precision_as_they_vanish(overlap: float, reverse: float) -> None:
    task, proxy = extremal_world(overlap, reverse)
    grid = np.logspace(-10, 10, 41)
    frontier = exact_frontier(task, proxy, proxy, grid)
    odds = overlap / (grid * reverse)
    np.testing.assert_allclose(frontier.proxy_gap, reverse * np.log1p(odds), rtol=1e-12)
    np.testing.assert_allclose(frontier.capability_gap, overlap * np.log1p(1 / odds), rtol=1e-12)


def test_gaps_vanish_to_second_order_where_supports_agree() -> None:
    task, proxy, _ = random_world(3, 5, 4)
    penalty = 1e6
    expected = 0.5 * float(
        (task.joint() ** 2 / proxy.joint()).sum() - (task.contexts**2 / proxy.contexts).sum()
    )
    scaled_gap = exact_frontier(task, proxy, proxy, [penalty]).proxy_gap[0] * penalty**2
    assert scaled_gap == pytest.approx(expected, rel=1e-3)


@many
@given(worlds(), penalties)
def test_nothing_warns_and_nothing_is_nan(world: World, penalty: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frontier = exact_frontier(*world, [penalty, 1e-200, 1e200])
        model = penalized_optimum(world[0], world[1], penalty)
    for gaps in (frontier.alignment_gap, frontier.proxy_gap, frontier.capability_gap):
        assert np.all(gaps >= 0)
    assert np.isfinite(model).all()


@many
@given(st.data(), worlds(), penalties)
def test_names_do_not_matter_to_the_frontier(
    data: st.DataObject, world: World, penalty: float
) -> None:
    rows = np.array(data.draw(st.permutations(range(world[0].shape[0]))))
    columns = np.array(data.draw(st.permutations(range(world[0].shape[1]))))
    renamed = [relabelled(d, rows, columns) for d in world]
    before, after = exact_frontier(*world, [penalty]), exact_frontier(*renamed, [penalty])
    for name in ("alignment_gap", "proxy_gap", "capability_gap"):
        expected = pytest.approx(getattr(before, name), rel=1e-13, abs=ROUNDING)
        assert getattr(after, name) == expected


def test_bad_numbers_are_refused() -> None:
    world = random_world(0, 2, 2)
    for penalty in (-1.0, math.nan):
        with pytest.raises(ValueError, match=r"penalty is .*: give a number from 0 to infinity"):
            exact_frontier(*world, [penalty])
        with pytest.raises(ValueError, match="penalty is"):
            penalized_optimum(world[0], world[1], penalty)
    with pytest.raises(ValueError, match="give a list of numbers"):
        exact_frontier(*world, [[1.0]])
    with pytest.raises(ValueError, match="budget is -1"):
        exact_penalty_for_budget(*world, -1.0)
    with pytest.raises(ValueError, match="shapes"):
        exact_frontier(world[0], world[1], random_world(0, 3, 2)[0], [1.0])


def test_a_frontier_is_gone_through_as_its_optima() -> None:
    world = make_world({"near": 0.1}, {"shared": 1.0})
    frontier = exact_frontier(
        world.task["shared"], world.safety["near"], world.original, [0.1, 1.0, 10.0]
    )
    assert len(frontier) == 3
    assert [optimum.penalty for optimum in frontier] == [0.1, 1.0, 10.0]
    assert frontier[-1].capability_gap == frontier.capability_gap[-1]
    with pytest.raises(IndexError):
        frontier[3]
