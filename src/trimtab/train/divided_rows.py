"""Batches whose rows an objective divides between the roles anew at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from trimtab.train.safety_stream import Batch, SafetyStream


@dataclass
class DividedRows:
    """Streams of task and of safety rows, of which each step draws as many as it was given.

    Both count the rows that the steps before have drawn, which the shares decide, so that every row
    comes before one comes again, and a resumed run and more processes meet the same rows.

    Args:
        safety: the stream of safety rows, whose collator and seed the task rows are drawn by too.
        task_rows: the rows of the task.
        rows: how many a batch holds, of both roles together.
        share_at: the share of safety rows at an optimizer step, a function of its number alone.
        batches_per_step: those of an optimizer step, of all processes together.
    """

    safety: SafetyStream
    task_rows: Dataset
    rows: int
    share_at: Callable[[int], float]
    batches_per_step: int
    _splits: list[tuple[int, int]] = field(default_factory=list)

    def of_step(self, step: int, places: Iterable[int]) -> tuple[list[Batch], list[Batch]]:
        """Task and safety batches of optimizer step number `step`, at these places in it."""
        of_task, of_safety = self._split(step)
        drawn = self.batches_per_step * self._rows_before(step)
        task = SafetyStream(self.task_rows, self.safety.collate, of_task, self.safety.seed)
        places = list(places)
        return (
            [task.drawn(int(drawn[0]) + place * of_task, of_task) for place in places],
            [self.safety.drawn(int(drawn[1]) + place * of_safety, of_safety) for place in places],
        )

    def _split(self, step: int) -> tuple[int, int]:
        return row_split(self.rows, self.share_at(step))

    def _rows_before(self, step: int) -> NDArray[np.int64]:
        """Task and safety rows of a batch of every step before this one, summed, shape (2,)."""
        self._splits += [self._split(earlier) for earlier in range(len(self._splits), step)]
        return np.array(self._splits[:step], dtype=np.int64).reshape(-1, 2).sum(axis=0)


def row_split(rows: int, share: float) -> tuple[int, int]:
    """How many of a batch's rows are task rows, and how many safety rows, of which `share` are.

    Of each role there are eight at least, or a quarter of a small batch, so that its part of the
    loss is a mean over several rows at every share.

    >>> row_split(64, 0.5), row_split(64, 0.99), row_split(8, 0.01), row_split(2, 0.01)
    ((32, 32), (8, 56), (6, 2), (1, 1))
    """
    least = max(1, min(8, rows // 4))
    safety = min(max(round(share * rows), least), rows - least)
    return rows - safety, safety
