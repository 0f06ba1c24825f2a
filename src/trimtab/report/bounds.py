"""What Theorems 1 and 2 allow at each setting of Case I, beside what was measured there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from trimtab.data.synthetic import World
from trimtab.points import Estimate, Kind, Point
from trimtab.report.setting import Gap, Setting, settings_of
from trimtab.theory import (
    Bound,
    capability_bound,
    exact_frontier,
    safety_bound,
    theorem_1,
    theorem_2,
)

ROUNDING = 1e-9


@dataclass(frozen=True)
class BoundBeside:
    """A bound on a gap at one setting, the exact optimum's gap and the gap measured.

    Args:
        setting: case, knob, proxy and task, over its seeds.
        gap: which gap is bounded.
        bound: the sharp form, in nats per response.
        classical: the classical form, in nats per response; None where an input of it is unknown.
        kind: "bound" where every input is exact, else "estimate".
        optimum: the gap of the exact optimum in nats per token; None where the world is unknown.
        measured: the gap of the trained model, in nats per token.
        tokens: mean tokens of a response: theorems speak of responses, measurements of tokens.
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
            "case": self.setting.case,
            "penalty": self.setting.penalty,
            "radius": self.setting.radius,
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


def bounds_beside(points: Iterable[Point], world: World | None) -> tuple[BoundBeside, ...]:
    """Theorems 1 and 2 for every setting of Case I with λ > 0 that has the gap measured.

    In a known world every input is exact and the bound is one. Elsewhere the overlap is estimated
    from prompts, ρ is taken as 1 and B as unknown; the distance between original and proxy is
    unknown too, so that only Theorem 1's overlap term can be said, which bounds the proxy gap.

    Both bound the optimum of the objective. A trained model may stop short of it and lie above.
    """
    found = []
    for setting in settings_of(points, "alignment-loss"):
        if setting.is_plain:
            continue
        if world is not None and setting.proxy in world.safety and setting.task in world.task:
            found += _in_the_world(setting, world)
        else:
            found += _from_estimates(setting)
    return tuple(sorted(found, key=lambda one: one.bound.theorem))


def _in_the_world(setting: Setting, world: World) -> list[BoundBeside]:
    task, proxy = world.task[setting.task], world.safety[str(setting.proxy)]
    penalty = float(setting.penalty or 0)
    optimum = exact_frontier(task, proxy, world.original, [penalty])

    def beside(gap: Gap, at_optimum: float, sharp: Bound, classical: Bound) -> list[BoundBeside]:
        measured = setting.gap(gap)
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
    first = setting.points[0]
    if first.context_overlap is None or setting.penalty is None:
        return []
    overlap, penalty = first.context_overlap.value, setting.penalty
    unknown = float("inf")
    safety = theorem_1(total_variation=0.0, overlap=overlap, penalty=penalty, log_bound=unknown)
    capability = theorem_2(overlap=overlap, penalty=penalty)
    found = []
    sides: tuple[tuple[Gap, Bound], ...] = (("proxy gap", safety), ("capability gap", capability))
    for gap, bound in sides:
        measured, tokens = setting.gap(gap), _mean_tokens(first, gap)
        if measured is not None and tokens is not None:
            found.append(BoundBeside(setting, gap, bound, None, "estimate", None, measured, tokens))
    return found


def _mean_tokens(point: Point, gap: Gap) -> float | None:
    per_token, per_response = (
        (point.proxy_loss, point.proxy_loss_per_response)
        if gap == "proxy gap"
        else (point.capability_loss, point.capability_loss_per_response)
    )
    if per_token is None or per_response is None or per_token.value == 0:
        return None
    return per_response.value / per_token.value
