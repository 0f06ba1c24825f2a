"""The result of an audit, and its record on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from trimtab.audit.quantities import Quantity
from trimtab.errors import UserError
from trimtab.stats import Estimate

AUDIT_FILE = "audit.json"

NEARLY_NONE = 0.05
"""An overlap that is surely less leaves next to nothing to trade off."""
SMALLEST_PENALTY = 1e-3
"""A λ below it is not told by its value."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class DataRead:
    """One data set, and what the aligned model made of the rows it read, nats per token."""

    label: str
    """Its role and name, as in "safety near"."""
    path: str
    rows: int
    rows_read: int
    tokens_per_response: float
    loss: float
    largest_surprise: float
    """The largest nll of a response, nats."""


def tasks_of(data: Iterable[DataRead]) -> list[str]:
    """The names of the tasks among the data sets read."""
    prefix = "task "
    labels = (dataset.label for dataset in data)
    return [label.removeprefix(prefix) for label in labels if label.startswith(prefix)]


@dataclass(frozen=True)
class ProxySimilarity:
    """One proxy against the reference; the quantities are those of `measure.similarity`."""

    proxy: str
    total_variation: Estimate
    given_prompt: Estimate | None
    shared_prompts: float
    proxy_loss: Estimate
    original_loss: Estimate
    excess_loss: Estimate
    classifier: str
    by_words: Estimate | None = None
    """The bound on TV that words give, where `total_variation` looks at hidden states."""

    @property
    def nearness(self) -> Estimate:
        """The total variation that proxies are ordered by: that of words."""
        return self.by_words or self.total_variation


@dataclass(frozen=True)
class NearestPrompts:
    """A task prompt among the safety prompts, the nearest of these, and its place in the task."""

    prompt: str
    nearest: str
    cosine: float
    place: int


@dataclass(frozen=True)
class PairOverlap:
    """The context overlap of one task and one proxy, both ways, and its terms with no threshold.

    Both terms are in nats per response at λ = 1, by the density ratio of the prompts; see
    `measure.overlap`.
    """

    task: str
    proxy: str
    task_on_safety: Estimate
    safety_on_task: Estimate
    pairs: tuple[NearestPrompts, ...]
    alignment_term: float | None = None
    capability_term: float | None = None
    penalty_without_threshold: float | None = None
    """λ, a weight of losses per response, at which the alignment term is the budget."""


def competes(task_on_safety: Estimate) -> bool | None:
    """Whether task and safety compete for prompts, by their overlap; None where it is not told."""
    if task_on_safety.high < NEARLY_NONE:
        return False
    return True if task_on_safety.low > NEARLY_NONE else None


@dataclass(frozen=True)
class ProfileStep:
    """At one distance down a task's gradient: the rise measured, and Theorems 3 and 4.

    Nats per token. `theorem_3` is the most the safety loss can have risen, `theorem_4` the least
    the task loss can have fallen; both are estimates.
    """

    distance: float
    measured_rise: float
    theorem_3: float
    theorem_4: float


@dataclass(frozen=True)
class SuggestedRadius:
    """An ε for the budget and what it rests on; None where no distance walked reached it."""

    value: float | None
    reason: str


@dataclass(frozen=True)
class Radii:
    """ε by Theorem 3, and as the loss profile down the task's gradient has it."""

    by_theorem_3: SuggestedRadius
    by_walk: SuggestedRadius


@dataclass(frozen=True)
class TaskGeometry:
    """One task's loss at the aligned model, and how its gradient lies to the safety data's."""

    loss: float
    slope: Estimate
    curvature: Estimate
    cosine: Estimate
    along_the_walk: tuple[ProfileStep, ...]
    radius: Radii


@dataclass(frozen=True)
class ProfileRecord:
    """The safety loss, nats per token, at rising distances along one direction."""

    direction: str
    distances: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class LandscapeResult:
    """What Theorems 3 and 4 take from the model, over one space of weights."""

    space: str
    weights: int
    rows: int
    safety_loss: float
    safety_slope: Estimate
    safety_curvature: Estimate
    tasks: Mapping[str, TaskGeometry]
    walks: tuple[ProfileRecord, ...]


@dataclass(frozen=True)
class EndangeringRow:
    """A task row whose step raises the safety loss, at which rate, and what else speaks of it."""

    prompt: str
    rate: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class TaskInfluence:
    """The rows of one task that endanger safety, the worst first."""

    task: str
    rows_looked_at: int
    trial_distance: float
    share_against_safety: float
    left_out: int
    kept_file: str | None
    """The file of the rows that are kept, beside audit.json."""
    worst: tuple[EndangeringRow, ...]


@dataclass(frozen=True)
class SuggestedPenalty:
    """λ for the budget by Theorem 1; None where the overlap's interval leaves it open."""

    task: str
    proxy: str
    penalty: float | None
    reason: str


@dataclass(frozen=True)
class Forecast:
    """The orders to expect of proxies and tasks, settings for the budget, and why."""

    proxies: tuple[str, ...]
    """Nearest first; none where rows are too few to order them."""
    tasks: tuple[str, ...]
    """Least overlap first."""
    penalties: tuple[SuggestedPenalty, ...]
    reasoning: tuple[str, ...]
    alike_proxies: tuple[tuple[str, ...], ...] = ()
    """Neighbours in the order whose intervals touch: between them it says nothing."""
    alike_tasks: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class AuditResult:
    """Everything measured before training.

    `settings` are those of `AuditSettings`; `landscape` and `influence` are None where no
    landscape was wanted.
    """

    model: str
    reference: str
    """What proxies are compared with, in words."""
    settings: Mapping[str, Any]
    quantities: Mapping[str, Quantity]
    data: tuple[DataRead, ...]
    similarity_by: str
    similarity: tuple[ProxySimilarity, ...]
    overlap_by: str
    overlap: tuple[PairOverlap, ...]
    landscape: LandscapeResult | None
    influence: tuple[TaskInfluence, ...] | None
    forecast: Forecast
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What audit.json holds."""
        record: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return record


def part(kind: type[Part], record: Mapping[str, Any]) -> Part:
    """One of the classes here from its JSON. Raises ValueError, in one line."""
    try:
        return TypeAdapter(kind).validate_python(record)
    except ValidationError as error:
        first_error = error.errors()[0]
        place = ".".join(map(str, first_error["loc"]))
        raise ValueError(f"{place}: {first_error['msg']}") from None


def read_audit_result(path: Path) -> AuditResult:
    """An audit from its file.

    Raises:
        UserError: the file is not an audit of this version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and "endangering" in record:  # its first name
            record["influence"] = record.pop("endangering")
        return part(AuditResult, record)
    except ValueError as error:
        raise UserError(
            f"{path}: not an audit of this version of trimtab ({error}). "
            "Make it anew: trimtab audit."
        ) from None
