"""Methods beside each other: each one's frontier, what of it others beat, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

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
from trimtab.theory.area import chord_area, hypervolume

SHARE = "share of the rectangle between the aligned model and plain fine-tuning"


@dataclass(frozen=True)
class Area:
    """A share of the rectangle between the aligned model and plain fine-tuning, beside another's.

    Intervals are over seeds, for these held-out rows. `difference` is from the other's share seed
    by seed, and `p_value` that of none, adjusted by Holm over the methods beside each other; None
    of one seed, and of the one that others are set beside.
    """

    share: Estimate
    difference: Estimate | None
    p_value: float | None

    @classmethod
    def of(cls, shares: Mapping[int, float], reference: Mapping[int, float]) -> Area:
        """The one of shares by seed, beside another's of the same seeds, where there are any."""
        seeds = sorted(set(shares) & set(reference))
        differences = [shares[seed] - reference[seed] for seed in seeds]
        return cls(
            student_mean(list(shares.values()), SHARE).cut(0.0, 1.0),
            student_mean(differences, SHARE) if differences else None,
            student_p_value(differences) if len(differences) > 1 else None,
        )


@dataclass(frozen=True)
class MethodResult:
    """One method over its hyperparameter, on one task with one proxy.

    `volume` is the hypervolume, what the method's settings dominate: it counts how many they are
    and how they are spread, too. `chords` is the area above the chords of its settings, the aligned
    model and plain fine-tuning, which every method lies between: it counts where the frontier lies,
    and depends far less on how settings are spread. Both are beside Case I's.
    `dominated` of `judged` settings are beaten in both gaps by one setting of another method, each
    beyond the interval of the difference over seeds and rows. One seed measured exactly has no
    interval, and cannot be judged.
    """

    method: Method
    proxy: str | None
    task: str
    settings: tuple[Setting, ...]
    volume: Area
    chords: Area
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

        def area_record(name: str, area: Area) -> dict[str, Any]:
            return {
                name: estimate_record(area.share),
                f"{name}_less_case_1": estimate_record(area.difference),
                f"{name}_adjusted_p_value": area.p_value,
            }

        return {
            "method": self.method.name,
            "proxy": self.proxy,
            "task": self.task,
            **area_record("hypervolume", self.volume),
            **area_record("chord_area", self.chords),
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

    `aligned` and `plain` are those models' safety gap and capability gap. Where the least possible
    losses are known it begins at gaps of 0, which no model passes.
    """

    best: tuple[float, float]
    aligned: tuple[float, float]
    plain: tuple[float, float]

    @classmethod
    def between(cls, aligned: Setting, plain: Setting, safety: SafetyGap) -> Rectangle | None:
        """The one between two models; None where a gap of theirs was not measured."""
        safest, unsafest = aligned.measured(safety), plain.measured(safety)
        untaught, taught = (setting.measured("capability gap") for setting in (aligned, plain))
        if not (safest and unsafest and untaught and taught):
            return None
        best = tuple(gap.value if gap.unit == OVER_START else 0.0 for gap in (safest, taught))
        ends = (safest.value, untaught.value), (unsafest.value, taught.value)
        return cls((best[0], best[1]), *ends)

    @property
    def sides(self) -> tuple[float, float]:
        """How far plain fine-tuning is less safe, and the aligned model less capable."""
        return self.plain[0] - self.best[0], self.aligned[1] - self.best[1]

    def share(self, points: Iterable[tuple[float, float]]) -> float:
        """The share of it that the points dominate."""
        return self._share(hypervolume, points)

    def share_above_chords(self, points: Iterable[tuple[float, float]]) -> float:
        """The share of it above the chords of the points and both its models."""
        return self._share(chord_area, [self.aligned, *points, self.plain])

    def _share(
        self,
        area: Callable[[ArrayLike, ArrayLike], float],
        points: Iterable[tuple[float, float]],
    ) -> float:
        inside = [(max(x - self.best[0], 0.0), max(y - self.best[1], 0.0)) for x, y in points]
        return area(inside, self.sides) / (self.sides[0] * self.sides[1])


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
    return tuple(_adjusted(results))


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
    if rectangle is None or min(rectangle.sides) <= 0:
        return []
    methods: dict[Method, list[Setting]] = {}
    for setting in settings:
        if setting.method not in ends:
            methods.setdefault(setting.method, []).append(setting)
    volumes, chords = (
        areas_beside(
            CASE_1, {method: _by_seed(line, safety, share) for method, line in methods.items()}
        )
        for share in (rectangle.share, rectangle.share_above_chords)
    )
    results = []
    for method, line in methods.items():
        beaten: dict[Setting, list[Method]] = {}
        judged = [setting for setting in line if _can_be_judged(setting, safety)]
        for setting in judged:
            rivals = [rival for rival in settings if rival.method not in (method, *ends)]
            winners = [rival.method for rival in rivals if dominates(rival, setting, safety, pairs)]
            if winners:
                beaten[setting] = winners
        if method not in volumes:
            continue
        trained_points = [point for setting in line for point in setting.points]
        results.append(
            MethodResult(
                method,
                line[0].proxy,
                line[0].task,
                tuple(sorted(line, key=lambda setting: setting.value or 0.0)),
                volumes[method],
                chords[method],
                len(beaten),
                len(judged),
                tuple(dict.fromkeys(winner for won in beaten.values() for winner in won)),
                _of_line(trained_points, lambda point: point.train_tokens),
                _of_line(trained_points, lambda point: point.wall_seconds),
                _mean_where_known([point.extra_bytes for point in trained_points]),
            )
        )
    return sorted(results, key=lambda result: -result.volume.share.value)


def areas_beside(one: Method, shares: Mapping[Method, Mapping[int, float]]) -> dict[Method, Area]:
    """Each method's share by seed beside that of one of them, where it has any; not adjusted."""
    return {
        method: Area.of(of_seeds, {} if method is one else shares.get(one, {}))
        for method, of_seeds in shares.items()
        if of_seeds
    }


def _adjusted(results: Sequence[MethodResult]) -> list[MethodResult]:
    """The results with p-values that hold for all of them together, for each area apart."""
    volumes = adjusted_areas([result.volume for result in results])
    chords = adjusted_areas([result.chords for result in results])
    return [
        replace(result, volume=volume, chords=above)
        for result, volume, above in zip(results, volumes, chords, strict=True)
    ]


def adjusted_areas(areas: Sequence[Area]) -> list[Area]:
    """The areas with p-values that hold for all of them together."""
    p_values = iter(holm([area.p_value for area in areas if area.p_value is not None]))
    return [
        area if area.p_value is None else replace(area, p_value=float(next(p_values)))
        for area in areas
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


def _by_seed(
    line: Sequence[Setting],
    safety: SafetyGap,
    share: Callable[[Iterable[tuple[float, float]]], float],
) -> dict[int, float]:
    of_seed: dict[int, list[tuple[float, float]]] = {}
    for setting in line:
        for point in setting.points:
            x, y = measured_of(point, safety), measured_of(point, "capability gap")
            if x is not None and y is not None:
                of_seed.setdefault(point.seed, []).append((x.value, y.value))
    return {
        seed: share(points)
        for seed, points in of_seed.items()
        if len(points) == len(line)  # a seed that lacks settings, unfinished, would count for less
    }


def _below(first: Setting, second: Setting, which: Gap, pairs: Pairs) -> bool:
    if first.measured(which) is None or second.measured(which) is None:
        return False
    rise = pairs.rise(first, second, which)
    common = {point.seed for point in first.points} & {point.seed for point in second.points}
    has_spread = rise.low < rise.high or len(common) > 1
    return has_spread and rise.low > 0  # what one seed is exactly says nothing of others


def _can_be_judged(setting: Setting, safety: SafetyGap) -> bool:
    gap = setting.measured(safety)
    return gap is not None and (len(setting.points) > 1 or gap.low < gap.high)


def _mean_where_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
