"""Facts about how many of one data set's prompts could as well be another's."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.measure.worlds_read import drawn
from trimtab import UserError
from trimtab.data.synthetic import make_world
from trimtab.measure.overlap import (
    MISSED_SHARE,
    alignment_overlap_term,
    capability_overlap_term,
    context_overlap,
    penalty_without_threshold,
    prompt_overlap,
    task_posterior,
)
from trimtab.stats import Estimate
from trimtab.theory import context_overlap as exact_overlap
from trimtab.theory import theorem_1, theorem_2
from trimtab.theory.world import Distribution

SHARED = Path(__file__).parents[3] / "shared" / "data"

KITCHEN = ["bread", "soup", "rice", "beans", "cake", "tea", "fish", "plum", "leek", "egg", "oats"]
GARDEN = ["rose", "oak", "moss", "fern", "ivy", "lily", "hedge", "pond", "seed", "lawn", "bee"]


def about(words: list[str], count: int, seed: int) -> list[str]:
    """Different questions about some of the words."""
    generator = np.random.default_rng(seed)
    questions: dict[str, None] = {}
    while len(questions) < count:
        number = generator.integers(10_000)
        questions[f"tell me {number} things of {' and '.join(generator.choice(words, 2))}"] = None
    return list(questions)


def prompts_of(distribution: Distribution, count: int, seed: int) -> list[str]:
    return [row.prompt[0].content for row in drawn(distribution, count, seed)]


def test_overlap_follows_the_exact_one() -> None:
    exact, estimates, backward = [], [], []
    for place, overlap in enumerate((0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)):
        world = make_world({"proxy": 0.2}, {"task": overlap}, seed=place)
        measured = context_overlap(
            prompts_of(world.task["task"], 300, place + 300),
            prompts_of(world.safety["proxy"], 300, place + 100),
            repeats=True,
        )
        exact.append(exact_overlap(world.task["task"], world.safety["proxy"]))
        estimates.append(measured.task_on_safety.value)
        backward.append(measured.safety_on_task.value)
        # The threshold misses a twentieth of what overlaps; the rest is the interval's.
        missed, estimate = MISSED_SHARE * exact[-1], measured.task_on_safety
        assert estimate.low <= exact[-1] <= estimate.high + missed
    assert spearmanr(exact, estimates).statistic >= 0.95
    assert backward[0] == 0
    assert min(backward[2:]) > 0.5  # directional: a task among them covers every safety prompt


def test_terms_without_a_threshold_follow_the_theorems() -> None:
    for overlap in (0.2, 0.5, 1.0):
        world = make_world({"proxy": 0.2}, {"task": overlap})
        measured = context_overlap(
            prompts_of(world.task["task"], 1500, 1),
            prompts_of(world.safety["proxy"], 1500, 2),
            repeats=True,
        )
        # Odds that are off by a quarter move either term by less than a quarter.
        for penalty in (0.3, 1.0, 3.0):
            safety = theorem_1(
                total_variation=0.0, overlap=overlap, penalty=penalty, log_bound=math.inf
            )
            task = theorem_2(overlap=overlap, penalty=penalty)
            term = alignment_overlap_term(measured.safety_posterior, penalty)
            assert term == pytest.approx(safety.value, rel=0.25)
            term = capability_overlap_term(measured.task_posterior, penalty)
            assert term == pytest.approx(task.value, rel=0.25)


@pytest.mark.parametrize("budget", [1e-6, 0.3, 40.0])
def test_the_penalty_without_a_threshold_spends_the_budget(budget: float) -> None:
    posterior = np.random.default_rng(0).uniform(0.01, 0.99, 100)
    penalty = penalty_without_threshold(posterior, budget)
    assert alignment_overlap_term(posterior, penalty) == pytest.approx(budget, rel=1e-6)


def test_the_same_prompts_overlap_wholly() -> None:
    prompts = about(KITCHEN, 200, seed=0)
    same = context_overlap(prompts, prompts[::-1])
    assert same.task_on_safety.value >= 0.95
    assert same.task_posterior == pytest.approx(0.5, abs=0.01)
    alike = context_overlap(about(KITCHEN, 200, seed=1), about(KITCHEN, 150, seed=2))
    assert alike.task_on_safety.low <= 1 - MISSED_SHARE <= alike.task_on_safety.high


def test_other_topics_do_not_overlap_and_show_no_pairs() -> None:
    overlap = context_overlap(about(GARDEN, 200, seed=1), about(KITCHEN, 100, seed=2))
    assert overlap.task_on_safety.value == overlap.safety_on_task.value == 0
    assert 0 < overlap.task_on_safety.high < 0.02
    assert overlap.pairs == ()


def test_a_share_of_the_topic_is_that_overlap_at_any_sizes() -> None:
    safety = about(KITCHEN, 900, seed=1)
    for sizes in ((60, 140), (240, 560)):
        task = [*about(KITCHEN, sizes[0], seed=2), *about(GARDEN, sizes[1], seed=3)]
        for count in (100, 900):
            estimate = context_overlap(task, safety[:count]).task_on_safety
            # Of the kitchens in the task all count but the share that the threshold misses, itself
            # known from `count` prompts to two binomial errors.
            error = 2 * math.sqrt(MISSED_SHARE * (1 - MISSED_SHARE) / count)
            assert 0.3 * (1 - MISSED_SHARE - error) <= estimate.value <= 0.3


def test_posteriors_are_those_of_sets_of_equal_weight() -> None:
    task = [*about(KITCHEN, 400, seed=2), *about(GARDEN, 400, seed=3)]
    overlap = context_overlap(task, about(KITCHEN, 200, seed=1))
    # On kitchens safety has the whole of its mass and the task half of it: c = 1/(1 + ½), and odds
    # that are off by a quarter change it by 0.05.
    assert overlap.safety_posterior.mean() == pytest.approx(2 / 3, abs=0.05)
    assert overlap.task_posterior[:400].mean() == pytest.approx(2 / 3, abs=0.05)
    assert overlap.task_posterior[400:].mean() < 0.1


def test_roles_are_symmetric() -> None:
    task = [*about(KITCHEN, 90, seed=2), *about(GARDEN, 210, seed=3)]
    safety = about(KITCHEN, 200, seed=1)
    forth, back = context_overlap(task, safety), context_overlap(safety, task)
    for first, second in (
        (forth.task_on_safety, back.safety_on_task),
        (forth.safety_on_task, back.task_on_safety),
    ):
        # Of the same prompts only the luck of the splits differs, which the interval is far above.
        assert first.low <= second.value <= first.high
    assert forth.task_posterior.mean() == pytest.approx(1 - back.safety_posterior.mean(), abs=0.05)


def test_the_interval_holds_the_long_run_mean() -> None:
    generator = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(60)])
    tilt = np.linspace(-1, 1, 60)

    def drawn_prompts(count: int, slope: float) -> list[str]:
        chances = np.exp(slope * tilt)
        return [
            " ".join(generator.choice(words, 8, p=chances / chances.sum())) for _ in range(count)
        ]

    overlaps = [
        context_overlap(drawn_prompts(60, -0.5), drawn_prompts(80, 0.5), pairs=0, seed=seed)
        for seed in range(20)
    ]
    for direction in ("task_on_safety", "safety_on_task"):
        estimates = [getattr(overlap, direction) for overlap in overlaps]
        mean = np.mean([estimate.value for estimate in estimates])
        assert 0.2 < mean < 0.8
        # Of 20 intervals that cover 95 %, 16 or fewer hold in 1.6 % of runs.
        assert sum(estimate.low <= mean <= estimate.high for estimate in estimates) >= 17


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared data")
def test_overlaps_of_published_data_come_in_the_order_of_their_topics() -> None:
    def overlap(task: str, safety: str = "alpaca-gpt4-demo") -> Estimate:
        return prompt_overlap(*(published(name) for name in (task, safety)))

    same, code = overlap("alpaca-davinci003-demo"), overlap("code-alpaca-davinci003")
    sensitive, sums = overlap("dolly-sensitive"), overlap("gsm8k-train")
    assert same.low <= 1 - MISSED_SHARE <= same.high  # both are draws of one file
    assert sensitive.high < same.low
    assert code.high < same.low
    # Another topic: fewer fall among the safety prompts than safety prompts fall outside them.
    assert max(sums.high, overlap("mbpp").high) < MISSED_SHARE < code.low


def published(name: str) -> list[str]:
    with gzip.open(SHARED / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["prompt"] for line in file][:800]


def test_hidden_states_stand_in_for_words() -> None:
    generator = np.random.default_rng(0)
    offset, topics = 5 * generator.standard_normal(16), 6 * np.eye(16)

    def states_of(topics_drawn: list[int], count: int) -> np.ndarray:
        topic = topics[generator.choice(topics_drawn, count)]
        states = offset + topic + 0.5 * generator.standard_normal((count, 16))
        return states.astype(np.float32)

    own_states, foreign_states = states_of([0, 1, 2], 200), states_of([3, 4], 80)
    texts = [f"prompt {number}" for number in range(200)]
    own = context_overlap(texts[:80], texts[80:], (own_states[:80], own_states[80:]))
    foreign = context_overlap(texts[:80], texts[80:], (foreign_states, own_states[80:]))
    assert own.task_on_safety.value > 0.8
    assert len(own.pairs) == 5
    assert foreign.task_on_safety.value == 0


def test_several_answers_to_a_prompt_change_no_overlap() -> None:
    task, safety = about(KITCHEN, 80, seed=1), about(KITCHEN, 80, seed=2)
    once = prompt_overlap(task, safety)
    thrice = prompt_overlap(task * 3, safety * 3)
    assert abs(once.value - thrice.value) < 0.05
    # No more prompts than before, so that it is hardly better known.
    assert thrice.high - thrice.low > 0.5 * (once.high - once.low)


def test_nearest_pairs_are_among_and_differ() -> None:
    task = [*about(KITCHEN, 60, seed=2), *about(GARDEN, 60, seed=3)]
    safety = [*about(KITCHEN, 80, seed=1), task[7], task[70]]
    overlap = context_overlap(task, safety)
    assert overlap.pairs[0].prompt == overlap.pairs[0].nearest == task[7]
    assert len({pair.nearest for pair in overlap.pairs}) == 5
    assert all(
        overlap.among[pair.place] and task[pair.place] == pair.prompt for pair in overlap.pairs
    )


def test_too_few_prompts_are_told() -> None:
    with pytest.raises(UserError, match="too few different prompts"):
        context_overlap(["a cake"], about(KITCHEN, 30, seed=0))


def test_the_posterior_alone_is_that_of_the_overlap() -> None:
    generator = np.random.default_rng(0)
    texts = [f"prompt {number}" for number in range(60)]
    states = (
        generator.standard_normal((40, 4)).astype(np.float32),
        generator.standard_normal((20, 4)).astype(np.float32) + 1,
    )
    overlap = context_overlap(texts[:40], texts[40:], states, pairs=0, seed=3)
    alone = task_posterior(texts[:40], texts[40:], states, seed=3)
    np.testing.assert_array_equal(alone, overlap.task_posterior)
