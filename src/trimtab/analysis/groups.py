"""A setting: what was trained but for the seed, and its gaps over the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trimtab.config.methods import ALIGNED, CASE_1, CASE_2, CASE_2_RADIUS, PLAIN, Method
from trimtab.config.run_spec import RunSpec
from trimtab.results.result import Point
from trimtab.stats import Estimate, over_seeds, share_over_seeds

Gap = Literal["alignment gap", "proxy gap", "capability gap"]
SafetyGap = Literal["alignment gap", "proxy gap"]
RateName = Literal["refusal rate", "harmful rate", "answer rate"]


@dataclass(frozen=True)
class Setting:
    """The points that differ in nothing but the seed, in the order of the seeds."""

    method: Method
    value: float | None
    """The method's hyperparameter; None where it has none."""
    proxy: str | None
    task: str
    points: tuple[Point, ...]

    def measured(self, which: Gap | RateName) -> Estimate | None:
        """The gap or rate over the seeds, or None where a seed has none."""
        estimates = [measured_of(point, which) for point in self.points]
        known = [estimate for estimate in estimates if estimate is not None]
        if not known or len(known) < len(estimates):
            return None
        return share_over_seeds(known) if which.endswith("rate") else over_seeds(known)

    @property
    def is_plain(self) -> bool:
        """Whether the constraint is off: λ = 0, ε = ∞ or an infinite budget."""
        return self.points[0].spec.is_plain

    @property
    def label(self) -> str:
        """The hyperparameter in words, as "λ = 0.3"."""
        return self.method.label(self.value)

    @property
    def name(self) -> str:
        """The method and its hyperparameter in words."""
        return self.method.title if self.value is None else f"{self.method.title}, {self.label}"


def measured_of(point: Point, which: Gap | RateName) -> Estimate | None:
    """One of the gaps or rates of a point, by name."""
    measured: Estimate | None = getattr(point, which.replace(" ", "_"))
    return measured


def settings_of(points: Iterable[Point], *methods: Method) -> list[Setting]:
    """The settings of these methods, each from its loosest constraint to its tightest."""
    groups: dict[RunSpec, list[Point]] = {}
    for point in points:
        if point.method in methods:
            groups.setdefault(replace(point.spec, seed=0), []).append(point)
    settings = [
        Setting(spec.method, spec.value, spec.proxy, spec.task, _by_seed(of_seeds))
        for spec, of_seeds in groups.items()
    ]
    order = {method: place for place, method in enumerate(methods)}
    return sorted(
        settings,
        key=lambda setting: (order[setting.method], setting.method.strength(setting.value)),
    )


def all_settings(points: Iterable[Point]) -> tuple[Setting, ...]:
    """Every setting in the order they came; plain fine-tuning of whatever method is one.

    So λ = 0 of Case I and ε = ∞ of Case II, which are one model, are the setting `PLAIN`.
    """
    groups: dict[RunSpec, dict[int, Point]] = {}
    for point in points:
        spec = replace(point.spec, seed=0)
        if spec.is_plain:
            spec = replace(spec, method=PLAIN, value=None)
        groups.setdefault(spec, {})[point.seed] = point
    return tuple(
        Setting(spec.method, spec.value, spec.proxy, spec.task, _by_seed(of_seed.values()))
        for spec, of_seed in groups.items()
    )


def on_common_seeds(settings: Sequence[Setting]) -> dict[Setting, Setting]:
    """Settings that have all seeds of a set, each by itself, with its points of those seeds alone.

    The set is chosen so that most points are among them. In a sweep that is not finished, or where
    a training failed, a setting of fewer seeds than the others could seem best for its luck, and a
    mean over other seeds than another's is not to be compared with it.
    """
    seeds_of = {setting: frozenset(point.seed for point in setting.points) for setting in settings}
    sets = sorted(set(seeds_of.values()), key=sorted)
    most = max(
        sets,
        key=lambda seeds: len(seeds) * sum(seeds <= own for own in seeds_of.values()),
        default=frozenset(),
    )
    return {
        setting: replace(setting, points=tuple(p for p in setting.points if p.seed in most))
        for setting in settings
        if most <= seeds_of[setting]
    }


def lines_of(points: Iterable[Point], method: Method) -> dict[tuple[str, str], list[Setting]]:
    """A method by (proxy, task), each from the loosest constraint to the tightest."""
    lines: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings_of(points, method):
        lines.setdefault((setting.proxy or "", setting.task), []).append(setting)
    return lines


def case_2_lines(points: Iterable[Point], method: Method) -> dict[str, list[Setting]]:
    """Case II, by λ or by ε as `method` says, by task: from the loosest to the tightest.

    The proxy takes no part in Case II, so where several were measured the first stands for all.
    """
    lines: dict[str, list[Setting]] = {}
    for setting in settings_of(points, method):
        line = lines.setdefault(setting.task, [])
        if not line or line[0].proxy == setting.proxy:
            line.append(setting)
    return lines


def tasks_in_both_cases(
    points: Iterable[Point],
) -> dict[str, tuple[str, list[Setting], list[Setting]]]:
    """By task: the proxy of Case I to compare with, Case I's line and Case II's settings.

    The proxy is the one that Case II was measured on, else the first that Case I was given.
    """
    points = list(points)
    case_1_by_pair = lines_of(points, CASE_1)
    case_2_by_task: dict[str, list[Setting]] = {}
    for method in (CASE_2, CASE_2_RADIUS):
        for task, line in case_2_lines(points, method).items():
            case_2_by_task.setdefault(task, []).extend(line)
    in_both_cases = {}
    for task, case_2 in case_2_by_task.items():
        proxies = [proxy for proxy, line_task in case_1_by_pair if line_task == task]
        if proxies:
            measured = case_2[0].proxy
            proxy = measured if measured is not None and measured in proxies else proxies[0]
            in_both_cases[task] = proxy, case_1_by_pair[proxy, task], case_2
    return in_both_cases


def _by_seed(points: Iterable[Point]) -> tuple[Point, ...]:
    return tuple(sorted(points, key=lambda point: point.seed))


def safety_gap_of(points: Iterable[Point]) -> SafetyGap | None:
    """The gap that can stand for safety: the alignment gap where original data was given."""
    trained = [point for point in points if point.method is not ALIGNED]
    if any(point.alignment_gap is not None for point in trained):
        return "alignment gap"
    return "proxy gap" if any(point.proxy_gap is not None for point in trained) else None


def overlap_of(settings: Iterable[Setting]) -> Estimate | None:
    """The context overlap of the task on the proxy, where it was measured."""
    measured = (point.context_overlap for setting in settings for point in setting.points)
    return next((overlap for overlap in measured if overlap is not None), None)
