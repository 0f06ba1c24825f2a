"""What a plan will cost, before anything is trained: tokens, memory and time."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from trimtab.config.experiment import Experiment, Training
from trimtab.config.grid import Plan
from trimtab.data.encoding import encode
from trimtab.data.rows import Row
from trimtab.data.splits import Roles, choose_rows
from trimtab.models import ModelSize, load_tokenizer, model_size
from trimtab.runner.library_settings import check_library_settings
from trimtab.train.safety_stream import safety_rows_per_batch

_SAMPLED_ROWS = 400

# A kernel's launch is what a tiny model waits for: seconds per layer, forward and backward.
_LATENCY = 1e-3


@dataclass(frozen=True)
class Cost:
    """An estimate: tokens to a few per cent, memory and time to about a factor of two."""

    trainings: int
    train_tokens: int
    seconds: float
    memory: int
    """Bytes at the peak, on the device that trains."""


def estimate_cost(experiment: Experiment, roles: Roles, plan: Plan) -> Cost:
    """The cost of what `plan` has left to make.

    Tokens are the mean lengths of the rows themselves. Time is 6 floating-point operations per
    parameter and token (4 where only an adapter is trained), at the speed of matrix products
    measured here and now; memory is weights, gradients, Adam's two moments and activations.

    Raises:
        UserError: the model cannot be loaded, or reads less than a row.
    """
    check_library_settings(experiment)
    tokenizer = load_tokenizer(experiment.model)
    size = model_size(experiment.model)

    # What training would refuse is refused here too, so every row is looked at where one may be.
    most = experiment.lengths.prompt + experiment.lengths.response
    may_be_too_long = size.limits.context is not None and most > size.limits.context

    def mean_length(rows: tuple[Row, ...]) -> float:
        chosen = choose_rows(rows, None if may_be_too_long else _SAMPLED_ROWS, 0)
        sample = encode(chosen, tokenizer, experiment.lengths, size.limits)
        return float(np.mean([len(ids) for ids in sample["input_ids"]]))

    task = {name: mean_length(split.train) for name, split in roles.task.items()}
    safety = {name: mean_length(split.train) for name, split in roles.safety.items()}

    def step_tokens(training: Training, task_length: float, safety_length: float) -> float:
        rows = training.batch_size
        riding = safety_rows_per_batch(rows, training.safety_share)
        if training.equal_rows and not safety_length:
            rows += riding
        return training.accumulation * (rows * task_length + riding * safety_length)

    train = experiment.train
    steps = [
        step_tokens(train, task[run.training.task], safety.get(run.training.proxy or "", 0.0))
        for run in plan.runs
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
        step = step_tokens(experiment.align, mean_length(roles.original.train), 0.0)
        count = experiment.align.for_rows(len(roles.original.train)).steps
        tokens += count * step
        seconds += count * _step_seconds(size, experiment.align, step)
    held_out = sum(
        mean_length(split.held_out) * len(split.held_out)
        for split in (roles.original, *roles.safety.values(), *roles.task.values())
        if split
    )
    seconds += (len(plan.runs) + 1) * 2 * size.parameters * held_out / _speed()
    batch = max(steps, default=0.0) / train.accumulation
    return Cost(len(plan.runs), round(tokens), seconds, _memory(experiment, plan, size, batch))


def _step_seconds(size: ModelSize, training: Training, tokens: float) -> float:
    operations = 6 if training.lora_rank is None else 4
    operations += 2 * training.gradient_checkpointing
    return (
        operations * size.parameters * tokens / _speed()
        + training.accumulation * size.layers * _LATENCY
    )


def _memory(experiment: Experiment, plan: Plan, size: ModelSize, batch_tokens: float) -> int:
    training = experiment.train
    # Beside θ_s: weights, gradient and Adam's two moments; a dial has three, three and four.
    of_all_weights = 10 if any(run.training.method.one_training for run in plan.runs) else 4
    frozen_copies, trained_copies = (2, 0) if training.lora_rank else (1, of_all_weights)
    keeps_start = any(block.case == "alignment-parameter" for block in experiment.grid)
    if keeps_start and training.lora_rank is None:
        frozen_copies += 1
    weights = 4 * size.parameters * (frozen_copies + trained_copies)
    per_layer = 1 if training.gradient_checkpointing else 17
    activations = 4 * batch_tokens * size.hidden * size.layers * per_layer
    measuring = 3 * 4 * experiment.measure.tokens_per_batch * size.limits.vocabulary
    return round(weights + max(activations, measuring))


def _speed() -> float:
    """Floating-point operations per second of a large matrix product on the training device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    square = torch.ones(1024, 1024, device=device)
    square @ square
    started = perf_counter()
    for _ in range(8):
        product = square @ square
    product.sum().item()
    # A model's own products are smaller, and wait for memory between: a half of it, about.
    return 0.5 * 8 * 2 * 1024**3 / (perf_counter() - started)
