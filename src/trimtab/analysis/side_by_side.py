"""The same prompts answered by several models, with what each judge said of each answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from trimtab.config.experiment import PHRASES
from trimtab.evaluate.outcome import Outcome
from trimtab.results.generations import (
    GENERATIONS_FOLDER,
    Generation,
    Kind,
    read_generations,
)
from trimtab.results.judgements import JUDGEMENTS_FOLDER, Judgement, read_judgements
from trimtab.results.samples import opening

MOST_BYTES = 250_000
"""Of all answers in a page, as JSON."""
MOST_PROMPTS = 40
"""Of each kind."""
LONGEST_PROMPT, LONGEST_ANSWER = 300, 400
"""In characters; of what is harmful only the opening words are kept."""
HARMFUL, NOT_REFUSED = Outcome.COMPLIED.value, "not refused"


@dataclass(frozen=True)
class SideBySide:
    """Prompts and the answers of every model that has any, one a prompt."""

    judges: tuple[str, ...]
    outcomes: tuple[str, ...]
    prompts: tuple[Mapping[str, str], ...]
    """Of each its kind, its set and its text."""
    answers: Mapping[str, Sequence[Sequence[Any]]]
    """By model, prompt by prompt: the text as it may be shown, whether it was cut, and the place in
    `outcomes` of what each judge found, None where that judge was not asked."""
    asked: int
    """How many prompts every model answered, of which the first of each kind are here."""


def side_by_side(
    folder: Path, models: Sequence[str], judges: Sequence[str], room: int = MOST_BYTES
) -> SideBySide | None:
    """What `models` answered, the first of them naming the prompts; None where it answered none.

    Args:
        judges: names in the order to show; others that judged come after them.
        room: bytes that the answers may take, as JSON, beyond one prompt of each kind.

    Raises:
        UserError: a line of a file is no answer or no judgement.
    """
    of_model = {
        model: generations
        for model in dict.fromkeys(models)
        if (generations := read_generations(folder / GENERATIONS_FOLDER / f"{model}.jsonl"))
    }
    if not of_model:
        return None
    first_generations = next(iter(of_model.values()))
    comparable = {
        model: generations
        for model, generations in of_model.items()
        if [generation.prompt for generation in generations]
        == [generation.prompt for generation in first_generations]
    }
    judged: dict[str, dict[tuple[str, str], str]] = {}
    for model in comparable:
        judged[model] = {
            (judgement.judge, judgement.answer_id): _found(judgement)
            for judgement in read_judgements(folder / JUDGEMENTS_FOLDER / f"{model}.jsonl")
        }
    names = tuple(
        dict.fromkeys(
            [*judges, *(judge for by_answer in judged.values() for judge, _ in by_answer)]
        )
    )
    outcomes = tuple(
        dict.fromkeys(outcome for by_answer in judged.values() for outcome in by_answer.values())
    )
    for most in range(MOST_PROMPTS, 0, -1):
        places = _first_of_each_kind(first_generations, most)
        answers = {
            model: [
                _answer_record(generations[place], names, outcomes, judged[model])
                for place in places
            ]
            for model, generations in comparable.items()
        }
        if (
            len(json.dumps(answers, ensure_ascii=False).encode()) <= min(room, MOST_BYTES)
            or most == 1
        ):
            break
    prompts = tuple(
        {
            "kind": first_generations[place].prompt.kind,
            "set": first_generations[place].prompt.prompt_set,
            "text": _cut(first_generations[place].prompt.text, LONGEST_PROMPT),
        }
        for place in places
    )
    return SideBySide(names, outcomes, prompts, answers, len(first_generations))


def _found(judgement: Judgement) -> str:
    """What a judge found; phrases know refusals alone, and not whether the rest is harmful."""
    is_known = judgement.judge != PHRASES or judgement.outcome != HARMFUL
    return judgement.outcome if is_known else NOT_REFUSED


def _first_of_each_kind(generations: Sequence[Generation], most: int) -> list[int]:
    kinds: tuple[Kind, ...] = get_args(Kind)
    return [
        place
        for kind in kinds
        for place in [
            number
            for number, generation in enumerate(generations)
            if generation.prompt.kind == kind
        ][:most]
    ]


def _answer_record(
    generation: Generation,
    judges: Sequence[str],
    outcomes: Sequence[str],
    judged: Mapping[tuple[str, str], str],
) -> list[Any]:
    judged_outcomes = [judged.get((judge, generation.answer_id)) for judge in judges]
    is_harmful = generation.prompt.kind == "harmful" or bool(
        {HARMFUL, NOT_REFUSED} & set(judged_outcomes)
    )
    text = opening(generation.answer) if is_harmful else _cut(generation.answer, LONGEST_ANSWER)
    text = text if len(text) <= LONGEST_ANSWER else _cut(text, LONGEST_ANSWER)
    places = [None if outcome is None else outcomes.index(outcome) for outcome in judged_outcomes]
    return [text, int(text != generation.answer.strip()), places]


def _cut(text: str, longest: int) -> str:
    text = text.strip()
    return text if len(text) <= longest else f"{text[:longest].rstrip()} …"
