"""What the four theorems allow at each setting, beside what was measured there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from trimtab.analysis.groups import Gap, Setting, settings_of
from trimtab.config.data_names import ORIGINAL, safety_data, task_data
from trimtab.config.methods import ALIGNED, CASE_1, CASE_2, CASE_2_RADIUS
from trimtab.data.synthetic import World
from trimtab.results.gaps import OVER_LOWEST, OVER_START, over_reference
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import LocalGeometry, Point
from trimtab.stats import Estimate, Kind
from trimtab.theory import (
    Bound,
    capability_bound,
    exact_frontier,
    penalty_per_response,
    safety_bound,
    theorem_1,
    theorem_2,
    theorem_3,
    theorem_4,
)

ROUNDING = 1e-9


@dataclass(frozen=True)
class BoundBeside:
    """A bound on a gap at one setting, the exact optimum's gap and the gap measured.

    Args:
        setting: method, hyperparameter, proxy and task, over its seeds.
        gap: which gap is bounded.
        bound: the sharp form, in nats per response, or per token where `tokens` is 1.
        classical: the classical form in the same unit; None where an input of it is unknown.
        kind: "bound" where every input is exact, else "estimate".
        optimum: the gap of the exact optimum in nats per token; None where the world is unknown.
        measured: the gap of the trained model, in nats per token.
        tokens: what to divide `bound` by: mean tokens of a response for Theorems 1 and 2, whose
            numbers are per response, and 1 for Theorems 3 and 4, which are given losses per token.
    """

    setting: Setting
    gap: Gap
    bound: Bound
    classical: Bound | None
    kind: Kind
    optimum: float | None
    measured: Estimate
    tokens: float

    @property
    def value(self) -> float:
        """The bound, in nats per token."""
        return self.bound.value / self.tokens

    @property
    def slack(self) -> float:
        """Bound less measured, in nats per token; negative is a model that is no optimum."""
        return self.value - self.measured.value

    def to_json(self) -> dict[str, Any]:
        """A flat record, every number in nats per token; what is infinite or unknown is null."""

        def per_token(bound: Bound | None) -> float | None:
            finite = bound is not None and math.isfinite(bound.value)
            return bound.value / self.tokens if bound is not None and finite else None

        return {
            "theorem": self.bound.theorem,
            "bounds": self.gap,
            "method": self.setting.method.name,
            "setting": self.setting.value,
            "proxy": self.setting.proxy,
            "task": self.setting.task,
            "kind": self.kind,
            "terms": {term.name: term.value / self.tokens for term in self.bound.terms},
            "assumes": sorted({name for term in self.bound.terms for name in term.assumes}),
            "value": per_token(self.bound),
            "classical": per_token(self.classical),
            "exact_optimum": self.optimum,
            "measured": self.measured.value,
            "measured_interval": [self.measured.low, self.measured.high],
            "measured_kind": self.measured.kind,
            "unit": self.measured.unit,
        }

    @property
    def is_broken(self) -> bool:
        """Whether the exact optimum lies above its bound: a mistake in the theory or its code."""
        return self.optimum is not None and self.optimum > self.value * (1 + ROUNDING) + ROUNDING


def bounds_beside(
    points: Iterable[Point],
    world: World | None,
    landscape: Mapping[str, LocalGeometry],
    rows: RowLosses | None = None,
) -> tuple[BoundBeside, ...]:
    """Every theorem for every setting that it can speak to and that has the gap measured.

    Theorems 1 and 2 speak of Case I with λ > 0. In a known world every input is exact and the bound
    is one. Elsewhere the overlap is estimated from prompts, ρ is taken as 1 and B as unknown; the
    distance between original and proxy is unknown too, so that only Theorem 1's overlap term can be
    said, which bounds the proxy gap. The theorems' λ weighs losses per response, that of training
    losses per token: `penalty_per_response`.

    Theorems 3 and 4 speak of Case II. Their slopes and curvatures are estimates, the curvatures
    local, so what they give is an estimate. Theorem 3 holds for every model at the distance that
    was reached, and is given that.

    Of a budget none speaks: it is a setting of a dial, which minimises no one λ's objective.

    Theorems 1, 2 and 4 bound the optimum of the objective. A trained model may stop short of it.
    """
    points = _over_lowest_seen(list(points), rows)
    comparisons = []
    for setting in settings_of(points, CASE_1):
        if setting.is_plain:
            continue
        if world is not None and setting.proxy in world.safety and setting.task in world.task:
            comparisons += _in_the_world(setting, world)
        else:
            comparisons += _from_estimates(setting)
    starts = {(start.proxy, start.task): start for start in settings_of(points, ALIGNED)}
    for setting in settings_of(points, CASE_2, CASE_2_RADIUS):
        start = starts.get((setting.proxy, setting.task))
        if start is not None and not setting.is_plain:
            comparisons += _from_local_geometry(setting, start, landscape)
    return tuple(sorted(comparisons, key=lambda comparison: comparison.bound.theorem))


def _over_lowest_seen(points: list[Point], rows: RowLosses | None) -> list[Point]:
    """The points with gaps that the theorems can speak of, where the least losses are not known.

    The loss is then taken from the lowest seen, by row where rows are known: a gap too small.
    """
    data_of: dict[str, Callable[[Point], str]] = {
        "alignment_gap": lambda point: ORIGINAL,
        "proxy_gap": lambda point: safety_data(point.proxy),
        "capability_gap": lambda point: task_data(point.task),
    }
    lowest: dict[tuple[str, str], Point] = {}
    for point in points:
        for name, data in data_of.items():
            gap = getattr(point, name)
            if gap is not None and gap.unit == OVER_START:
                before = lowest.setdefault((name, data(point)), point)
                if gap.value < getattr(before, name).value:
                    lowest[name, data(point)] = point

    def over_lowest(point: Point, name: str, data: str) -> Estimate:
        reference = lowest[name, data]
        gap: Estimate = getattr(point, name).minus(getattr(reference, name).value)
        return over_reference(replace(gap, unit=OVER_LOWEST), point, reference, data, rows)

    def changed(point: Point) -> Point:
        changes: dict[str, Any] = {
            name: over_lowest(point, name, data(point))
            for name, data in data_of.items()
            if (name, data(point)) in lowest and getattr(point, name) is not None
        }
        return replace(point, **changes)

    return [changed(point) for point in points]


def _in_the_world(setting: Setting, world: World) -> list[BoundBeside]:
    task, proxy = world.task[setting.task], world.safety[str(setting.proxy)]
    penalty = float(setting.value or 0)
    optimum = exact_frontier(task, proxy, world.original, [penalty])

    def beside(gap: Gap, at_optimum: float, sharp: Bound, classical: Bound) -> list[BoundBeside]:
        measured = setting.measured(gap)
        if measured is None:
            return []
        tokens = world.tokens_per_response
        per_token = at_optimum / tokens
        return [BoundBeside(setting, gap, sharp, classical, "bound", per_token, measured, tokens)]

    return [
        *beside(
            "alignment gap",
            float(optimum.alignment_gap[0]),
            safety_bound(task, proxy, world.original, penalty),
            safety_bound(task, proxy, world.original, penalty, sharp=False),
        ),
        *beside(
            "capability gap",
            float(optimum.capability_gap[0]),
            capability_bound(task, proxy, penalty),
            capability_bound(task, proxy, penalty, sharp=False),
        ),
    ]


def _from_estimates(setting: Setting) -> list[BoundBeside]:
    point = setting.points[0]
    if point.context_overlap is None or setting.value is None:
        return []
    safety_tokens, task_tokens = (
        _mean_tokens(point, gap) for gap in ("proxy gap", "capability gap")
    )
    if safety_tokens is None or task_tokens is None:
        return []
    overlap = point.context_overlap.value
    penalty = penalty_per_response(setting.value, task_tokens, safety_tokens)
    unknown = float("inf")
    safety = theorem_1(total_variation=0.0, overlap=overlap, penalty=penalty, log_bound=unknown)
    capability = theorem_2(overlap=overlap, penalty=penalty)
    comparisons = []
    sides: tuple[tuple[Gap, Bound, float], ...] = (
        ("proxy gap", safety, safety_tokens),
        ("capability gap", capability, task_tokens),
    )
    for gap, bound, tokens in sides:
        measured = setting.measured(gap)
        if measured is not None:
            comparisons.append(
                BoundBeside(setting, gap, bound, None, "estimate", None, measured, tokens)
            )
    return comparisons


def _from_local_geometry(
    setting: Setting, start: Setting, landscape: Mapping[str, LocalGeometry]
) -> list[BoundBeside]:
    safety_gap: Gap = "alignment gap" if ORIGINAL in landscape else "proxy gap"
    safety = landscape.get(ORIGINAL) or landscape.get(safety_data(setting.proxy))
    task = landscape.get(task_data(setting.task))
    comparisons = []
    if (
        safety
        and (start_gap := start.measured(safety_gap))
        and (measured := setting.measured(safety_gap))
    ):
        reached = max(point.distance for point in setting.points)
        sharp, classical = (
            theorem_3(
                gap_at_start=max(0.0, start_gap.value),
                gradient_norm=safety.slope.value,
                smoothness=abs(safety.curvature.value),
                radius=reached,
                sharp=sharp,
            )
            for sharp in (True, False)
        )
        comparisons.append(
            BoundBeside(setting, safety_gap, sharp, classical, "estimate", None, measured, 1.0)
        )
    capability_gap: Gap = "capability gap"
    constraint: dict[str, Any] = {setting.method.hyperparameter: setting.value}
    if (
        task
        and (start_gap := start.measured(capability_gap))
        and (measured := setting.measured(capability_gap))
    ):
        sharp, classical = (
            theorem_4(
                gap_at_start=max(0.0, start_gap.value),
                gradient_norm=task.slope.value,
                smoothness=abs(task.curvature.value),
                **constraint,
                sharp=sharp,
            )
            for sharp in (True, False)
        )
        comparisons.append(
            BoundBeside(setting, capability_gap, sharp, classical, "estimate", None, measured, 1.0)
        )
    return comparisons


def _mean_tokens(point: Point, gap: Gap) -> float | None:
    per_token, per_response = (
        (point.proxy_loss, point.proxy_loss_per_response)
        if gap == "proxy gap"
        else (point.capability_loss, point.capability_loss_per_response)
    )
    if per_token is None or per_response is None or per_token.value == 0:
        return None
    return per_response.value / per_token.value
