"""Facts about every objective: the same training, however its batches are divided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trl import pack_dataset

from tests import forked
from tests.train import tiny
from tests.train.tiny import assert_same, full_and_lora
from trimtab import SafetyAwareSFTTrainer, UserError
from trimtab.train.batches import unpacked

BY_DEVICE_BATCH = "seal"
"""What its selector learns depends on how many rows one device takes at a time."""


@full_and_lora(BY_DEVICE_BATCH)
def test_the_gradient_does_not_depend_on_accumulation(
    name: str, lora: bool, tmp_path: Path
) -> None:
    settings = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 2}
    at_once, in_four = (
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
    assert_same(tiny.weights(at_once), tiny.weights(in_four), by=3e-6)


@pytest.fixture(scope="module")
def runs_by_process_count(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp(f"processes-{processes}")
        tiny.tiny_llama(folders[processes] / "model")
        result = forked.run(
            folders[processes], 16 // processes, main=tiny.train_all, processes=processes
        )
        assert result.returncode == 0, result.stderr
    return folders


@full_and_lora(BY_DEVICE_BATCH)
def test_the_gradient_does_not_depend_on_the_number_of_processes(
    name: str, lora: bool, runs_by_process_count: dict[int, Path]
) -> None:
    of_one, of_two = (
        torch.load(runs_by_process_count[processes] / f"{name}-{lora}.pt") for processes in (1, 2)
    )
    assert_same(of_one, of_two, by=3e-6)


def without_and_with(
    setting: str, name: str, lora: bool, folder: Path, **more: Any
) -> list[SafetyAwareSFTTrainer]:
    """Two trainings of an objective, which a setting alone tells apart."""
    settings = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 2, **more}
    return [
        tiny.trained(
            tiny.OBJECTIVES[name],
            tiny.config(folder, **{setting: value}, **settings),
            folder,
            lora,
        )
        for value in (False, True)
    ]


@full_and_lora()
def test_length_bucketing_is_the_same_training(
    name: str, lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tiny rows are not worth a second call: cut wherever a row is spared.
    monkeypatch.setattr("trimtab.train.length_bucketing._PER_LAUNCH", {"cpu": 0.0})
    whole, cut = without_and_with("length_bucketing", name, lora, tmp_path)
    assert_same(tiny.weights(whole), tiny.weights(cut), by=2e-5)


@full_and_lora(*tiny.PADDED)
def test_a_batch_without_padding_is_the_same_training(
    name: str, lora: bool, tmp_path: Path
) -> None:
    padded, free = without_and_with("padding_free", name, lora, tmp_path, max_length=None)
    assert_same(tiny.weights(padded), tiny.weights(free), by=2e-5)
    for padded_log, free_log in zip(padded.state.log_history, free.state.log_history, strict=True):
        for loss in ("task_loss", "safety_loss"):
            assert padded_log.get(loss, 0.0) == pytest.approx(free_log.get(loss, 0.0), rel=1e-4)


@pytest.mark.parametrize("name", tiny.PADDED)
def test_an_objective_that_tells_rows_apart_says_so(name: str, tmp_path: Path) -> None:
    arguments = tiny.config(tmp_path, padding_free=True, max_length=None)
    with pytest.raises(UserError, match="tells the rows of a batch apart"):
        tiny.trained(tiny.OBJECTIVES[name], arguments, tmp_path)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["loss-penalty", "kl-penalty", "budget", "dial", "safegrad"])
def test_packed_rows_are_the_same_training(name: str, lora: bool, tmp_path: Path) -> None:
    """A pack is many rows in one: here all of them are read in every step, packed and apart."""
    settings = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 2}
    task, width = tiny.rows(24, seed=2), 40
    count = len(pack_dataset(task, width, "bfd"))
    packed = tiny.trained(
        tiny.OBJECTIVES[name],
        tiny.config(
            tmp_path,
            packing=True,
            max_length=width,
            per_device_train_batch_size=count,
            **settings,
        ),
        tmp_path,
        lora,
        task=task,
    )
    packs = packed.train_dataset
    assert 1 < len(packs) < 24
    apart = tiny.trained(
        tiny.OBJECTIVES[name],
        tiny.config(tmp_path, per_device_train_batch_size=24, **settings),
        tmp_path,
        lora,
        task=unpacked(packs),
    )
    assert len(apart.train_dataset) == 24
    assert_same(tiny.weights(packed), tiny.weights(apart), by=2e-5)


@pytest.mark.parametrize("name", ["mixing", "random-subset"])
def test_an_objective_that_chooses_rows_takes_none_that_are_packed(
    name: str, tmp_path: Path
) -> None:
    arguments = tiny.config(tmp_path, packing=True, max_length=40)
    with pytest.raises(UserError, match="chooses the rows to train on"):
        tiny.trained(tiny.OBJECTIVES[name], arguments, tmp_path)


def test_packs_that_run_into_each_other_are_refused(tmp_path: Path) -> None:
    arguments = tiny.config(tmp_path, packing=True, packing_strategy="wrapped", max_length=40)
    with pytest.raises(UserError, match="packing_strategy='bfd'"):
        tiny.trained(tiny.OBJECTIVES["loss-penalty"], arguments, tmp_path)
