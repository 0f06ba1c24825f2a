from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr

from tests.theory.random_worlds import World, many, models, relabelled, worlds
from trimtab.theory import Distribution, context_conflict, context_overlap, gap, total_variation

ONE = Distribution(np.array([1.0]), np.array([[0.5, 0.5]]))


@pytest.mark.parametrize(
    ("contexts", "responses", "complaint"),
    [
        ([0.5, 0.5], [[1.0], [-0.1]], r"responses\[1, 0\] is -0.1"),
        ([0.5, math.nan], [[1.0], [1.0]], r"contexts\[1\] is nan"),
        ([0.5, 0.5], [[1.0], [math.inf]], r"responses\[1, 0\] is inf"),
        ([0.5, 0.4], [[1.0], [1.0]], "contexts sums to 0.9, not 1"),
        ([0.5, 0.5], [[1.0], [0.7]], r"responses\[1\] sums to 0.7, not 1"),
        ([0.5, 0.5], [[1.0]], "one row of responses per context"),
        ([[1.0]], [[1.0]], r"contexts has shape \(1, 1\)"),
        ([1.0], [1.0], r"responses has shape \(1,\)"),
        ([], np.zeros((0, 2)), "at least one context"),
    ],
)
def test_what_is_no_distribution_is_refused(
    contexts: object, responses: object, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Distribution(contexts, responses)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ([[0.5, 0.4]], r"model\[0\] sums to 0.9"),
        ([[0.5, 0.25, 0.25]], r"model has shape \(1, 3\)"),
        ([[1.5, -0.5]], r"model\[0, 1\] is -0.5"),
    ],
)
def test_what_is_no_model_is_refused(model: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        gap(ONE, model)  # type: ignore[arg-type]


def test_distances_need_one_world() -> None:
    smaller = Distribution(np.array([1.0]), np.array([[1.0]]))
    for distance in (total_variation, context_overlap, context_conflict):
        with pytest.raises(ValueError, match=r"shapes \(1, 1\) and \(1, 2\)"):
            distance(ONE, smaller)


def test_a_distribution_keeps_its_own_unchangeable_copy() -> None:
    contexts = np.array([1.0])
    d = Distribution(contexts, np.array([[0.5, 0.5]]))
    contexts[0] = 7.0
    assert d.contexts[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        d.responses[0, 0] = 1.0


def test_rounded_rows_are_divided_out() -> None:
    third = np.float32(1) / np.float32(3)
    d = Distribution(np.array([1.0]), np.array([[third, third, third]], dtype=np.float32))
    assert abs(d.responses.sum() - 1) < 1e-15


def test_rows_without_mass_are_never_used() -> None:
    d = Distribution(np.array([1.0, 0.0]), np.array([[0.5, 0.5], [0.0, 0.0]]))
    assert gap(d, [[0.25, 0.75], [0.0, 0.0]]) == gap(ONE, [[0.25, 0.75]])
    assert d.entropy == ONE.entropy


@many
@given(worlds())
def test_total_variation_is_a_metric(world: World) -> None:
    p, q, r = world
    assert total_variation(p, p) == 0
    assert total_variation(p, q) == total_variation(q, p)
    assert total_variation(p, q) <= total_variation(p, r) + total_variation(r, q) + 1e-15
    positive_part = np.maximum(p.joint() - q.joint(), 0).sum()
    assert total_variation(p, q) == pytest.approx(positive_part, abs=1e-15)


@many
@given(worlds())
def test_overlap_is_the_mass_on_common_contexts(world: World) -> None:
    of, on, _ = world
    by_hand = sum(of.contexts[x] for x in range(of.shape[0]) if on.contexts[x] > 0)
    assert context_overlap(of, on) == pytest.approx(by_hand, abs=1e-15)
    assert context_overlap(of, of) == pytest.approx(1)
    assert context_conflict(of, of) == 0
    assert context_conflict(of, on) <= context_overlap(of, on) + 1e-15


@many
@given(st.data(), worlds())
def test_gap_is_the_mean_divergence(data: st.DataObject, world: World) -> None:
    d = world[0]
    model = data.draw(models(d))
    divergences = np.array([rel_entr(p, q).sum() for p, q in zip(d.responses, model, strict=True)])
    expected = sum(m * k for m, k in zip(d.contexts, divergences, strict=True) if m > 0)
    assert gap(d, model) == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert gap(d, model) >= 0
    assert gap(d, d.responses) == 0


@many
@given(st.data(), worlds())
def test_gap_is_the_loss_above_the_entropy(data: st.DataObject, world: World) -> None:
    d = world[0]
    model = data.draw(models(d))
    assert gap(d, model) == pytest.approx(d.cross_entropy(model) - d.entropy, abs=1e-11)
    assert 0 <= d.entropy <= math.log(d.shape[1]) + 1e-15


@many
@given(st.data(), worlds())
def test_gap_is_infinite_just_where_the_model_misses_a_pair(
    data: st.DataObject, world: World
) -> None:
    d = world[0]
    model = data.draw(models(d))
    missed = (d.contexts > 0)[:, None] & (d.responses > 0) & (model == 0)
    assert math.isinf(gap(d, model)) == missed.any() == math.isinf(d.cross_entropy(model))


def test_a_tiny_gap_keeps_its_digits() -> None:
    shift = 2.0**-30
    model = [[0.5 + shift, 0.5 - shift]]
    assert gap(ONE, model) == pytest.approx(2 * shift**2, rel=1e-9)


@many
@given(st.data(), worlds())
def test_names_of_contexts_and_responses_do_not_matter(data: st.DataObject, world: World) -> None:
    p, q, _ = world
    rows = np.array(data.draw(st.permutations(range(p.shape[0]))))
    columns = np.array(data.draw(st.permutations(range(p.shape[1]))))
    p2, q2 = (relabelled(d, rows, columns) for d in (p, q))
    for number in (total_variation, context_overlap, context_conflict):
        assert number(p, q) == pytest.approx(number(p2, q2), abs=1e-14)
    assert gap(p, q.responses) == pytest.approx(gap(p2, q2.responses), rel=1e-13, abs=1e-14)
