from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.theory.random_worlds import World, many, random_world, some, worlds
from trimtab.theory import (
    chord_area,
    exact_frontier,
    hypervolume,
    oracle_frontier,
    price_of_the_proxy,
)

points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8).map(
    lambda rows: np.array(rows, dtype=float).reshape(-1, 2)
)


@many
@given(points, st.integers(1, 9), st.integers(1, 9))
def test_hypervolume_counts_the_dominated_cells(cloud: np.ndarray, right: int, top: int) -> None:
    cells = [(x, y) for x in range(right) for y in range(top)]
    dominated = [any(px <= x and py <= y for px, py in cloud) for x, y in cells]
    assert hypervolume(cloud, [right, top]) == sum(dominated)


@some
@given(points, st.integers(1, 9), st.integers(1, 9))
def test_chord_area_is_the_hypervolume_of_all_mixtures(
    cloud: np.ndarray, right: int, top: int
) -> None:
    steps = 400
    shares = np.linspace(0, 1, steps)[:, None]
    mixed = [first + shares * (second - first) for first in cloud for second in cloud]
    mixtures = np.concatenate([np.empty((0, 2)), *mixed])
    area = chord_area(cloud, [right, top])
    assert hypervolume(mixtures, [right, top]) == pytest.approx(area, abs=2 * 9 * 9 / steps)
    assert area >= hypervolume(cloud, [right, top]) - 1e-9


@many
@given(points, points, st.randoms())
def test_hypervolume_grows_with_every_point_and_knows_no_order(
    cloud: np.ndarray, more: np.ndarray, random: object
) -> None:
    corner = [10.0, 10.0]
    union = np.vstack([cloud, more])
    volume = hypervolume(union, corner)
    assert volume >= max(hypervolume(cloud, corner), hypervolume(more, corner))
    random.shuffle(order := list(range(len(union))))  # type: ignore[attr-defined]
    assert hypervolume(union[order], corner) == volume
    assert hypervolume(np.vstack([union, union + 1]), corner) == volume


def test_points_beyond_the_reference_add_nothing() -> None:
    assert hypervolume([[0.0, math.inf], [3.0, 0.0], [1.0, 1.0]], [2.0, 2.0]) == 1.0


@pytest.mark.parametrize(
    ("cloud", "corner", "complaint"),
    [
        ([1.0, 2.0], [3.0, 3.0], "one row of two numbers"),
        ([[math.nan, 2.0]], [3.0, 3.0], "NaN"),
        ([[-math.inf, 2.0]], [3.0, 3.0], "minus infinity"),
        ([[1.0, 2.0]], [3.0, math.inf], "two finite numbers"),
        ([[1.0, 2.0]], [3.0], "two finite numbers"),
    ],
)
def test_areas_without_end_are_refused(cloud: object, corner: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        hypervolume(cloud, corner)  # type: ignore[arg-type]


@some
@given(worlds())
def test_a_proxy_costs_something_unless_it_is_the_original(world: World) -> None:
    task, proxy, original = world
    assert price_of_the_proxy(task, original, original) <= 1e-9
    assert price_of_the_proxy(task, proxy, original) >= 0


@pytest.mark.parametrize("seed", range(4))
def test_the_price_is_the_difference_of_two_dominated_areas(seed: int) -> None:
    task, proxy, original = random_world(seed, 3, 3)
    grid = np.concatenate([[0.0], np.logspace(-6, 6, 4001), [math.inf]])
    volumes = []
    for curve in (
        exact_frontier(task, proxy, original, grid),
        oracle_frontier(task, original, grid),
    ):
        cloud = np.column_stack([curve.alignment_gap, curve.capability_gap])
        volumes.append(hypervolume(cloud, [math.log(3), math.log(3)]))
    price = price_of_the_proxy(task, proxy, original)
    assert price == pytest.approx(volumes[1] - volumes[0], abs=2e-3 * volumes[1])
    assert price > 0.01


def test_a_reference_inside_the_curve_cuts_it() -> None:
    task, proxy, original = random_world(2, 3, 3)
    prices = [price_of_the_proxy(task, proxy, original, reference=[r, r]) for r in (0.1, 0.5, 1.0)]
    assert 0 <= prices[0] < prices[1] < prices[2]
