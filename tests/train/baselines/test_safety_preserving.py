"""Facts about SPF: only a conflict changes a step, and then it leaves safety's directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.pytorch_utils import Conv1D
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tests.train import tiny
from trimtab import UserError
from trimtab.train.baselines.safety_preserving import (
    SafetyPreserving,
    left_singular_vectors,
    without_conflict,
)


def gradients(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in ((6, 4), (3, 8), (5,))]


def inner(first: list[Tensor], second: list[Tensor]) -> float:
    return sum(float((a * b).sum()) for a, b in zip(first, second, strict=True))


def conflicting() -> tuple[list[Tensor], list[Tensor]]:
    task, safety = gradients(0), gradients(1)
    sign = -1.0 if inner(task, safety) > 0 else 1.0
    return task, [sign * part for part in safety]


def left_of(task: list[Tensor], safety: list[Tensor], rank: int) -> list[Tensor]:
    return without_conflict(task, safety, [nn.Identity()] * len(task), rank)


def test_a_step_without_conflict_is_the_tasks_to_the_bit() -> None:
    task, against = conflicting()
    left = left_of(task, [-part for part in against], rank=2)
    assert all(torch.equal(a, b) for a, b in zip(left, task, strict=True))


def test_a_step_in_conflict_leaves_the_largest_directions_and_nothing_else() -> None:
    task, safety = conflicting()
    for before, direction, after in zip(task, safety, left_of(task, safety, rank=2), strict=True):
        matrix = direction.reshape(len(direction), -1)
        vectors = torch.linalg.svd(matrix, full_matrices=False).U[:, :2]
        wanted = before.reshape(matrix.shape)
        wanted = wanted - vectors @ (vectors.T @ wanted)
        torch.testing.assert_close(after, wanted.reshape(before.shape), atol=1e-5, rtol=1e-4)


def test_whether_there_is_a_conflict_is_asked_of_all_weights_together() -> None:
    task = [torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0]])]
    safety = [torch.tensor([[-1.0, 0.0]]), torch.tensor([[2.0]])]  # against it in the first alone
    left = left_of(task, safety, rank=1)
    assert all(torch.equal(a, b) for a, b in zip(left, task, strict=True))
    none_left = left_of(task, [2 * safety[0], 0.5 * safety[1]], rank=1)
    assert all(not part.any() for part in none_left)


def test_experts_kept_together_are_a_matrix_each() -> None:
    generator = torch.Generator().manual_seed(2)
    task, safety = (torch.randn(4, 16, 12, generator=generator) for _ in range(2))
    safety *= -1 if float((task * safety).sum()) > 0 else 1
    (together,) = left_of([task], [safety], rank=8)
    # A conflict is one of all together, and each is as if it were in conflict by itself.
    for before, direction, after in zip(task, safety, together, strict=True):
        vectors = torch.linalg.svd(direction, full_matrices=False).U[:, :8]
        wanted = before - vectors @ (vectors.T @ before)
        torch.testing.assert_close(after, wanted, atol=1e-5, rtol=1e-4)
    assert float(together.norm()) > 0.4 * float(task.norm())


def test_a_layer_that_keeps_its_weight_turned_loses_the_same_directions() -> None:
    task, _ = conflicting()
    (plain,) = left_of(task[:1], [-task[0]], rank=2)
    (turned,) = without_conflict([task[0].T], [-task[0].T], [Conv1D(6, 4)], rank=2)
    assert plain.any()
    torch.testing.assert_close(turned, plain.T)


def test_a_matrix_that_safety_does_not_reach_stays_free() -> None:
    task = [torch.ones(2, 2), torch.ones(2, 2)]
    safety = [torch.zeros(2, 2), -torch.ones(2, 2)]
    first, second = left_of(task, safety, rank=1)
    assert torch.equal(first, task[0])
    torch.testing.assert_close(second, torch.zeros(2, 2))


def test_the_randomised_svd_finds_the_exact_ones_subspace_and_draws_from_no_one_elses() -> None:
    torch.manual_seed(4)
    left, right = torch.linalg.qr(torch.randn(80, 80))[0], torch.linalg.qr(torch.randn(60, 60))[0]
    falling = torch.diag(0.5 ** torch.arange(60.0))
    matrix = left[:, :60] @ falling @ right
    before = torch.get_rng_state()
    found = left_singular_vectors(matrix, 4, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found, left_singular_vectors(matrix, 4, seed=0))
    exact = left[:, :4]
    torch.testing.assert_close(found @ found.T, exact @ exact.T, atol=1e-4, rtol=0)


def test_a_training_steps_along_what_is_left(tmp_path: Path) -> None:
    model, tokenizer = tiny.tiny_llama(tmp_path / "model")
    collate = DataCollatorForLanguageModeling(tokenizer.pad_token_id)
    before = dict(model.named_parameters())

    def gradient(rows: Dataset, reduction: str) -> list[Tensor]:
        batch = collate(list(rows))
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits, labels = model(**inputs).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:]
        loss = cross_entropy(logits, labels.flatten(), reduction=reduction)
        return list(torch.autograd.grad(loss, list(before.values())))

    task = tiny.rows(8, seed=2)
    by_task = gradient(task, "mean")
    row_by_row = ([row] for row in tiny.rows(200, seed=7))
    safety, by_safety = next(
        (row, against)
        for row in row_by_row
        if inner(by_task, against := gradient(Dataset.from_list(row), "sum")) < 0
    )
    wanted = left_of(by_task, by_safety, rank=2)
    settings = {"optim": "sgd", "learning_rate": 1.0, "max_steps": 1}
    trained = tiny.trainer_of(
        SafetyPreserving(2), tmp_path, task=task, safety=Dataset.from_list(safety), **settings
    )
    trained.train()
    for weight, old, step in zip(
        tiny.weights(trained).values(), before.values(), wanted, strict=True
    ):
        torch.testing.assert_close(old.detach() - weight, step, atol=1e-5, rtol=1e-4)


def test_a_grids_whole_values_are_ranks_and_others_are_refused() -> None:
    assert SafetyPreserving(8.0).rank == 8  # type: ignore[arg-type]
    with pytest.raises(UserError, match="whole number"):
        SafetyPreserving(2.5)  # type: ignore[arg-type]
