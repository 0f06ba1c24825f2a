"""Facts about results as a table: a row for each model, its numbers those of the points."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import trimtab
from tests.cli.test_one_line import assert_one_line, invoke
from trimtab.results.store import read_points


def test_the_frame_has_a_row_for_each_point_and_its_numbers(world: Path) -> None:
    points = read_points(world / "done")
    frame = trimtab.read_results(world / "done").frame()
    assert len(frame) == len(points)
    for (_, row), point in zip(frame.iterrows(), points, strict=True):
        assert (row["method"], row["task"], row["seed"]) == (
            point.method.name,
            point.task,
            point.seed,
        )
        assert row["capability_loss"] == point.capability_loss.value
        assert row["capability_loss_low"] == point.capability_loss.low
        assert row["capability_loss_unit"] == "nats per token"
        assert row["distance"] == point.distance
        assert row["model"] == point.model


def test_columns_do_not_depend_on_what_was_measured(world: Path) -> None:
    results = trimtab.read_results(world / "done")
    bare = tuple(replace(point, alignment_loss=None, proxy_gap=None) for point in results.points)
    assert list(replace(results, points=bare).frame()) == list(results.frame())


def test_csv_and_json_hold_the_same_rows(world: Path, tmp_path: Path) -> None:
    printed = invoke("export", world / "done", "--csv")
    assert printed.exit_code == 0
    of_csv = list(csv.DictReader(io.StringIO(printed.output)))
    written = invoke("export", world / "done", "--json", "--out", tmp_path / "rows.json")
    assert written.output.strip() == f"{len(of_csv)} rows are in {tmp_path / 'rows.json'}."
    of_json = json.loads((tmp_path / "rows.json").read_text())
    for ours, theirs in zip(of_csv, of_json, strict=True):
        assert list(ours) == list(theirs)
        assert math.isclose(float(ours["proxy_loss"]), theirs["proxy_loss"])


def test_an_export_is_of_one_kind(world: Path) -> None:
    assert_one_line(invoke("export", world / "done", "--csv", "--json"))
    bare = invoke("export", world / "done")
    assert bare.output == invoke("export", world / "done", "--csv").output
