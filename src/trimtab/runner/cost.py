"""What a plan will cost, before anything is trained: tokens, memory and time."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from trimtab.config.experiment import Experiment, Training
from trimtab.config.grid import Plan
from trimtab.data.encoding import IGNORED, encode
from trimtab.data.rows import Row
from trimtab.data.splits import Roles, choose_rows
from trimtab.models import ModelSize, device_name, kept_as, load_tokenizer, model_size
from trimtab.runner.library_settings import check_library_settings
from trimtab.runner.peak_memory import BatchSize, peak_memory
from trimtab.stats import Array
from trimtab.train.objectives.base import Objective
from trimtab.train.safety_stream import safety_rows_per_batch
from trimtab.train.settings import objective_of, rows_by_role

_SAMPLED_ROWS = 400
_DRAWN_BATCHES = 1000

# A kernel's launch is what a tiny model waits for: seconds per layer, forward and backward.
_LATENCY = 1e-3


@dataclass(frozen=True)
class Cost:
    """An estimate: tokens to a few per cent, memory to a quarter, time to about a factor of two."""

    trainings: int
    train_tokens: int
    seconds: float
    memory: int
    """Bytes of tensors at the peak, on the device that trains."""


def estimate_cost(experiment: Experiment, roles: Roles, plan: Plan) -> Cost:
    """The cost of what `plan` has left to make.

    Tokens are the mean lengths of the rows themselves. Time is 6 floating-point operations per
    parameter and token (4 where only an adapter is trained), at the speed of matrix products
    measured here and now; memory is that of `peak_memory`.

    Raises:
        UserError: the model cannot be loaded, or reads less than a row.
    """
    check_library_settings(experiment)
    load = kept_as(experiment.model, experiment.load)
    tokenizer = load_tokenizer(experiment.model, load.revision)
    size = model_size(experiment.model, load.revision)

    # What training would refuse is refused here too, so every row is looked at where one may be.
    most = experiment.lengths.prompt + experiment.lengths.response
    may_be_too_long = size.limits.context is not None and most > size.limits.context

    def lengths(rows: tuple[Row, ...]) -> Array:
        """Tokens, and those with a label, of shape (rows, 2)."""
        chosen = choose_rows(rows, None if may_be_too_long else _SAMPLED_ROWS, 0)
        sample = encode(chosen, tokenizer, experiment.lengths, size.limits)
        labelled = [sum(label != IGNORED for label in labels[1:]) for labels in sample["labels"]]
        return np.array([[len(ids) for ids in sample["input_ids"]], labelled], dtype=float).T

    def mean_length(rows: tuple[Row, ...]) -> float:
        return float(lengths(rows)[:, 0].mean())

    of_task = {name: lengths(split.train) for name, split in roles.task.items()}
    of_safety = {name: lengths(split.train) for name, split in roles.safety.items()}
    task = {name: float(row_lengths[:, 0].mean()) for name, row_lengths in of_task.items()}
    safety = {name: float(row_lengths[:, 0].mean()) for name, row_lengths in of_safety.items()}

    def step_tokens(
        training: Training, objective: Objective | None, task_length: float, safety_length: float
    ) -> float:
        rows, riding = _rows_of_batch(training, objective, task_length)
        return training.accumulation * (rows * task_length + riding * safety_length)

    train = experiment.train
    objectives = [objective_of(run.training, experiment) for run in plan.runs]
    steps = [
        step_tokens(
            train,
            objective,
            task[run.training.task],
            safety.get(run.training.proxy or "", 0.0),
        )
        for run, objective in zip(plan.runs, objectives, strict=True)
    ]
    counts = [
        (experiment.dial and run.training.method.one_training and experiment.dial.steps)
        or train.for_rows(len(roles.task[run.training.task].train)).steps
        for run in plan.runs
    ]
    tokens = sum(count * step for count, step in zip(counts, steps, strict=True))
    seconds = sum(
        count * _step_seconds(size, train, step) for count, step in zip(counts, steps, strict=True)
    )
    if experiment.align and roles.original and plan.aligned:
        step = step_tokens(experiment.align, None, mean_length(roles.original.train), 0.0)
        count = experiment.align.for_rows(len(roles.original.train)).steps
        tokens += count * step
        seconds += count * _step_seconds(size, experiment.align, step)
    held_out = sum(
        mean_length(split.held_out) * len(split.held_out)
        for split in (roles.original, *roles.safety.values(), *roles.task.values())
        if split
    )
    seconds += (len(plan.runs) + 1) * 2 * size.parameters * held_out / _speed()
    device = device_name()
    batches = [
        largest_batch(
            train,
            of_task[run.training.task],
            of_safety.get(run.training.proxy or ""),
            objective,
            count * train.accumulation,
            is_padded=device != "cpu" or not train.length_bucketing,
        )
        for count, run, objective in zip(counts, plan.runs, objectives, strict=True)
    ]
    largest = max(batches, key=lambda batch: batch.tokens, default=BatchSize(0, 0))
    memory = peak_memory(experiment, plan, size, load, largest, device)
    return Cost(len(plan.runs), round(tokens), seconds, memory)


def _rows_of_batch(
    training: Training, objective: Objective | None, task_length: float
) -> tuple[int, int]:
    """Of the task, and of the safety data beside them, in one forward pass, in packs or not."""
    rows, riding = rows_by_role(training, objective)
    if training.packing is not None:
        packed = max(rows, round(rows * training.packing / task_length))
        rows, riding = packed, safety_rows_per_batch(packed, riding / (rows + riding))
    beside = objective is not None and objective.batch_roles(0) == "both"
    return rows, riding if beside else 0


def _step_seconds(size: ModelSize, training: Training, tokens: float) -> float:
    operations = 6 if training.lora_rank is None else 4
    operations += 2 * training.gradient_checkpointing
    return (
        operations * size.parameters * tokens / _speed()
        + training.accumulation * size.layers * _LATENCY
    )


def largest_batch(
    training: Training,
    task: Array,
    safety: Array | None,
    objective: Objective | None,
    batches: int,
    is_padded: bool,
) -> BatchSize:
    """The largest of as many batches as a training has, drawn from rows of these lengths.

    The peak is of the batch whose rows are longest, not of one of mean length. `task` and `safety`
    have shape (rows, 2), tokens and those with a label; `safety` is None where none are read. A
    batch `is_padded` to its longest row but where it is computed in pieces, or packed.
    """
    rows, riding = _rows_of_batch(training, objective, task[:, 0].mean())
    random = np.random.default_rng(0)
    count = min(batches, _DRAWN_BATCHES)
    drawn = task[random.integers(len(task), size=(count, rows))]
    if riding and safety is not None:
        beside = safety[random.integers(len(safety), size=(count, riding))]
        drawn = np.concatenate([drawn, beside], axis=1)
    labelled = drawn[..., 1].sum(axis=1)
    if is_padded and training.packing is None:
        tokens = drawn.shape[1] * drawn[..., 0].max(axis=1)
    else:
        tokens = drawn[..., 0].sum(axis=1)
    return BatchSize(float(tokens.max()), float(labelled.max()))


def _speed() -> float:
    """Floating-point operations per second of a large matrix product on the training device."""
    device = torch.device(device_name())
    square = torch.ones(1024, 1024, device=device)
    square @ square
    seconds = []
    for _ in range(4):  # the fastest counts: what else the machine does comes and goes
        started = perf_counter()
        for _ in range(4):
            product = square @ square
        product.sum().item()
        seconds.append(perf_counter() - started)
    # A model's own products are smaller, and wait for memory between: a half of it, about.
    return 0.5 * 4 * 2 * 1024**3 / min(seconds)
