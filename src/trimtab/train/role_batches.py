"""The batches of an optimizer step, once an objective has said whose rows they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from datasets import Dataset
from torch import Tensor

from trimtab.train.batches import (
    ROLE,
    Batch,
    is_padding_free,
    join,
    sequences_per_row,
    unpacked,
)
from trimtab.train.divided_rows import DividedRows
from trimtab.train.objectives.base import Objective
from trimtab.train.safety_stream import SafetyStream

Tokens = Tensor | int | None


@dataclass(frozen=True)
class RoleBatches:
    """The task's batches, with safety rows beside them, in their place, or divided with them anew.

    Args:
        objective: says of every step whose rows it reads.
        safety: the stream of safety rows.
        task_rows: the rows of the task, packed or not.
        rows: how many of them a batch holds.
        batches_per_step: those of an optimizer step, of all processes together.
        process, processes: this process's number, and how many there are, which take turns.
        seed: of the settings that an objective draws.
        pad_token_id: what narrower rows are filled with.
        device: where the tokens of a step are counted.
        count_tokens: the labelled tokens of a step's batches, of all processes together.
    """

    objective: Objective
    safety: SafetyStream
    task_rows: Dataset
    rows: int
    batches_per_step: int
    process: int
    processes: int
    seed: int
    pad_token_id: int
    device: torch.device
    count_tokens: Callable[[list[Batch]], Tokens]

    def of_step(
        self, step: int, task: list[Batch], task_tokens: Tokens
    ) -> tuple[list[Batch], Tensor]:
        """This process's batches of optimizer step number `step`, and the tokens of both roles.

        The second, of shape (2,), counts labelled tokens of task and of safety rows in the whole
        step. `task` are the batches of the task that were drawn for the step, with their tokens.
        """
        if self.objective.safety_share_at(step, self.seed) is not None:
            places = range(self.process, len(task) * self.processes, self.processes)
            task, safety = self._divided_rows.of_step(step, places)
            return self._joined(task, safety), self._counted(self.count_tokens(task), safety)
        first = self.objective.safety_steps_before(step) * self.batches_per_step
        numbers = range(first, first + len(task) * self.processes)[self.process :: self.processes]
        if self.objective.batch_roles(step) == "safety":
            stream = replace(self.safety, rows_per_batch=self._task_sequences)
            alone = [_marked(stream.batch(number)) for number in numbers]
            return alone, self._counted(0, alone)
        safety = [self.safety.batch(number) for number in numbers]
        return self._joined(task, safety), self._counted(task_tokens, safety)

    def _counted(self, task: Tokens, safety: list[Batch]) -> Tensor:
        return step_tokens(task, self.count_tokens(safety), self.device)

    def _joined(self, task: list[Batch], safety: list[Batch]) -> list[Batch]:
        return [join(*pair, self.pad_token_id) for pair in zip(task, safety, strict=True)]

    @property
    def _task_sequences(self) -> int:
        """In a batch of the task; on average, where several share a row."""
        return round(self.rows * sequences_per_row(self.task_rows))

    @cached_property
    def _divided_rows(self) -> DividedRows:
        return DividedRows(
            self.safety,
            unpacked(self.task_rows),
            self._task_sequences + self.safety.rows_per_batch,
            self._share_at,
            self.batches_per_step,
        )

    def _share_at(self, step: int) -> float:
        share = self.objective.safety_share_at(step, self.seed)
        assert share is not None
        return share


def _marked(safety: Batch) -> Batch:
    """A batch of safety rows alone, with the column that says so."""
    labels = safety["labels"]
    marked = labels if is_padding_free(safety) else labels[:, :1]
    return {**safety, ROLE: torch.ones_like(marked, dtype=torch.bool)}


def step_tokens(task: Tokens, safety: Tokens, device: torch.device) -> Tensor:
    """The labelled tokens of task and of safety rows, shape (2,)."""
    return torch.stack([torch.as_tensor(count, device=device) for count in (task, safety)])
