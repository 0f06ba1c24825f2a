"""Facts about trimming: less work, and the same loss, gradient and metrics."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from tests.train import tiny
from trimtab import UserError
from trimtab.train.length_bucketing import BucketedModel, length_buckets
from trimtab.train.objectives.base import Objective
from trimtab.train.trainer import SafetyAwareSFTTrainer

# Tiny rows are not worth a second call: cut wherever a row is spared.
WHATEVER_IT_COSTS = {"cpu": 0.0}


def cost(pieces: list[list[int]], lengths: list[int], per_call: float) -> float:
    return sum(len(piece) * max(lengths[row] for row in piece) + per_call for piece in pieces)


lengths_of_rows = st.lists(st.integers(1, 40), min_size=1, max_size=7)


@given(lengths_of_rows, st.floats(0, 60))
def test_pieces_hold_every_row_once(lengths: list[int], per_call: float) -> None:
    pieces = length_buckets(lengths, per_call)
    assert sorted(row for piece in pieces for row in piece) == list(range(len(lengths)))


@given(lengths_of_rows, st.floats(0, 60))
def test_no_cut_by_length_costs_less(lengths: list[int], per_call: float) -> None:
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    inner = range(1, len(order))
    divisions = [
        [order[a:b] for a, b in pairwise([0, *cuts, len(order)])]
        for count in range(len(order))
        for cuts in combinations(inner, count)
    ]
    least = min(cost(pieces, lengths, per_call) for pieces in divisions)
    ours = cost(length_buckets(lengths, per_call), lengths, per_call)
    assert ours == pytest.approx(least)


def trained(constraint: Objective | None, folder: Path, lora: bool, trim: bool) -> SFTTrainer:
    model, tokenizer = tiny.tiny_llama(folder / "model")
    trainer = SafetyAwareSFTTrainer(
        model,
        args=tiny.config(
            folder,
            optim="sgd",
            learning_rate=0.5,
            max_steps=2,
            gradient_accumulation_steps=2,
            logging_steps=1,
            length_bucketing=trim,
        ),
        train_dataset=tiny.rows(64, seed=2),
        safety_dataset=tiny.rows(40, seed=5),
        objective=constraint,
        processing_class=tokenizer,
        peft_config=tiny.lora_config() if lora else None,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", [None, *tiny.CONSTRAINTS])
def test_trimming_changes_neither_weights_nor_metrics(
    name: str | None, lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.train.length_bucketing._PER_LAUNCH", WHATEVER_IT_COSTS)
    monkeypatch.setattr("trimtab.train.length_bucketing._FEWEST_TOKENS", 0)
    constraint = tiny.CONSTRAINTS[name] if name else None
    padded, trimmed = (trained(constraint, tmp_path, lora, trim) for trim in (False, True))
    for key, weight in tiny.weights(padded).items():
        torch.testing.assert_close(
            weight, tiny.weights(trimmed)[key], atol=2e-6, rtol=2e-6, msg=key
        )
    entries = zip(padded.state.log_history[:-1], trimmed.state.log_history[:-1], strict=True)
    for before, after in entries:
        for metric in ("loss", "entropy", "mean_token_accuracy", "num_tokens"):
            assert after[metric] == pytest.approx(before[metric], rel=1e-4)
        if "safety_loss" in before:
            assert after["safety_loss"] == pytest.approx(before["safety_loss"], rel=1e-4)


def test_what_cannot_be_trimmed_is_refused(tmp_path: Path) -> None:
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="label_smoothing_factor=0"):
        SafetyAwareSFTTrainer(
            model,
            args=tiny.config(tmp_path, label_smoothing_factor=0.1, length_bucketing=True),
            train_dataset=tiny.rows(8, seed=2),
            processing_class=tokenizer,
        )


@pytest.mark.parametrize(
    ("name", "buckets", "told"),
    [
        (None, True, "Set length_bucketing=False"),
        ("loss-penalty", False, "weighs the tokens"),
        (None, False, "pip install liger-kernel"),
    ],
)
def test_a_loss_kernel_that_cannot_be_had_is_refused_by_name(
    name: str | None, buckets: bool, told: str, tmp_path: Path
) -> None:
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match=f"^use_liger_kernel .*{told}"):
        SafetyAwareSFTTrainer(
            model,
            args=tiny.config(tmp_path, use_liger_kernel=True, length_bucketing=buckets),
            train_dataset=tiny.rows(8, seed=2),
            safety_dataset=tiny.rows(8, seed=3),
            objective=tiny.CONSTRAINTS[name] if name else None,
            processing_class=tokenizer,
        )


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [None, "loss-penalty", "kl-penalty"])
def test_padding_may_stand_on_either_side(
    name: str | None, side: str, positions: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.train.length_bucketing._PER_LAUNCH", WHATEVER_IT_COSTS)
    monkeypatch.setattr("trimtab.train.length_bucketing._FEWEST_TOKENS", 1)

    def run(trim: bool) -> SFTTrainer:
        trainer = tiny.trainer_of(
            tiny.CONSTRAINTS[name] if name else None,
            tmp_path,
            collator={"side": side, "without": () if positions else ("position_ids",)},
            optim="sgd",
            learning_rate=0.5,
            max_steps=2,
            length_bucketing=trim,
        )
        trainer.train()
        return trainer

    whole, trimmed = tiny.weights(run(False)), tiny.weights(run(True))
    for weight, value in whole.items():
        torch.testing.assert_close(trimmed[weight], value, atol=1e-5, rtol=1e-4)


def test_rows_of_padding_alone_cost_nothing_and_change_nothing(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    ids = torch.tensor([[3, 4, 5, 6], [0, 0, 0, 0], [0, 7, 8, 0]])
    mask = (ids != 0).long()
    labels = ids.masked_fill(mask == 0, -100)
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels, "fused_lm_head": True}
    whole, trimmed = model(**inputs), BucketedModel(model, model)(**inputs)
    torch.testing.assert_close(trimmed.log_probs, whole.log_probs, atol=1e-5, rtol=1e-4)
