"""Facts about the search for a setting within a budget: it is found, and in few looks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.stats import Estimate, verdict
from trimtab.train.budget_search import largest_within


@pytest.mark.parametrize("order", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("end", [0.04, 0.06, 0.3, 2.0])
def test_the_largest_setting_is_found_along_any_power(order: float, end: float) -> None:
    alpha, rise = largest_within(lambda a: Estimate.exact(end * a**order, "nats"), 0.05)
    assert rise.value <= 0.05
    assert alpha == 1.0 or rise.value >= 0.95 * 0.05 or end * (alpha + 1 / 64) ** order > 0.05


@given(
    order=st.floats(0.3, 8),
    end=st.floats(0.01, 5),
    gain=st.floats(-1, 0.1),
    noise=st.floats(0, 0.3),
    budget=st.floats(-0.2, 1),
    seed=st.integers(0, 100),
)
def test_a_setting_within_is_found_in_few_looks_along_any_curve(
    order: float, end: float, gain: float, noise: float, budget: float, seed: int
) -> None:
    looked_at: dict[float, Estimate] = {}

    def rise_at(alpha: float) -> Estimate:
        shaken = np.random.default_rng([seed, round(alpha * 1e6)]).normal(0, noise)
        value = end * alpha**order + gain * alpha * (1 - alpha) + shaken
        rise = Estimate(value, value - 0.1, value + 0.1, "nats", "estimate")
        looked_at[alpha] = rise
        return rise

    alpha, rise = largest_within(rise_at, budget)
    assert len(looked_at) <= 9
    assert looked_at[alpha] == rise
    within = [place for place, rise in looked_at.items() if verdict(rise, budget) == "within"]
    assert alpha == max(within, default=0.0)
    beyond = [place for place in looked_at if place > alpha]
    close = budget > 0 and rise.high >= 0.95 * budget
    assert alpha == 1 or close or min(beyond) - alpha < 1 / 64 + 1e-9


def test_along_a_power_the_setting_is_found_in_half_as_many_looks_as_by_halving() -> None:
    looks = []
    for order in (1, 1.5, 2, 3, 4):
        for end in (1.2, 2.0, 4.0, 10.0):
            looked_at: list[float] = []

            def rise_at(
                alpha: float,
                order: float = order,
                end: float = end,
                looked_at: list[float] = looked_at,
            ) -> Estimate:
                looked_at.append(alpha)
                return Estimate.exact(end * alpha**order, "nats")

            alpha, rise = largest_within(rise_at, 1.0)
            assert rise.value >= 0.95 or end * (alpha + 1 / 64) ** order > 1
            looks.append(len(looked_at))
    assert np.mean(looks) <= 3.5


def test_where_no_setting_is_within_the_safest_is_told() -> None:
    alpha, rise = largest_within(lambda a: Estimate.exact(1 + a, "nats"), 0.05)
    assert (alpha, rise.value) == (0.0, 1.0)
