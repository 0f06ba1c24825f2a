"""What an experiment's folder holds of its results: points, failures and the landscape."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from trimtab.config.grid import Plan
from trimtab.config.run_spec import RunSpec
from trimtab.errors import UserError
from trimtab.results.files import (
    DAMAGE,
    parsed_lines,
    read_if_whole,
    write_atomically,
    write_json_lines,
)
from trimtab.results.gaps import with_gaps
from trimtab.results.per_row_losses import ROW_LOSSES_FOLDER, RowLosses
from trimtab.results.result import LocalGeometry, Point
from trimtab.stats import Estimate

log = logging.getLogger(__name__)

POINTS_FILE = "points.jsonl"
FAILURES_FILE = "failures.jsonl"
LANDSCAPE_FILE = "landscape.json"


def copy_measurements(source: Path, target: Path) -> None:
    """Points and what each held-out row cost, of a folder whole or so far, without its models."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / POINTS_FILE, target)
    shutil.rmtree(target / ROW_LOSSES_FOLDER, ignore_errors=True)
    shutil.copytree(source / ROW_LOSSES_FOLDER, target / ROW_LOSSES_FOLDER)


def read_points(folder: Path) -> list[Point]:
    """The points of a folder, in the order of their plan.

    A last line that was cut short, or that holds NULs, is left out with a word.

    Raises:
        UserError: there is no points file, or another line of it is not a point.
    """
    path = folder / POINTS_FILE
    if not path.exists():
        raise UserError(
            f"{path}: no such file. Give the folder that 'trimtab sweep', 'train', 'dial curve' or "
            "'demo' wrote."
        )
    return list(_parse(path))


class PointsFile:
    """`points.jsonl` of one experiment: every write leaves a complete file or the one before.

    The file is small, so each addition writes it anew beside itself and renames it into place:
    a kill at any moment loses at most the point being made, and gaps are always over all points.
    They are in the order of `plan`, whatever order they were made in.
    """

    def __init__(
        self,
        folder: Path,
        known_entropies: Mapping[str, float],
        plan: Plan = Plan((), ()),  # noqa: B008  # frozen
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.known_entropies = known_entropies
        self.row_losses = RowLosses(folder)
        path = folder / POINTS_FILE
        self.points: list[Point] = list(_parse(path)) if path.exists() else []

    def add(self, points: Iterable[Point]) -> None:
        ordered = self.plan.in_order([*self.points, *points])
        self.points = with_gaps(ordered, self.known_entropies, self.row_losses)
        write_json_lines(self.folder / POINTS_FILE, (point.to_json() for point in self.points))


@dataclass(frozen=True)
class Failure:
    """A planned point that could not be made, and why."""

    spec: RunSpec
    reason: str


def read_failures(folder: Path) -> list[Failure]:
    """The failures of a folder; none where there is no such file.

    A damaged line is left out with a word: what had failed is tried again.
    """
    path = folder / FAILURES_FILE
    failures = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], start=1):
        try:
            record = json.loads(line)
            failures.append(
                Failure(RunSpec.from_json(record.get("key", record)), str(record["reason"]))
            )
        except DAMAGE:
            log.warning("%s line %d is damaged: what failed is tried again.", path, number)
    return failures


def write_failures(folder: Path, failures: Iterable[Failure]) -> None:
    """Replace the failures of a folder."""
    records = (failure.spec.to_json() | {"reason": failure.reason} for failure in failures)
    write_json_lines(folder / FAILURES_FILE, records)


def write_landscape(folder: Path, geometries: Mapping[str, LocalGeometry]) -> None:
    """Keep the local geometry at the aligned model, by the data set's name as for gaps."""
    record = {name: asdict(local_geometry) for name, local_geometry in geometries.items()}
    write_atomically(folder / LANDSCAPE_FILE, json.dumps(record, indent=1) + "\n")


def read_landscape(folder: Path) -> dict[str, LocalGeometry]:
    """The local geometry by data set: none without a file or, with a word, of a damaged one."""

    def read(path: Path) -> dict[str, LocalGeometry]:
        return {
            name: LocalGeometry(Estimate(**geometry["slope"]), Estimate(**geometry["curvature"]))
            for name, geometry in json.loads(path.read_bytes()).items()
        }

    return read_if_whole(folder / LANDSCAPE_FILE, read, "the landscape is not known") or {}


def _parse(path: Path) -> Iterator[Point]:
    return parsed_lines(path, Point.from_json, "a point", "start anew: --restart")
