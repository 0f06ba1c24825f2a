"""Facts about the theorems as a report tells them: what is a bound, what only an estimate."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.report import reported_points
from trimtab.analysis.bounds import _over_lowest_seen, bounds_beside
from trimtab.cli import app
from trimtab.data.synthetic import WORLD_FILE, make_world, write_data
from trimtab.report.tables import bounds_in_short, bounds_tables
from trimtab.results.gaps import with_gaps
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import LocalGeometry
from trimtab.results.store import read_landscape, write_landscape
from trimtab.stats import Estimate
from trimtab.theory import theorem_1, theorem_2


def test_every_exact_optimum_lies_on_or_below_its_bound() -> None:
    world = make_world({"near": 0.1, "far": 0.6}, {"apart": 0.0, "mixed": 0.5, "shared": 1.0})
    bounds = bounds_beside(reported_points.optima(world, stray=0.0), world, {})
    assert {beside.bound.theorem for beside in bounds} == {1, 2}
    for beside in bounds:
        assert beside.kind == "bound"
        assert beside.optimum is not None
        assert not beside.is_broken
        assert beside.optimum <= beside.value * (1 + 1e-9) + 1e-9
        assert beside.measured.value == pytest.approx(beside.optimum, abs=1e-9)
        assert beside.classical is not None
        assert beside.bound.value <= beside.classical.value


def test_an_optimum_above_its_bound_is_an_alarm() -> None:
    world = make_world({"near": 0.1}, {"shared": 1.0})
    beside = bounds_beside(reported_points.optima(world, stray=0.0), world, {})[0]
    broken = replace(beside, optimum=beside.value * 1.01 + 1e-6)
    assert broken.is_broken
    assert bounds_tables([beside, broken])[0].rows[1].is_alarm


def test_without_a_world_every_bound_is_an_estimate() -> None:
    bounds = bounds_beside(
        reported_points.with_responses(reported_points.case_1(overlap=0.5), tokens=40.0), None, {}
    )
    assert {beside.kind for beside in bounds} == {"estimate"}
    for beside in bounds:
        penalty = beside.setting.value
        assert penalty is not None
        assert beside.optimum is None
        expected = (
            theorem_1(total_variation=0, overlap=0.5, penalty=penalty, log_bound=math.inf)
            if beside.gap == "proxy gap"
            else theorem_2(overlap=0.5, penalty=penalty)
        )
        assert beside.value == pytest.approx(expected.value / 40)


def test_a_penalty_on_losses_per_token_is_another_where_responses_differ_in_length() -> None:
    points = reported_points.case_1(overlap=0.5)
    bounds = bounds_beside(
        reported_points.with_responses(points, 100.0, task_tokens=20.0), None, {}
    )
    for beside in bounds:
        penalty = (beside.setting.value or 0.0) / 5
        if beside.gap == "proxy gap":
            of_safety = theorem_1(
                total_variation=0, overlap=0.5, penalty=penalty, log_bound=math.inf
            )
            assert beside.value == pytest.approx(of_safety.value / 100)
        else:
            of_task = theorem_2(overlap=0.5, penalty=penalty)
            assert beside.value == pytest.approx(of_task.value / 20)


def test_a_gap_over_the_lowest_loss_seen_has_the_interval_of_that_difference(
    tmp_path: Path,
) -> None:
    generator = np.random.default_rng(0)
    rows, hard = RowLosses(tmp_path), generator.gamma(2.0, 1.0, 60)
    points = []
    for place, level in enumerate((0.0, 0.4, 0.1)):
        model = f"model-{place}"
        own = hard * (0.5 if place == 0 else 1.0) + level + 0.01 * generator.standard_normal(60)
        rows.save(model, {"safety:near": np.stack([own, np.ones(60)])})
        value = None if place == 1 else float(place)
        bare = reported_points.point("aligned" if place == 1 else "alignment-loss", value=value)
        loss = Estimate(own.mean(), 0.0, 9.0, "nats per token", "estimate")
        points.append(replace(bare, model=model, proxy_loss=loss))
    gaps = _over_lowest_seen(with_gaps(points, {}, rows), rows)
    lowest, start = gaps[0].proxy_gap, gaps[1].proxy_gap
    assert lowest is not None
    assert start is not None
    assert (lowest.value, lowest.low, lowest.high) == (0.0, 0.0, 0.0)
    paired = rows.difference("safety:near", "model-1", "model-0")
    assert paired is not None
    assert start.high - start.value == pytest.approx(paired.half_width)


def test_plain_fine_tuning_is_promised_nothing() -> None:
    world = make_world({"near": 0.1}, {"shared": 1.0})
    assert all(
        beside.setting.value
        for beside in bounds_beside(reported_points.optima(world, stray=0.0), world, {})
    )


def local_geometry(slope: float, curvature: float) -> LocalGeometry:
    return LocalGeometry(reported_points.estimate(slope), reported_points.estimate(curvature))


def test_case_2_is_bounded_by_slope_and_curvature() -> None:
    landscape = {"original": local_geometry(0.1, 2.0), "task:chat": local_geometry(1.0, 4.0)}
    start = reported_points.point("aligned", safety=0.05, capability=0.7)
    ball = reported_points.point("alignment-parameter", safety=0.1, capability=0.5, radius=2.0)
    safety, capability = bounds_beside([start, ball], None, landscape)
    assert {safety.kind, capability.kind} == {"estimate"}
    assert safety.value == pytest.approx(0.05 + 0.1 * 1.5 + 0.5 * 2.0 * 1.5**2)
    assert capability.value == pytest.approx(0.7 - (1.0 * 0.25 - 0.5 * 4.0 * 0.25**2))


def test_without_a_landscape_case_2_is_promised_nothing() -> None:
    start = reported_points.point("aligned", safety=0.05, capability=0.7)
    assert bounds_beside([start, *reported_points.case_2()], None, {}) == ()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    world = make_world({"near": 0.1}, {"shared": 1.0})
    write_data(world, tmp_path, rows=4)
    assert (tmp_path / WORLD_FILE).exists()
    return reported_points.write_points(tmp_path, reported_points.optima(world, stray=0.0))


def test_the_command_prints_every_theorem(folder: Path) -> None:
    run = CliRunner().invoke(app, ["bounds", str(folder)])
    assert run.exit_code == 0
    assert "Theorem 1, on the alignment gap: a bound" in " ".join(run.output.split())
    assert "Theorem 2, on the capability gap: a bound" in " ".join(run.output.split())


def test_json_has_every_number_with_its_unit(folder: Path) -> None:
    records = json.loads(CliRunner().invoke(app, ["bounds", str(folder), "--json"]).output)
    assert len(records) == 2 * len({record["setting"] for record in records})
    for record in records:
        assert record["unit"] == "nats per token"
        assert record["value"] == pytest.approx(sum(record["terms"].values()))
        assert record["exact_optimum"] <= record["value"] + 1e-9


def test_points_no_theorem_speaks_to_are_one_line(tmp_path: Path) -> None:
    reported_points.write_points(tmp_path, [reported_points.point("aligned")])
    run = CliRunner().invoke(app, ["bounds", str(tmp_path)])
    assert run.exit_code == 2
    assert "no theorem speaks" in run.stderr


def test_a_landscape_is_read_as_it_was_written(tmp_path: Path) -> None:
    landscape = {"original": local_geometry(0.1, 2.0)}
    write_landscape(tmp_path, landscape)
    assert read_landscape(tmp_path) == landscape


def test_a_broken_landscape_costs_itself_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "landscape.json").write_text("{}x")
    assert read_landscape(tmp_path) == {}
    assert "landscape.json is damaged" in caplog.text


def test_the_terminals_tables_have_whole_words_on_eighty_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    reproduction = Path(__file__).parents[2] / "docs/reproduction"
    for folder in ("smollm2", "smollm2-safety", "world-0"):
        shown = CliRunner().invoke(app, ["bounds", str(reproduction / folder)])
        assert shown.exit_code == 0, shown.output
        assert "…" not in shown.output
        lines = shown.output.splitlines()
        assert max(map(len, lines)) <= 80
        heads = [line.split() for line in lines if line.startswith("model ")]
        assert heads
        assert all(len(head) <= 4 for head in heads)


def test_in_a_known_world_the_optimum_stands_between_bound_and_measured() -> None:
    world = make_world({"near": 0.1}, {"shared": 1.0})
    bounds = bounds_beside(reported_points.optima(world, stray=0.0), world, {})
    for table in bounds_in_short(bounds):
        assert table.columns == ("model", "bound", "optimum", "measured")
    assert bounds_in_short([replace(bounds[0], optimum=bounds[0].value + 1)])[0].rows[0].is_alarm
