"""Safety rows in an endless order, a function of the batch's number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from datasets import Dataset

from trimtab.train.batches import Batch


@dataclass(frozen=True)
class SafetyStream:
    """An endless stream of safety batches in which batch number n is a function of n alone.

    Every pass over the rows has a seeded order of its own, and no row comes again before all have
    come (but for those that the last step of an epoch passes over, where it has fewer batches than
    the others). Having no state, the stream resumes anywhere, and processes and accumulation steps
    that take different numbers partition it.
    """

    rows: Dataset
    collate: Callable[[list[dict[str, Any]]], Batch]
    rows_per_batch: int
    seed: int

    def batch(self, number: int) -> Batch:
        return self.drawn(number * self.rows_per_batch, self.rows_per_batch)

    def drawn(self, first: int, count: int) -> Batch:
        """The batch of `count` rows from the stream's `first` on."""
        return self.collate([self.rows[place] for place in self.places(first, count)])

    def places(self, first: int, count: int) -> list[int]:
        """Which rows the stream gives, from its `first` on."""
        return [self._row_at(number) for number in range(first, first + count)]

    def _row_at(self, number: int) -> int:
        turn, index = divmod(number, len(self.rows))
        return _order(len(self.rows), self.seed, turn)[index]


@lru_cache(maxsize=4)
def _order(size: int, seed: int, turn: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 2**20 + turn)
    return torch.randperm(size, generator=generator).tolist()


def safety_rows_per_batch(task_rows: int, share: float) -> int:
    """How many safety rows join `task_rows` so that they are `share` of the batch; at least one.

    >>> safety_rows_per_batch(8, 0.5), safety_rows_per_batch(6, 0.25)
    (8, 2)
    """
    return max(1, round(task_rows * share / (1 - share)))
