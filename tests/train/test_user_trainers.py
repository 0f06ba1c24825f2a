"""Facts about trainings as users set them up: their optimizer, their evaluations, their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import IterableDataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import TrainerCallback

from tests.train import tiny
from trimtab import (
    AlignmentLossConstraint,
    Budget,
    DialObjective,
    SafetyAwareSFTTrainer,
    UserError,
)
from trimtab.measure.distance import distance
from trimtab.models import load_model, merged_model
from trimtab.train.baselines.l2_sp import L2SP
from trimtab.train.baselines.mixing import Mixing
from trimtab.train.objectives.base import Objective
from trimtab.train.objectives.endpoints import DenseEndpoints


@pytest.mark.parametrize("objective", [DialObjective(), Budget(budget=1.0)], ids=["dial", "budget"])
def test_an_optimizer_over_other_weights_than_those_moved_is_refused(
    objective: Objective, tmp_path: Path
) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="the optimizer given does not hold"):
        tiny.trainer_of(objective, tmp_path, optimizer=torch.optim.AdamW(model.parameters()))


class Settings(TrainerCallback):
    """The dial's setting as each evaluation's forward passes meet it."""

    def __init__(self) -> None:
        self.seen: set[float] = set()

    def watch(self, trainer: SafetyAwareSFTTrainer) -> None:
        objective = trainer.objective
        assert isinstance(objective, DialObjective)
        set_alpha = objective.endpoints.set_alpha
        self.alpha = 0.0

        def remembered(alpha: float) -> None:
            self.alpha = alpha
            set_alpha(alpha)

        objective.endpoints.set_alpha = remembered  # type: ignore[method-assign]

        def look(module: nn.Module, *_: Any) -> None:
            if not module.training:
                self.seen.add(self.alpha)

        trainer.accelerator.unwrap_model(trainer.model).register_forward_pre_hook(look)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_dial_is_evaluated_at_one_setting_and_goes_on_at_its_own(
    lora: bool, tmp_path: Path
) -> None:
    every_step = {"eval_strategy": "steps", "eval_steps": 1}
    evaluated = tiny.trainer_of(DialObjective(), tmp_path, lora, **every_step)
    settings = Settings()
    settings.watch(evaluated)
    evaluated.train()
    assert settings.seen == {0.5}
    alone = tiny.trainer_of(DialObjective(), tmp_path, lora)
    alone.train()
    tiny.assert_same(tiny.weights(evaluated), tiny.weights(alone), by=0.0)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_trained_dial_is_evaluated_where_it_is_set_and_stays_there(
    lora: bool, tmp_path: Path
) -> None:
    trainer = tiny.trainer_of(DialObjective(), tmp_path, lora)
    trainer.train()
    settings = Settings()
    settings.watch(trainer)
    assert isinstance(trainer.objective, DialObjective)
    trainer.objective.endpoints.set_alpha(0.9)
    trainer.evaluate(trainer.train_dataset)
    assert settings.seen == {0.9}
    assert settings.alpha == 0.9


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_budget_s_model_is_not_moved_by_evaluating_it(lora: bool, tmp_path: Path) -> None:
    trainer = tiny.trainer_of(Budget(budget=9.0), tmp_path, lora)
    trainer.train()
    settled = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    unmoved: list[bool] = []

    def look(*_: Any) -> None:
        weights = trainer.model.named_parameters()
        unmoved.append(all(torch.equal(weight, settled[name]) for name, weight in weights))

    trainer.accelerator.unwrap_model(trainer.model).register_forward_pre_hook(look)
    for _ in range(2):
        trainer.evaluate(trainer.train_dataset)
    assert unmoved
    assert all(unmoved)
    tiny.assert_same(dict(trainer.model.named_parameters()), settled, by=0.0)


def test_a_dial_s_model_stands_at_its_middle_at_the_end(tmp_path: Path) -> None:
    trainer = tiny.trainer_of(DialObjective(), tmp_path)
    trainer.train()
    assert isinstance(trainer.objective, DialObjective)
    ends = trainer.objective.endpoints
    assert isinstance(ends, DenseEndpoints)
    for name, weight in trainer.model.named_parameters():
        middle = torch.lerp(
            ends.ends["safe"].get_parameter(name), ends.ends["task"].get_parameter(name), 0.5
        )
        torch.testing.assert_close(weight, middle)


def test_the_reference_of_all_weights_computes_as_the_model_does(tmp_path: Path) -> None:
    objective = AlignmentLossConstraint(penalty=1.0, target="kl")
    trainer = tiny.trainer_of(objective, tmp_path, bf16=True, max_steps=1)
    assert trainer.reference is not None
    assert trainer.reference.copy is not None
    seen: list[bool] = []

    def look(*_: Any) -> None:
        seen.append(torch.is_autocast_enabled("cpu"))

    inner: Any = trainer.reference.copy
    inner.model.register_forward_pre_hook(look)
    trainer.train()
    assert seen
    assert all(seen)
    # At the first step the two models are one, and so is what they compute.
    assert trainer.state.log_history[0].get("safety_loss", 0.0) == 0.0


@pytest.mark.parametrize("max_grad_norm", [0.0, -1.0])
def test_what_is_not_clipped_is_adjusted_all_the_same(max_grad_norm: float, tmp_path: Path) -> None:
    def moved(objective: Objective) -> float:
        trainer = tiny.trainer_of(objective, tmp_path, optim="sgd", max_grad_norm=max_grad_norm)
        trainer.train()
        return distance(trainer.model, tiny.tiny_llama(tmp_path / "model")[0])

    assert moved(L2SP(penalty=50.0)) < 0.9 * moved(L2SP(penalty=1e-6))


def test_a_settled_budget_is_not_trained_on(tmp_path: Path) -> None:
    trainer = tiny.trainer_of(Budget(budget=5.0), tmp_path, lora=True)
    trainer.train()
    with pytest.raises(UserError, match="Make a new trainer to train again"):
        trainer.train()


@pytest.mark.parametrize("objective", [DialObjective(), Mixing()], ids=["dial", "mixing"])
def test_a_stream_of_task_rows_is_refused_where_rows_are_counted(
    objective: Objective, tmp_path: Path
) -> None:
    stream = tiny.rows(64, seed=2).to_iterable_dataset()
    assert isinstance(stream, IterableDataset)
    with pytest.raises(UserError, match="counts the task rows or draws them itself"):
        tiny.trainer_of(objective, tmp_path, task=stream)  # type: ignore[arg-type]
    case_1 = AlignmentLossConstraint(penalty=0.5)
    tiny.trainer_of(case_1, tmp_path, task=stream).train()  # type: ignore[arg-type]


def tied(folder: Path) -> Path:
    """The tiny model with one weight for its embedding and its head."""
    model, tokenizer = tiny.tiny_llama(folder / "untied")
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    model.save_pretrained(folder / "tied")
    tokenizer.save_pretrained(folder / "tied")
    return folder / "tied"


@torch.no_grad()
def test_an_adapter_on_a_shared_embedding_is_merged_into_the_embedding_alone(
    tmp_path: Path,
) -> None:
    folder = tied(tmp_path)
    base, tokenizer = load_model(str(folder))
    head: Any = base.get_output_embeddings()
    assert head.weight is base.get_input_embeddings().weight
    adapter = get_peft_model(
        base, LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM")
    )
    generator = torch.Generator().manual_seed(1)
    for name, weight in adapter.named_parameters():
        if "lora_" in name:
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    adapter.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[3, 4, 5, 6, 7]])

    def logits(model: Any) -> Tensor:
        found: Tensor = model.eval()(ids).logits
        return found

    expected = logits(adapter)
    assert isinstance(adapter, PeftModel)
    torch.testing.assert_close(logits(load_model(str(tmp_path / "adapter"))[0]), expected)
    merged_model(adapter).save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(load_model(str(tmp_path / "merged"))[0]), expected)
