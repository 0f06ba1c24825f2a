"""The data sets of an audit: read, checked against each other, and the rows to look at chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from trimtab.config.audit_settings import FEWEST_ROWS, AuditSettings
from trimtab.config.data_source import DataSource
from trimtab.data.rows import Row
from trimtab.data.sources import read_rows
from trimtab.data.splits import choose_rows
from trimtab.errors import UserError


@dataclass(frozen=True)
class Audited:
    """One data set: all its rows, and those that the model reads."""

    label: str
    """Its role and name, as in "safety near"."""
    path: str
    rows: tuple[Row, ...]
    chosen: tuple[Row, ...]

    @property
    def prompts(self) -> list[str]:
        """The last message of every prompt."""
        return [text_of(row) for row in self.rows]


@dataclass(frozen=True)
class AuditedData:
    """Every role's data, and what was noticed while reading."""

    original: Audited | None
    safety: Mapping[str, Audited]
    task: Mapping[str, Audited]
    warnings: tuple[str, ...]

    @property
    def every(self) -> list[Audited]:
        """All data sets."""
        originals = [self.original] if self.original else []
        return [*originals, *self.safety.values(), *self.task.values()]


def read_data(
    original: DataSource | None,
    safety: Mapping[str, DataSource],
    task: Mapping[str, DataSource],
    settings: AuditSettings,
) -> AuditedData:
    """Every data set read.

    Raises:
        UserError: one cannot be read or has too few rows, or two hold the same rows.
    """
    warnings: list[str] = []

    def audited(label: str, source: DataSource) -> Audited:
        rows = read_rows(source, None, warnings.append)
        if len(rows) < FEWEST_ROWS:
            raise UserError(
                f"{label} ({source.path}): {len(rows)} rows are too few to measure anything on. "
                f"Give at least {FEWEST_ROWS}."
            )
        chosen = choose_rows(rows, settings.rows, settings.seed)
        return Audited(label, source.path, tuple(rows), tuple(chosen))

    data = AuditedData(
        audited("original", original) if original else None,
        {name: audited(f"safety {name}", source) for name, source in safety.items()},
        {name: audited(f"task {name}", source) for name, source in task.items()},
        (),
    )
    _refuse_identical(data.every)
    return AuditedData(data.original, data.safety, data.task, tuple(warnings))


def text_of(row: Row) -> str:
    """What a prompt asks: its last message."""
    return row.prompt[-1].content


def _refuse_identical(datasets: list[Audited]) -> None:
    for first, second in combinations(datasets, 2):
        pairs = [Counter((row.prompt, row.response) for row in d.rows) for d in (first, second)]
        if pairs[0] == pairs[1]:
            raise UserError(
                f"{first.label} ({first.path}) and {second.label} ({second.path}) hold the same "
                "rows, so there is nothing to compare. Give another file, or leave one of them out."
            )
