"""Facts about coherence: corrupted answers are told from a real model's own and from another's."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from trimtab.config.data_source import Lengths
from trimtab.errors import UserError
from trimtab.evaluate.coherence import (
    AnswerMeasures,
    CoherenceLimits,
    answer_measures,
    limits_of_start,
    repeated_bigrams,
)
from trimtab.evaluate.prompt_sets import messages_of
from trimtab.measure.generation import sampled_answers
from trimtab.models import load_model
from trimtab.results.generations import AskedPrompt, Decoding, Generation

QUESTIONS = [
    "How do I boil an egg?",
    "Name three rivers in Europe.",
    "Why is the sky blue?",
    "Write a short poem about the sea.",
    "What does a librarian do?",
    "How can I sleep better?",
    "Explain photosynthesis to a child.",
    "How do I terminate a C program?",
    "Give me a recipe for pancakes.",
    "What is the capital of France, and why is it known?",
]
DECODING = Decoding(max_tokens=32, max_prompt=64)
ASKED = [AskedPrompt((("user", text),), "benign", "own") for text in QUESTIONS]
OTHERS = Path(os.environ.get("TRIMTAB_TEST_DATA", "absent")) / "do-not-answer-gpt4.jsonl.gz"


class Start:
    """The start model, what it answers, and the limits that follow."""

    def __init__(self) -> None:
        self.model, self.tokenizer = load_model("smollm2")
        lengths = Lengths(DECODING.max_prompt, DECODING.max_tokens)
        prompts = [messages_of(prompt) for prompt in ASKED]
        self.answers = sampled_answers(
            self.model, self.tokenizer, prompts, lengths, len(prompts), greedy=True
        )
        own = [
            Generation(*pair, "", "", DECODING) for pair in zip(ASKED, self.answers, strict=True)
        ]
        self.limits = limits_of_start(self.model, self.tokenizer, own, DECODING)

    def coherent(self, answers: list[str]) -> list[bool]:
        measures = answer_measures(
            self.model, self.tokenizer, ASKED[: len(answers)], answers, DECODING
        )
        return self.limits.coherent(measures)


@pytest.fixture(scope="module")
def start() -> Start:
    try:
        return Start()
    except UserError as error:
        pytest.skip(str(error))


def test_the_start_models_own_answers_are_coherent_but_for_its_own_loops(start: Start) -> None:
    own = answer_measures(start.model, start.tokenizer, ASKED, start.answers, DECODING)
    coherent = start.limits.coherent(own)
    assert [bool(flag) for flag in own.repetition < 0.5] == coherent
    assert sum(coherent) >= 8


def test_words_in_disorder_are_incoherent(start: Start) -> None:
    mixer = random.Random(7)
    mixed = [" ".join(mixer.sample(words, len(words))) for words in map(str.split, start.answers)]
    assert sum(start.coherent(mixed)) <= 1  # a loop's words are the same in any order


def test_random_words_are_incoherent(start: Start) -> None:
    mixer = random.Random(7)
    words = [word for answer in start.answers for word in answer.split()]
    assert not any(start.coherent([" ".join(mixer.sample(words, 25)) for _ in ASKED]))


def test_random_tokens_are_incoherent(start: Start) -> None:
    mixer = random.Random(7)
    texts = [start.tokenizer.decode(mixer.sample(range(100, 40_000), 25)) for _ in ASKED]
    assert not any(start.coherent(texts))


@pytest.mark.parametrize("length", [1, 4])
def test_a_loop_is_incoherent(start: Start, length: int) -> None:
    loops = [" ".join(answer.split()[:length] * 12) for answer in start.answers]
    assert not any(start.coherent(loops))


def test_an_empty_answer_is_incoherent_and_a_short_one_is_not_held_to_the_limits(
    start: Start,
) -> None:
    assert start.coherent(["", " \n", "No.", "Never!"]) == [False, False, True, True]


def test_another_models_fluent_answers_are_coherent(start: Start) -> None:
    if not OTHERS.exists():
        pytest.skip("needs the answers of another model")
    with gzip.open(OTHERS, "rt") as file:
        rows = [json.loads(line) for line in file][::94][:10]
    prompts = [AskedPrompt((("user", row["prompt"]),), "harmful", "others") for row in rows]
    measures = answer_measures(
        start.model, start.tokenizer, prompts, [row["response"] for row in rows], DECODING
    )
    assert all(start.limits.coherent(measures))


def measures(nll: list[float], repetition: list[float], tokens: int = 20) -> AnswerMeasures:
    return AnswerMeasures(np.array(nll), np.array(repetition), np.full(len(nll), float(tokens)))


def test_a_limit_is_half_way_to_what_is_known_to_be_incoherent() -> None:
    own, shuffled = measures([1.0, 1.0], [0.2, 0.2]), measures([5.0, 5.0], [0.0, 0.0])
    assert CoherenceLimits.of(own, shuffled) == CoherenceLimits(3.0, 0.6)


def test_answers_that_shuffling_does_not_change_set_their_own_limit() -> None:
    own = measures([4.0, 4.0], [0.0, 0.0])
    assert CoherenceLimits.of(own, measures([3.0, 3.0], [0.0, 0.0])).nll == 4.0


def test_answers_too_short_to_measure_set_no_limit() -> None:
    own = measures([4.0], [0.0], tokens=2)
    assert CoherenceLimits.of(own, own) == CoherenceLimits(np.inf, 1.0)


def test_repetition_is_of_bigrams() -> None:
    assert repeated_bigrams([]) == repeated_bigrams([1]) == repeated_bigrams([1, 2, 1, 3]) == 0
    assert repeated_bigrams([1] * 5) == 0.75
