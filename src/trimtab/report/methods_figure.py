"""Figure 5: methods beside each other in the plane of what each gave up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from trimtab.analysis.groups import SafetyGap, Setting, all_settings, safety_gap_of
from trimtab.analysis.limits import Limits
from trimtab.analysis.methods import MethodResult
from trimtab.config.methods import ALIGNED, CASE_1, METHODS, PLAIN, Family, Method
from trimtab.report.chart import Figure, Panel
from trimtab.report.palette import PLAIN_INK, START_INK, Palette, chart_curves
from trimtab.report.panels import Series, panel
from trimtab.results.result import Point

FAMILIES: dict[Family, tuple[Method, ...]] = {
    family: tuple(method for method in METHODS.values() if method.family == family)
    for family in get_args(Family)
}
"""Too many lines for one panel: a panel to each family, Case I in all of them."""


def methods_figure(
    points: Sequence[Point], results: Sequence[MethodResult], limits: Limits | None
) -> Figure | None:
    """A panel to each family of methods on the first task and proxy; None without results."""
    safety = safety_gap_of(points)
    if not results or safety is None:
        return None
    proxy, task = results[0].proxy, results[0].task
    lines = {
        result.method: result for result in results if (result.proxy, result.task) == (proxy, task)
    }
    ends = [
        setting
        for setting in all_settings(points)
        if (setting.proxy, setting.task) == (proxy, task)
    ]
    palette = Palette.of(points)
    panels = [
        _family(name, methods, lines, ends, safety, limits, palette)
        for name, methods in FAMILIES.items()
        if any(method in lines for method in methods)
    ]
    caption = (
        "Every method over its own hyperparameter, at equal rows a step, with Case I in each "
        "panel: means over seeds, and each seed faintly. Left and below is better."
    )
    return Figure(5, caption, tuple(drawn_panel for drawn_panel in panels if drawn_panel), ())


def _family(
    name: str,
    methods: Sequence[Method],
    lines: dict[Method, MethodResult],
    ends: Sequence[Setting],
    safety: SafetyGap,
    limits: Limits | None,
    palette: Palette,
) -> Panel | None:
    shown = [method for method in (CASE_1, *methods) if method in lines]
    series = [
        Series(
            method.title,
            palette.of_method(method, lines[method].proxy, lines[method].task),
            lines[method].settings,
        )
        for method in shown
    ]
    series += [
        Series(method.title, mark, tuple(end for end in ends if end.method is method), False)
        for method, mark in ((ALIGNED, START_INK), (PLAIN, PLAIN_INK))
    ]
    oracle = limits.oracle_curves(ends[0].task) if limits and safety == "alignment gap" else ()
    return panel(name, series, safety, "capability gap", chart_curves(oracle))
