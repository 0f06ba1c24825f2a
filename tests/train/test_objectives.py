"""Facts about every objective: the two cases, budgets, the dial and each published method."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaModel

from tests.train import tiny
from tests.train.tiny import assert_same, full_and_lora
from trimtab.train.objectives.budget import Budget


@full_and_lora()
def test_an_objective_is_not_plain_sft(name: str, lora: bool, tmp_path: Path) -> None:
    # Long and fast enough for the safety loss to rise, which early stopping waits for.
    early = name == "early-stopping"
    settings = {"max_steps": 24, "learning_rate": 5e-2} if early else {"max_steps": 8}
    plain = tiny.trained_plainly(tiny.config(tmp_path, **settings), tmp_path, lora)
    ours = tiny.trained(tiny.OBJECTIVES[name], tiny.config(tmp_path, **settings), tmp_path, lora)
    plain_weights = dict(plain.model.named_parameters())
    pairs = [(weight, plain_weights.get(key)) for key, weight in ours.model.named_parameters()]
    assert any(
        plain_weight is None
        or plain_weight.shape != weight.shape
        or (weight - plain_weight).abs().max() > 1e-4
        for weight, plain_weight in pairs
    )


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
    assert through.objective is not None
    assert resumed.objective is not None
    assert resumed.objective.extra_tokens == through.objective.extra_tokens


READ_BESIDE = {
    "adaptive-kl",
    "budget",
    "constrained-sft",
    "early-stopping",
    "ewc",
    "orthogonal-projection",
    "pact",
    "seal",
    "spf",
}
"""Objectives that pass rows through the model outside the optimizer's steps."""


@pytest.mark.parametrize("name", tiny.OBJECTIVES)
def test_tokens_read_outside_the_steps_are_counted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the model reads is a step's batch or is counted, but for θ_s beside a step."""
    read = 0
    forward = LlamaModel.forward

    def counting(self: LlamaModel, **inputs: Any) -> Any:
        nonlocal read
        read += int(inputs["attention_mask"].sum())
        return forward(self, **inputs)

    monkeypatch.setattr(LlamaModel, "forward", counting)
    # A few tokens that no training sees.
    monkeypatch.setattr("trimtab.train.trainer.require_rows_read_alone", lambda trainer: None)
    args = tiny.config(tmp_path, max_steps=3, include_num_input_tokens_seen="non_padding")
    run = tiny.trained(tiny.OBJECTIVES[name], args, tmp_path)
    assert run.objective is not None
    assert (run.objective.extra_tokens > 0) == (name in READ_BESIDE)
    if run.objective.compares is None:
        assert read == run.state.num_input_tokens_seen + run.objective.extra_tokens


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
    for objective in (tiny.OBJECTIVES["safegrad"], tiny.OBJECTIVES["budget"]):
        first, second = (tiny.trained(objective, tiny.config(tmp_path), tmp_path) for _ in range(2))
        assert_same(tiny.weights(first), tiny.weights(second), by=0.0)
