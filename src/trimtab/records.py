"""What an experiment's folder holds of its results: points, failures and the landscape."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from trimtab.errors import UserError
from trimtab.gaps import with_gaps
from trimtab.points import Estimate, Point, PointKey, Terrain
from trimtab.row_losses import RowLosses

POINTS_FILE = "points.jsonl"
FAILURES_FILE = "failures.jsonl"
LANDSCAPE_FILE = "landscape.json"


def read_points(folder: Path) -> list[Point]:
    """The points of a folder, in the order they were made.

    Raises:
        UserError: there is no points file, or a line of it is not a point.
    """
    path = folder / POINTS_FILE
    if not path.exists():
        raise UserError(
            f"{path}: no such file. Give the folder that 'trimtab sweep', 'train' or 'demo' wrote."
        )
    return list(_parse(path))


class PointsFile:
    """`points.jsonl` of one experiment: every write leaves a complete file or the one before.

    The file is small, so each addition writes it anew beside itself and renames it into place:
    a kill at any moment loses at most the point being made, and gaps are always over all points.
    """

    def __init__(self, folder: Path, known_entropies: Mapping[str, float]) -> None:
        self.folder = folder
        self.known_entropies = known_entropies
        self.row_losses = RowLosses(folder)
        path = folder / POINTS_FILE
        self.points: list[Point] = list(_parse(path)) if path.exists() else []

    def add(self, points: Iterable[Point]) -> None:
        self.points = with_gaps([*self.points, *points], self.known_entropies, self.row_losses)
        lines = [json.dumps(point.to_json()) + "\n" for point in self.points]
        write_atomically(self.folder / POINTS_FILE, "".join(lines))


@dataclass(frozen=True)
class Failure:
    """A planned point that could not be made, and why."""

    key: PointKey
    reason: str


def read_failures(folder: Path) -> list[Failure]:
    """The failures of a folder; none where there is no such file."""
    path = folder / FAILURES_FILE
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Failure(PointKey(**record["key"]), record["reason"]) for record in records]


def write_failures(folder: Path, failures: Iterable[Failure]) -> None:
    """Replace the failures of a folder."""
    lines = [
        json.dumps({"key": failure.key._asdict(), "reason": failure.reason}) + "\n"
        for failure in failures
    ]
    write_atomically(folder / FAILURES_FILE, "".join(lines))


def write_landscape(folder: Path, terrains: Mapping[str, Terrain]) -> None:
    """Keep the terrain at the aligned model, by the data set's name as for gaps."""
    record = {name: asdict(terrain) for name, terrain in terrains.items()}
    write_atomically(folder / LANDSCAPE_FILE, json.dumps(record, indent=1) + "\n")


def read_landscape(folder: Path) -> dict[str, Terrain]:
    """The terrains of a folder; none where there is no such file. Raises UserError."""
    path = folder / LANDSCAPE_FILE
    if not path.exists():
        return {}
    try:
        return {
            name: Terrain(Estimate(**one["slope"]), Estimate(**one["curvature"]))
            for name, one in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: not a landscape ({error}). Restore the file, or remove it."
        ) from None


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` against a second sweep writing into it; freed by the system on any exit."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another trimtab is writing here. Wait for it, or give another --out."
            ) from None
        yield


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either its old or its new content, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _parse(path: Path) -> Iterator[Point]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            yield Point.from_json(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} line {number}: not a point of this version of trimtab "
                f"({type(error).__name__}: {error}). Restore the file, or start anew: --restart."
            ) from None
