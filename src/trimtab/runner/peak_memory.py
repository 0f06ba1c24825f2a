"""The most memory that a plan's trainings take at once, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.config.experiment import Experiment, Training
from trimtab.config.grid import Plan
from trimtab.config.loading import Loading
from trimtab.models import ModelSize

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
class BatchSize:
    """Tokens of one forward pass in training, and how many of them have a label."""

    tokens: float
    labelled: float


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
    beside = 1 + any(block.case == "alignment-parameter" for block in experiment.grid)
    beside += training.safety_target == "kl"
    throughout, gradient = _throughout(training, size, load, beside, has_dial)
    steps = _of_step(training, size, load, batch, device, gradient)
    return round(throughout + max(*steps, _of_measuring(experiment, size, load, batch)))


def peak_of_aligning(
    training: Training, size: ModelSize, load: Loading, batch: BatchSize, device: str
) -> int:
    """The same of the training that aligns θ_s, which has no other model beside it."""
    throughout, gradient = _throughout(training, size, load, 0, False)
    return round(throughout + max(_of_step(training, size, load, batch, device, gradient)))


def _throughout(
    training: Training, size: ModelSize, load: Loading, beside: int, has_dial: bool
) -> tuple[float, float]:
    """What lies there throughout, and the gradients of all weights, which come and go.

    With all weights trained, `beside` counts θ_s and other copies of it.
    """
    if training.lora_rank is not None:
        adapter = training.lora_rank * size.linear_sides * (2 if has_dial else 1)
        throughout = weight_bytes(size, load) + _OF_TRAINED * _FLOAT * adapter
        if load.quantization == "nf4":
            throughout += _Widths.of(training, load).stream * size.largest_linear
        return throughout, 0.0
    # Weights and Adam's two moments, and a gradient; a dial has three times that.
    copies = beside + (7 if has_dial else _OF_TRAINED - 1)
    throughout = _FLOAT * size.parameters * copies
    if training.precision in _HALVES:
        throughout += 2 * size.linear
    return throughout, _FLOAT * size.parameters * (3 if has_dial else 1)


@dataclass(frozen=True)
class _Widths:
    """Bytes a number: of what the layers keep, of the hidden state, and what reads and gives it."""

    kept: int
    stream: int
    is_half: bool
    is_mixed: bool

    @classmethod
    def of(cls, training: Training, load: Loading) -> _Widths:
        is_half, is_mixed = load.dtype in _HALVES, training.precision in _HALVES
        return cls(
            2 if is_half or is_mixed else _FLOAT, 2 if is_half else _FLOAT, is_half, is_mixed
        )


def _in_layer(training: Training, size: ModelSize, widths: _Widths) -> float:
    """What one layer keeps of a token for its backward pass."""
    if widths.is_half == widths.is_mixed:
        inputs = widths.kept * size.linear_inputs_apart
    else:
        read = 2 if widths.is_mixed else _FLOAT
        inputs = read * (size.linear_sides - size.linear_outputs)
    outputs = size.linear_outputs / size.layers + size.hidden + size.widest_input
    norms = 2 * size.hidden * (_FLOAT - widths.kept)
    if training.lora_rank is None:
        norms += 2 * size.hidden * _FLOAT
    return widths.kept * outputs + inputs / size.layers + norms


def _of_step(
    training: Training,
    size: ModelSize,
    load: Loading,
    batch: BatchSize,
    device: str,
    gradient: float,
) -> list[float]:
    """What a step adds where the head is gone through, the KL formed, and the layers gone back."""
    widths = _Widths.of(training, load)
    layer = batch.tokens * _in_layer(training, size, widths)
    if training.gradient_checkpointing:
        before = widths.stream * batch.tokens * size.hidden * (size.layers + 1)
        last = before + layer
    else:
        before = last = layer * size.layers
    from_adapter = _FLOAT if widths.is_half and not widths.is_mixed else widths.kept
    backward = batch.tokens * (from_adapter + 2 * widths.kept) * size.widest_input

    vocabulary = size.limits.vocabulary
    is_kl = training.safety_target == "kl"
    share = training.safety_share if is_kl else 0.0
    head = _head_bytes(batch.labelled * (1 - share), vocabulary, widths.kept, device)
    if gradient:
        head += _FLOAT * vocabulary * size.hidden
    divergence = (widths.kept + _OF_KL * _FLOAT) * batch.labelled * share * vocabulary
    of_step = [before + head, before + divergence, last + backward]
    if gradient and (is_kl or training.accumulation > 1):
        return [gradient + step_bytes for step_bytes in of_step]
    return [*of_step, gradient + layer + backward] if gradient else of_step


def _of_measuring(
    experiment: Experiment, size: ModelSize, load: Loading, batch: BatchSize
) -> float:
    """The logits of the labelled tokens of a pass over held-out rows, and their logarithms."""
    measured = experiment.measure.tokens_per_batch
    labelled = measured * batch.labelled / batch.tokens if batch.tokens else measured
    widths = _Widths.of(experiment.train, load)
    logits = (widths.stream + _FLOAT + (_FLOAT if widths.is_half else 0)) * labelled
    return logits * size.limits.vocabulary


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
    plain = 2 if load.dtype in _HALVES else _FLOAT
    scale = (1 + 4 / 256) / 64 if load.double_quantization else 4 / 64
    of_linear = {"none": plain, "int8": 1.0, "nf4": 0.5 + scale}[load.quantization]
    return of_linear * size.linear + plain * (size.parameters - size.linear)
