"""A training as it stands, as an objective is told of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor
from torch.optim import Optimizer
from trl import SFTConfig

from trimtab.measure.distance import Displacement
from trimtab.measure.losses import Array, forward_passes, require_finite, response_nll
from trimtab.measure.sharded_weights import reshard
from trimtab.train.config import own_setting
from trimtab.train.requirements import is_sharded
from trimtab.train.safety_stream import SafetyStream

if TYPE_CHECKING:
    from trimtab.train.trainer import SafetyAwareSFTTrainer

RowNLL = Callable[[Dataset], tuple[Array, Array]]
"""−log P_θ(y|x) in nats of every row under the model as it is now, and the tokens of each y."""


@dataclass(frozen=True)
class TrainingContext:
    """A training as it stands; made anew for every hook."""

    model: Any
    """θ, unwrapped, with its adapter if it has one."""
    args: SFTConfig
    task_rows: Dataset
    safety: SafetyStream | None
    """Proxy safety rows, where they were given."""
    displacement: Displacement | None
    """θ − θ_s, where the objective `needs_displacement`."""
    step: int
    """Optimizer steps that are done."""
    steps: int
    """Those of the whole run; 0 before it begins."""
    safety_batches: int
    """Safety batches of the whole run, all processes together; never fewer than will be."""
    validation_rows: int
    """How many different safety rows at most a budget keeps from training."""
    safety_repeats: bool
    """Whether safety rows are draws that may come again."""
    optimizer: Optimizer | None
    mixed_precision: str
    """What the forward pass computes in, in Accelerate's words: "no", "bf16", "fp16"."""
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
    """Rows to a padded batch."""
    row_nll: RowNLL
    """Measured by all processes together."""
    sum_over_processes: Callable[[Tensor], Tensor]
    stop: Callable[[], None]
    """End the training after this step."""


def context_of(trainer: SafetyAwareSFTTrainer, finished: int = 0) -> TrainingContext:
    """The training of `trainer` now, with `finished` more steps than its state counts."""
    args, accelerator = trainer.args, trainer.accelerator

    def sum_over_processes(part: Tensor) -> Tensor:
        if accelerator.num_processes == 1:
            return part
        summed: Tensor = accelerator.reduce(part, reduction="sum")
        return summed

    def stop() -> None:
        trainer.control.should_training_stop = True

    return TrainingContext(
        model=trainer.model,
        args=args,
        task_rows=trainer.train_dataset,
        safety=trainer.safety_stream,
        displacement=trainer.displacement,
        step=trainer.state.global_step + finished,
        steps=trainer.state.max_steps,
        safety_batches=_most_batches(trainer),
        validation_rows=own_setting(args, "validation_rows"),
        safety_repeats=own_setting(args, "safety_repeats"),
        optimizer=trainer.optimizer,
        mixed_precision=accelerator.mixed_precision,
        collate=trainer.data_collator,
        row_nll=_MeasuredTogether(
            trainer.model,
            accelerator,
            is_sharded(trainer),
            own_setting(args, "measured_tokens_per_batch"),
        ),
        sum_over_processes=sum_over_processes,
        stop=stop,
    )


def _most_batches(trainer: SafetyAwareSFTTrainer) -> int:
    """Safety batches of the whole run, all processes together; never fewer than will be."""
    args, processes = trainer.args, trainer.accelerator.num_processes
    if args.max_steps > 0:
        steps = args.max_steps * args.gradient_accumulation_steps
    else:
        rows = args.per_device_train_batch_size * processes
        per_epoch = math.ceil(len(trainer.train_dataset) / rows)
        per_epoch += args.gradient_accumulation_steps  # an epoch may end within a step
        steps = math.ceil(args.num_train_epochs) * per_epoch
    return steps * processes


@dataclass(frozen=True)
class _MeasuredTogether:
    """−log P_θ(y|x) in nats and the tokens of y, by row: each process takes a share of the rows."""

    model: Any
    accelerator: Accelerator
    is_sharded: bool
    tokens_per_batch: int

    def __call__(self, rows: Dataset) -> tuple[Array, Array]:
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        divided = [rows.select(range(first, len(rows), processes)) for first in range(processes)]
        losses = torch.zeros(2, len(rows), dtype=torch.float64)
        passes = 0
        if self.is_sharded:  # all processes pass through the model together
            passes = max(forward_passes(share, self.tokens_per_batch) for share in divided)
        if len(divided[process]) or passes:
            with self.accelerator.autocast():
                nll = response_nll(self.model, divided[process], self.tokens_per_batch, passes)
            losses[:, process::processes] = torch.from_numpy(np.stack(nll))
            reshard(self.model)
        if processes > 1:
            losses = self.accelerator.reduce(losses.to(self.accelerator.device)).cpu()
        nll, tokens = losses.numpy()
        require_finite(nll)
        return nll, tokens
