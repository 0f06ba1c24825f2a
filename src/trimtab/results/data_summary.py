"""Of which rows an experiment was made, as its folder tells it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trimtab.results.files import read_if_whole, write_atomically

DATA_FILE = "data.json"


@dataclass(frozen=True)
class DataSummary:
    """One data set as it was used: how many rows trained, how many were held out, and warnings."""

    role: str
    name: str
    path: str
    train_rows: int
    held_out_rows: int
    warnings: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of every local file that was read, by its path as given."""
    licence: str | None = None
    """Of its rows, where the experiment says."""


def write_data(folder: Path, data: Iterable[DataSummary]) -> None:
    """Keep the data sets of a folder as used."""
    records = [asdict(summary) for summary in data]
    write_atomically(folder / DATA_FILE, json.dumps(records, indent=1) + "\n")


def read_data(folder: Path) -> tuple[DataSummary, ...]:
    """The data sets of a folder as used; none where that is missing or, with a word, damaged."""

    def read(path: Path) -> tuple[DataSummary, ...]:
        return tuple(DataSummary(**record) for record in json.loads(path.read_bytes()))

    return read_if_whole(folder / DATA_FILE, read, "which rows were used is not known") or ()
