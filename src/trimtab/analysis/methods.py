"""Methods beside each other: each one's frontier, what of it others beat, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trimtab.analysis.groups import (
    Gap,
    SafetyGap,
    Setting,
    all_settings,
    measured_of,
    safety_gap_of,
)
from trimtab.analysis.verdicts import compare
from trimtab.config.methods import ALIGNED, CASE_1, PLAIN, PUBLISHED, Method
from trimtab.results.gaps import OVER_START
from trimtab.results.result import Point
from trimtab.stats import Estimate, holm, student_mean, student_p_value
from trimtab.theory.area import hypervolume

SHARE = "share of the rectangle between the aligned model and plain fine-tuning"


@dataclass(frozen=True)
class MethodResult:
    """One method over its hyperparameter, on one task with one proxy.

    `volume` is the hypervolume, the share of the rectangle that the method's points dominate; its
    interval is over seeds. `against_case_1` is its difference from Case I's, seed by seed, and
    `p_value` that of no difference, adjusted by Holm over the methods beside each other.
    `dominated` of `judged` settings are beaten in both gaps by one setting of another method, each
    beyond the interval of the difference over seeds, or where there is one seed of the rows. One
    seed measured exactly has no interval, and cannot be judged.
    """

    method: Method
    proxy: str | None
    task: str
    settings: tuple[Setting, ...]
    volume: Estimate
    against_case_1: Estimate | None
    p_value: float | None
    dominated: int
    judged: int
    beaten_by: tuple[Method, ...]
    tokens: float
    seconds: float
    extra_bytes: float | None

    def to_json(self) -> dict[str, Any]:
        def told(estimate: Estimate | None) -> Any:
            if estimate is None:
                return None
            return {"value": estimate.value, "interval": [estimate.low, estimate.high]}

        return {
            "method": self.method.name,
            "proxy": self.proxy,
            "task": self.task,
            "hypervolume": told(self.volume),
            "hypervolume_less_case_1": told(self.against_case_1),
            "adjusted_p_value": self.p_value,
            "settings": len(self.settings),
            "dominated": self.dominated,
            "judged": self.judged,
            "beaten_by": [method.name for method in self.beaten_by],
            "tokens": round(self.tokens),
            "seconds": round(self.seconds, 2),
            "extra_bytes": None if self.extra_bytes is None else round(self.extra_bytes),
            "points": [
                {
                    "value": "inf" if one.value == math.inf else one.value,
                    "seeds": len(one.points),
                    "capability_gap": told(one.measured("capability gap")),
                }
                for one in self.settings
            ],
        }


@dataclass(frozen=True)
class Rectangle:
    """What can be won: from the safety of the aligned model to the capability of plain fine-tuning.

    Where the least possible losses are known it begins at gaps of 0, which no model passes.
    """

    best: tuple[float, float]
    worst: tuple[float, float]

    @classmethod
    def between(cls, aligned: Setting, plain: Setting, safety: SafetyGap) -> Rectangle | None:
        """The one between two models; None where a gap of theirs was not measured."""
        safest, unsafest = aligned.measured(safety), plain.measured(safety)
        untaught, taught = (one.measured("capability gap") for one in (aligned, plain))
        if not (safest and unsafest and untaught and taught):
            return None
        over_start = safest.unit == OVER_START
        best = (safest.value, taught.value) if over_start else (0.0, 0.0)
        return cls(best, (unsafest.value, untaught.value))

    @property
    def is_empty(self) -> bool:
        return any(far <= near for near, far in zip(self.best, self.worst, strict=True))

    def share(self, points: Iterable[tuple[float, float]]) -> float:
        """The share of it that the points dominate."""
        inside = [(max(x - self.best[0], 0.0), max(y - self.best[1], 0.0)) for x, y in points]
        corner = self.worst[0] - self.best[0], self.worst[1] - self.best[1]
        return hypervolume(inside, corner) / (corner[0] * corner[1])


def method_results(points: Sequence[Point]) -> tuple[MethodResult, ...]:
    """Every method of every pair of proxy and task, by falling hypervolume.

    Nothing, where no published method is among the points, or the aligned model and plain
    fine-tuning are not, whose gaps bound the rectangle.
    """
    safety = safety_gap_of(points)
    if safety is None or not any(point.method in PUBLISHED.values() for point in points):
        return ()
    settings = all_settings(points)
    results: list[MethodResult] = []
    for pair in dict.fromkeys((one.proxy, one.task) for one in settings):
        results += _of_pair([one for one in settings if (one.proxy, one.task) == pair], safety)
    return tuple(results)


def dominates(one: Setting, other: Setting, safety: SafetyGap) -> bool:
    """Whether `one` is better in both gaps, each beyond its interval."""
    return all(_below(one, other, which) for which in (safety, "capability gap"))


def _of_pair(settings: list[Setting], safety: SafetyGap) -> list[MethodResult]:
    ends = {one.method: one for one in settings if one.method in (ALIGNED, PLAIN)}
    if len(ends) < 2:
        return []
    rectangle = Rectangle.between(ends[ALIGNED], ends[PLAIN], safety)
    if rectangle is None:
        return []
    methods: dict[Method, list[Setting]] = {}
    for one in settings:
        if one.method not in ends:
            methods.setdefault(one.method, []).append(one)
    volumes = {method: _volumes(line, safety, rectangle) for method, line in methods.items()}
    results = []
    for method, line in methods.items():
        beaten: dict[Setting, list[Method]] = {}
        for mine in line:
            others = [other for other in settings if other.method not in (method, *ends)]
            winners = [other.method for other in others if dominates(other, mine, safety)]
            if winners:
                beaten[mine] = winners
        if not volumes[method]:
            continue
        made = [point for one in line for point in one.points]
        first = volumes.get(CASE_1)
        against = p_value = None
        if first and method is not CASE_1:
            seeds = sorted(set(first) & set(volumes[method]))
            if seeds:
                less = [volumes[method][seed] - first[seed] for seed in seeds]
                against, p_value = student_mean(less, SHARE), student_p_value(less)
        results.append(
            MethodResult(
                method,
                line[0].proxy,
                line[0].task,
                tuple(sorted(line, key=lambda one: one.value or 0.0)),
                student_mean(list(volumes[method].values()), SHARE),
                against,
                p_value,
                len(beaten),
                sum(_can_be_judged(one, safety) for one in line),
                tuple(dict.fromkeys(winner for won in beaten.values() for winner in won)),
                _of_line(made, lambda point: point.train_tokens),
                _of_line(made, lambda point: point.wall_seconds),
                _mean_where_known([point.extra_bytes for point in made]),
            )
        )
    return sorted(_adjusted(results), key=lambda result: -result.volume.value)


def _adjusted(results: Sequence[MethodResult]) -> list[MethodResult]:
    """The results with p-values that hold for all of them together."""
    raw = {one.method: one.p_value for one in results if one.p_value is not None}
    adjusted = dict(zip(raw, holm(list(raw.values())), strict=True))
    return [
        replace(one, p_value=float(adjusted[one.method])) if one.method in adjusted else one
        for one in results
    ]


def _of_line(points: Sequence[Point], cost: Callable[[Point], float]) -> float:
    """Mean over seeds of what the whole line cost; a training that settings share counts once."""
    seeds: dict[int, list[Point]] = {}
    for point in points:
        seeds.setdefault(point.seed, []).append(point)
    method = points[0].method
    shared = method.one_training or method.stage == "after training"
    each = [(max if shared else sum)(map(cost, of_seed)) for of_seed in seeds.values()]
    return float(np.mean(each))


def _volumes(line: Sequence[Setting], safety: SafetyGap, rectangle: Rectangle) -> dict[int, float]:
    of_seed: dict[int, list[tuple[float, float]]] = {}
    for one in line:
        for point in one.points:
            x, y = measured_of(point, safety), measured_of(point, "capability gap")
            if x is not None and y is not None:
                of_seed.setdefault(point.seed, []).append((x.value, y.value))
    if rectangle.is_empty:
        return {}
    return {
        seed: rectangle.share(points)
        for seed, points in of_seed.items()
        if len(points) == len(line)  # a seed that lacks settings, unfinished, would count for less
    }


def _below(one: Setting, other: Setting, which: Gap) -> bool:
    mine = {point.seed: measured_of(point, which) for point in one.points}
    theirs = {point.seed: measured_of(point, which) for point in other.points}
    shared = [seed for seed in mine if seed in theirs and mine[seed] and theirs[seed]]
    if len(shared) < 2:
        ours, others = one.measured(which), other.measured(which)
        if not shared or ours is None or others is None:
            return False
        is_judged = ours.low < ours.high or others.low < others.high
        return is_judged and compare(ours, others) == "below"
    gaps = [(mine[seed], theirs[seed]) for seed in shared]
    return student_mean([a.value - b.value for a, b in gaps if a and b], "").high < 0


def _can_be_judged(one: Setting, safety: SafetyGap) -> bool:
    gap = one.measured(safety)
    return gap is not None and (len(one.points) > 1 or gap.low < gap.high)


def _mean_where_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
