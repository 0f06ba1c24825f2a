"""Facts about every objective: the same training, however its batches are divided."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train import tiny
from tests.train.tiny import assert_same, full_and_lora

BY_DEVICE_BATCH = "seal"
"""What its selector learns depends on how many rows one device takes at a time."""


@full_and_lora(BY_DEVICE_BATCH)
def test_the_gradient_does_not_depend_on_accumulation(
    name: str, lora: bool, tmp_path: Path
) -> None:
    settings = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 2}
    one, four = (
        tiny.trained(
            tiny.OBJECTIVES[name],
            tiny.config(
                tmp_path,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=16 // rows,
                **settings,
            ),
            tmp_path,
            lora,
        )
        for rows in (16, 4)
    )
    assert_same(tiny.weights(one), tiny.weights(four), by=3e-6)


@pytest.fixture(scope="module")
def runs_by_process_count(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp(f"processes-{processes}")
        tiny.tiny_llama(folders[processes] / "model")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={processes}", tiny.__file__]
        command += [str(folders[processes]), str(16 // processes)]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    return folders


@full_and_lora(BY_DEVICE_BATCH)
def test_the_gradient_does_not_depend_on_the_number_of_processes(
    name: str, lora: bool, runs_by_process_count: dict[int, Path]
) -> None:
    one, two = (
        torch.load(runs_by_process_count[processes] / f"{name}-{lora}.pt") for processes in (1, 2)
    )
    assert_same(one, two, by=3e-6)


@full_and_lora()
def test_length_bucketing_is_the_same_training(
    name: str, lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tiny rows are not worth a second call: cut wherever a row is spared.
    monkeypatch.setattr("trimtab.train.length_bucketing._PER_LAUNCH", {"cpu": 0.0})
    settings = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 2}
    whole, cut = (
        tiny.trained(
            tiny.OBJECTIVES[name],
            tiny.config(tmp_path, length_bucketing=bucketed, **settings),
            tmp_path,
            lora,
        )
        for bucketed in (False, True)
    )
    assert_same(tiny.weights(whole), tiny.weights(cut), by=2e-5)
