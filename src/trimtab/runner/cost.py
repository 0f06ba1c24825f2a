"""What a plan will cost, before anything is trained: tokens, memory and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trimtab.config.experiment import Experiment, Training
from trimtab.config.grid import Plan
from trimtab.config.methods import CASE_1_BUDGET
from trimtab.config.run_spec import RunSpec
from trimtab.data.encoding import IGNORED, encode
from trimtab.data.rows import Row
from trimtab.data.splits import Roles, Split, choose_rows
from trimtab.models import ModelSize, device_name, kept_as, load_tokenizer, model_size
from trimtab.runner.library_settings import check_library_settings
from trimtab.runner.peak_memory import BatchSize, peak_memory, peak_of_aligning
from trimtab.stats import Array
from trimtab.train.objectives.base import Objective
from trimtab.train.safety_stream import safety_rows_per_batch
from trimtab.train.settings import objective_of, rows_by_role

_SAMPLED_ROWS = 400
_DRAWN_BATCHES = 1000
_LOOKS = 5
"""At validation rows, to set a dial to a budget: three to five mostly, and one at θ_s."""

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
    sample = _RowLengths(experiment, tokenizer, size)
    runs = _trainings_of_runs(experiment, roles, plan, sample)
    aligning = _aligning(experiment, roles, plan, sample)

    speed = _speed()
    trainings = [*runs, *aligning]
    seconds = sum(training.seconds(size, speed) for training in trainings)
    looked_at = _measured_tokens(roles, plan, sample)
    looked_at += _tokens_of_budgets(roles, plan, runs)
    seconds += 2 * size.parameters * looked_at / speed

    device = device_name()
    memory = peak_memory(experiment, plan, size, load, _largest_batch(runs, device), device)
    if experiment.align and aligning:
        batch = _largest_batch(aligning, device)
        memory = max(memory, peak_of_aligning(experiment.align, size, load, batch, device))
    return Cost(
        len(plan.runs), round(sum(training.tokens for training in trainings)), seconds, memory
    )


@dataclass(frozen=True)
class _RowLengths:
    """How long rows are, from some of them."""

    experiment: Experiment
    tokenizer: PreTrainedTokenizerBase
    size: ModelSize

    def of(self, rows: Sequence[Row]) -> Array:
        """Tokens, and those with a label, of shape (rows, 2).

        What training would refuse is refused here too, so every row is looked at where one may be.
        """
        context = self.size.limits.context
        most = self.experiment.lengths.prompt + self.experiment.lengths.response
        may_be_too_long = context is not None and most > context
        chosen = choose_rows(rows, None if may_be_too_long else _SAMPLED_ROWS, 0)
        sample = encode(chosen, self.tokenizer, self.experiment.lengths, self.size.limits)
        labelled = [sum(label != IGNORED for label in labels[1:]) for labels in sample["labels"]]
        return np.array([[len(ids) for ids in sample["input_ids"]], labelled], dtype=float).T


@dataclass(frozen=True)
class TrainingAhead:
    """A training that is still to be made."""

    settings: Training
    objective: Objective | None
    steps: int
    task: Array
    """Of its rows, tokens and those with a label, of shape (rows, 2)."""
    safety: Array | None
    """The same; None where no safety rows are read."""

    @property
    def tokens(self) -> float:
        """Padding not counted."""
        return self.steps * self._step_tokens

    def seconds(self, size: ModelSize, speed: float) -> float:
        """At so many floating-point operations per second."""
        operations = 6 if self.settings.lora_rank is None else 4
        operations += 2 * self.settings.gradient_checkpointing
        computing = operations * size.parameters * self._step_tokens / speed
        return self.steps * (computing + self.settings.accumulation * size.layers * _LATENCY)

    def largest_batch(self, is_padded: bool) -> BatchSize:
        """The largest of its batches, drawn from rows of these lengths.

        The peak is of the batch whose rows are longest, not of one of mean length. A batch
        `is_padded` to its longest row but where it is computed in pieces, or packed.
        """
        rows, riding = self._rows_of_batch
        random = np.random.default_rng(0)
        count = min(self.steps * self.settings.accumulation, _DRAWN_BATCHES)
        drawn = self.task[random.integers(len(self.task), size=(count, rows))]
        if riding and self.safety is not None:
            beside = self.safety[random.integers(len(self.safety), size=(count, riding))]
            drawn = np.concatenate([drawn, beside], axis=1)
        labelled = drawn[..., 1].sum(axis=1)
        if is_padded and self.settings.packing is None:
            tokens = drawn.shape[1] * drawn[..., 0].max(axis=1)
        else:
            tokens = drawn[..., 0].sum(axis=1)
        return BatchSize(float(tokens.max()), float(labelled.max()))

    @property
    def _step_tokens(self) -> float:
        rows, riding = self._rows_of_batch
        safety_length = 0.0 if self.safety is None else _mean_length(self.safety)
        batch_tokens = rows * _mean_length(self.task) + riding * safety_length
        return self.settings.accumulation * batch_tokens

    @property
    def _rows_of_batch(self) -> tuple[int, int]:
        """Of the task, and of the safety data beside them, in one forward pass, in packs or not."""
        rows, riding = rows_by_role(self.settings, self.objective)
        if self.settings.packing is not None:
            packed = max(rows, round(rows * self.settings.packing / _mean_length(self.task)))
            rows, riding = packed, safety_rows_per_batch(packed, riding / (rows + riding))
        beside = self.objective is not None and self.objective.batch_roles(0) == "both"
        return rows, riding if beside else 0


def _trainings_of_runs(
    experiment: Experiment, roles: Roles, plan: Plan, sample: _RowLengths
) -> list[TrainingAhead]:
    task = {name: sample.of(split.train) for name, split in roles.task.items()}
    safety = {name: sample.of(split.train) for name, split in roles.safety.items()}
    ahead = []
    for run in plan.runs:
        spec, settings = run.training, experiment.train
        steps = settings.for_rows(len(roles.task[spec.task].train)).steps
        if experiment.dial and spec.method.one_training and experiment.dial.steps:
            steps = experiment.dial.steps
        objective = objective_of(spec, experiment)
        beside = safety.get(spec.proxy or "")
        ahead.append(TrainingAhead(settings, objective, steps, task[spec.task], beside))
    return ahead


def _aligning(
    experiment: Experiment, roles: Roles, plan: Plan, sample: _RowLengths
) -> list[TrainingAhead]:
    """The alignment of θ_s, where it is still to be made."""
    if not (experiment.align and roles.original and plan.aligned):
        return []
    rows = roles.original.train
    steps = experiment.align.for_rows(len(rows)).steps
    return [TrainingAhead(experiment.align, None, steps, sample.of(rows), None)]


def _largest_batch(trainings: Sequence[TrainingAhead], device: str) -> BatchSize:
    batches = [
        training.largest_batch(device != "cpu" or not training.settings.length_bucketing)
        for training in trainings
    ]
    return max(batches, key=lambda batch: batch.tokens, default=BatchSize(0, 0))


def _measured_tokens(roles: Roles, plan: Plan, sample: _RowLengths) -> float:
    """Of the held-out rows that each model of a plan, and θ_s, is measured on."""

    def of_split(split: Split) -> float:
        return _mean_length(sample.of(split.held_out)) * len(split.held_out)

    original = of_split(roles.original) if roles.original else 0.0
    safety = {name: of_split(split) for name, split in roles.safety.items()}
    task = {name: of_split(split) for name, split in roles.task.items()}

    def of_model(specs: Sequence[RunSpec]) -> float:
        proxies, tasks = {spec.proxy for spec in specs}, {spec.task for spec in specs}
        of_safety = sum(tokens for name, tokens in safety.items() if name in proxies)
        of_task = sum(tokens for name, tokens in task.items() if name in tasks)
        return original + of_safety + of_task if specs else 0.0

    of_runs = (of_model(specs) for run in plan.runs for specs in run.by_model)
    return of_model(plan.aligned) + sum(of_runs)


def _tokens_of_budgets(roles: Roles, plan: Plan, trainings: Sequence[TrainingAhead]) -> float:
    """Of the validation rows, each time that one is looked at to set a dial to a budget."""
    tokens = 0.0
    for run, training in zip(plan.runs, trainings, strict=True):
        if run.training.method is CASE_1_BUDGET and training.safety is not None:
            rows = len(roles.safety[str(run.training.proxy)].train)
            validated = min(training.settings.validation_rows, rows // 5)
            tokens += len(run.specs) * _LOOKS * validated * _mean_length(training.safety)
    return tokens


def _mean_length(lengths: Array) -> float:
    return float(lengths[:, 0].mean())


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
