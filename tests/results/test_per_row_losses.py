"""Facts about comparing models row by row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trimtab.results.gaps import with_gaps
from trimtab.results.per_row_losses import RowLosses, _resampled_counts
from trimtab.results.result import Estimate, Point

ROWS = 60


def kept(folder: Path, improvement: float) -> RowLosses:
    """Rows that differ a hundredfold in hardness, and two models that differ by 1 % on each."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 60, ROWS).astype(float)
    hard = generator.lognormal(0, 1, ROWS) * tokens
    rows = RowLosses(folder)
    noise = generator.normal(0, 0.01, ROWS) * tokens
    rows.save("plain", {"task:code": np.stack([hard, tokens])})
    rows.save("better", {"task:code": np.stack([hard - improvement * tokens + noise, tokens])})
    return rows


def point(model: str, rows: RowLosses) -> Point:
    nats, tokens = rows._of(model)["task:code"]
    value = nats.sum() / tokens.sum()
    loss = Estimate(value, value - 0.5, value + 0.5, "nats per token", "estimate")
    return Point(
        case="alignment-loss",
        penalty={"plain": 0.0, "better": 1.0}[model],
        task="code",
        seed=0,
        capability_loss=loss,
        distance=0.0,
        relative_distance=0.0,
        train_tokens=1,
        wall_seconds=0.0,
        model=model,
    )


def test_the_interval_of_a_difference_is_that_of_the_differences(tmp_path: Path) -> None:
    rows = kept(tmp_path, improvement=0.05)
    interval = rows.interval("task:code", "plain", "better")
    assert interval is not None
    low, high = interval
    assert 0.04 < low < 0.05 < high < 0.06


def test_the_interval_leaves_out_a_fortieth_on_either_side(tmp_path: Path) -> None:
    rows = kept(tmp_path, improvement=0.05)
    ours, theirs = (rows.resampled("task:code", model) for model in ("plain", "better"))
    assert ours is not None
    assert theirs is not None
    ordered = np.sort(ours - theirs)
    low, high = rows.interval("task:code", "plain", "better") or (0.0, 0.0)
    assert np.mean(ordered < low) == pytest.approx(0.025, abs=0.002)
    assert np.mean(ordered > high) == pytest.approx(0.025, abs=0.002)


def test_rows_are_drawn_alike_whoever_asks(tmp_path: Path) -> None:
    first = kept(tmp_path / "first", 0.05).interval("task:code", "plain", "better")
    _resampled_counts.cache_clear()
    second = kept(tmp_path / "second", 0.05).interval("task:code", "plain", "better")
    assert first == second


def test_a_model_does_not_differ_from_itself(tmp_path: Path) -> None:
    assert kept(tmp_path, 0.05).interval("task:code", "plain", "plain") == (0.0, 0.0)


def test_gaps_to_the_lowest_loss_seen_are_paired(tmp_path: Path) -> None:
    rows = kept(tmp_path, improvement=0.05)
    plain, better = with_gaps([point("plain", rows), point("better", rows)], {}, rows)
    assert plain.capability_gap is not None
    assert better.capability_gap is not None
    assert plain.capability_gap.value == pytest.approx(0.05, abs=0.01)
    assert plain.capability_gap.high - plain.capability_gap.low < 0.02
    assert better.capability_gap.low == better.capability_gap.high == 0


def test_without_rows_a_gap_keeps_the_interval_of_its_loss(tmp_path: Path) -> None:
    rows = kept(tmp_path, improvement=0.05)
    points = [replace(point(name, rows), model=None) for name in ("plain", "better")]
    gap = with_gaps(points, {}, rows)[0].capability_gap
    assert gap is not None
    assert gap.high - gap.low == pytest.approx(1.0)


def test_rows_that_are_not_the_same_are_not_paired(tmp_path: Path) -> None:
    rows = kept(tmp_path, improvement=0.05)
    rows.save("fewer", {"task:code": np.ones((2, ROWS - 1))})
    assert rows.interval("task:code", "plain", "fewer") is None
    assert rows.interval("original", "plain", "better") is None


def test_what_was_saved_is_read_by_the_next_process(tmp_path: Path) -> None:
    written = kept(tmp_path, improvement=0.05)
    read = RowLosses(tmp_path)
    assert read.interval("task:code", "plain", "better") == written.interval(
        "task:code", "plain", "better"
    )


def test_draws_are_one_for_all_models_and_another_for_each_data_set(tmp_path: Path) -> None:
    rows = RowLosses(tmp_path)
    nats = np.arange(ROWS, dtype=float)
    same = np.stack([nats, np.ones(ROWS)])
    rows.save("one", {"task:code": same, "original": same})
    rows.save("other", {"task:code": np.stack([nats + 1, np.ones(ROWS)])})
    one, other = rows.resampled("task:code", "one"), rows.resampled("task:code", "other")
    elsewhere = rows.resampled("original", "one")
    assert one is not None
    assert other is not None
    assert elsewhere is not None
    assert other - one == pytest.approx(np.ones_like(one))
    assert abs(np.corrcoef(one, elsewhere)[0, 1]) < 0.1
    assert one.std() == pytest.approx(nats.std() / np.sqrt(ROWS), rel=0.1)
    assert rows.resampled("original", "other") is None
