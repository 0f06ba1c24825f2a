"""Facts about the adaptive KL: whose rows it holds, and its loss by the formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy

from tests.train import tiny
from trimtab import SafetyAwareSFTTrainer, UserError
from trimtab.train.baselines.adaptive_kl import AdaptiveKL
from trimtab.train.objectives.base import Step
from trimtab.train.reference import AlignedReference


def rows_about(first_word: int, count: int, seed: int) -> Dataset:
    """Rows whose prompts are of five words from one on, and whose responses are of any."""
    generator = torch.Generator().manual_seed(seed)

    def words(low: int, high: int, length: int) -> list[int]:
        return torch.randint(low, high, (length,), generator=generator).tolist()

    records = []
    for _ in range(count):
        prompt, response = words(first_word, first_word + 5, 6), words(3, 33, 3)
        records.append({"input_ids": prompt + response, "labels": [-100] * 6 + response})
    return Dataset.from_list(records)


def weights_of(method: AdaptiveKL, trainer: SafetyAwareSFTTrainer, rows: Dataset) -> torch.Tensor:
    return method._weights_of(trainer.data_collator(list(rows)))


def test_rows_whose_prompts_are_like_safetys_are_held_more(tmp_path: Path) -> None:
    alike, unlike = rows_about(5, 40, seed=0), rows_about(20, 40, seed=1)
    task = Dataset.from_list([*alike, *unlike])
    trainer = tiny.trainer_of(
        AdaptiveKL(0.9), tmp_path, task=task, safety=rows_about(5, 60, seed=2)
    )
    learned = trainer.objective
    assert isinstance(learned, AdaptiveKL)
    weights = weights_of(learned, trainer, task)
    assert weights.min() >= 0.1
    assert weights.max() <= 0.9
    assert weights[:40].mean() > 0.5
    assert weights[40:].mean() < 0.2


def test_its_loss_is_the_formulas_row_by_row(tmp_path: Path) -> None:
    task = tiny.rows(40, seed=2)
    trainer = tiny.trainer_of(AdaptiveKL(0.8), tmp_path, task=task)
    learned = trainer.objective
    assert isinstance(learned, AdaptiveKL)
    aligned, tuned = tiny.tiny_llama(tmp_path / "model")[0], tiny.another_llama()
    rows = task.select(range(9))
    batch = trainer.data_collator(list(rows))
    logits = tuned(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected, tokens = 0.0, 0
    for row, weight in zip(rows, weights_of(learned, trainer, rows).tolist(), strict=True):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
        counted = labels != -100
        now, before = (m(ids).logits[0, :-1][counted].log_softmax(-1) for m in (tuned, aligned))
        nll = -now[range(len(now)), labels[counted]].sum()
        held = (before.exp() * (before - now)).sum()
        expected += float((1 - weight) * nll + weight * held)
        tokens += int(counted.sum())
    targets = batch["labels"][:, 1:]
    by_token = cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none")
    at_labels = logits[:, :-1][targets != -100]
    divergence = learned.divergence(AlignedReference(aligned), at_labels, tuned, batch)
    is_safety, count = torch.zeros(len(rows), 1, dtype=torch.bool), torch.tensor(tokens)
    step = Step(batch, by_token, is_safety, count, torch.tensor(0), 0.0, divergence)
    assert learned.loss(step).item() == pytest.approx(expected / tokens, rel=1e-4)


def test_held_by_nothing_it_is_plain_sft(tmp_path: Path) -> None:
    settings = {"optim": "sgd", "learning_rate": 0.1}
    trainer = tiny.trainer_of(AdaptiveKL(0.0, 0.0), tmp_path, **settings)
    trainer.train()
    plain = tiny.trained_plainly(tiny.config(tmp_path, **settings), tmp_path)
    for ours, theirs in zip(
        tiny.weights(trainer).values(), tiny.weights(plain).values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_the_lowest_weight_is_no_higher_than_the_highest() -> None:
    with pytest.raises(UserError, match="highest β above"):
        AdaptiveKL(0.05)
