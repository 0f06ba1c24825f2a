"""Facts about PACT: its loss by the formula, its tokens by counting, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from tests.train import tiny
from trimtab import UserError
from trimtab.models import load_model, save_tiny_llama
from trimtab.train.baselines.pact import PACT, common_ending, response_alone, safety_tokens
from trimtab.train.context import context_of
from trimtab.train.reference import AlignedReference

TOKENS = 6


def at_labels(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The model's logits where they predict a token with a label."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, :-1][batch["labels"][:, 1:] != -100]


def probabilities(model: Any, row: dict[str, Any]) -> list[list[float]]:
    """Of every token, at each position that predicts one of the response."""
    logits = model(torch.tensor([row["input_ids"]])).logits[0]
    first = row["labels"].index(next(label for label in row["labels"] if label != -100))
    return logits[first - 1 : -1].softmax(-1).tolist()


def test_safety_tokens_are_those_that_the_aligned_model_gives_most_weighed_by_their_rise(
    tmp_path: Path,
) -> None:
    trainer = tiny.trainer_of(PACT(unaligned=tiny.another_llama, tokens=TOKENS), tmp_path)
    learned = trainer.objective
    assert isinstance(learned, PACT)
    aligned, unaligned = tiny.tiny_llama(tmp_path / "model")[0], tiny.another_llama()
    means = []
    for model in (aligned, unaligned):
        of_rows = [probabilities(model, row) for row in tiny.rows(40, seed=5)]
        each = [[sum(column) / len(row) for column in zip(*row, strict=True)] for row in of_rows]
        means.append([sum(column) / len(each) for column in zip(*each, strict=True)])
    ours, theirs = means
    chosen = sorted(sorted(range(len(ours)), key=ours.__getitem__)[-TOKENS:])
    assert learned.safety_tokens.tolist() == chosen
    rise = torch.tensor([ours[token] - theirs[token] for token in chosen])
    wanted = ((rise - rise.mean()) / rise.std()).clamp(min=0)
    torch.testing.assert_close(learned.weights, wanted, atol=1e-4, rtol=1e-3)


def test_the_divergence_is_the_formulas_token_by_token(tmp_path: Path) -> None:
    trainer = tiny.trainer_of(PACT(unaligned=tiny.another_llama, tokens=TOKENS), tmp_path)
    learned = trainer.objective
    assert isinstance(learned, PACT)
    aligned, _ = tiny.tiny_llama(tmp_path / "model")
    tuned = tiny.another_llama(seed=3)
    rows = list(tiny.rows(9, seed=4))
    rows.append({"input_ids": [3, 4, *range(5, 17)], "labels": [-100, -100, *range(5, 17)]})
    weights, ids = learned.weights, learned.safety_tokens

    def unsure(logits: torch.Tensor) -> float:
        falling = sorted(logits.softmax(-1).tolist(), reverse=True)
        needed = next(n for n in range(1, TOKENS + 1) if sum(falling[:n]) >= 0.9 - 1e-9)
        return needed / TOKENS

    expected = 0.0
    for row in rows:
        prompt = row["labels"].count(-100)
        response = row["input_ids"][prompt:]
        alone = aligned(torch.tensor([learned.header + response])).logits[0]
        whole = aligned(torch.tensor([row["input_ids"]])).logits[0]
        now = tuned(torch.tensor([row["input_ids"]])).logits[0]
        for t in range(len(response)):
            z, s = now[prompt - 1 + t][ids], whole[prompt - 1 + t][ids]
            r = alone[len(learned.header) - 1 + t][ids]
            share = 1 / (1 + math.exp(-2 * (unsure(z) - unsure(r))))
            share *= math.exp(-max(0, t - 8) / 8)
            q = weights * (((1 - share) * s + share * r) / 2).softmax(-1)
            q = q / q.sum()
            p = (z / 2).softmax(-1)
            expected += 4 * sum(
                float(a * (a / b).log()) for a, b in zip(q, p, strict=True) if float(a) > 0
            )
    batch = trainer.data_collator(rows)
    found = learned.divergence(AlignedReference(aligned), at_labels(tuned, batch), tuned, batch)
    assert found.item() == pytest.approx(expected, rel=1e-3)


def test_a_row_without_a_prompt_is_refused(tmp_path: Path) -> None:
    bare = Dataset.from_list([{"input_ids": [3, 4, 5], "labels": [3, 4, 5]}] * 8)
    method = PACT(unaligned=tiny.another_llama, tokens=TOKENS)
    with pytest.raises(UserError, match="a task row has no prompt"):
        tiny.trainer_of(method, tmp_path, task=bare)


def test_without_a_penalty_it_is_plain_sft(tmp_path: Path) -> None:
    settings = {"optim": "sgd", "learning_rate": 0.1}
    method = PACT(0.0, unaligned=tiny.another_llama, tokens=TOKENS)
    trainer = tiny.trainer_of(method, tmp_path, **settings)
    trainer.train()
    plain = tiny.trained_plainly(tiny.config(tmp_path, **settings), tmp_path)
    for ours, theirs in zip(
        tiny.weights(trainer).values(), tiny.weights(plain).values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_a_penalty_holds_the_confidence_in_safety_tokens(tmp_path: Path) -> None:
    def left(penalty: float) -> float:
        method = PACT(penalty, unaligned=tiny.another_llama, tokens=TOKENS)
        trainer = tiny.trainer_of(method, tmp_path)
        trainer.train()
        learned, aligned = trainer.objective, tiny.tiny_llama(tmp_path / "model")[0]
        assert isinstance(learned, PACT)
        batch = trainer.data_collator(list(tiny.rows(16, seed=2)))
        with torch.no_grad():
            return learned.divergence(
                AlignedReference(aligned), at_labels(trainer.model, batch), trainer.model, batch
            ).item()

    assert left(10.0) < 0.9 * left(0.0)


def test_what_ends_all_prompts_precedes_a_response_alone() -> None:
    rows = [
        {"input_ids": [5, 7, 8, 1, 2], "labels": [-100, -100, -100, 1, 2]},
        {"input_ids": [7, 8, 3], "labels": [-100, -100, 3]},
    ]
    assert common_ending(Dataset.from_list(rows)) == [7, 8]
    unlike = [rows[0], {"input_ids": [9, 4], "labels": [-100, 4]}]
    assert common_ending(Dataset.from_list(unlike)) == [8]  # one token at least
    batch = {
        "input_ids": torch.tensor([[5, 7, 8, 1, 2], [7, 8, 3, 0, 0]]),
        "labels": torch.tensor([[-100, -100, -100, 1, 2], [-100, -100, 3, -100, -100]]),
    }
    alone = response_alone(batch, [7, 8])
    assert alone["input_ids"].tolist() == [[7, 8, 1], [7, 8, 0]]
    assert alone["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_it_needs_a_model_from_before_that_differs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="before it was aligned"):
        tiny.trainer_of(PACT(), tmp_path)
    same, _ = tiny.tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="Give the model from before"):
        tiny.trainer_of(PACT(unaligned=same), tmp_path)
    save_tiny_llama([*tiny.WORDS, "another"], tmp_path / "wider", seed=1)
    with pytest.raises(UserError, match="vocabulary of 34 tokens"):
        tiny.trainer_of(PACT(unaligned=load_model(str(tmp_path / "wider"))[0]), tmp_path)


def test_safety_rows_find_the_tokens_and_are_not_trained_on(tmp_path: Path) -> None:
    trainer = tiny.trainer_of(PACT(unaligned=tiny.another_llama, tokens=TOKENS, rows=8), tmp_path)
    assert trainer.objective is not None
    assert trainer.objective.batch_roles(0) == "task"
    eight = tiny.trainer_of(
        PACT(unaligned=tiny.another_llama, tokens=TOKENS),
        tmp_path,
        safety=tiny.rows(40, 5).select(range(8)),
    )
    first, second = trainer.objective, eight.objective
    assert isinstance(first, PACT)
    assert isinstance(second, PACT)
    torch.testing.assert_close(first.weights, second.weights)
    with torch.no_grad():
        batches = [trainer.data_collator(list(tiny.rows(8, seed=5)))]
        tokens, _ = safety_tokens(context_of(trainer).model, tiny.another_llama(), batches, 1000)
    assert len(tokens) == trainer.model.config.vocab_size
