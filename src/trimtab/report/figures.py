"""The paper's three figures and the dial's, with limits where a world has a known answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mode
from types import MappingProxyType
from typing import TypeVar

from trimtab.analysis.bounds import bounds_beside
from trimtab.analysis.groups import (
    SafetyGap,
    Setting,
    case_2_lines,
    lines_of,
    overlap_of,
    safety_gap_of,
    settings_of,
    tasks_in_both_cases,
)
from trimtab.analysis.labels import percent, shortened
from trimtab.analysis.limits import Limits
from trimtab.config.methods import (
    ALIGNED,
    CASE_1,
    CASE_1_BUDGET,
    CASE_2,
    CASE_2_RADIUS,
    DIAL,
    Method,
)
from trimtab.report.chart import Curve, Figure, Panel
from trimtab.report.palette import START_INK, Palette, chart_curves
from trimtab.report.panels import LONGEST_TASK, Series, panel
from trimtab.results.gaps import OVER_START
from trimtab.results.result import LocalGeometry, Point

T = TypeVar("T")

MOST_LINES = 8
DRIFT = "theory’s estimate (Theorem 3)"
NOWHERE: Mapping[str, LocalGeometry] = MappingProxyType({})
DIAL_FIGURE = 4
CASE_1_BLOCK = "{case: alignment-loss, penalties: [0.1, 1, 10]}"
CASE_2_BLOCK = "{case: alignment-parameter, penalties: [0.1, 1, 10]}"
PROXY_NOTE = "No original alignment data: the gap is each line's own, on the proxy."


def figures(
    points: Sequence[Point], limits: Limits | None, landscape: Mapping[str, LocalGeometry] = NOWHERE
) -> tuple[Figure, ...]:
    """Figures 1 to 3, and 4 of a dial: the panels that points can fill, a word on the others."""
    safety = safety_gap_of(points)
    if safety is None:
        return (
            _left_out(1, "No safety loss was measured, so no figure can be drawn: give safety."),
        )
    limits = limits if safety == "alignment gap" else None
    atlas = _Atlas(tuple(points), safety, limits, landscape)
    dial = (atlas.figure_4(),) if atlas.dials else ()
    if atlas.dials and all(point.method in (ALIGNED, DIAL) for point in points):
        return dial
    return atlas.figure_1(), atlas.figure_2(), atlas.figure_3(), *dial


class _Atlas:
    """What the figures share: the points, the ink of each line, and the theory behind them."""

    def __init__(
        self,
        points: tuple[Point, ...],
        safety: SafetyGap,
        limits: Limits | None,
        landscape: Mapping[str, LocalGeometry],
    ) -> None:
        self.points = points
        self.landscape = landscape
        self.safety = safety
        self.limits = limits
        self.note = "" if safety == "alignment gap" else PROXY_NOTE
        self.budgets = lines_of(points, CASE_1_BUDGET)
        self.case_1 = lines_of(points, CASE_1)
        for pair in self.budgets:
            self.case_1.setdefault(pair, [])
        self.dials = lines_of(points, DIAL)
        self.palette = Palette.of(points)

    def figure_1(self) -> Figure:
        """The alignment gap against λ by proxy, and the trade-off by proxy and task."""
        if not self.case_1:
            return _left_out(1, f"Figure 1 needs Case I: add to the grid {CASE_1_BLOCK}.")
        main = self._task_with_most_proxies()
        left_series = [
            Series(shortened(proxy), self.palette.of_pair(proxy, main), tuple(line))
            for (proxy, task), line in self.case_1.items()
            if task == main
        ]
        pairs = sorted(self.case_1, key=lambda pair: pair[1] != main)
        right_series = [
            Series(
                f"{shortened(proxy)} – {shortened(task)}",
                self.palette.of_pair(proxy, task),
                tuple(self.case_1[proxy, task]),
            )
            for proxy, task in pairs[:MOST_LINES]
        ]
        right_series += [
            self._by_budget(f"{shortened(proxy)} – {shortened(task)}, by budget", proxy, task)
            for proxy, task in pairs[:MOST_LINES]
            if (proxy, task) in self.budgets
        ]
        right_series.append(self._starts(task for _, task in pairs[:MOST_LINES]))
        note = self.note
        if len(pairs) > MOST_LINES:
            note = f"{note} {MOST_LINES} of {len(pairs)} pairs are drawn.".strip()
        panels = (
            panel(
                f"Case I: safety, task {shortened(main)}",
                left_series,
                "penalty",
                self.safety,
                self._alignment_gap_curves(main),
                self.note,
            ),
            panel(
                "Case I: capability against safety",
                right_series,
                self.safety,
                "capability gap",
                self._plane_curves(pairs[:MOST_LINES]),
                note,
            ),
        )
        missing = (
            None
            if panels[0]
            else f"Figure 1 left needs several penalties, one above 0: add to the "
            f"grid {CASE_1_BLOCK}."
        )
        caption = (
            "Left: how much safety is lost against λ, the weight of the safety data in training, a "
            "line for each safety data set. Right: the same models, with what is left to learn of "
            "the task. Lower is better."
        )
        return Figure(1, caption, _present(panels), _present([missing]))

    def figure_2(self) -> Figure:
        """Case II against λ or ε, by task, and Case I against Case II."""
        by_method = {
            method: lines
            for method in (CASE_2, CASE_2_RADIUS)
            if (lines := case_2_lines(self.points, method))
        }
        if not by_method:
            return _left_out(2, f"Figure 2 needs Case II: add to the grid {CASE_2_BLOCK}.")
        left_panels = [
            panel(
                "Case II: safety",
                [
                    Series(shortened(task), self.palette.of_method(method, None, task), tuple(line))
                    for task, line in lines.items()
                ],
                "penalty" if method is CASE_2 else "radius",
                self.safety,
                self._drift_curves(lines),
                self.note,
            )
            for method, lines in by_method.items()
        ]
        right_panel = self._both_cases()
        missing = (
            None
            if any(left_panels)
            else f"Figure 2 left needs several values of λ or ε: add to the grid {CASE_2_BLOCK}.",
            None
            if right_panel
            else f"Figure 2 right needs one task in both cases: add to the grid {CASE_1_BLOCK}.",
        )
        caption = (
            "Left: how much safety is lost where the weights are held near the start's, by a "
            "penalty λ on how far they move or within a distance ε, a line for each task. Right: "
            "both ways of holding a model, by what each gave up. Lower is better."
        )
        return Figure(2, caption, _present([*left_panels, right_panel]), _present(missing))

    def figure_3(self) -> Figure:
        """The trade-off of one proxy with tasks of several context overlaps."""
        proxy, tasks = self._proxy_with_most_overlaps()
        if len(tasks) < 2:
            return _left_out(
                3,
                "Figure 3 needs Case I with one proxy on two tasks whose contexts overlap it to a "
                f"different extent: add a task, and to the grid {CASE_1_BLOCK}.",
            )
        series = []
        for task, (share, exact) in tasks.items():
            name = f"{shortened(task)}, overlap {'' if exact else '≈ '}{percent(share)}"
            series.append(Series(name, self.palette.of_task(task), tuple(self.case_1[proxy, task])))
        series.append(self._starts(tasks))
        pairs = [(proxy, task) for task in tasks]
        plane = panel(
            f"Case I, safety data {shortened(proxy)}",
            series,
            self.safety,
            "capability gap",
            [*self._plane_curves(pairs, by_task=True), *self._plane_bounds(pairs)],
            self.note,
        )
        caption = (
            "What safety and task give up, for tasks that share more or fewer of their prompts "
            "with the safety data (overlap). Lower is better."
        )
        return Figure(3, caption, _present([plane]), ())

    def figure_4(self) -> Figure:
        """The settings of a dial, beside separate runs on the same data."""
        first = next(point for point in self.points if point.method is DIAL)
        proxy, task = first.proxy or "", first.task
        dial = self.dials[proxy, task]
        name = f"{shortened(proxy)} – {shortened(task)}"
        ink = self.palette.of_method(DIAL, proxy, task)
        series = [Series(f"dial, {name}", ink, tuple(dial))]
        if (proxy, task) in self.case_1:
            runs = tuple(self.case_1[proxy, task])
            ink = self.palette.of_pair(proxy, task)
            series.append(Series(f"separate runs, {name}", ink, runs))
        start = tuple(
            setting
            for setting in settings_of(self.points, ALIGNED)
            if (setting.proxy, setting.task) == (proxy, task)
        )
        series.append(Series("aligned model θₛ", START_INK, start, joined=False))
        plane = panel(
            "Every setting of one training",
            series,
            self.safety,
            "capability gap",
            self._plane_curves([(proxy, task)]),
            self.note,
        )
        caption = (
            "Safety and task at every measured setting of the dial: α = 0 is its safest, α = 1 its "
            "most capable. Lower is better."
        )
        return Figure(DIAL_FIGURE, caption, _present([plane]), ())

    def _drift_curves(self, lines: dict[str, list[Setting]]) -> list[Curve]:
        """Theorem 3 at the distance that each model reached, estimated from slope and curvature."""
        comparisons = [
            comparison
            for comparison in bounds_beside(self.points, None, self.landscape)
            if comparison.bound.theorem == 3 and comparison.gap == self.safety
        ]
        curves = []
        for task, line in lines.items():
            own = {_place_of(setting): setting.measured(self.safety) for setting in line}
            values = {}
            for comparison in comparisons:
                here = own.get(_place_of(comparison.setting))
                there = comparison.setting.measured(self.safety)
                if here and there:  # whose gaps may begin elsewhere: at the lowest loss seen
                    shift = there.value - here.value
                    values[comparison.setting] = comparison.value - shift
            x = tuple(float(setting.value) for setting in values if setting.value is not None)
            colour = self.palette.of_task(task).colour
            curves.append(Curve(DRIFT, colour, "dot", 1.0, x, tuple(values.values())))
        return curves

    def _both_cases(self) -> Panel | None:
        series: list[Series] = []
        compared: list[tuple[str, str]] = []
        for task, (proxy, case_1, case_2) in tasks_in_both_cases(self.points).items():
            compared.append((proxy, task))
            ink = self.palette.of_task(task)
            series.append(Series(f"Case I, {shortened(task)}", ink, tuple(case_1)))
            by_method = {
                method: tuple(setting for setting in case_2 if setting.method is method)
                for method in (CASE_2, CASE_2_RADIUS)
            }
            for method, line in by_method.items():
                case = f"Case II by {method.symbol}" if all(by_method.values()) else "Case II"
                ink = self.palette.of_method(method, None, task)
                series.append(Series(f"{case}, {shortened(task)}", ink, line))
            if (proxy, task) in self.budgets:
                name = f"Case I by budget, {shortened(task)}"
                series.append(self._by_budget(name, proxy, task))
        if not series:
            return None
        series.append(self._starts(task for _, task in compared))
        proxies = ", ".join(dict.fromkeys(shortened(proxy) for proxy, _ in compared))
        return panel(
            f"Case I (safety data {proxies}) and Case II",
            series,
            self.safety,
            "capability gap",
            self._plane_curves(compared, by_task=True),
            self.note,
        )

    def _by_budget(self, name: str, proxy: str, task: str) -> Series:
        ink = self.palette.of_method(CASE_1_BUDGET, proxy, task)
        return Series(name, ink, tuple(self.budgets[proxy, task]))

    def _starts(self, tasks: Iterable[str]) -> Series:
        """θ_s in the plane of each task, which is the same whatever the proxy.

        Changes from θ_s have it at 0 for every task, and one mark stands for all.
        """
        start_of_task = {start.task: start for start in reversed(settings_of(self.points, ALIGNED))}
        starts = tuple(
            start_of_task[task] for task in dict.fromkeys(tasks) if task in start_of_task
        )
        gaps = [start.measured("capability gap") for start in starts]
        if any(gap is not None and gap.unit == OVER_START for gap in gaps):
            starts = starts[:1]
        name = "aligned model θₛ" if len(starts) < 2 else "aligned model θₛ, on each task"
        return Series(name, START_INK, starts, joined=False)

    def _task_with_most_proxies(self) -> str:
        tasks = [task for _, task in self.case_1]
        return mode(tasks)

    def _proxy_with_most_overlaps(self) -> tuple[str, dict[str, tuple[float, bool]]]:
        overlaps: dict[str, dict[str, tuple[float, bool]]] = {}
        for (proxy, task), line in self.case_1.items():
            overlap = overlap_of(line)
            if overlap is not None:
                overlaps.setdefault(proxy, {})[task] = (overlap.value, overlap.kind == "exact")
        if not overlaps:
            return "", {}
        proxy = max(overlaps, key=lambda name: len(set(overlaps[name].values())))
        return proxy, dict(sorted(overlaps[proxy].items(), key=lambda item: item[1]))

    def _alignment_gap_curves(self, task: str) -> list[Curve]:
        if self.limits is None:
            return []
        lines = {
            proxy: line for (proxy, line_task), line in self.case_1.items() if line_task == task
        }
        penalties = [setting.value for line in lines.values() for setting in line if setting.value]
        if not penalties:
            return []
        ends = (min(penalties), max(penalties))
        return [
            curve
            for proxy in lines
            for curve in chart_curves(
                self.limits.alignment_gap_curves(proxy, task, ends),
                self.palette.of_pair(proxy, task).colour,
            )
        ]

    def _plane_curves(
        self, pairs: Iterable[tuple[str, str]], *, by_task: bool = False
    ) -> list[Curve]:
        if self.limits is None:
            return []
        pairs = list(pairs)
        curves: list[Curve] = []
        tasks = list(dict.fromkeys(task for _, task in pairs))
        for task in tasks:
            label = shortened(task, LONGEST_TASK) if len(tasks) > 1 else ""
            curves.extend(chart_curves(self.limits.oracle_curves(task), label=label))
        for proxy, task in pairs:
            ink = self.palette.of_task(task) if by_task else self.palette.of_pair(proxy, task)
            curves.extend(chart_curves(self.limits.plane_curves(proxy, task), ink.colour))
        return curves

    def _plane_bounds(self, pairs: Iterable[tuple[str, str]]) -> list[Curve]:
        if self.limits is None:
            return []
        return [
            curve
            for proxy, task in pairs
            for curve in chart_curves(
                self.limits.plane_bounds(proxy, task), self.palette.of_task(task).colour
            )
        ]


def _place_of(setting: Setting) -> tuple[Method, float | None, str | None, str]:
    return setting.method, setting.value, setting.proxy, setting.task


def _left_out(number: int, why: str) -> Figure:
    return Figure(number, "", (), (why,))


def _present(values: Iterable[T | None]) -> tuple[T, ...]:
    return tuple(value for value in values if value is not None)
