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
from trimtab.analysis.verdicts import Pairs
from trimtab.config.methods import ALIGNED, CASE_1, PLAIN, PUBLISHED, Method
from trimtab.results.gaps import OVER_START
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import Estimate, holm, student_mean, student_p_value
from trimtab.theory.area import hypervolume

SHARE = "share of the rectangle between the aligned model and plain fine-tuning"


@dataclass(frozen=True)
class MethodResult:
    """One method over its hyperparameter, on one task with one proxy.

    `volume` is the hypervolume, the share of the rectangle that the method's points dominate; its
    interval is over seeds, for these held-out rows. `against_case_1` is its difference from Case
    I's, seed by seed, and `p_value` that of no difference, adjusted by Holm over the methods beside
    each other; None of one seed. `dominated` of `judged` settings are beaten in both gaps by one
    setting of another method, each beyond the interval of the difference over seeds and rows. One
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
        def estimate_record(estimate: Estimate | None) -> Any:
            if estimate is None:
                return None
            return {"value": estimate.value, "interval": [estimate.low, estimate.high]}

        return {
            "method": self.method.name,
            "proxy": self.proxy,
            "task": self.task,
            "hypervolume": estimate_record(self.volume),
            "hypervolume_less_case_1": estimate_record(self.against_case_1),
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
                    "value": "inf" if setting.value == math.inf else setting.value,
                    "seeds": len(setting.points),
                    "capability_gap": estimate_record(setting.measured("capability gap")),
                }
                for setting in self.settings
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
        untaught, taught = (setting.measured("capability gap") for setting in (aligned, plain))
        if not (safest and unsafest and untaught and taught):
            return None
        best = tuple(gap.value if gap.unit == OVER_START else 0.0 for gap in (safest, taught))
        return cls((best[0], best[1]), (unsafest.value, untaught.value))

    @property
    def is_empty(self) -> bool:
        return any(far <= near for near, far in zip(self.best, self.worst, strict=True))

    def share(self, points: Iterable[tuple[float, float]]) -> float:
        """The share of it that the points dominate."""
        inside = [(max(x - self.best[0], 0.0), max(y - self.best[1], 0.0)) for x, y in points]
        corner = self.worst[0] - self.best[0], self.worst[1] - self.best[1]
        return hypervolume(inside, corner) / (corner[0] * corner[1])


def method_results(
    points: Sequence[Point], rows: RowLosses | None = None
) -> tuple[MethodResult, ...]:
    """Every method of every pair of proxy and task, by falling hypervolume.

    Nothing, where no published method is among the points, or the aligned model and plain
    fine-tuning are not, whose gaps bound the rectangle.
    """
    safety = safety_gap_of(points)
    if safety is None or not any(point.method in PUBLISHED.values() for point in points):
        return ()
    settings = all_settings(points)
    results: list[MethodResult] = []
    for pair in dict.fromkeys((setting.proxy, setting.task) for setting in settings):
        results += _of_pair(
            [setting for setting in settings if (setting.proxy, setting.task) == pair],
            safety,
            Pairs(rows),
        )
    return tuple(adjusted(results))


def dominates(
    first: Setting,
    second: Setting,
    safety: SafetyGap,
    pairs: Pairs = Pairs(),  # noqa: B008  # frozen
) -> bool:
    """Whether `first` is better in both gaps, each beyond the interval of the difference."""
    return all(_below(first, second, which, pairs) for which in (safety, "capability gap"))


def _of_pair(settings: list[Setting], safety: SafetyGap, pairs: Pairs) -> list[MethodResult]:
    ends = {setting.method: setting for setting in settings if setting.method in (ALIGNED, PLAIN)}
    if len(ends) < 2:
        return []
    rectangle = Rectangle.between(ends[ALIGNED], ends[PLAIN], safety)
    if rectangle is None:
        return []
    methods: dict[Method, list[Setting]] = {}
    for setting in settings:
        if setting.method not in ends:
            methods.setdefault(setting.method, []).append(setting)
    volumes = {method: _volumes(line, safety, rectangle) for method, line in methods.items()}
    results = []
    for method, line in methods.items():
        beaten: dict[Setting, list[Method]] = {}
        for setting in line:
            rivals = [rival for rival in settings if rival.method not in (method, *ends)]
            winners = [rival.method for rival in rivals if dominates(rival, setting, safety, pairs)]
            if winners:
                beaten[setting] = winners
        if not volumes[method]:
            continue
        trained_points = [point for setting in line for point in setting.points]
        case_1_volumes = volumes.get(CASE_1)
        against_case_1 = p_value = None
        if case_1_volumes and method is not CASE_1:
            seeds = sorted(set(case_1_volumes) & set(volumes[method]))
            if seeds:
                differences = [volumes[method][seed] - case_1_volumes[seed] for seed in seeds]
                against_case_1 = student_mean(differences, SHARE)
                p_value = student_p_value(differences) if len(seeds) > 1 else None
        results.append(
            MethodResult(
                method,
                line[0].proxy,
                line[0].task,
                tuple(sorted(line, key=lambda setting: setting.value or 0.0)),
                student_mean(list(volumes[method].values()), SHARE).cut(0.0, 1.0),
                against_case_1,
                p_value,
                len(beaten),
                sum(_can_be_judged(setting, safety) for setting in line),
                tuple(dict.fromkeys(winner for won in beaten.values() for winner in won)),
                _of_line(trained_points, lambda point: point.train_tokens),
                _of_line(trained_points, lambda point: point.wall_seconds),
                _mean_where_known([point.extra_bytes for point in trained_points]),
            )
        )
    return sorted(results, key=lambda result: -result.volume.value)


def adjusted(results: Sequence[MethodResult]) -> list[MethodResult]:
    """The results with p-values that hold for all of them together."""
    p_values = iter(holm([result.p_value for result in results if result.p_value is not None]))
    return [
        result if result.p_value is None else replace(result, p_value=float(next(p_values)))
        for result in results
    ]


def _of_line(points: Sequence[Point], cost: Callable[[Point], float]) -> float:
    """Mean over seeds of what the whole line cost; a training that settings share counts once."""
    seeds: dict[int, list[Point]] = {}
    for point in points:
        seeds.setdefault(point.seed, []).append(point)
    method = points[0].method
    shared = method.one_training or method.is_post_hoc
    costs = [(max if shared else sum)(map(cost, of_seed)) for of_seed in seeds.values()]
    return float(np.mean(costs))


def _volumes(line: Sequence[Setting], safety: SafetyGap, rectangle: Rectangle) -> dict[int, float]:
    of_seed: dict[int, list[tuple[float, float]]] = {}
    for setting in line:
        for point in setting.points:
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


def _below(first: Setting, second: Setting, which: Gap, pairs: Pairs) -> bool:
    if first.measured(which) is None or second.measured(which) is None:
        return False
    rise = pairs.rise(first, second, which)
    has_spread = rise.low < rise.high or len(first.points) > 1
    return has_spread and rise.low > 0  # what one seed is exactly says nothing of others


def _can_be_judged(setting: Setting, safety: SafetyGap) -> bool:
    gap = setting.measured(safety)
    return gap is not None and (len(setting.points) > 1 or gap.low < gap.high)


def _mean_where_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
