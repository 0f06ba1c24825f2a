"""Facts about the effect sizes that docs/reproduction tells of the paper's findings."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from trimtab.config.methods import CASE_1, CASE_2_RADIUS
from trimtab.config.run_spec import RunSpec
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Estimate, Point
from trimtab.results.store import PointsFile

HERE = Path(__file__).parent.parent / "docs" / "reproduction"
ROWS = 40
# (proxy, λ) → L_s and L_f: the near proxy keeps more, and more of λ keeps more at a price.
LOSSES = {
    ("near", 0.1): (1.30, 1.00),
    ("near", 1.0): (1.10, 1.10),
    ("far", 0.1): (1.35, 1.00),
    ("far", 1.0): (1.25, 1.10),
}


@pytest.fixture(scope="module")
def effects() -> ModuleType:
    sys.path.insert(0, str(HERE))
    try:
        import effects as module  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(HERE))
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    hardness = np.random.default_rng(0).lognormal(0, 1, ROWS)
    hardness -= hardness.mean()
    rows, written = RowLosses(tmp_path), PointsFile(tmp_path, {})
    for seed in (0, 1):
        for (proxy, penalty), (safety, task) in LOSSES.items():
            name = f"{proxy}-{penalty}-{seed}"
            shift = 0.01 * seed * penalty
            losses = {"original": safety + shift, "task:chat": task}
            ones = np.ones(ROWS)
            rows.save(name, {d: np.stack([hardness + loss, ones]) for d, loss in losses.items()})
            written.add([point(proxy, penalty, seed, name, safety + shift, task)])
    return tmp_path


def point(proxy: str, penalty: float, seed: int, model: str, safety: float, task: float) -> Point:
    def loss(value: float) -> Estimate:
        return Estimate(value, value - 0.5, value + 0.5, "nats per token", "estimate")

    return Point(
        spec=RunSpec(CASE_1, penalty, proxy, "chat", seed),
        alignment_loss=loss(safety),
        capability_loss=loss(task),
        distance=0.0,
        relative_distance=0.0,
        train_tokens=1,
        wall_seconds=0.0,
        model=model,
    )


def test_effects_are_paired_by_row_and_spread_over_seeds(effects: ModuleType, folder: Path) -> None:
    measured = effects.Measured([folder], effects.Roles("near", "far", "chat", "none"))
    nearer = measured.effect(effects.nearer_proxy_is_safer)
    assert nearer.estimate.value == pytest.approx(0.10)
    assert nearer.verdict == "holds"
    assert nearer.estimate.high - nearer.estimate.low < 1e-6  # what is hard is hard for both
    falls = measured.effect(effects.penalty_keeps_safety)
    assert falls.estimate.value == pytest.approx(0.2 - 0.0045)
    assert falls.estimate.high - falls.estimate.low > 0.05  # two seeds differ by 0.009
    costs = measured.effect(effects.penalty_costs_capability)
    assert costs.estimate.value == pytest.approx(0.1)


def test_case_2_beyond_the_safe_end_is_bounded_by_the_safest_models_price(
    effects: ModuleType, folder: Path
) -> None:
    rows, written = RowLosses(folder), PointsFile(folder, {})
    hardness = rows.of("task:chat", "near-0.1-0")[0] - 1.00
    losses = {0.5: (1.05, 1.02), 1.0: (1.20, 1.04)}  # safer than all of Case I, and within its ends
    for seed in (0, 1):
        for radius, (safety, task) in losses.items():
            name, ones = f"ball-{radius}-{seed}", np.ones(ROWS)
            of_data = {"original": safety, "task:chat": task}
            rows.save(name, {d: np.stack([hardness + loss, ones]) for d, loss in of_data.items()})
            spec = RunSpec(CASE_2_RADIUS, radius, None, "chat", seed)
            written.add([replace(point("near", 1.0, seed, name, safety, task), spec=spec)])
    measured = effects.Measured([folder], effects.Roles("near", "far", "chat", "none"))
    within = measured.effect(effects.case_2_is_steeper)
    bound = measured.effect(effects.case_2_is_steeper_at_most)
    # Case I's line falls from 1.10 at L_s = 1.10 to 1.00 at 1.30, and later in the second seed.
    assert within.estimate.value == pytest.approx(-0.01, abs=3e-3)
    assert bound.estimate.value == pytest.approx((-0.08 - 0.01) / 2, abs=3e-3)
    assert bound.estimate.high < 0
    assert bound.verdict == "does not hold"


def test_what_was_not_run_has_no_effect(effects: ModuleType, folder: Path) -> None:
    measured = effects.Measured([folder], effects.Roles("near", "far", "chat", "none"))
    assert measured.effect(effects.overlap_costs_capability) is None
    assert measured.effect(effects.case_2_is_steeper) is None
    assert measured.effect(effects.tightness_keeps_safety) is None
