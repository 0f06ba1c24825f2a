"""Facts about single commands that a launcher starts in several processes: they speak once."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests import forked
from tests.small_worlds import small_world
from trimtab import cli
from trimtab.config.experiment import Block, Experiment, Training
from trimtab.config.yaml_io import to_yaml
from trimtab.models import quiet_libraries
from trimtab.results.store import read_points


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    quiet_libraries()
    return small_world(
        tmp_path_factory.mktemp("world"),
        80,
        train=Training(steps=2, batch_size=4),
        grid=(Block("alignment-loss", (1.0,)),),
    )


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0
    (line,) = [
        stderr_line
        for stderr_line in result.stderr.splitlines()
        if stderr_line.startswith("trimtab: ")
    ]
    return line


@pytest.fixture
def train(world: Experiment, tmp_path: Path) -> list[object]:
    data = Path(world.data_root)
    files = {name: data / source.path for name, source in (world.task | world.safety).items()}
    arguments: list[object] = ["train", "--model", world.model, "--steps", 2, "--batch-size", 4]
    arguments += ["--task", files["shared"], "--safety", files["near"]]
    return [*arguments, "--out", tmp_path / "out"]


@pytest.mark.parametrize("adapter", [(), ("--lora-rank", 2)])
def test_train_in_two_processes_speaks_once(
    adapter: tuple[object, ...], train: list[object], tmp_path: Path
) -> None:
    result = forked.run(*train, *adapter)
    assert result.returncode == 0, result.stderr
    assert "find_unused_parameters" not in result.stderr
    assert result.stdout.count("Safety loss") == 1
    assert len(read_points(tmp_path / "out")) == 2
    assert (tmp_path / "out" / "models").is_dir()


def test_a_mistake_is_told_once_and_ends_all_processes(train: list[object], tmp_path: Path) -> None:
    line = one_line(forked.run(*train, "--task", tmp_path / "missing.jsonl"))
    assert "missing.jsonl" in line


def test_what_one_process_does_is_refused_under_a_launcher(tmp_path: Path) -> None:
    assert "trimtab report is run by one process" in one_line(forked.run("report", tmp_path))


def the_first_in_a_folder() -> None:
    """The command, whose first process alone is where a relative path leads to a file."""
    folder = sys.argv.pop(1)
    if os.environ["RANK"] == "0":
        os.chdir(folder)
    cli.main()


def test_what_one_process_alone_cannot_do_is_told_by_the_first(
    world: Experiment, tmp_path: Path
) -> None:
    model, file = Path(world.model), tmp_path / "experiment.yaml"
    file.write_text(to_yaml(replace(world, model=model.name)))
    command = ("sweep", file, "--out", tmp_path / "out")
    result = forked.run(model.parent, *command, main=the_first_in_a_folder)
    line = one_line(result)
    assert line.startswith("trimtab: process 1 of 2: model 'base' cannot be loaded")
    assert not (tmp_path / "out" / "points.jsonl").exists()
