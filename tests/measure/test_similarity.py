"""Facts about telling an original and a proxy apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tests.measure.worlds_read import Reader
from tests.train import tiny
from trimtab import UserError
from trimtab.data.synthetic import make_world
from trimtab.measure.hidden_states import Reading, read_through
from trimtab.measure.losses import response_nll
from trimtab.measure.similarity import Sample, Similarity, matched, similarity
from trimtab.theory import total_variation


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("reader") / "model")


def compared(first: Sample, second: Sample) -> Similarity:
    return similarity(first, second, (first.reading.responses, second.reading.responses))


def normal_sample(
    rows: int, seed: int, prompts: list[str] | None = None, shift: float = 0.0
) -> Sample:
    """A sample without a model: normal features, and losses to go with them."""
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((rows, 4)).astype(np.float32) + np.float32(shift)
    return Sample(
        prompts or [f"prompt {seed} {number}" for number in range(rows)],
        Reading(generator.uniform(1, 5, rows), np.full(rows, 3.0), features, features),
    )


def test_the_bound_follows_the_exact_total_variation_and_stays_below(reader: Reader) -> None:
    exact, bounds = [], []
    for place, dissimilarity in enumerate((0.0, 0.2, 0.4, 0.6, 0.8, 1.0)):
        world = make_world({"proxy": dissimilarity}, {"task": 0.5}, seed=place)
        ours = reader.sample(world.original, 700, seed=10 + place)
        theirs = reader.sample(world.safety["proxy"], 700, seed=50 + place)
        estimate = compared(ours, theirs).total_variation
        exact.append(total_variation(world.original, world.safety["proxy"]))
        bounds.append(estimate.value)
        assert estimate.low <= exact[-1]
        assert estimate.low <= estimate.value <= estimate.high
    assert spearmanr(exact, bounds).statistic >= 0.9


def test_one_distribution_is_not_told_from_itself(reader: Reader) -> None:
    world = make_world({"proxy": 0.0}, {"task": 0.5}, seed=3)
    comparison = compared(
        reader.sample(world.original, 600, seed=1), reader.sample(world.original, 600, seed=2)
    )
    assert comparison.total_variation.low == 0
    assert comparison.total_variation.value < 0.1
    assert comparison.excess_loss.low < 0 < comparison.excess_loss.high


def test_the_interval_covers_chance_as_often_as_it_says() -> None:
    lows = [
        compared(normal_sample(60, seed), normal_sample(60, 1000 + seed)).total_variation.low
        for seed in range(12)
    ]
    assert sum(low > 0 for low in lows) <= 1


def test_sets_far_apart_are_told_apart_wholly() -> None:
    comparison = compared(normal_sample(200, 0), normal_sample(200, 1, shift=9.0))
    assert comparison.total_variation.value == 1.0
    assert comparison.total_variation.low > 0.9


def test_contexts_do_not_count_given_the_prompt() -> None:
    # Features that show the prompt alone: what differs is how often each prompt comes.
    generator = np.random.default_rng(0)

    def with_prompts(share: float, seed: int) -> Sample:
        hard = generator.random(600) < share
        base = normal_sample(600, seed, [f"prompt {int(kind)}" for kind in hard])
        prompt_features = np.stack([hard, ~hard], axis=1).astype(np.float32)
        return Sample(
            base.prompts,
            Reading(base.reading.nll, base.reading.tokens, prompt_features, prompt_features),
            repeats=True,
        )

    comparison = compared(with_prompts(0.9, 1), with_prompts(0.1, 2))
    assert comparison.total_variation.low > 0.6
    assert comparison.given_prompt is not None
    assert comparison.given_prompt.value < 0.15


def test_a_shared_prompt_does_not_leak_from_the_training_half() -> None:
    # Each prompt has its own feature and each teacher answers it once: nothing to tell them by,
    # but a classifier that had seen one answer would tell the other by elimination.
    prompts = [f"prompt {number}" for number in range(120)]
    own = np.random.default_rng(0).standard_normal((120, 30)).astype(np.float32)

    def teacher(seed: int) -> Sample:
        base = normal_sample(120, seed, prompts)
        return Sample(prompts, Reading(base.reading.nll, base.reading.tokens, own, own))

    comparison = compared(teacher(1), teacher(2))
    assert comparison.total_variation.low == 0
    assert comparison.shared_prompts == 1


def test_several_answers_to_a_prompt_are_no_difference() -> None:
    """Prompts tell each other's answers apart: what is learned of them is nothing of the data."""
    generator = np.random.default_rng(0)

    def answered(prompts: int, answers: int, seed: int) -> Sample:
        names = [f"prompt {seed} {number}" for number in range(prompts) for _ in range(answers)]
        of_prompt = np.repeat(generator.standard_normal((prompts, 30)), answers, axis=0)
        own = (of_prompt + 0.1 * generator.standard_normal(of_prompt.shape)).astype(np.float32)
        base = normal_sample(len(names), seed, names)
        return Sample(names, Reading(base.reading.nll, base.reading.tokens, own, own))

    lows = [
        compared(answered(50, 3, seed), answered(50, 3, seed + 1)).total_variation.low
        for seed in range(0, 16, 2)
    ]
    assert sum(low > 0 for low in lows) <= 1


def test_excess_loss_of_a_harder_proxy_is_its_difference() -> None:
    prompts = [f"prompt {number}" for number in range(100)]
    ours, theirs = normal_sample(100, 1, prompts), normal_sample(100, 1, prompts)
    theirs.reading.nll[:] = ours.reading.nll + 0.6
    estimate = compared(ours, theirs).excess_loss
    assert estimate.value == pytest.approx(0.2)
    assert estimate.low == pytest.approx(0.2)  # paired: the prompts' own difficulty cancels


def test_three_rows_are_too_few() -> None:
    with pytest.raises(UserError, match="3 rows are too few"):
        compared(normal_sample(100, 0), normal_sample(3, 1))


def test_matching_takes_each_row_once() -> None:
    ours, theirs = matched(["a", "a", "b"], ["a", "b", "b", "a", "a"])
    assert sorted(ours.tolist()) == [0, 1, 2]
    assert len(set(theirs.tolist())) == 3


def test_reading_agrees_with_the_losses_whatever_the_batch(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    rows = tiny.rows(15, seed=3)
    nll, tokens = response_nll(model, rows, 1000)
    by_small, at_once = (read_through(model, rows, size) for size in (20, 1000))
    np.testing.assert_allclose(by_small.nll, nll, rtol=1e-4)
    assert by_small.tokens.tolist() == tokens.tolist()
    np.testing.assert_allclose(by_small.responses, at_once.responses, atol=1e-4)


def test_a_model_of_nans_is_one_clear_word(tmp_path: Path) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite numbers"):
        read_through(model, tiny.rows(5, seed=3), 1000)
