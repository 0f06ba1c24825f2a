"""Facts about comparing models row by row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trimtab.config.methods import ALIGNED, CASE_1
from trimtab.config.run_spec import RunSpec
from trimtab.results.gaps import OVER_START, with_gaps
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Estimate, Point

ROWS = 60


def saved_losses(folder: Path, improvement: float) -> RowLosses:
    """Rows that differ a hundredfold in hardness, and two models that differ by 1 % on each."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 60, ROWS).astype(float)
    hard = generator.lognormal(0, 1, ROWS) * tokens
    rows = RowLosses(folder)
    noise = generator.normal(0, 0.01, ROWS) * tokens
    rows.save("plain", {"task:code": np.stack([hard, tokens])})
    rows.save("better", {"task:code": np.stack([hard - improvement * tokens + noise, tokens])})
    return rows


def interval(rows: RowLosses, model: str, reference: str) -> tuple[float, float]:
    difference = rows.difference("task:code", model, reference)
    assert difference is not None
    estimate = difference.estimate("nats per token")
    return estimate.low, estimate.high


def point(model: str, rows: RowLosses) -> Point:
    nats, tokens = rows._of(model)["task:code"]
    value = nats.sum() / tokens.sum()
    loss = Estimate(value, value - 0.5, value + 0.5, "nats per token", "estimate")
    return Point(
        spec=RunSpec(CASE_1, {"plain": 0.0, "better": 1.0}[model], "near", "code", 0),
        capability_loss=loss,
        distance=0.0,
        relative_distance=0.0,
        train_tokens=1,
        wall_seconds=0.0,
        model=model,
    )


def test_the_interval_of_a_difference_is_that_of_the_differences(tmp_path: Path) -> None:
    rows = saved_losses(tmp_path, improvement=0.05)
    low, high = interval(rows, "plain", "better")
    assert 0.04 < low < 0.05 < high < 0.06


def test_a_model_does_not_differ_from_itself(tmp_path: Path) -> None:
    assert interval(saved_losses(tmp_path, 0.05), "plain", "plain") == (0.0, 0.0)


def started(points: list[Point]) -> list[Point]:
    """The points, the first of them as that of the aligned model."""
    start = replace(points[0], spec=replace(points[0].spec, method=ALIGNED, value=None))
    return [start, *points[1:]]


def test_where_the_least_loss_is_unknown_a_gap_is_the_paired_change_from_the_start(
    tmp_path: Path,
) -> None:
    rows = saved_losses(tmp_path, improvement=0.05)
    start, better = with_gaps(started([point("plain", rows), point("better", rows)]), {}, rows)
    assert start.capability_gap is not None
    assert better.capability_gap is not None
    assert better.capability_gap.value == pytest.approx(-0.05, abs=0.01)
    assert better.capability_gap.high - better.capability_gap.low < 0.02
    assert better.capability_gap.unit == OVER_START
    assert start.capability_gap.low == start.capability_gap.high == 0


def test_a_known_least_loss_is_what_a_gap_is_taken_from(tmp_path: Path) -> None:
    rows = saved_losses(tmp_path, improvement=0.05)
    points = started([point("plain", rows), point("better", rows)])
    _, better = with_gaps(points, {"task:code": 0.25}, rows)
    assert better.capability_gap == points[1].capability_loss.minus(0.25)


def test_without_rows_a_gap_keeps_the_interval_of_its_loss(tmp_path: Path) -> None:
    rows = saved_losses(tmp_path, improvement=0.05)
    points = [replace(point(name, rows), model=None) for name in ("plain", "better")]
    gap = with_gaps(started(points), {}, rows)[1].capability_gap
    assert gap is not None
    assert gap.high - gap.low == pytest.approx(1.0)


def test_without_a_start_nothing_is_a_gap(tmp_path: Path) -> None:
    rows = saved_losses(tmp_path, improvement=0.05)
    (alone,) = with_gaps([point("better", rows)], {}, rows)
    assert alone.capability_gap is None


def test_rows_that_are_not_the_same_are_not_paired(tmp_path: Path) -> None:
    rows = saved_losses(tmp_path, improvement=0.05)
    rows.save("fewer", {"task:code": np.ones((2, ROWS - 1))})
    assert rows.difference("task:code", "plain", "fewer") is None
    assert rows.difference("original", "plain", "better") is None


def test_what_was_saved_is_read_by_the_next_process(tmp_path: Path) -> None:
    written = saved_losses(tmp_path, improvement=0.05)
    read = RowLosses(tmp_path)
    assert interval(read, "plain", "better") == interval(written, "plain", "better")


def test_samples_err_apart_and_models_on_one_sample_together(tmp_path: Path) -> None:
    rows = RowLosses(tmp_path)
    nats = np.arange(ROWS, dtype=float)
    losses = np.stack([nats, np.ones(ROWS)])
    rows.save("one", {"task:code": losses, "original": losses})
    rows.save("other", {"task:code": np.stack([nats + 1, np.ones(ROWS)])})
    first, second = rows.loss("task:code", "one"), rows.loss("task:code", "other")
    elsewhere = rows.loss("original", "one")
    assert first is not None
    assert second is not None
    assert elsewhere is not None
    assert (second - first).value == pytest.approx(1.0)
    assert (second - first).standard_error == pytest.approx(0.0)
    assert first.standard_error == pytest.approx(nats.std(ddof=1) / np.sqrt(ROWS))
    assert (first - elsewhere).standard_error == pytest.approx(np.sqrt(2) * first.standard_error)
    assert rows.loss("original", "other") is None
