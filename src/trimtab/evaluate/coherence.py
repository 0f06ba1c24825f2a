"""Whether an answer is language: by the start model's surprise at it, and by how it repeats itself.

Surprise finds words in disorder and random text, to which a loop is no surprise; repetition finds
loops. Both limits come from the start model's own answers: each is half way from what the start
model does to what is known to be incoherent, the same answers with their words shuffled, and a
loop. Where the start model itself loops, that is incoherent too: rates are compared with its own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.data_source import Lengths
from trimtab.data.encoding import IGNORED, encode
from trimtab.data.rows import Row
from trimtab.evaluate.prompt_sets import messages_of
from trimtab.measure.losses import response_nll
from trimtab.results.generations import AskedPrompt, Decoding, Generation
from trimtab.stats import Array

OWN_QUANTILE = 0.995
FEWEST_TOKENS = 5
"""The mean over fewer tokens than these says more of the first word than of the answer."""
_TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class AnswerMeasures:
    """What coherence goes by, per answer, each of shape (answers,)."""

    nll: Array
    """−log P_θs(y|x)/tokens under the start model θs, nats per token; 0 of an empty answer."""
    repetition: Array
    """The share of token bigrams that came before in the answer, in [0, 1)."""
    tokens: Array

    def __len__(self) -> int:
        return len(self.nll)


@dataclass(frozen=True)
class CoherenceLimits:
    """Above which an answer is incoherent: nats per token of the start model, and a share."""

    nll: float
    repetition: float

    @classmethod
    def of(cls, own: AnswerMeasures, shuffled: AnswerMeasures) -> CoherenceLimits:
        """(q + m)/2 of NLL and (r + 1)/2 of repetition.

        q is the 99.5 % quantile of NLL of the start model's own answers, and m the median of the
        same answers with their words shuffled; where m is below q, as where answers are of one
        word, the limit is q. r is the median of its own repetition, which a few loops do not move.
        """
        long = own.tokens >= FEWEST_TOKENS
        if not long.any():
            return cls(np.inf, 1.0)
        surprise = float(np.quantile(own.nll[long], OWN_QUANTILE))
        disorder = float(np.median(shuffled.nll[long]))
        repetition = float(np.median(own.repetition[long]))
        return cls(max(surprise, (surprise + disorder) / 2), (repetition + 1) / 2)

    def coherent(self, answers: AnswerMeasures) -> list[bool]:
        """Whether each answer is within both limits; one without a token is not coherent.

        Answers under `FEWEST_TOKENS` tokens are not held to the limits.
        """
        within = (answers.nll <= self.nll) & (answers.repetition <= self.repetition)
        short = answers.tokens < FEWEST_TOKENS
        return [bool(is_coherent) for is_coherent in (within | short) & (answers.tokens > 0)]


def answer_measures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[AskedPrompt],
    answers: Sequence[str],
    decoding: Decoding,
) -> AnswerMeasures:
    """Measure answers under the start model. Raises UserError as `encode` does."""
    nll, repetition, tokens = (np.zeros(len(answers)) for _ in range(3))
    places = [place for place, answer in enumerate(answers) if answer.strip()]
    if not places:
        return AnswerMeasures(nll, repetition, tokens)
    rows = encode(
        [Row(messages_of(prompts[place]), answers[place]) for place in places],
        tokenizer,
        Lengths(decoding.max_prompt, decoding.max_tokens),
    )
    nats, counted = response_nll(model, rows, _TOKENS_PER_BATCH)
    nll[places], tokens[places] = nats / counted, counted
    for place, row in zip(places, rows, strict=True):
        answer = [label for label in row["labels"] if label != IGNORED]
        repetition[place] = repeated_bigrams(answer)
    return AnswerMeasures(nll, repetition, tokens)


def repeated_bigrams(tokens: Sequence[int]) -> float:
    """1 − distinct bigrams / bigrams, in [0, 1); 0 of fewer than two tokens.

    >>> repeated_bigrams([1, 2, 3, 4]), repeated_bigrams([1, 2] * 10)
    (0.0, 0.8947368421052632)
    """
    bigrams = list(pairwise(tokens))
    return 1 - len(set(bigrams)) / len(bigrams) if bigrams else 0.0


def limits_of_start(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    own: Sequence[Generation],
    decoding: Decoding,
) -> CoherenceLimits:
    """The limits that the start model's own answers set. Raises UserError as `encode` does."""
    prompts, answers = (
        [generation.prompt for generation in own],
        [generation.answer for generation in own],
    )
    mixed = [_shuffled(answer, seed) for seed, answer in enumerate(answers)]
    return CoherenceLimits.of(
        answer_measures(model, tokenizer, prompts, answers, decoding),
        answer_measures(model, tokenizer, prompts, mixed, decoding),
    )


def _shuffled(answer: str, seed: int) -> str:
    words = answer.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)
