"""Points: what one measured model gave up and gained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

from trimtab.stats import Estimate as Estimate
from trimtab.stats import Kind as Kind

Case = Literal["aligned", "alignment-loss", "alignment-parameter", "dial", "method"]

_ADDED_LATER = (
    "model",
    "budget",
    "multiplier",
    "safety_change",
    "alpha",
    "method",
    "knob",
    "extra_bytes",
    "refusal_rate",
    "answer_rate",
)
"""Fields that points written by an earlier version lack."""

BUDGET_TOLERANCE = 0.05
"""A change beyond its budget by this share of it still counts as within the budget."""
OUT_OF_REACH = 100.0
"""A multiplier at which the task hardly counts: a budget still missed cannot be had."""


@dataclass(frozen=True)
class LocalGeometry:
    """Slope ‖∇L‖ and curvature, the Hessian's norm, of one data set's loss at the aligned model.

    Per token, over the weights that are trained. Both are estimates from a sample of rows, and the
    curvature is local: away from the aligned model it may be larger.
    """

    slope: Estimate
    curvature: Estimate


class PointKey(NamedTuple):
    """What makes two points the same point of a plan; the fields are those of `Point`."""

    case: Case
    penalty: float | None
    radius: float | None
    proxy: str | None
    task: str
    seed: int
    budget: float | None = None
    alpha: float | None = None
    method: str | None = None
    knob: float | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured model: how it was made, and L_s, L_ŝ, L_f and ‖θ − θ_s‖ afterwards.

    Losses are held-out means in nats per completion token (`…_per_response`: nats per response).
    `case` "aligned" is the starting model itself, untrained. In Case I `penalty` is λ and `proxy`
    the safety data trained on; in Case II `penalty` is λ or `radius` is ε, and `proxy` only names
    the safety data that `proxy_loss` was measured on. In case "dial" `alpha` is the setting of the
    dial, from 0 (safest) to 1 (most capable), and `penalty` is λ(α); all settings are one training.
    Case "method" is a published method by its name, at its `knob`; `extra_bytes` is what it held in
    memory beyond plain fine-tuning. `alignment_loss` is None where no original alignment data was
    given. `model` names the trained model; points of one model share it. `refusal_rate` on
    harmful prompts and `answer_rate` on benign ones are None unless the experiment gives such.

    `wall_seconds` are those of making the trainer and training; where a run was interrupted, since
    it went on.

    In place of λ or ε a point may have a `budget` for `safety_change`, the held-out
    L_ŝ(θ) − L_ŝ(θ_s). What was learned is `multiplier`, the λ of Case I, or `distance`, the ε of
    Case II.
    """

    case: Case
    penalty: float | None = None
    radius: float | None = None
    proxy: str | None = None
    task: str
    seed: int
    alignment_loss: Estimate | None = None
    proxy_loss: Estimate | None = None
    capability_loss: Estimate
    alignment_loss_per_response: Estimate | None = None
    proxy_loss_per_response: Estimate | None = None
    capability_loss_per_response: Estimate | None = None
    alignment_gap: Estimate | None = None
    proxy_gap: Estimate | None = None
    capability_gap: Estimate | None = None
    context_overlap: Estimate | None = None
    distance: float
    relative_distance: float
    train_tokens: int
    wall_seconds: float
    model: str | None = None
    budget: float | None = None
    multiplier: float | None = None
    safety_change: Estimate | None = None
    alpha: float | None = None
    method: str | None = None
    knob: float | None = None
    extra_bytes: int | None = None
    refusal_rate: Estimate | None = None
    answer_rate: Estimate | None = None

    @property
    def key(self) -> PointKey:
        """What makes two points the same point of a plan."""
        return PointKey(
            self.case,
            self.penalty,
            self.radius,
            self.proxy,
            self.task,
            self.seed,
            self.budget,
            self.alpha,
            self.method,
            self.knob,
        )

    @property
    def over_budget(self) -> float | None:
        """How far the held-out change of L_ŝ lies above the budget; below 0 it is within."""
        if self.budget is None or self.safety_change is None:
            return None
        return self.safety_change.value - self.budget

    @property
    def is_feasible(self) -> bool | None:
        """Whether the held-out change of L_ŝ is within the budget, to 5 % of it."""
        if self.over_budget is None or self.budget is None:
            return None
        return self.over_budget <= BUDGET_TOLERANCE * abs(self.budget)

    def to_json(self) -> dict[str, Any]:
        """A flat record: an estimate `x` becomes `x` and `x_interval`, `x_unit`, `x_kind`."""
        record: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Estimate):
                record[field.name] = value.value
                record[f"{field.name}_interval"] = [value.low, value.high]
                record[f"{field.name}_unit"] = value.unit
                record[f"{field.name}_kind"] = value.kind
            else:
                record[field.name] = "inf" if value == math.inf else value  # JSON has no infinity
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Point:
        """The inverse of `to_json`. Raises KeyError or TypeError on a record that is no point."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in _ADDED_LATER and field.name not in record:
                continue
            value = record[field.name]
            if f"{field.name}_interval" in record:
                low, high = record[f"{field.name}_interval"]
                unit, kind = record[f"{field.name}_unit"], record[f"{field.name}_kind"]
                if kind not in get_args(Kind):
                    raise TypeError(f"kind {kind!r} is none of {', '.join(get_args(Kind))}")
                value = Estimate(value, low, high, unit, kind)
            values[field.name] = math.inf if value == "inf" else value
        return cls(**values)
