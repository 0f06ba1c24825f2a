"""Facts about mixtures of experts: the router's auxiliary loss is trained on as TRL does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MixtralForCausalLM
from trl import SFTTrainer

from tests import architectures
from tests.train import tiny
from trimtab import AlignmentLossConstraint, SafetyAwareSFTTrainer
from trimtab.train.objectives.base import Objective
from trimtab.train.objectives.budget import Budget

STEP = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.5}
WITH_ROUTER, WITHOUT = {"router_aux_loss_coef": 0.5}, {"router_aux_loss_coef": 0.0}


def mixtral() -> MixtralForCausalLM:
    sizes = {"vocab_size": 3 + len(tiny.WORDS), "num_hidden_layers": 2}
    return architectures.mixtral(**sizes, initializer_range=0.2)


def trained(folder: Path, objective: Objective | None, **settings: Any) -> SafetyAwareSFTTrainer:
    trainer = tiny.trainer_of(objective, folder, model=mixtral(), **STEP, **settings)
    trainer.train()
    return trainer


def plainly(folder: Path, **settings: Any) -> SFTTrainer:
    _, tokenizer = tiny.tiny_llama(folder / "model")
    trainer = SFTTrainer(
        mixtral(),
        args=tiny.config(folder, **STEP, **settings),
        train_dataset=tiny.rows(64, seed=2),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def apart(first: SFTTrainer, second: SFTTrainer) -> float:
    second_weights = tiny.weights(second)
    return max(float((w - second_weights[n]).abs().max()) for n, w in tiny.weights(first).items())


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("length_bucketing", [False, True])
def test_the_router_is_trained_as_in_plain_sft(
    length_bucketing: bool, accumulation: int, tmp_path: Path
) -> None:
    settings = {"gradient_accumulation_steps": accumulation, **WITH_ROUTER}
    plain = plainly(tmp_path, **settings)
    assert (
        apart(trained(tmp_path, None, length_bucketing=length_bucketing, **settings), plain) < 1e-5
    )
    assert apart(plainly(tmp_path, **{**settings, **WITHOUT}), plain) > 1e-3


@pytest.mark.parametrize("target", ["response", "kl"])
def test_the_routers_loss_joins_case_one(target: Any, tmp_path: Path) -> None:
    constraint = AlignmentLossConstraint(0.7, target=target)
    # The gradient is a sum, so its share of the router's loss is proportional to the coefficient.
    none, half, whole = (
        tiny.weights(trained(tmp_path, constraint, router_aux_loss_coef=coefficient))
        for coefficient in (0.0, 0.5, 1.0)
    )
    moved = max(float((half[name] - none[name]).abs().max()) for name in none)
    assert moved > 1e-4
    for name in none:
        twice = 2 * (half[name] - none[name])
        torch.testing.assert_close(whole[name] - none[name], twice, atol=1e-5, rtol=1e-3)


# Early stopping at a budget of zero goes back to where it began, router or none.
@pytest.mark.parametrize("name", [name for name in tiny.BASELINES if name != "early-stopping"])
def test_the_routers_loss_joins_published_methods(name: str, tmp_path: Path) -> None:
    def weights(coefficient: float) -> dict[str, torch.Tensor]:
        return tiny.weights(
            trained(tmp_path, tiny.BASELINES[name], router_aux_loss_coef=coefficient)
        )

    without, with_router = weights(0.0), weights(0.5)
    assert max(float((with_router[n] - without[n]).abs().max()) for n in without) > 1e-4


def test_a_budget_keeps_the_routers_share_of_the_loss(tmp_path: Path) -> None:
    run = trained(tmp_path, Budget(budget=0.1), **WITH_ROUTER)
    assert isinstance(run.objective, Budget)
    assert run.objective.outcome is not None


def test_processes_look_for_unused_weights_only_among_experts(tmp_path: Path) -> None:
    arguments = tiny.config(tmp_path, **STEP, gradient_accumulation_steps=1)
    assert tiny.trained(None, arguments, tmp_path).args.ddp_find_unused_parameters is False
    assert trained(tmp_path, None).args.ddp_find_unused_parameters is None
    finding = trained(tmp_path, None, ddp_find_unused_parameters=True)
    assert finding.args.ddp_find_unused_parameters is True
