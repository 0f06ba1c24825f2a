"""Answers, generated once and kept: a run that was killed goes on to the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from trimtab.errors import UserError
from trimtab.evaluate.engines import AnswerEngine
from trimtab.results.generations import (
    AskedPrompt,
    Decoding,
    Generation,
    read_generations,
    write_generations,
)


def kept_answers(
    engine: AnswerEngine,
    prompts: Sequence[AskedPrompt],
    decoding: Decoding,
    path: Path,
    answered: Callable[[int], None] = lambda count: None,
) -> list[Generation]:
    """An answer to every prompt, from `path` where it is there and of `engine` where it is not.

    The file is replaced after every batch. A batch's draw is a function of the seed and of where it
    starts, so what is left after a kill is answered as one run would have.

    Args:
        answered: hears how many prompts have an answer.

    Raises:
        UserError: the file holds other prompts, or answers of another model or under other
            settings; the model cannot answer.
    """
    generations = read_generations(path)
    _require_same(generations, engine, prompts, decoding, path)
    if len(generations) == len(prompts):
        answered(len(generations))
        return generations
    first = len(generations) // decoding.batch_size * decoding.batch_size
    del generations[first:]

    def finished(place: int, answer: str) -> None:
        generations.append(
            Generation(
                prompts[place], answer, engine.model, engine.template, decoding, engine.made_by
            )
        )
        if len(generations) % decoding.batch_size == 0 or len(generations) == len(prompts):
            write_generations(path, generations)
        answered(len(generations))

    engine.answer(prompts, decoding, first, finished)
    return generations


def _require_same(
    generations: Sequence[Generation],
    engine: AnswerEngine,
    prompts: Sequence[AskedPrompt],
    decoding: Decoding,
    path: Path,
) -> None:
    if not generations:
        return
    mend = "Give another --out, or remove the file."
    if [generation.prompt for generation in generations] != list(prompts[: len(generations)]):
        raise UserError(f"{path} holds answers to other prompts. {mend}")
    settings = {
        "model": engine.model,
        "template": engine.template,
        "engine": engine.made_by,
        **asdict(decoding),
    }
    for generation in generations:
        record = generation.to_json()
        for setting, value in settings.items():
            if record.get(setting, value) != value:
                raise UserError(
                    f"{path} holds answers under {setting} {record[setting]!r}, and {value!r} is "
                    f"asked for. {mend}"
                )
