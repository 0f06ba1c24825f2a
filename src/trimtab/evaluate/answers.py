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
    asked: Sequence[AskedPrompt],
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
    kept = read_generations(path)
    _require_same(kept, engine, asked, decoding, path)
    if len(kept) == len(asked):
        answered(len(kept))
        return kept
    first = len(kept) // decoding.batch_size * decoding.batch_size
    del kept[first:]

    def finished(place: int, answer: str) -> None:
        kept.append(Generation(asked[place], answer, engine.model, engine.template, decoding))
        if len(kept) % decoding.batch_size == 0 or len(kept) == len(asked):
            write_generations(path, kept)
        answered(len(kept))

    engine.answer(asked, decoding, first, finished)
    return kept


def _require_same(
    kept: Sequence[Generation],
    engine: AnswerEngine,
    asked: Sequence[AskedPrompt],
    decoding: Decoding,
    path: Path,
) -> None:
    if not kept:
        return
    mend = "Give another --out, or remove the file."
    if [one.asked for one in kept] != list(asked[: len(kept)]):
        raise UserError(f"{path} holds answers to other prompts. {mend}")
    wanted = {"model": engine.model, "template": engine.template, **asdict(decoding)}
    for generation in kept:
        record = generation.to_json()
        for setting, value in wanted.items():
            if record[setting] != value:
                raise UserError(
                    f"{path} holds answers under {setting} {record[setting]!r}, and {value!r} is "
                    f"asked for. {mend}"
                )
