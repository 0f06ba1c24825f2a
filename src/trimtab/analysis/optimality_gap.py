"""How near the trained models came to what no model can pass, and whether any seems to have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from trimtab.data.synthetic import World
from trimtab.results.result import Point
from trimtab.stats import Estimate
from trimtab.theory import Distribution, capability_limit

ROUNDING = 1e-4
"""Nats per token: what a loss summed in float32 may be off by."""


@dataclass(frozen=True)
class OptimalityGap:
    """A capability gap beside min{G_f(P) : G(P) ≤ the safety gap measured}, nats per token."""

    safety_gap: Estimate
    capability_gap: Estimate
    limit: float
    lowest_limit: float
    """The limit at the upper end of the safety gap's interval: nothing truly lies below it."""

    @property
    def excess(self) -> float:
        """How far above the limit; negative is below it."""
        return self.capability_gap.value - self.limit

    @property
    def ratio(self) -> float | None:
        """Measured over limit, where the limit is not zero."""
        if self.limit <= ROUNDING or math.isinf(self.limit):
            return None
        return self.capability_gap.value / self.limit

    @property
    def is_impossible(self) -> bool:
        """Whether it lies below the limit by more than its intervals."""
        return self.capability_gap.high + ROUNDING < self.lowest_limit


@dataclass(frozen=True)
class PointOptimalityGap:
    """One point in both planes; None where the plane's gap was not measured."""

    point: Point
    on_proxy: OptimalityGap | None
    on_original: OptimalityGap | None

    @property
    def is_impossible(self) -> bool:
        return any(
            gap is not None and gap.is_impossible for gap in (self.on_proxy, self.on_original)
        )


def optimality_gap(points: Iterable[Point], world: World) -> tuple[PointOptimalityGap, ...]:
    """Every point of a task of the world beside its limits.

    In (proxy gap, capability gap) and in (alignment gap, capability gap) alike the limit is the
    Pareto front over all models, so it is true of Case I, of Case II and of the starting model.
    """
    gaps = []
    for point in points:
        if point.task not in world.task or point.capability_gap is None:
            continue
        proxy = world.safety.get(point.proxy) if point.proxy is not None else None
        on_proxy = _gap_over_limit(world, point, proxy, point.proxy_gap)
        on_original = _gap_over_limit(world, point, world.original, point.alignment_gap)
        if on_proxy or on_original:
            gaps.append(PointOptimalityGap(point, on_proxy, on_original))
    return tuple(gaps)


def _gap_over_limit(
    world: World, point: Point, safety: Distribution | None, gap: Estimate | None
) -> OptimalityGap | None:
    if safety is None or gap is None or point.capability_gap is None:
        return None
    task, tokens = world.task[point.task], world.tokens_per_response

    def limit(safety_gap: float) -> float:
        return capability_limit(task, safety, max(safety_gap, 0.0) * tokens) / tokens

    return OptimalityGap(gap, point.capability_gap, limit(gap.value), limit(gap.high + ROUNDING))
