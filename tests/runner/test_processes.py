"""Facts about commands that a launcher starts in several processes: the results of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.runner import on_shards
from tests.small_worlds import small_world
from trimtab import cli
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Answers, Block, Dial, Experiment, Training
from trimtab.config.yaml_io import to_yaml
from trimtab.data.synthetic import CONTEXTS
from trimtab.models import quiet_libraries
from trimtab.results.generations import GENERATIONS_FOLDER, read_generations
from trimtab.results.metrics import read_metrics
from trimtab.results.store import read_failures, read_points
from trimtab.results.under_way import read_under_way

CLOSE = 1e-5
"""Relative, of float32 sums that are taken in another order, after some steps."""

ROOT = Path(__file__).parents[2]

LOSSES = ("alignment_loss", "proxy_loss", "capability_loss")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Every kind of run: plain with a repair of it, both cases, a dial, one that diverges."""
    quiet_libraries()
    training = Training(steps=4, batch_size=8, learning_rate=2e-3, checkpoint_every=2)
    world = small_world(
        tmp_path_factory.mktemp("world"),
        80,
        align=Training(steps=2, batch_size=4, accumulation=2),
        train=training,
        dial=Dial(steps=2),
        grid=(
            Block("alignment-loss", (0.0, 1.0, 1e38)),
            Block("alignment-loss", budgets=(0.01,)),
            Block("alignment-parameter", radii=(0.5,)),
            Block("dial", values=(0.0, 1.0)),
            Block("method", method="wise-ft", values=(0.3,)),
        ),
        keep_models=True,
    )
    for name, ending, many in (("harmful", CONTEXTS[0], 32), ("benign", CONTEXTS[1], 20)):
        prompts = [{"prompt": f"{context} {ending}"} for context in CONTEXTS[:many]]
        lines = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
        (Path(world.data_root) / f"{name}.jsonl").write_text(lines)
    harmful, benign = (DataSource(f"{name}.jsonl") for name in ("harmful", "benign"))
    answers = Answers(harmful=(harmful,), benign=(benign,), tokens=3)
    return replace(world, answers=answers, lengths=Lengths(16, 16))


def sweep_command(experiment: Experiment, folder: Path) -> list[object]:
    folder.mkdir(exist_ok=True)
    (folder / "e.yaml").write_text(to_yaml(experiment))
    return ["sweep", folder / "e.yaml", "--out", folder / "out"]


def swept(experiment: Experiment, folder: Path, processes: int) -> Path:
    result = forked.run(*sweep_command(experiment, folder), processes=processes)
    assert result.returncode == 1, result.stderr  # one run diverges
    assert "trimtab: 1 point failed" in result.stderr
    return folder / "out"


@pytest.fixture(scope="module")
def alone(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return swept(experiment, tmp_path_factory.mktemp("alone"), 1)


@pytest.fixture(scope="module")
def together(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return swept(experiment, tmp_path_factory.mktemp("together"), 2)


def assert_same_results(folder: Path, expected: Path) -> None:
    points, expected_points = read_points(folder), read_points(expected)
    assert [point.spec for point in points] == [point.spec for point in expected_points]
    for point, expected_point in zip(points, expected_points, strict=True):
        assert numbers_of(point) == pytest.approx(
            numbers_of(expected_point), rel=CLOSE, abs=1e-6
        ), point.spec
        assert (point.model, point.train_tokens) == (
            expected_point.model,
            expected_point.train_tokens,
        )


def numbers_of(point: Any) -> dict[str, float]:
    numbers = {name: getattr(point, name).value for name in LOSSES}
    numbers |= {"distance": point.distance}
    return numbers | ({} if point.multiplier is None else {"multiplier": point.multiplier})


def test_a_sweep_in_two_processes_has_the_points_of_one(alone: Path, together: Path) -> None:
    assert len(read_points(alone)) == 8
    assert_same_results(together, alone)


def test_two_processes_leave_the_files_of_one(alone: Path, together: Path) -> None:
    files = [
        sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
        for out in (alone, together)
    ]
    assert files[0] == files[1]
    for path in (alone / "metrics").iterdir():
        steps = [
            [metrics.step for metrics in read_metrics(out / "metrics" / path.name)]
            for out in (alone, together)
        ]
        assert steps[0] == steps[1]


def test_answers_of_several_processes_are_those_of_one(alone: Path, together: Path) -> None:
    generations = [read_generations(path) for path in (alone / GENERATIONS_FOLDER).iterdir()]
    assert len(generations) == 8
    assert all(
        len(answers) > answers[0].decoding.batch_size for answers in generations
    )  # more than a share
    for path in (alone / GENERATIONS_FOLDER).iterdir():
        of_two = read_generations(together / GENERATIONS_FOLDER / path.name)
        assert of_two == read_generations(path)


def test_a_training_that_diverges_ends_in_all_processes(alone: Path, together: Path) -> None:
    (failed,), (expected,) = read_failures(together), read_failures(alone)
    assert failed.spec == expected.spec
    assert failed.reason.startswith("the loss of step 1 is")


def test_a_launched_sweep_whose_first_process_was_killed_goes_on(
    experiment: Experiment, alone: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "trimtab", *map(str, sweep_command(experiment, tmp_path))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (under_way := read_under_way(tmp_path / "out")):
        assert process.poll() is None
        time.sleep(0.01)
    for record in under_way.values():
        os.kill(record.process, signal.SIGKILL)
    assert process.wait(timeout=300) != 0
    assert_same_results(swept(experiment, tmp_path, 2), alone)


@pytest.mark.parametrize(
    ("lora_rank", "grid"),
    [
        (
            4,
            (
                Block("alignment-loss", (0.0, 1.0)),
                Block("alignment-parameter", radii=(0.05,)),
                Block("dial", values=(0.0, 1.0)),
            ),
        ),
        (None, (Block("alignment-loss", budgets=(0.5,)), Block("dial", values=(0.0, 1.0)))),
    ],
    ids=("adapters", "dials-of-all-weights"),
)
def test_a_sweep_on_sharded_weights_has_the_points_of_one_process(
    lora_rank: int | None, grid: tuple[Block, ...], tmp_path: Path
) -> None:
    """All weights while θ_s is made."""
    sft = {"adam_epsilon": 1e-3}  # Adam magnifies the rounding of gradients near 0
    experiment = small_world(
        tmp_path,
        80,
        align=Training(steps=2, batch_size=8, learning_rate=2e-3, sft=sft),
        train=Training(steps=4, batch_size=8, learning_rate=2e-3, lora_rank=lora_rank, sft=sft),
        grid=grid,
        dial=Dial(steps=2),
        keep_models=True,
    )
    folders = []
    for main, processes in ((cli.main, 1), (on_shards.main, 2)):
        folder = tmp_path / f"in-{processes}"
        command = sweep_command(experiment, folder)
        result = forked.run(*command, processes=processes, main=main)
        assert result.returncode == 0, result.stderr
        folders.append(folder / "out")
    assert_same_results(folders[1], folders[0])
    for model in (folders[0] / "models").iterdir():
        assert (folders[1] / "models" / model.name).is_dir()


def test_a_killed_sweep_on_sharded_weights_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    experiment = small_world(
        tmp_path,
        80,
        train=Training(steps=4, batch_size=8, learning_rate=2e-3, checkpoint_every=2),
        grid=(Block("alignment-loss", (1.0,)),),
    )
    command = sweep_command(experiment, tmp_path)
    killed, went_on = (forked.run(*command, main=on_shards.main_killed_at_first) for _ in range(2))
    assert killed.returncode != 0
    assert went_on.returncode == 0, went_on.stderr
    assert len(read_points(tmp_path / "out")) == 2
