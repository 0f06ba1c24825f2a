"""What judges said of a model's answers: one line of JSON per judge and answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from trimtab.results.files import parsed_lines, write_json_lines

JUDGEMENTS_FOLDER = "judgements"


@dataclass(frozen=True)
class Judgement:
    """One judge's verdict on one answer.

    `outcome` is what is counted, with answers found incoherent as such; `harmful`, `refused` and
    `probability` are what the judge itself said, None where it says nothing of it.
    """

    judge: str
    model: str
    """The judge's model, empty where it has none."""
    revision: str
    """The commit of its weights, empty where it is not known."""
    settings: str
    """A hash of what else the judge's verdicts depend on: a policy, a threshold."""
    answer_id: str
    outcome: str
    harmful: bool | None
    refused: bool | None
    probability: float | None
    unparsed: bool
    text: str
    """The judge's own words."""


def read_judgements(path: Path) -> list[Judgement]:
    """The judgements of a file, none where there is no such file.

    A last line that was cut short is left out with a word. Raises UserError: another line is none.
    """
    if not path.exists():
        return []
    mend = "remove it to have its answers judged again"
    return list(parsed_lines(path, lambda record: Judgement(**record), "a judgement", mend))


def write_judgements(path: Path, judgements: Iterable[Judgement]) -> None:
    """Keep the judgements of a file, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, map(asdict, judgements))
