from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from tests.theory.random_worlds import (
    PENALTIES,
    World,
    many,
    models,
    penalties,
    random_world,
    some,
    worlds,
)
from trimtab.theory import (
    Distribution,
    capability_bound,
    context_conflict,
    context_overlap,
    exact_frontier,
    exact_penalty_for_budget,
    extremal_world,
    gap,
    overlap_from_sample,
    penalty_for_budget,
    penalty_per_response,
    penalty_per_token,
    safety_bound,
    theorem_1,
    theorem_2,
    total_variation,
)
from trimtab.theory.loss_constraint import shift_term
from trimtab.theory.world import visible

masses = st.sampled_from([0.0, 1e-300, 1.0]) | st.floats(0, 1)
log_bounds = st.sampled_from([0.0, 0.1, math.inf]) | st.floats(0, 50)
ROUNDING = 1e-12


def numbers(world: World) -> dict[str, float]:
    task, proxy, original = world
    return {
        "total_variation": total_variation(original, proxy),
        "overlap": context_overlap(task, proxy),
        "reverse_overlap": context_overlap(proxy, task),
    }


@many
@given(worlds(), penalties, st.booleans())
def test_theorem_1_holds(world: World, penalty: float, sharp: bool) -> None:
    exact = exact_frontier(*world, [penalty]).alignment_gap[0]
    assert exact <= safety_bound(*world, penalty, sharp=sharp).value + ROUNDING


@many
@given(worlds(), penalties, st.booleans())
def test_theorem_2_holds(world: World, penalty: float, sharp: bool) -> None:
    exact = exact_frontier(*world, [penalty]).capability_gap[0]
    assert exact <= capability_bound(world[0], world[1], penalty, sharp=sharp).value + ROUNDING


def test_bounds_are_infinite_however_little_mass_makes_them_so() -> None:
    rare = Distribution(np.array([1.0, 1e-300]), np.array([[0.5, 0.5], [1e-300, 1.0]]))
    never = Distribution(rare.contexts, np.array([[0.5, 0.5], [0.0, 1.0]]))
    for sharp in (True, False):
        assert safety_bound(never, never, rare, 1.0, sharp=sharp).value == math.inf
        assert capability_bound(rare, never, math.inf, sharp=sharp).value == math.inf


@many
@given(worlds(full=True), penalties, st.booleans())
def test_theorems_1_and_2_hold_from_numbers_alone(
    world: World, penalty: float, sharp: bool
) -> None:
    smallest = min(d.responses.min() for d in world)
    world_numbers = numbers(world)
    log_bound = -math.log(smallest)
    exact = exact_frontier(*world, [penalty])
    first = theorem_1(**world_numbers, penalty=penalty, log_bound=log_bound, sharp=sharp)
    del world_numbers["total_variation"]
    second = theorem_2(**world_numbers, penalty=penalty, log_bound=log_bound, sharp=sharp)
    assert exact.alignment_gap[0] <= first.value + ROUNDING
    assert exact.capability_gap[0] <= second.value + ROUNDING


@many
@given(worlds(), penalties)
def test_the_overlap_term_alone_bounds_the_proxy_gap(world: World, penalty: float) -> None:
    task, proxy, _ = world
    exact = exact_frontier(task, proxy, proxy, [penalty]).proxy_gap[0]
    bound = safety_bound(task, proxy, proxy, penalty)
    assert bound.term("shift").value == 0
    assert exact <= bound.value + ROUNDING


@many
@given(st.data(), worlds())
def test_the_shift_holds_for_every_model(data: st.DataObject, world: World) -> None:
    _, proxy, original = world
    model = data.draw(models(proxy))
    # Scaled by a power of two, for products of two probabilities of 1e-300.
    joint_o, joint_q = (2.0**1000 * d.contexts[:, None] * d.responses for d in (original, proxy))
    rarest = np.min(model, where=joint_o > joint_q, initial=1.0)
    log_bound = -math.log(rarest) if rarest > 0 else math.inf
    distance = visible(total_variation(original, proxy), np.any(joint_o != joint_q))
    shift = shift_term(distance, log_bound, math.inf)
    assert gap(original, model) <= gap(proxy, model) + shift.value + ROUNDING


@many
@given(worlds(), penalties)
def test_sharp_never_exceeds_classical_in_a_world(world: World, penalty: float) -> None:
    for bound in (
        lambda sharp: safety_bound(*world, penalty, sharp=sharp),
        lambda sharp: capability_bound(world[0], world[1], penalty, sharp=sharp),
    ):
        assert bound(True).value <= bound(False).value * (1 + 1e-14)


@many
@given(masses, masses, masses, st.floats(0, 1e9) | penalties, log_bounds)
def test_sharp_never_exceeds_classical_from_numbers(
    distance: float, overlap: float, reverse: float, penalty: float, log_bound: float
) -> None:
    common = {"overlap": overlap, "reverse_overlap": reverse, "penalty": penalty}
    for sharp, classical in (
        (
            theorem_1(total_variation=distance, log_bound=log_bound, **common),
            theorem_1(total_variation=distance, log_bound=log_bound, sharp=False, **common),
        ),
        (
            theorem_2(log_bound=log_bound, **common),
            theorem_2(log_bound=log_bound, sharp=False, **common),
        ),
    ):
        assert 0 <= sharp.value <= classical.value * (1 + 1e-14)
        assert sharp.value == sum(term.value for term in sharp.terms)
        assert (sharp.form, classical.form) == ("sharp", "classical")


@many
@given(masses, masses, masses, st.floats(0, 1e9), log_bounds, st.floats(1, 10))
def test_bounds_move_the_way_the_theory_says(
    distance: float, overlap: float, reverse: float, penalty: float, log_bound: float, factor: float
) -> None:
    def first(**changed: float) -> float:
        start = {"total_variation": distance, "overlap": overlap, "reverse_overlap": reverse}
        return theorem_1(
            **{**start, "penalty": penalty, "log_bound": log_bound, **changed}
        ).value * (1 + 1e-13)

    def second(**changed: float) -> float:
        start = {"overlap": overlap, "reverse_overlap": reverse, "penalty": penalty}
        return theorem_2(**{**start, "log_bound": log_bound, **changed}).value * (1 + 1e-13)

    for bound in (first, second):
        assert bound(overlap=overlap / factor) <= bound() * (1 + 1e-13)
        assert bound(reverse_overlap=reverse / factor) <= bound() * (1 + 1e-13)
        assert bound(log_bound=log_bound / factor) <= bound() * (1 + 1e-13)
    assert first(penalty=penalty * factor) <= first() * (1 + 1e-13)
    assert second() <= second(penalty=penalty * factor) * (1 + 1e-13)


@pytest.mark.parametrize("overlap", [1.0, 0.25, 1e-9])
@pytest.mark.parametrize("reverse", [1.0, 0.5, 1e-3])
def test_the_extremal_world_attains_theorems_1_and_2(overlap: float, reverse: float) -> None:
    task, proxy = extremal_world(overlap, reverse)
    frontier = exact_frontier(task, proxy, proxy, PENALTIES)
    for k, penalty in enumerate(PENALTIES):
        common = {"overlap": overlap, "reverse_overlap": reverse, "penalty": penalty}
        first = theorem_1(total_variation=0.0, log_bound=math.inf, **common)
        second = theorem_2(**common)
        assert first.tight
        assert second.tight
        assert frontier.alignment_gap[k] == pytest.approx(first.value, rel=1e-11)
        assert frontier.capability_gap[k] == pytest.approx(second.value, rel=1e-11)
        in_world = safety_bound(task, proxy, proxy, penalty)
        assert in_world.value == pytest.approx(first.value)
        assert in_world.tight


@many
@given(worlds(), penalties)
def test_no_frontier_is_worse_than_the_extremal_one(world: World, penalty: float) -> None:
    task, proxy, _ = world
    at = exact_frontier(*world, [penalty])
    conflict, reverse = context_conflict(task, proxy), context_conflict(proxy, task)
    if min(conflict, reverse) > 1e-6:
        total = math.exp(-at.proxy_gap[0] / reverse) + math.exp(-at.capability_gap[0] / conflict)
        assert total >= 1 - 1e-6


@pytest.mark.parametrize("share", [1e-2, 1e-4, 1e-8])
def test_no_factor_below_one_on_the_distance_would_do(share: float) -> None:
    proxy = Distribution(np.array([1.0]), np.array([[1 - share, share]]))
    original = Distribution(np.array([1.0]), np.array([[0.0, 1.0]]))
    exact = gap(original, proxy.responses)
    bound = safety_bound(proxy, proxy, original, math.inf)
    assert exact <= bound.value <= exact + share


def test_a_bound_on_the_optimum_alone_does_not_carry_the_classical_term() -> None:
    task, proxy = extremal_world(1.0, 1.0)
    penalty = 10.0
    exact = exact_frontier(task, proxy, proxy, [penalty]).alignment_gap[0]
    of_the_optimum_on_safety_pairs = math.log1p(1 / penalty)
    assert of_the_optimum_on_safety_pairs / penalty < exact


@many
@given(worlds())
def test_no_overlap_means_no_penalty_term(world: World) -> None:
    task, proxy, original = world
    agreeing = Distribution(proxy.contexts, task.responses)
    for penalty in PENALTIES:
        assert safety_bound(task, agreeing, original, penalty).term("overlap").value == 0
        assert capability_bound(task, agreeing, penalty).value == 0
    bound = theorem_1(total_variation=0.0, overlap=0.0, penalty=0.0, log_bound=math.inf)
    assert bound.value == theorem_2(overlap=0.0, penalty=math.inf).value == 0


@many
@given(masses, st.floats(1e-6, 1), st.floats(0, 3), st.floats(1e-6, 3))
def test_the_penalty_for_a_budget_is_where_theorem_1_meets_it(
    overlap: float, reverse: float, shift: float, room: float
) -> None:
    budget = shift + room
    penalty = penalty_for_budget(budget, shift=shift, overlap=overlap, reverse_overlap=reverse)
    cost = theorem_1(
        total_variation=0.0,
        overlap=overlap,
        reverse_overlap=reverse,
        penalty=penalty,
        log_bound=math.inf,
    ).value
    if penalty > 1e-290:
        assert cost + shift == pytest.approx(budget, rel=1e-9)
    assert penalty <= overlap / (budget - shift) * (1 + 1e-9)


@some
@given(worlds(full=True), st.floats(0.01, 2))
def test_theorem_1_never_asks_for_less_than_the_world_does(world: World, room: float) -> None:
    task, proxy, original = world
    shift = safety_bound(task, proxy, original, math.inf, log_bound=8.0).term("shift").value
    penalty = penalty_for_budget(
        shift + room,
        shift=shift,
        overlap=context_overlap(task, proxy),
        reverse_overlap=context_overlap(proxy, task),
    )
    assert exact_frontier(*world, [penalty]).alignment_gap[0] <= shift + room + ROUNDING
    assert exact_penalty_for_budget(*world, shift + room) <= penalty * (1 + 1e-9)


def test_a_budget_below_the_shift_is_out_of_reach() -> None:
    assert penalty_for_budget(0.1, shift=0.2, overlap=0.5) == math.inf
    assert penalty_for_budget(0.1, shift=0.2, overlap=0.0) == math.inf
    assert penalty_for_budget(0.2, shift=0.1, overlap=0.0) == 0
    assert penalty_for_budget(1e4, shift=0.0, overlap=1.0) == 0


@pytest.mark.parametrize("samples", [1, 7, 40])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_sampled_overlap_covers_as_often_as_it_says(samples: int, confidence: float) -> None:
    limits = np.array([overlap_from_sample(k, samples, confidence) for k in range(samples + 1)])
    assert np.all(np.diff(limits) > 0)
    slack = []
    for overlap in np.linspace(0.001, 0.999, 200):
        covered = binom.pmf(np.arange(samples + 1), samples, overlap)[limits >= overlap].sum()
        assert covered >= confidence - 1e-12
        slack.append(covered - confidence)
    assert min(slack) < 0.05


def test_a1_is_checked_in_a_world() -> None:
    world = random_world(0, 3, 3)
    assert safety_bound(*world, 1.0, log_bound=50.0).value < math.inf
    with pytest.raises(ValueError, match=r"A1 fails: log_bound is 0\.1"):
        safety_bound(*world, 1.0, log_bound=0.1)
    with pytest.raises(ValueError, match="A1 fails"):
        capability_bound(world[0], world[1], 1.0, log_bound=0.1)


def test_terms_say_what_they_stand_on() -> None:
    bound = theorem_1(total_variation=0.3, overlap=0.5, penalty=2.0, log_bound=9.0)
    assert (bound.theorem, bound.quantity) == (1, "alignment gap")
    assert bound.term("shift").assumes == ("A1",)
    assert bound.term("overlap").assumes == ("A2",)
    assert not bound.tight
    with pytest.raises(KeyError):
        bound.term("drift")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"total_variation": 1.1}, "total_variation is 1.1"),
        ({"overlap": -0.1}, "overlap is -0.1"),
        ({"reverse_overlap": math.nan}, "reverse_overlap is nan"),
        ({"penalty": -1.0}, "penalty is -1.0"),
        ({"log_bound": math.nan}, "log_bound is nan"),
    ],
)
def test_impossible_numbers_are_refused(wrong: dict[str, float], complaint: str) -> None:
    right = {"total_variation": 0.1, "overlap": 0.1, "penalty": 1.0, "log_bound": 5.0}
    with pytest.raises(ValueError, match=complaint):
        theorem_1(**{**right, **wrong})


def test_impossible_samples_are_refused() -> None:
    for hits, samples in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match="hits of"):
            overlap_from_sample(hits, samples)
    with pytest.raises(ValueError, match="confidence is 1"):
        overlap_from_sample(1, 5, 1.0)
    with pytest.raises(ValueError, match=r"overlap is 0.*above 0"):
        extremal_world(0.0, 0.5)


@pytest.mark.parametrize(("task_tokens", "safety_tokens"), [(20, 100), (100, 20), (7, 7)])
@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_losses_per_token_are_minimised_at_the_theorems_penalty(
    task_tokens: int, safety_tokens: int, penalty: float
) -> None:
    """One prompt with one answer of either kind: the safety answer has probability p."""

    def objective(p: float) -> float:
        return -math.log1p(-p) / task_tokens - penalty * math.log(p) / safety_tokens

    p = float(minimize_scalar(objective, bounds=(1e-9, 1 - 1e-9), options={"xatol": 1e-12}).x)
    per_response = penalty_per_response(penalty, task_tokens, safety_tokens)
    safety = theorem_1(total_variation=0, overlap=1, penalty=per_response, log_bound=math.inf)
    capability = theorem_2(overlap=1, penalty=per_response)
    assert -math.log(p) == pytest.approx(safety.value, rel=1e-4)
    assert -math.log1p(-p) == pytest.approx(capability.value, rel=1e-4)
    assert penalty_per_token(per_response, task_tokens, safety_tokens) == pytest.approx(penalty)
