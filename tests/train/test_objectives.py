"""Facts about every objective: the two cases, budgets, the dial and each published method."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train import tiny
from trimtab.train.objectives.budget import Budget

BY_DEVICE_BATCH = "seal"
"""What its selector learns depends on how many rows one device takes at a time."""


def full_and_lora(*without: str) -> pytest.MarkDecorator:
    """Every objective on all weights and, where one goes with it, on an adapter."""
    pairs = [
        (name, lora)
        for name in tiny.OBJECTIVES
        for lora in (False, True)
        if name not in without and not (lora and name in tiny.WITHOUT_ADAPTER)
    ]
    ids = [f"{name}-{'lora' if lora else 'full'}" for name, lora in pairs]
    return pytest.mark.parametrize(("name", "lora"), pairs, ids=ids)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], by: float) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], atol=by, rtol=by, msg=name)


@full_and_lora("parameter-budget")
def test_an_objective_is_not_plain_sft(name: str, lora: bool, tmp_path: Path) -> None:
    # Long and fast enough for the safety loss to rise, which early stopping waits for.
    early = name == "early-stopping"
    settings = {"max_steps": 24, "learning_rate": 5e-2} if early else {"max_steps": 8}
    plain = tiny.trained_plainly(tiny.config(tmp_path, **settings), tmp_path, lora)
    ours = tiny.trained(tiny.OBJECTIVES[name], tiny.config(tmp_path, **settings), tmp_path, lora)
    there = dict(plain.model.named_parameters())
    pairs = [(weight, there.get(key)) for key, weight in ours.model.named_parameters()]
    assert any(other is None or (weight - other).abs().max() > 1e-4 for weight, other in pairs)


@full_and_lora()
def test_a_resumed_run_has_the_same_weights(name: str, lora: bool, tmp_path: Path) -> None:
    run, objective = tmp_path / "run", tiny.OBJECTIVES[name]
    saving = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 2e-3}
    through = tiny.trained(objective, tiny.config(run, max_steps=6, **saving), tmp_path, lora)
    ended = through.state.global_step
    for later in (4, 6):
        shutil.rmtree(run / f"checkpoint-{later}", ignore_errors=True)
    resumed = tiny.trained(
        objective, tiny.config(run, max_steps=6, learning_rate=2e-3), tmp_path, lora, resume=True
    )
    assert resumed.state.global_step == ended
    assert_same(tiny.weights(through), tiny.weights(resumed), by=0.0)


@full_and_lora()
def test_a_run_resumed_from_its_last_checkpoint_takes_no_further_step(
    name: str, lora: bool, tmp_path: Path
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    objective = tiny.OBJECTIVES[name]
    whole = tiny.trained(objective, tiny.config(tmp_path, **saving), tmp_path, lora)
    resumed = tiny.trained(objective, tiny.config(tmp_path, **saving), tmp_path, lora, resume=True)
    assert resumed.state.global_step == whole.state.global_step
    assert_same(tiny.weights(whole), tiny.weights(resumed), by=0.0)
    if isinstance(whole.objective, Budget):
        assert isinstance(resumed.objective, Budget)
        assert whole.objective.outcome == resumed.objective.outcome


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


@pytest.mark.parametrize("name", tiny.OBJECTIVES)
def test_both_losses_are_logged_of_every_step_that_reads_them(name: str, tmp_path: Path) -> None:
    objective = tiny.OBJECTIVES[name]
    run = tiny.trained(objective, tiny.config(tmp_path, logging_steps=1, max_steps=4), tmp_path)
    logged = [record for record in run.state.log_history if "loss" in record]
    assert run.objective is not None
    if run.objective.has_own_loss:
        for step, record in enumerate(logged):
            roles = run.objective.batch_roles(step)
            assert ("task_loss" in record) == (roles != "safety")
            assert ("safety_loss" in record) == (roles != "task")


def test_an_objective_can_be_given_to_several_trainings(tmp_path: Path) -> None:
    for objective in (tiny.OBJECTIVES["safegrad"], tiny.OBJECTIVES["loss-budget"]):
        first, second = (tiny.trained(objective, tiny.config(tmp_path), tmp_path) for _ in range(2))
        assert_same(tiny.weights(first), tiny.weights(second), by=0.0)
