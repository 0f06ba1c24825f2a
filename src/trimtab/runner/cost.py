"""What a plan will cost, before anything is trained: tokens, memory and time."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from trimtab.config.experiment import Experiment, Training
from trimtab.config.grid import Plan
from trimtab.config.loading import Loading
from trimtab.data.encoding import encode
from trimtab.data.rows import Row
from trimtab.data.splits import Roles, choose_rows
from trimtab.models import ModelSize, device_name, kept_as, load_tokenizer, model_size
from trimtab.runner.library_settings import check_library_settings
from trimtab.train.safety_stream import safety_rows_per_batch

_SAMPLED_ROWS = 400

# A kernel's launch is what a tiny model waits for: seconds per layer, forward and backward.
_LATENCY = 1e-3

_FLOAT = 4
_OF_TRAINED = 4
"""What is trained, its gradient and Adam's two moments."""
_TILE_TOKENS, _TILE_VOCABULARY = 4096, 32_768
_OF_TILE = 5
"""A tile of logits, in float32 once more, what becomes of it, and their gradients: measured."""
_OF_LOGITS = 3
"""Logits, their logarithms of probability, and one more while the one is made of the other."""


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

    def mean_length(rows: tuple[Row, ...]) -> float:
        chosen = choose_rows(rows, None if may_be_too_long else _SAMPLED_ROWS, 0)
        sample = encode(chosen, tokenizer, experiment.lengths, size.limits)
        return float(np.mean([len(ids) for ids in sample["input_ids"]]))

    task = {name: mean_length(split.train) for name, split in roles.task.items()}
    safety = {name: mean_length(split.train) for name, split in roles.safety.items()}

    def step_tokens(training: Training, task_length: float, safety_length: float) -> float:
        rows = training.batch_size
        if training.packing is not None:
            rows = max(rows, round(rows * training.packing / task_length))
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
    memory = peak_memory(experiment, plan, size, load, batch)
    return Cost(len(plan.runs), round(tokens), seconds, memory)


def _step_seconds(size: ModelSize, training: Training, tokens: float) -> float:
    operations = 6 if training.lora_rank is None else 4
    operations += 2 * training.gradient_checkpointing
    return (
        operations * size.parameters * tokens / _speed()
        + training.accumulation * size.layers * _LATENCY
    )


def peak_memory(
    experiment: Experiment, plan: Plan, size: ModelSize, load: Loading, batch_tokens: float
) -> int:
    """Bytes at the peak: weights, what is trained, and the larger of a step's and of measuring.

    With an adapter of rank r the weights lie in memory once, as `load` says: θ_s is the base with
    the adapter off. The adapter has r·Σ(in + out) parameters, in float32 with its gradient and
    Adam's two moments. Without one, θ_s lies beside weights, gradient and moments in float32. A
    dial has two of what is trained.

    Activations are the inputs and outputs of the linear layers, 4 bytes each (an adapter reads its
    layer's input in float32 whatever the base is in); with gradient checkpointing those of one
    layer, and the hidden state before each. Logits are formed in TRL's tiles of 4,096 tokens by
    32,768 words, and whole where the distribution of θ_s is asked for, and in measuring.

    Args:
        size: the model's.
        load: how its weights lie in memory, with nothing left to the folder.
        batch_tokens: those of one forward pass in training, padding not counted.
    """
    training = experiment.train
    has_dial = any(run.training.method.one_training for run in plan.runs)
    if training.lora_rank is not None:
        adapter = training.lora_rank * size.linear_sides * (2 if has_dial else 1)
        weights = weight_bytes(size, load) + _OF_TRAINED * _FLOAT * adapter
    else:
        # Beside θ_s: weights, gradient and Adam's two moments; a dial has three, three and four.
        copies = 1 + (10 if has_dial else _OF_TRAINED)
        copies += any(block.case == "alignment-parameter" for block in experiment.grid)
        copies += training.safety_target == "kl"
        weights = _FLOAT * size.parameters * copies
    of_a_layer = _FLOAT * batch_tokens * size.linear_sides / size.layers
    is_half = load.dtype in ("bfloat16", "float16")
    if training.gradient_checkpointing:
        hidden = (2 if is_half else _FLOAT) * batch_tokens * size.hidden
        activations = hidden * size.layers + of_a_layer
    else:
        activations = of_a_layer * size.layers
    vocabulary = size.limits.vocabulary
    tile = min(batch_tokens, _TILE_TOKENS) * min(vocabulary, _TILE_VOCABULARY)
    activations += _OF_TILE * _FLOAT * tile
    if training.safety_target == "kl":
        asked = batch_tokens * training.safety_share
        activations += _OF_LOGITS * _FLOAT * asked * vocabulary
    measuring = _OF_LOGITS * _FLOAT * experiment.measure.tokens_per_batch * vocabulary
    return round(weights + max(activations, measuring))


def weight_bytes(size: ModelSize, load: Loading) -> float:
    """The bytes of the weights once: linear layers as they are quantised, all else in its dtype.

    NF4 takes half a byte and the scale of each block of 64, in float32 or, quantised again, in 8
    bits with one scale in 256 blocks. Source: Dettmers et al. 2023, arXiv 2305.14314, section 3.
    """
    plain = 2 if load.dtype in ("bfloat16", "float16") else _FLOAT
    scale = (1 + 4 / 256) / 64 if load.double_quantization else 4 / 64
    of_linear = {"none": plain, "int8": 1.0, "nf4": 0.5 + scale}[load.quantization]
    return of_linear * size.linear + plain * (size.parameters - size.linear)


def _speed() -> float:
    """Floating-point operations per second of a large matrix product on the training device."""
    device = torch.device(device_name())
    square = torch.ones(1024, 1024, device=device)
    square @ square
    started = perf_counter()
    for _ in range(8):
        product = square @ square
    product.sum().item()
    # A model's own products are smaller, and wait for memory between: a half of it, about.
    return 0.5 * 8 * 2 * 1024**3 / (perf_counter() - started)
