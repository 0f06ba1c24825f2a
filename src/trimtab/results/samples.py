"""Sample answers of a dial: what the model says to a few held-out prompts at a few settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trimtab.results.files import read_if_whole, write_atomically

SAMPLES_FILE = "samples.json"
SHOWN_WORDS = 10


@dataclass(frozen=True)
class Answer:
    """The likeliest answer at one setting; `note` says what it is where it is cut short."""

    alpha: float
    text: str
    note: str


@dataclass(frozen=True)
class Sample:
    """One held-out prompt and its answers from the safest setting to the most capable."""

    is_safety: bool
    prompt: str
    answers: tuple[Answer, ...]


def shown(alpha: float, text: str, refuses: bool | None = None) -> Answer:
    """An answer as it may be kept: whole, or, once `refuses` is told, its opening with that mark.

    >>> shown(0.0, "I'm sorry, but I can't help with that.", refuses=True).note
    'opens as a refusal'
    >>> shown(1.0, "Sure! " + "word " * 30, refuses=False)
    Answer(alpha=1.0, text='Sure! word word word word word word word word word …', note='does not \
open as a refusal')
    """
    if refuses is None:
        return Answer(alpha, text, "")
    return Answer(alpha, opening(text), f"{'opens' if refuses else 'does not open'} as a refusal")


def opening(text: str) -> str:
    """The first ten words of what may do harm in full."""
    words = text.split()
    return " ".join(words[:SHOWN_WORDS]) + (" …" if len(words) > SHOWN_WORDS else "")


def write_samples(folder: Path, samples: Sequence[Sample]) -> None:
    """Keep the samples of a folder, all at once."""
    text = json.dumps([asdict(sample) for sample in samples], indent=1, ensure_ascii=False)
    write_atomically(folder / SAMPLES_FILE, text + "\n")


def read_samples(folder: Path) -> tuple[Sample, ...]:
    """The samples of a folder, none where there is no such file or, with a word, a damaged one."""

    def read(path: Path) -> tuple[Sample, ...]:
        return tuple(
            Sample(
                record["is_safety"],
                record["prompt"],
                tuple(Answer(**answer) for answer in record["answers"]),
            )
            for record in json.loads(path.read_bytes())
        )

    return read_if_whole(folder / SAMPLES_FILE, read, "the answers are not known") or ()
