"""Points: what one measured model gave up and gained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from trimtab.config.methods import CASE_1_BUDGET, CASE_2_BUDGET, DIAL, Method
from trimtab.config.run_spec import RunSpec
from trimtab.stats import Estimate as Estimate
from trimtab.stats import Kind as Kind
from trimtab.stats import LimitVerdict, verdict

_ADDED_LATER = (
    "model",
    "multiplier",
    "safety_change",
    "validation_rows_wanted",
    "extra_bytes",
    "refusal_rate",
    "answer_rate",
    "harmful_rate",
    "over_refusal_rate",
    "incoherence_rate",
    "unparsed_rate",
)
"""Fields that points written by an earlier version lack."""

OUT_OF_REACH = 100.0
"""A λ at which the task hardly counts: a budget still missed cannot be had."""


@dataclass(frozen=True)
class LocalGeometry:
    """Slope ‖∇L‖ and curvature, the Hessian's norm, of one data set's loss at the aligned model.

    Per token, over the weights that are trained. Both are estimates from a sample of rows, and the
    curvature is local: away from the aligned model it may be larger.
    """

    slope: Estimate
    curvature: Estimate


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured model: how it was made, and L_s, L_ŝ, L_f and ‖θ − θ_s‖ afterwards.

    Losses are held-out means in nats per completion token (`…_per_response`: nats per response).
    `alignment_loss` is None where no original alignment data was given; `proxy_loss` is measured on
    the safety data of the spec, whether or not it was trained on. `model` names the trained model;
    points of one model share it. `extra_bytes` is what the method held in memory beyond plain
    fine-tuning.

    Rates are shares of prompts, as the experiment's first judge has them, and None unless it gives
    prompts: harmful ones refused and complied with, benign ones answered and refused, and of all
    of them those answered incoherently and those whose judgement could not be read.

    `wall_seconds` are those of making the trainer and training; where a run was interrupted, since
    it went on.

    Of a dial, and of one set to a budget, `multiplier` is the λ(α) that the setting was trained at.
    With a budget, `safety_change` is the held-out L_ŝ(θ) − L_ŝ(θ_s), and `validation_rows_wanted`
    would let four fifths of the budget be spent.
    """

    spec: RunSpec
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
    multiplier: float | None = None
    safety_change: Estimate | None = None
    validation_rows_wanted: int | None = None
    extra_bytes: int | None = None
    refusal_rate: Estimate | None = None
    harmful_rate: Estimate | None = None
    answer_rate: Estimate | None = None
    over_refusal_rate: Estimate | None = None
    incoherence_rate: Estimate | None = None
    unparsed_rate: Estimate | None = None

    @property
    def method(self) -> Method:
        return self.spec.method

    @property
    def proxy(self) -> str | None:
        return self.spec.proxy

    @property
    def task(self) -> str:
        return self.spec.task

    @property
    def seed(self) -> int:
        return self.spec.seed

    @property
    def budget(self) -> float | None:
        """What L_ŝ may rise by, where the model was trained to that."""
        is_budget = self.method in (CASE_1_BUDGET, CASE_2_BUDGET)
        return self.spec.value if is_budget else None

    @property
    def budget_verdict(self) -> LimitVerdict | None:
        """Whether the held-out change of L_ŝ keeps to the budget, by its interval."""
        if self.budget is None or self.safety_change is None:
            return None
        return verdict(self.safety_change, self.budget)

    def to_json(self) -> dict[str, Any]:
        """A flat record: an estimate `x` becomes `x` and `x_interval`, `x_unit`, `x_kind`."""
        record: dict[str, Any] = self.spec.to_json()
        for field in _MEASURED:
            value = getattr(self, field.name)
            if isinstance(value, Estimate):
                record[field.name] = value.value
                record[f"{field.name}_interval"] = [value.low, value.high]
                record[f"{field.name}_unit"] = value.unit
                record[f"{field.name}_kind"] = value.kind
            else:
                record[field.name] = value
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Point:
        """The inverse of `to_json`; also reads what the first version wrote.

        Raises KeyError or TypeError on a record that is no point.
        """
        values: dict[str, Any] = {}
        for field in _MEASURED:
            if field.name in _ADDED_LATER and field.name not in record:
                continue
            value = record[field.name]
            if f"{field.name}_interval" in record:
                low, high = record[f"{field.name}_interval"]
                unit, kind = record[f"{field.name}_unit"], record[f"{field.name}_kind"]
                if kind not in get_args(Kind):
                    raise TypeError(f"kind {kind!r} is none of {', '.join(get_args(Kind))}")
                value = Estimate(value, low, high, unit, kind)
            values[field.name] = value
        spec = RunSpec.from_json(record)
        if spec.method is DIAL and values.get("multiplier") is None:
            values["multiplier"] = record["penalty"]  # of the first version
        return cls(spec=spec, **values)


_MEASURED = tuple(field for field in fields(Point) if field.name != "spec")
