"""Facts about measured losses and overlap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from tests.train import tiny
from trimtab.config.experiment import Measuring
from trimtab.data.rows import Message, Row
from trimtab.measure.losses import HeldOutRows, held_out_loss, response_nll
from trimtab.measure.overlap import prompt_overlap


def test_surprise_is_the_models_own_whatever_the_batch(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    rows = tiny.rows(17, seed=3)
    expected = []
    for row in rows:
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        log_probabilities = model(ids[None]).logits[0].detach().log_softmax(dim=-1)
        expected.append(
            -sum(
                float(log_probabilities[place - 1, ids[place]])
                for place in range(len(ids))
                if labels[place] != -100
            )
        )
    for tokens_per_batch in (1, 40, 10_000):
        nll, tokens = response_nll(model, rows, tokens_per_batch)
        np.testing.assert_allclose(nll, expected, rtol=1e-4)
        assert tokens.tolist() == [sum(label != -100 for label in r["labels"]) for r in rows]


def test_the_head_reads_what_is_measured_and_no_more(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    rows = tiny.rows(17, seed=3)
    read: list[int] = []
    model.lm_head.register_forward_hook(lambda _, __, out: read.append(out[..., 0].numel()))
    _, tokens = response_nll(model, rows, 40)
    assert sum(read) == tokens.sum() < sum(map(len, rows["input_ids"]))
    ids = torch.zeros(2, 5, dtype=torch.long)
    assert model(ids).logits.shape[:2] == ids.shape  # afterwards it reads all again


@pytest.mark.parametrize("kept", ["no module", "trained beside an adapter", "adapted"])
def test_surprise_is_the_same_whatever_scores_the_words(kept: str, tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    rows = tiny.rows(17, seed=3)
    expected, _ = response_nll(model, rows, 40)
    if kept == "no module":
        model.get_output_embeddings = lambda: None
    elif kept == "adapted":
        model = get_peft_model(model, LoraConfig(target_modules=["lm_head"]))
    else:
        config = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
        model = get_peft_model(model, config)
    np.testing.assert_allclose(response_nll(model, rows, 40)[0], expected, rtol=1e-5)


def test_loss_per_token_counts_a_long_response_by_its_tokens(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    rows = tiny.rows(30, seed=3)
    nll, tokens = response_nll(model, rows, 1000)
    loss = held_out_loss(model, HeldOutRows(rows), Measuring())
    assert loss.per_token.value == pytest.approx(nll.sum() / tokens.sum())
    assert loss.per_response.value == pytest.approx(nll.mean())
    assert loss.per_token.low < loss.per_token.value < loss.per_token.high
    assert loss.per_token.kind == "estimate"


def test_an_interval_is_the_same_whenever_it_is_taken(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    held_out = HeldOutRows(tiny.rows(30, seed=3))
    first, second = (held_out_loss(model, held_out, Measuring()) for _ in range(2))
    assert first.per_token == second.per_token
    assert first.per_response == second.per_response


def test_interval_covers_the_mean_of_the_population_about_95_times_in_100(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    population = tiny.rows(600, seed=3)
    truth = held_out_loss(model, HeldOutRows(population), Measuring()).per_response.value
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(40):
        sample = population.select(generator.integers(600, size=60))
        loss = held_out_loss(model, HeldOutRows(sample), Measuring(resamples=400), seed)
        covered += loss.per_response.low <= truth <= loss.per_response.high
    assert covered >= 33


def test_answers_to_one_prompt_are_one_draw(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    encoded = tiny.rows(6, seed=3)
    rows = [Row((Message("user", prompt),), str(place)) for place, prompt in enumerate("abacab")]
    held_out = HeldOutRows.of(encoded, rows)
    loss, by_row = (held_out_loss(model, h, Measuring()) for h in (held_out, HeldOutRows(encoded)))
    assert loss.per_token.value == pytest.approx(by_row.per_token.value)
    assert loss.per_response.value == pytest.approx(by_row.per_response.value)
    assert loss.by_row is not None
    assert by_row.by_row is not None
    np.testing.assert_allclose(loss.by_row[:, 0], by_row.by_row[:, [0, 2, 4]].sum(axis=1))
    assert loss.by_row.shape == (2, 3)
    assert HeldOutRows.of(encoded, rows, repeats=True).prompts is None
    assert HeldOutRows.of(encoded, [replace(row, weight=0.1) for row in rows]).prompts is None


def test_weights_make_a_loss_exact(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    rows = tiny.rows(4, seed=3)
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    nll, tokens = response_nll(model, rows, 1000)
    loss = held_out_loss(model, HeldOutRows(rows, weights), Measuring())
    assert loss.per_response.value == pytest.approx(weights @ nll)
    assert loss.per_token.value == pytest.approx(weights @ nll / (weights @ tokens))
    assert loss.per_token.kind == "exact"
    assert loss.per_token.low == loss.per_token.high


def test_measuring_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    model.train()
    held_out_loss(
        model, HeldOutRows(Dataset.from_dict(tiny.rows(3, seed=1).to_dict())), Measuring()
    )
    assert model.training


def test_a_data_set_overlaps_itself_and_not_an_unrelated_one() -> None:
    generator = np.random.default_rng(0)
    kitchen = ["bread", "soup", "rice", "beans", "cake", "tea"]
    prompts = [f"how do I cook {' and '.join(generator.choice(kitchen, 2))}" for _ in range(200)]
    sums = [f"what is {n} times {n + 1}" for n in range(100)]
    assert prompt_overlap(prompts[:100], prompts[100:]).value > 0.85
    none = prompt_overlap(sums, prompts[100:])
    assert none.value == 0
    assert none.low <= 0.001 < none.high < 0.05
