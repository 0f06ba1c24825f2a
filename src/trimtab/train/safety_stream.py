"""Rows of two roles in one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from trimtab.data.encoding import IGNORED

Batch = dict[str, Tensor]

ROLE = "is_safety"


@dataclass(frozen=True)
class SafetyStream:
    """An endless stream of safety batches in which batch number n is a function of n alone.

    Every pass over the rows has a seeded order of its own, and no row comes again before all have
    come. Having no state, the stream resumes anywhere, and processes and accumulation steps that
    take different numbers partition it.
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
        return [self._row_at(drawn) for drawn in range(first, first + count)]

    def _row_at(self, drawn: int) -> int:
        turn, index = divmod(drawn, len(self.rows))
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


def join(task: Batch, safety: Batch, pad_token_id: int) -> Batch:
    """One right-padded batch, task rows first, with a column `is_safety` of shape (rows, 1)."""
    padding = {"input_ids": pad_token_id, "labels": IGNORED, "attention_mask": 0}
    joined = {
        name: _stack(task[name], safety[name].to(task[name].device), value)
        for name, value in padding.items()
    }
    roles = [0] * len(task["labels"]) + [1] * len(safety["labels"])
    joined[ROLE] = torch.tensor(roles, dtype=torch.bool, device=task["labels"].device)[:, None]
    return joined


def take(batch: Batch, kept: Tensor) -> Batch:
    """The rows of a joined batch where `kept`, of shape (rows,), is true."""
    return {
        name: value[kept]
        for name, value in batch.items()
        if isinstance(value, Tensor) and len(value) == len(kept)
    }


def _stack(upper: Tensor, lower: Tensor, value: int) -> Tensor:
    width = max(upper.shape[1], lower.shape[1])
    return torch.cat([_widen(upper, width, value), _widen(lower, width, value)])


def _widen(rows: Tensor, width: int, value: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]), value=value)
