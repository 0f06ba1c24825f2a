"""Methods beside each other: each one's frontier, what of it others beat, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.analysis.groups import Gap, SafetyGap, measured_of, safety_gap_of
from trimtab.analysis.labels import METHOD_NAMES
from trimtab.analysis.verdicts import compare
from trimtab.config.methods import AFTER_TRAINING
from trimtab.results.result import Point
from trimtab.stats import Estimate, over_seeds, student_mean
from trimtab.theory.area import hypervolume

SHARE = "share of the rectangle between the aligned model and plain fine-tuning"


@dataclass(frozen=True)
class Tried:
    """One method at one value of its knob: a point per seed, in the order of the seeds."""

    method: str
    knob: float | None
    proxy: str | None
    task: str
    points: tuple[Point, ...]

    def measured(self, which: Gap) -> Estimate:
        gaps = [measured_of(point, which) for point in self.points]
        return over_seeds([gap for gap in gaps if gap is not None])


@dataclass(frozen=True)
class MethodResult:
    """One method over its knob, on one task with one proxy.

    `volume` is the hypervolume, the share of the rectangle that the method's points dominate; its
    interval is over seeds. `against_case_1` is its difference from Case I's, seed by seed.
    `dominated` of `judged` settings are beaten in both gaps by one setting of another method, each
    beyond the interval of the difference over seeds, or where there is one seed of the rows. One
    seed measured exactly has no interval, and cannot be judged.
    """

    method: str
    proxy: str | None
    task: str
    tried: tuple[Tried, ...]
    volume: Estimate
    against_case_1: Estimate | None
    dominated: int
    judged: int
    beaten_by: tuple[str, ...]
    tokens: float
    seconds: float
    extra_bytes: float | None

    def to_json(self) -> dict[str, Any]:
        def told(estimate: Estimate | None) -> Any:
            if estimate is None:
                return None
            return {"value": estimate.value, "interval": [estimate.low, estimate.high]}

        return {
            "method": self.method,
            "proxy": self.proxy,
            "task": self.task,
            "hypervolume": told(self.volume),
            "hypervolume_less_case_1": told(self.against_case_1),
            "settings": len(self.tried),
            "dominated": self.dominated,
            "judged": self.judged,
            "beaten_by": list(self.beaten_by),
            "tokens": round(self.tokens),
            "seconds": round(self.seconds, 2),
            "extra_bytes": None if self.extra_bytes is None else round(self.extra_bytes),
            "points": [
                {
                    "knob": "inf" if one.knob == math.inf else one.knob,
                    "seeds": len(one.points),
                    "capability_gap": told(one.measured("capability gap")),
                }
                for one in self.tried
            ],
        }


def method_and_knob(point: Point) -> tuple[str, float | None]:
    """What made a point, and how it was set: one way for the cases and for published methods."""
    if point.case == "aligned":
        return "aligned", None
    if point.penalty == 0 or math.inf in (point.radius, point.budget):
        return "plain", None
    if point.case == "method":
        return str(point.method), point.knob
    if point.case == "dial":
        return "dial", point.alpha
    if point.budget is not None:
        return f"{point.case}-budget", point.budget
    if point.radius is not None:
        return f"{point.case}-radius", point.radius
    return point.case, point.penalty


def tried_settings(points: Iterable[Point]) -> tuple[Tried, ...]:
    """The points by method, knob, proxy and task; methods in the order they came."""
    groups: dict[tuple[Any, ...], dict[int, Point]] = {}
    for point in points:
        key = (*method_and_knob(point), point.proxy, point.task)
        groups.setdefault(key, {})[point.seed] = point
    return tuple(
        Tried(method, knob, proxy, task, tuple(of_seed[seed] for seed in sorted(of_seed)))
        for (method, knob, proxy, task), of_seed in groups.items()
    )


def method_results(points: Sequence[Point]) -> tuple[MethodResult, ...]:
    """Every method of every pair of proxy and task, by falling hypervolume.

    Nothing, where no published method is among the points, or the aligned model and plain
    fine-tuning are not, whose gaps bound the rectangle.
    """
    safety = safety_gap_of(points)
    if safety is None or not any(point.case == "method" for point in points):
        return ()
    tried = tried_settings(points)
    results: list[MethodResult] = []
    for pair in dict.fromkeys((one.proxy, one.task) for one in tried):
        results += _of_pair([one for one in tried if (one.proxy, one.task) == pair], safety)
    return tuple(results)


def dominates(one: Tried, other: Tried, safety: SafetyGap) -> bool:
    """Whether `one` is better in both gaps, each beyond its interval."""
    return all(_below(one, other, which) for which in (safety, "capability gap"))


def _of_pair(tried: list[Tried], safety: SafetyGap) -> list[MethodResult]:
    named = {one.method: one for one in tried if one.method in ("aligned", "plain")}
    if len(named) < 2:
        return []
    corner = (
        named["plain"].measured(safety).value,
        named["aligned"].measured("capability gap").value,
    )
    methods: dict[str, list[Tried]] = {}
    for one in tried:
        if one.method not in named:
            methods.setdefault(one.method, []).append(one)
    volumes = {name: _volumes(line, safety, corner) for name, line in methods.items()}
    results = []
    for name, line in methods.items():
        beaten: dict[Tried, list[str]] = {}
        for mine in line:
            others = [other for other in tried if other.method not in (name, *named)]
            winners = [other.method for other in others if dominates(other, mine, safety)]
            if winners:
                beaten[mine] = winners
        if not volumes[name]:
            continue
        made = [point for one in line for point in one.points]
        first = volumes.get("alignment-loss")
        against = None
        if first and name != "alignment-loss":
            seeds = sorted(set(first) & set(volumes[name]))
            if seeds:
                against = student_mean([volumes[name][seed] - first[seed] for seed in seeds], SHARE)
        results.append(
            MethodResult(
                name,
                line[0].proxy,
                line[0].task,
                tuple(sorted(line, key=lambda one: one.knob or 0.0)),
                student_mean(list(volumes[name].values()), SHARE),
                against,
                len(beaten),
                sum(_can_be_judged(one, safety) for one in line),
                tuple(dict.fromkeys(winner for won in beaten.values() for winner in won)),
                _of_line(made, lambda point: point.train_tokens),
                _of_line(made, lambda point: point.wall_seconds),
                _mean_where_known([point.extra_bytes for point in made]),
            )
        )
    return sorted(results, key=lambda result: -result.volume.value)


def _of_line(points: Sequence[Point], cost: Callable[[Point], float]) -> float:
    """Mean over seeds of what the whole line cost; a training that settings share counts once."""
    seeds: dict[int, list[Point]] = {}
    for point in points:
        seeds.setdefault(point.seed, []).append(point)
    shared = points[0].case == "dial" or points[0].method in AFTER_TRAINING
    each = [(max if shared else sum)(map(cost, of_seed)) for of_seed in seeds.values()]
    return float(np.mean(each))


def _volumes(
    line: Sequence[Tried], safety: SafetyGap, corner: tuple[float, float]
) -> dict[int, float]:
    of_seed: dict[int, list[tuple[float, float]]] = {}
    for one in line:
        for point in one.points:
            x, y = measured_of(point, safety), measured_of(point, "capability gap")
            if x is not None and y is not None:
                of_seed.setdefault(point.seed, []).append((max(x.value, 0), max(y.value, 0)))
    area = corner[0] * corner[1]
    if area <= 0:
        return {}
    return {
        seed: hypervolume(points, corner) / area
        for seed, points in of_seed.items()
        if len(points) == len(line)  # a seed that lacks settings, unfinished, would count for less
    }


def _below(one: Tried, other: Tried, which: Gap) -> bool:
    mine = {point.seed: measured_of(point, which) for point in one.points}
    theirs = {point.seed: measured_of(point, which) for point in other.points}
    shared = [seed for seed in mine if seed in theirs and mine[seed] and theirs[seed]]
    if len(shared) < 2:
        known = [gap for gap in (one.measured(which), other.measured(which)) if gap.low < gap.high]
        return (
            bool(shared and known)
            and compare(one.measured(which), other.measured(which)) == "below"
        )
    gaps = [(mine[seed], theirs[seed]) for seed in shared]
    return student_mean([a.value - b.value for a, b in gaps if a and b], "").high < 0


def _can_be_judged(one: Tried, safety: SafetyGap) -> bool:
    gap = one.measured(safety)
    return len(one.points) > 1 or gap.low < gap.high


def title(method: str) -> str:
    """A method as people call it."""
    return METHOD_NAMES.get(method, method)


def _mean_where_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
