"""The same prompts answered by several models, with what each judge said of each answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from trimtab.results.generations import (
    GENERATIONS_FOLDER,
    Generation,
    Kind,
    read_generations,
)
from trimtab.results.judgements import JUDGEMENTS_FOLDER, read_judgements
from trimtab.results.samples import opening

MOST_BYTES = 250_000
"""Of all answers in a page, as JSON."""
MOST_PROMPTS = 40
"""Of each kind."""
LONGEST_PROMPT, LONGEST_ANSWER = 300, 400
"""In characters; of what is harmful only the opening words are kept."""
HARMFUL = "complied harmfully"


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
        model: made
        for model in dict.fromkeys(models)
        if (made := read_generations(folder / GENERATIONS_FOLDER / f"{model}.jsonl"))
    }
    if not of_model:
        return None
    first = next(iter(of_model.values()))
    same = {
        model: made
        for model, made in of_model.items()
        if [one.asked for one in made] == [one.asked for one in first]
    }
    judged: dict[str, dict[tuple[str, str], str]] = {}
    for model in same:
        judged[model] = {
            (one.judge, one.answer_id): one.outcome
            for one in read_judgements(folder / JUDGEMENTS_FOLDER / f"{model}.jsonl")
        }
    names = tuple(
        dict.fromkeys([*judges, *(judge for found in judged.values() for judge, _ in found)])
    )
    outcomes = tuple(dict.fromkeys(one for found in judged.values() for one in found.values()))
    for most in range(MOST_PROMPTS, 0, -1):
        places = _first_of_each_kind(first, most)
        answers = {
            model: [_shown(made[place], names, outcomes, judged[model]) for place in places]
            for model, made in same.items()
        }
        if (
            len(json.dumps(answers, ensure_ascii=False).encode()) <= min(room, MOST_BYTES)
            or most == 1
        ):
            break
    prompts = tuple(
        {
            "kind": first[place].asked.kind,
            "set": first[place].asked.prompt_set,
            "text": _cut(first[place].asked.text, LONGEST_PROMPT),
        }
        for place in places
    )
    return SideBySide(names, outcomes, prompts, answers, len(first))


def _first_of_each_kind(made: Sequence[Generation], most: int) -> list[int]:
    kinds: tuple[Kind, ...] = get_args(Kind)
    return [
        place
        for kind in kinds
        for place in [n for n, one in enumerate(made) if one.asked.kind == kind][:most]
    ]


def _shown(
    one: Generation,
    judges: Sequence[str],
    outcomes: Sequence[str],
    judged: Mapping[tuple[str, str], str],
) -> list[Any]:
    told = [judged.get((judge, one.answer_id)) for judge in judges]
    is_harmful = one.asked.kind == "harmful" or HARMFUL in told
    text = opening(one.answer) if is_harmful else _cut(one.answer, LONGEST_ANSWER)
    text = text if len(text) <= LONGEST_ANSWER else _cut(text, LONGEST_ANSWER)
    places = [None if outcome is None else outcomes.index(outcome) for outcome in told]
    return [text, int(text != one.answer.strip()), places]


def _cut(text: str, longest: int) -> str:
    text = text.strip()
    return text if len(text) <= longest else f"{text[:longest].rstrip()} …"
