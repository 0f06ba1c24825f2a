"""Which trainings of an experiment are under way: where each is made, since when, how far it is."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from trimtab.results.files import read_if_whole, write_atomically

UNFINISHED_FOLDER = "unfinished"
"""Holds a folder for each training that has begun: its checkpoints, and this."""

_FILE = "under-way.json"
_SECONDS = 5.0
"""Between two writes, so that a training of short steps does not wait for the disk."""


@dataclass(frozen=True)
class UnderWay:
    """A training that was begun and whose points are not written yet."""

    host: str
    process: int
    since: str
    """The date and time it began there, in ISO 8601, UTC."""
    steps: int
    """Optimizer steps done, some seconds ago; all of them while the model is measured."""
    of: int


class Tracker:
    """Records how far one training is, beside its checkpoints in `folder`."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.path = folder / _FILE
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.begun = UnderWay(socket.gethostname(), os.getpid(), now, 0, steps)
        self._written = 0.0

    def at(self, steps: int) -> None:
        """`steps` are done."""
        is_last = steps == self.begun.of
        if not self._written or is_last or monotonic() > self._written + _SECONDS:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            record = asdict(self.begun) | {"steps": steps}
            write_atomically(self.path, json.dumps(record) + "\n")
            self._written = monotonic()


def read_under_way(folder: Path) -> dict[str, UnderWay]:
    """What has begun in an experiment's folder, by the name of the training."""
    trainings = {}
    for path in sorted((folder / UNFINISHED_FOLDER).glob(f"*/{_FILE}")):
        training = read_if_whole(path, _read, "how far it is is not known")
        if training is not None:
            trainings[path.parent.name] = training
    return trainings


def forget_under_way(folder: Path, name: str = "*") -> None:
    """Remove the record of a training, or of all, where nobody makes it; checkpoints stay."""
    for path in (folder / UNFINISHED_FOLDER).glob(f"{name}/{_FILE}"):
        path.unlink(missing_ok=True)
        with suppress(OSError):  # it holds checkpoints
            path.parent.rmdir()


def _read(path: Path) -> UnderWay:
    return UnderWay(**json.loads(path.read_bytes()))
