"""Facts about a first experiment's file: it is read, accepted as it is, and replaces nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import Result

from tests.cli.test_one_line import assert_one_line, invoke
from trimtab.config.yaml_io import read_experiment


def init(world: Path, *more: object) -> Result:
    data = world / "data"
    arguments = ["--task", data / "task-shared.jsonl", "--safety", data / "safety-near.jsonl"]
    return invoke("init", "--model", world / "base", *arguments, *more)


@pytest.mark.parametrize("original", [False, True])
def test_the_file_is_read_and_a_sweep_accepts_it(
    original: bool, world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.yaml"
    more = ("--original", world / "data" / "original.jsonl") if original else ()
    result = init(world, "--out", out, *more)
    assert result.exit_code == 0, result.output
    experiment = read_experiment(out)
    assert (set(experiment.task), set(experiment.safety)) == ({"task-shared"}, {"safety-near"})
    assert (experiment.original is not None) is original
    assert experiment.keeps_models
    planned = invoke("sweep", out, "--out", tmp_path / "made", "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert f"trimtab sweep {out} --out mine-results" in result.stdout.splitlines()[-1]


def test_what_the_file_says_in_comments_can_be_asked_for_too(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    init(world, "--out", out)
    commented = re.compile(r"^( *)# (- \{|safety_target:|dial:)", flags=re.MULTILINE)
    text, count = commented.subn(r"\1\2", out.read_text())
    assert count == 5
    out.write_text(text)
    experiment = read_experiment(out)
    assert experiment.train.safety_target == "kl"
    assert [block.case for block in experiment.grid][-2:] == ["dial", "alignment-parameter"]
    planned = invoke("sweep", out, "--out", tmp_path / "made", "--dry-run")
    assert planned.exit_code == 0, planned.output


def test_relative_paths_are_those_of_the_working_folder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "settings").mkdir()
    for name in ("base", "data"):
        (tmp_path / "here" / name).symlink_to(world / name)
    monkeypatch.chdir(tmp_path / "here")
    arguments = ["--model", "base", "--task", "data/task-shared.jsonl", "--task"]
    arguments += ["data/task-shared.jsonl", "--safety", "data/safety-near.jsonl"]
    result = invoke("init", *arguments, "--out", "settings/e.yaml")
    assert result.exit_code == 0, result.output
    experiment = read_experiment(Path("settings/e.yaml"))
    assert set(experiment.task) == {"task-shared", "task-shared-2"}
    assert experiment.task["task-shared"].path == "data/task-shared.jsonl"
    assert invoke("sweep", "settings/e.yaml", "--out", "made", "--dry-run").exit_code == 0


def test_nothing_is_written_over(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "experiment.yaml"
    out.write_text("mine")
    assert "there already" in assert_one_line(init(world, "--out", out))
    assert out.read_text() == "mine"


def test_data_that_cannot_be_read_leave_no_file(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "experiment.yaml"
    line = assert_one_line(init(world, "--task", tmp_path / "none.jsonl", "--out", out))
    assert "none.jsonl: no such file" in line
    assert not out.exists()


def test_the_folder_of_a_new_file_is_made(world: Path, tmp_path: Path) -> None:
    result = init(world, "--out", tmp_path / "new" / "folder" / "mine.yaml")
    assert result.exit_code == 0, result.output
    assert read_experiment(tmp_path / "new" / "folder" / "mine.yaml").model
    table = tmp_path / "tables" / "points.csv"
    assert invoke("export", world / "done", "--out", table).exit_code == 0
    assert table.read_text().startswith("method,")
