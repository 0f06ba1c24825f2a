"""Facts about a learned multiplier: it finds the one that is known, and falls where it may."""

from __future__ import annotations

import math

import pytest
import torch
from cooper.optim import nuPI, nuPIInitType

from trimtab.train.objectives.multiplier import HIGHEST, LOWEST, Multiplier


def descended(bound: float, start: float = 1.0) -> tuple[float, float]:
    """min ½(x − 2)² subject to x ≤ bound, by gradient descent in x: x and λ at the end."""
    x, multiplier = 0.0, Multiplier(start)
    for _ in range(20_000):
        violation = x - bound
        x -= 0.05 * (x - 2 + multiplier.value)
        multiplier.update(violation, 0.02)
    return x, multiplier.value


@pytest.mark.parametrize("start", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("bound", [1.0, 1.9, -3.0])
def test_multiplier_of_a_convex_problem_is_found_from_anywhere(bound: float, start: float) -> None:
    x, multiplier = descended(bound, start)
    assert x == pytest.approx(bound, abs=1e-3)
    assert multiplier == pytest.approx(2 - bound, rel=1e-3)  # x − 2 + λ = 0 at x = bound


def test_multiplier_of_a_slack_constraint_vanishes() -> None:
    x, multiplier = descended(bound=3.0)
    assert multiplier == LOWEST
    assert x == pytest.approx(2.0, abs=1e-3)


def test_violation_raises_the_multiplier() -> None:
    multiplier = Multiplier(1.0)
    multiplier.update(error=0.5, gain=0.1)
    assert multiplier.value == pytest.approx(math.exp(0.05))


def test_a_violation_that_shrinks_brakes_the_multiplier() -> None:
    steady, shrinking = Multiplier(1.0), Multiplier(1.0)
    for step in range(10):
        steady.update(1.0, 0.1)
        shrinking.update(1.0 - 0.1 * step, 0.1)
    assert shrinking.value < math.exp(0.1 * sum(1.0 - 0.1 * step for step in range(10)))
    assert shrinking.value < steady.value


def test_steps_grow_with_the_violation() -> None:
    small, large = Multiplier(1.0), Multiplier(1.0)
    small.update(0.01, 0.1)
    large.update(1.0, 0.1)
    assert math.log(large.value) == pytest.approx(100 * math.log(small.value))


def test_multiplier_stays_within_its_ends() -> None:
    rising, falling = Multiplier(1.0), Multiplier(1.0)
    for _ in range(100):
        rising.update(1.0, 1.0)
        falling.update(-1.0, 1.0)
    assert (rising.value, falling.value) == (HIGHEST, LOWEST)


def test_update_is_that_of_nu_pi() -> None:
    multiplier = Multiplier(0.3, mean_error=0.0)
    log_value = torch.nn.Parameter(torch.tensor([math.log(0.3)], dtype=torch.float64))
    oracle = nuPI(
        [log_value],
        lr=0.07,
        Kp=torch.tensor([multiplier.proportional]),
        Ki=torch.tensor([1.0]),
        ema_nu=multiplier.smoothing,
        init_type=nuPIInitType.ZEROS,
        maximize=True,
    )
    generator = torch.Generator().manual_seed(0)
    for error in torch.randn(50, generator=generator, dtype=torch.float64):
        multiplier.update(error.item(), 0.07)
        log_value.grad = error[None]
        oracle.step()
        assert math.log(multiplier.value) == pytest.approx(log_value.item(), rel=1e-6, abs=1e-6)
