"""What a harness measured of a model, sample by sample: one line of JSON each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from trimtab.results.files import parsed_lines, write_json_lines

HARNESS_FOLDER = "harnesses"


@dataclass(frozen=True)
class HarnessRun:
    """What was run, on which weights."""

    harness: str
    version: str
    """Of the harness."""
    model: str
    sha256: str
    """Of the adapter's weights, or a whole model's; empty of what is on the Hub."""
    limit: int | None
    """At most as many samples of a task."""
    held_in: str = ""
    """What its weights were held in, where that was not float32."""


@dataclass(frozen=True)
class HarnessSample:
    """One sample of a task, and its value by each metric whose mean the harness reports."""

    task: str
    """As it was asked for."""
    sample: str
    """Its id; of a task that holds others, theirs before it."""
    content: str
    """A hash of what was asked; models are compared on the same."""
    metrics: Mapping[str, float]
    run: HarnessRun
    task_files: str = ""
    """A hash of the task's own files, where it was read from some here."""

    def to_json(self) -> dict[str, Any]:
        """A flat record, but for the metrics."""
        names = [field.name for field in fields(self) if field.name != "run"]
        record = {name: getattr(self, name) for name in names}
        return {**record, "metrics": dict(self.metrics), **asdict(self.run)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> HarnessSample:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on no such record."""
        return cls(
            str(record["task"]),
            str(record["sample"]),
            str(record["content"]),
            {str(name): float(value) for name, value in record["metrics"].items()},
            HarnessRun(
                **{field.name: record[field.name] for field in fields(HarnessRun)[:-1]},
                held_in=str(record.get("held_in", "")),
            ),
            str(record.get("task_files", "")),
        )


def read_harness_samples(path: Path) -> list[HarnessSample]:
    """The samples of a file, none where there is no such file.

    Raises UserError: a line is none, but for a last one that was cut short.
    """
    if not path.exists():
        return []
    mend = "remove it to have its tasks run again"
    return list(parsed_lines(path, HarnessSample.from_json, "a harness's sample", mend))


def write_harness_samples(path: Path, samples: Iterable[HarnessSample]) -> None:
    """Keep the samples of a file, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, (sample.to_json() for sample in samples))
