"""Batches whose rows an objective divides between the roles anew at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from trimtab.train.batches import Batch
from trimtab.train.safety_stream import SafetyStream


@dataclass
class DividedRows:
    """Streams of task and of safety rows, of which each step draws as many as it was given.

    Both count the rows that the steps before have drawn, which the shares decide, so that every row
    comes before one comes again, and a resumed run and more processes meet the same rows. A step
    counts as many batches as any other, though the last of an epoch may have fewer.

    Args:
        safety: the stream of safety rows, whose collator and seed the task rows are drawn by too.
        task_rows: the rows of the task.
        rows: how many a batch holds, of both roles together. The division is of all rows of a step,
            so that it does not depend on how many batches and processes they come in.
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
        places = list(places)
        streams = replace(self.safety, rows=self.task_rows), self.safety
        task, safety = (
            [self._batch(stream, int(first), of_step, place) for place in places]
            for stream, first, of_step in zip(
                streams, self._rows_before(step), self._split(step), strict=True
            )
        )
        return task, safety

    def _batch(self, stream: SafetyStream, first: int, of_step: int, place: int) -> Batch:
        """The batch at a place in a step that draws `of_step` rows from `first` on."""
        begin, end = (of_step * end // self.batches_per_step for end in (place, place + 1))
        return stream.drawn(first + begin, end - begin)

    def _split(self, step: int) -> tuple[int, int]:
        rows = self.rows * self.batches_per_step
        return row_split(rows, self.share_at(step), self.batches_per_step)

    def _rows_before(self, step: int) -> NDArray[np.int64]:
        """Task and safety rows of every step before this one, summed, shape (2,)."""
        self._splits += [self._split(earlier) for earlier in range(len(self._splits), step)]
        return np.array(self._splits[:step], dtype=np.int64).reshape(-1, 2).sum(axis=0)


def row_split(rows: int, share: float, batches: int = 1) -> tuple[int, int]:
    """How many of a step's rows are task rows, and how many safety rows, of which `share` are.

    Of each role there are eight at least, or a quarter of few rows, so that its part of the loss is
    a mean over several rows at every share; and one at least for each of its `batches`.

    >>> row_split(64, 0.5), row_split(64, 0.99), row_split(8, 0.01), row_split(2, 0.01)
    ((32, 32), (8, 56), (6, 2), (1, 1))
    """
    least = max(batches, min(8, rows // 4))
    safety = min(max(round(share * rows), least), rows - least)
    return rows - safety, safety
