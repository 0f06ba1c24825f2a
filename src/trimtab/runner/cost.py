"""What a plan will cost, before anything is trained: tokens, memory and time."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from trimtab.config.experiment import Experiment, Training
from trimtab.config.grid import Plan
from trimtab.config.loading import Loading
from trimtab.data.encoding import IGNORED, encode
from trimtab.data.rows import Row
from trimtab.data.splits import Roles, choose_rows
from trimtab.models import ModelSize, device_name, kept_as, load_tokenizer, model_size
from trimtab.runner.library_settings import check_library_settings
from trimtab.stats import Array
from trimtab.train.objectives.base import Objective
from trimtab.train.safety_stream import safety_rows_per_batch
from trimtab.train.settings import objective_of, rows_by_role

_SAMPLED_ROWS = 400
_DRAWN_BATCHES = 1000

# A kernel's launch is what a tiny model waits for: seconds per layer, forward and backward.
_LATENCY = 1e-3

_FLOAT = 4
_HALVES = ("bfloat16", "float16")
_OF_TRAINED = 4
"""What is trained, its gradient and Adam's two moments."""
_TILE_TOKENS, _TILE_VOCABULARY = 4096, 32_768
_OF_TILE = 7
"""Of a tile without Triton, all in float32: logits twice, log p, p, the gradient and two terms."""
_OF_KL = 5
"""log P_θs, log P_θ, P_θs, log P_θs − log P_θ and their product."""


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


@dataclass(frozen=True)
class BatchSize:
    """Tokens of one forward pass in training, and how many of them have a label."""

    tokens: float
    labelled: float


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


def peak_memory(
    experiment: Experiment,
    plan: Plan,
    size: ModelSize,
    load: Loading,
    batch: BatchSize,
    device: str,
) -> int:
    """Bytes of tensors at the peak: what lies there throughout, and the largest of what comes.

    **Throughout.** With an adapter of rank r the weights lie in memory once, as `load` says: θ_s is
    the base with the adapter off. The adapter has r·Σ(in + out) parameters, in float32 with its
    gradient and Adam's two moments. Without one, θ_s lies beside weights, gradient and moments in
    float32, and once more where Case II or "kl" keeps a copy; a dial has two of what is trained.
    4-bit weights are unpacked one layer at a time.

    **A layer of a Llama's kind**, per token, with c bytes a number (2 where the base or the
    precision has 16 bits) keeps for its backward pass

        c·(Σ out + h + m) + inputs + 2h·(s − c) [+ 2h·s],

    h the hidden and m the inner width: queries, keys and values, gate and branch, and the hidden
    state behind attention and MLP (Σ out), what attention gives (h), the gate's activation (m);
    the inputs of the linear layers, which blocks share, or which each adapter copies where it
    reads another precision than its input has: PEFT to float32, autocast to 16 bits; and the
    norms, which keep the hidden state in float32 (s = 4), and where they are trained what they
    made of it.

    **A step** first goes through the head, on labelled tokens alone: TRL forms logits in tiles of
    4,096 tokens by 32,768 words, a buffer that is as wide for a smaller vocabulary, in which
    Triton works on a GPU, and of which PyTorch makes seven tensors in float32 on a CPU. Then it
    goes back through the layers, each with the gradient of its widest input three times: from the
    adapter, from the base, and their sum (or, all weights trained, of an MLP's two branches and
    their product). All layers' activations are there when it begins; with checkpointing only the
    hidden state before each, and one layer's, computed again. Gradients of all weights grow while
    activations go, so that either is counted with little of the other, but where a pass before has
    left them: of accumulation, or of "kl", whose half of the loss goes back first. "kl" forms the
    logits of safety rows' labelled tokens, and five tensors as large in float32.

    **Measuring** forms the logits of labelled tokens and their logarithms, these in float32.

    Not counted: a CUDA context, what an allocator keeps in reserve, and the T² scores of
    attention="eager".

    Args:
        size: the model's.
        load: how its weights lie in memory, with nothing left to the folder.
        batch: that of one forward pass in training.
        device: "cuda" or "cpu".
    """
    training = experiment.train
    has_dial = any(run.training.method.one_training for run in plan.runs)
    is_half = load.dtype in _HALVES
    mixed = training.precision in _HALVES
    kept_bytes = 2 if is_half or mixed else _FLOAT
    stream = 2 if is_half else _FLOAT

    gradient = 0.0
    if training.lora_rank is not None:
        adapter = training.lora_rank * size.linear_sides * (2 if has_dial else 1)
        throughout = weight_bytes(size, load) + _OF_TRAINED * _FLOAT * adapter
        if load.quantization == "nf4":
            throughout += stream * size.largest_linear
    else:
        # Beside θ_s: weights and Adam's two moments, and a gradient; a dial has three times that.
        copies = 1 + (7 if has_dial else _OF_TRAINED - 1)
        copies += any(block.case == "alignment-parameter" for block in experiment.grid)
        copies += training.safety_target == "kl"
        throughout = _FLOAT * size.parameters * copies
        gradient = _FLOAT * size.parameters * (3 if has_dial else 1)
        if mixed:
            throughout += 2 * size.linear

    per_layer = 1 / size.layers
    if is_half == mixed:
        inputs = kept_bytes * size.linear_inputs_apart
    else:
        inputs = (2 if mixed else _FLOAT) * (size.linear_sides - size.linear_outputs)
    in_layer = kept_bytes * (size.linear_outputs * per_layer + size.hidden + size.widest_input)
    in_layer += inputs * per_layer + 2 * size.hidden * (_FLOAT - kept_bytes)
    if training.lora_rank is None:
        in_layer += 2 * size.hidden * _FLOAT
    from_adapter = _FLOAT if is_half and not mixed else kept_bytes
    backward = batch.tokens * (from_adapter + 2 * kept_bytes) * size.widest_input
    layer = batch.tokens * in_layer
    if training.gradient_checkpointing:
        before = stream * batch.tokens * size.hidden * (size.layers + 1)
        last = before + layer
    else:
        before = last = layer * size.layers

    vocabulary = size.limits.vocabulary
    is_kl = training.safety_target == "kl"
    share = training.safety_share if is_kl else 0.0
    head = _head_bytes(batch.labelled * (1 - share), vocabulary, kept_bytes, device)
    if gradient:
        head += _FLOAT * vocabulary * size.hidden
    divergence = (kept_bytes + _OF_KL * _FLOAT) * batch.labelled * share
    of_step = [before + head, before + divergence * vocabulary, last + backward]
    if gradient and (is_kl or training.accumulation > 1):
        of_step = [gradient + step_bytes for step_bytes in of_step]
    elif gradient:
        of_step.append(gradient + layer + backward)
    measured = experiment.measure.tokens_per_batch
    labelled = measured * batch.labelled / batch.tokens if batch.tokens else measured
    logits = (stream + _FLOAT + (_FLOAT if is_half else 0)) * labelled
    return round(throughout + max(*of_step, logits * vocabulary))


def _head_bytes(labelled: float, vocabulary: int, kept_bytes: int, device: str) -> float:
    """Of a tile of logits."""
    tokens = min(labelled, _TILE_TOKENS)
    tile = kept_bytes * tokens * _TILE_VOCABULARY
    if device == "cuda":
        return tile
    return tile + _OF_TILE * _FLOAT * tokens * min(vocabulary, _TILE_VOCABULARY)


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
    seconds = []
    for _ in range(4):  # the fastest counts: what else the machine does comes and goes
        started = perf_counter()
        for _ in range(4):
            product = square @ square
        product.sum().item()
        seconds.append(perf_counter() - started)
    # A model's own products are smaller, and wait for memory between: a half of it, about.
    return 0.5 * 4 * 2 * 1024**3 / min(seconds)
