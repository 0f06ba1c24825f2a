"""Facts about holding a model to the aligned one by KL divergence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch.nn.functional import pad

from tests.architectures import llama
from tests.train import tiny
from trimtab import AlignmentLossConstraint, SafetyAwareSFTTrainer, UserError
from trimtab.data.encoding import IGNORED
from trimtab.train.reference import AlignedReference

full_and_lora = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])


def batch(width: int = 9) -> dict[str, torch.Tensor]:
    rows = [tiny.rows(6, seed=4)[place] for place in range(6)]

    def padded(name: str, value: int) -> torch.Tensor:
        return torch.stack(
            [pad(torch.tensor(row[name]), (0, width - len(row[name])), value=value) for row in rows]
        )

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    return {
        "input_ids": padded("input_ids", 0),
        "labels": padded("labels", IGNORED),
        "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
    }


def model_and_reference(folder: Path, lora: bool) -> tuple[torch.nn.Module, AlignedReference]:
    model, _ = tiny.tiny_llama(folder / "model")
    if lora:
        model = get_peft_model(model, tiny.lora_config())
    return model, AlignedReference(model)


def move(model: torch.nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))


@full_and_lora
def test_the_aligned_model_does_not_diverge_from_itself(lora: bool, tmp_path: Path) -> None:
    model, reference = model_and_reference(tmp_path, lora)
    divergence = reference.divergence(model, model, batch())
    assert divergence.item() == pytest.approx(0, abs=1e-5)
    divergence.backward()
    slopes = [weight.grad.abs().max() for weight in model.parameters() if weight.grad is not None]
    assert slopes
    assert max(slopes) < 1e-4


@full_and_lora
def test_divergence_is_the_sum_over_completion_tokens_alone(lora: bool, tmp_path: Path) -> None:
    aligned, _ = tiny.tiny_llama(tmp_path / "model")
    model, reference = model_and_reference(tmp_path, lora)
    move(model)
    expected = 0.0
    for row in tiny.rows(6, seed=4):
        ids = torch.tensor(row["input_ids"])[None]
        p, q = (network(ids).logits[0].detach().log_softmax(dim=-1) for network in (aligned, model))
        for place, label in enumerate(row["labels"]):
            if label != IGNORED:
                expected += float((p[place - 1].exp() * (p[place - 1] - q[place - 1])).sum())
    assert expected > 0.1
    for width in (9, 20):
        divergence = reference.divergence(model, model, batch(width)).item()
        assert divergence == pytest.approx(expected, rel=1e-4)


def test_heads_read_completions_alone(tmp_path: Path) -> None:
    model, reference = model_and_reference(tmp_path, lora=True)
    read: list[int] = []
    model.lm_head.register_forward_hook(lambda _, __, logits: read.append(logits[..., 0].numel()))
    rows = batch(width=20)
    reference.divergence(model, model, rows)
    labelled = int((rows["labels"] != IGNORED).sum())
    assert read == [labelled, labelled]  # θ's and θ_s's
    assert labelled < rows["labels"].numel() / 3


def test_kl_asks_for_no_particular_response(tmp_path: Path) -> None:
    model, reference = model_and_reference(tmp_path, lora=True)
    move(model)
    rows = batch()
    relabelled = dict(rows, labels=rows["labels"].where(rows["labels"] == IGNORED, 5))
    first, second = (
        reference.divergence(model, model, safety_rows).item() for safety_rows in (rows, relabelled)
    )
    assert first == second


def test_an_adapter_that_was_trained_already_is_no_reference(tmp_path: Path) -> None:
    model = get_peft_model(tiny.tiny_llama(tmp_path / "model")[0], tiny.lora_config())
    move(model)
    with pytest.raises(UserError, match="already holds an update"):
        AlignedReference(model)


def test_an_adapter_whose_base_is_not_the_start_is_no_reference(tmp_path: Path) -> None:
    model = get_peft_model(
        tiny.tiny_llama(tmp_path / "model")[0],
        PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    )
    with pytest.raises(UserError, match="Use LoRA"):
        AlignedReference(model)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(UserError, match=r"target is 'logits'\. Give 'response' or 'kl'"):
        AlignmentLossConstraint(1.0, target="logits")


@full_and_lora
def test_a_large_kl_penalty_keeps_the_model_where_it_was_on_safety_rows(
    lora: bool, tmp_path: Path
) -> None:
    def divergence(penalty: float) -> float:
        constraint = AlignmentLossConstraint(penalty, target="kl")
        settings = tiny.config(tmp_path, max_steps=25, lr_scheduler_type="linear")
        trainer = tiny.trained(constraint, settings, tmp_path, lora)
        assert trainer.reference is not None
        return trainer.reference.divergence(trainer.model, trainer.model, batch()).item()

    assert 0 < divergence(30.0) < 0.6 * divergence(0.01)


TRAINED_BESIDE = {
    "nothing": ({}, ()),
    "biases": ({"bias": "all"}, ()),
    "biases of adapted layers": ({"bias": "lora_only"}, ()),
    "a copy of the head": ({"modules_to_save": ["lm_head"]}, ()),
    "the head itself": ({}, ("lm_head.weight",)),
    "norms": ({}, ("norm.weight",)),
    "a whole layer below": ({}, ("layers.0.mlp.up_proj.weight", "embed_tokens.weight")),
    "single tokens": ({"trainable_token_indices": [3, 4]}, ()),
    "DoRA": ({"use_dora": True}, ()),
}


@pytest.mark.parametrize("beside", TRAINED_BESIDE)
def test_the_reference_stays_the_aligned_model_bit_for_bit(beside: str, tmp_path: Path) -> None:
    more, unfrozen = TRAINED_BESIDE[beside]
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **more)
    model = get_peft_model(llama(vocab_size=3 + len(tiny.WORDS)), config)
    for name, weight in model.named_parameters():
        if name.endswith(unfrozen) and unfrozen:
            weight.requires_grad_(True)
    _, tokenizer = tiny.tiny_llama(tmp_path / "model")
    trainer = SafetyAwareSFTTrainer(
        model,
        args=tiny.config(tmp_path, max_steps=30, learning_rate=3e-2),
        train_dataset=tiny.rows(64, seed=2),
        safety_dataset=tiny.rows(40, seed=5),
        objective=AlignmentLossConstraint(1.0, target="kl"),
        processing_class=tokenizer,
    )
    trained = trainer.accelerator.unwrap_model(trainer.model)
    assert trainer.reference is not None

    def reference_logits() -> torch.Tensor:
        inputs = {name: batch()[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad(), trainer.reference._aligned(trained) as aligned:
            return aligned(**inputs).logits

    def trained_logits() -> torch.Tensor:
        with torch.no_grad():
            inputs = {name: batch()[name] for name in ("input_ids", "attention_mask")}
            return trained.eval()(**inputs).logits

    before, untrained = reference_logits(), trained_logits()
    torch.testing.assert_close(before, untrained, atol=1e-5, rtol=1e-4)
    trained.train()
    trainer.train()
    assert torch.equal(reference_logits(), before)
    moved = trained_logits()
    assert (moved - untrained).abs().max() > 0.1
    assert torch.equal(trained_logits(), moved)  # what was asked of the reference is put back
