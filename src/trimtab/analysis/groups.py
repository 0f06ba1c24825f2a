"""A setting: what was trained but for the seed, and its gaps over the seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from trimtab.results.result import Case, Point, PointKey
from trimtab.stats import Estimate, over_seeds

Gap = Literal["alignment gap", "proxy gap", "capability gap"]
SafetyGap = Literal["alignment gap", "proxy gap"]
Rate = Literal["refusal rate", "answer rate"]


@dataclass(frozen=True)
class Setting:
    """The points that share case, knob, proxy and task, one per seed."""

    case: Case
    penalty: float | None
    radius: float | None
    proxy: str | None
    task: str
    points: tuple[Point, ...]
    budget: float | None = None
    alpha: float | None = None
    method: str | None = None
    knob: float | None = None

    def measured(self, which: Gap | Rate) -> Estimate | None:
        """The gap or rate over the seeds, or None where a seed has none."""
        each = [measured_of(point, which) for point in self.points]
        known = [one for one in each if one is not None]
        return over_seeds(known) if known and len(known) == len(each) else None

    @property
    def is_plain(self) -> bool:
        """Whether the constraint is off: λ = 0, ε = ∞ or an infinite budget."""
        return self.penalty == 0 or math.inf in (self.radius, self.budget)

    @property
    def strength(self) -> float:
        """λ, or −ε, or minus the budget: it grows as the constraint binds more."""
        if self.penalty is not None:
            return self.penalty
        if self.budget is not None:
            return -self.budget
        return -math.inf if self.radius is None else -self.radius


def measured_of(point: Point, which: Gap | Rate) -> Estimate | None:
    """One of the gaps or rates of a point, by name."""
    return {
        "alignment gap": point.alignment_gap,
        "proxy gap": point.proxy_gap,
        "capability gap": point.capability_gap,
        "refusal rate": point.refusal_rate,
        "answer rate": point.answer_rate,
    }[which]


def settings_of(points: Iterable[Point], case: Case) -> list[Setting]:
    """The settings of a case from the loosest constraint to the tightest."""
    groups: dict[PointKey, list[Point]] = {}
    for point in points:
        if point.case == case:
            groups.setdefault(point.key._replace(seed=0), []).append(point)
    settings = [
        Setting(
            case,
            one[0].penalty,
            one[0].radius,
            one[0].proxy,
            one[0].task,
            tuple(one),
            one[0].budget,
            one[0].alpha,
        )
        for one in groups.values()
    ]
    return sorted(settings, key=lambda setting: setting.strength)


def case_1_lines(points: Iterable[Point]) -> dict[tuple[str, str], list[Setting]]:
    """Case I by (proxy, task), each from the smallest λ to the largest."""
    lines: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings_of(points, "alignment-loss"):
        if setting.budget is None:
            lines.setdefault((setting.proxy or "", setting.task), []).append(setting)
    return lines


def budget_lines(points: Iterable[Point], case: Case) -> dict[tuple[str, str], list[Setting]]:
    """The settings of a case that have a budget, by (proxy, task), from the largest down."""
    lines: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings_of(points, case):
        if setting.budget is not None:
            lines.setdefault((setting.proxy or "", setting.task), []).append(setting)
    return lines


def dial_lines(points: Iterable[Point]) -> dict[tuple[str, str], list[Setting]]:
    """Dials by (proxy, task), each from its most capable setting to its safest."""
    lines: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings_of(points, "dial"):
        lines.setdefault((setting.proxy or "", setting.task), []).append(setting)
    return lines


def case_2_lines(
    points: Iterable[Point], knob: Literal["penalty", "radius"]
) -> dict[str, list[Setting]]:
    """Case II by task, from the loosest constraint to the tightest.

    The proxy takes no part in Case II, so where several were measured the first stands for all.
    """
    lines: dict[str, list[Setting]] = {}
    for setting in settings_of(points, "alignment-parameter"):
        if setting.budget is None and (setting.penalty is None) == (knob == "radius"):
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
    first_lines = case_1_lines(points)
    second_lines: dict[str, list[Setting]] = {}
    knobs: tuple[Literal["penalty", "radius"], ...] = ("penalty", "radius")
    for knob in knobs:
        for task, line in case_2_lines(points, knob).items():
            second_lines.setdefault(task, []).extend(line)
    both = {}
    for task, second in second_lines.items():
        proxies = [proxy for proxy, other in first_lines if other == task]
        if proxies:
            measured = second[0].proxy
            proxy = measured if measured is not None and measured in proxies else proxies[0]
            both[task] = proxy, first_lines[proxy, task], second
    return both


def safety_gap_of(points: Iterable[Point]) -> SafetyGap | None:
    """The gap that can stand for safety: the alignment gap where original data was given."""
    trained = [point for point in points if point.case != "aligned"]
    if any(point.alignment_gap is not None for point in trained):
        return "alignment gap"
    return "proxy gap" if any(point.proxy_gap is not None for point in trained) else None


def overlap_of(settings: Iterable[Setting]) -> Estimate | None:
    """The context overlap of the task on the proxy, where it was measured."""
    measured = (point.context_overlap for setting in settings for point in setting.points)
    return next((overlap for overlap in measured if overlap is not None), None)
