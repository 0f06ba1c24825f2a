"""Figure 5: methods beside each other in the plane of what each gave up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from trimtab.analysis.groups import SafetyGap, Setting, safety_gap_of
from trimtab.analysis.limits import Limits
from trimtab.analysis.methods import MethodResult, Tried, title, tried_settings
from trimtab.config.methods import METHODS, Family
from trimtab.report.chart import Figure, Panel
from trimtab.report.palette import drawn, ink, star
from trimtab.report.panels import Series, panel
from trimtab.results.result import Point

_OWN: dict[Family, tuple[str, ...]] = {
    "Case I otherwise": ("alignment-loss-budget", "dial"),
    "Methods on weights": (
        "alignment-parameter",
        "alignment-parameter-radius",
        "alignment-parameter-budget",
    ),
}
FAMILIES: dict[Family, tuple[str, ...]] = {
    family: (
        *_OWN.get(family, ()),
        *(name for name, method in METHODS.items() if method.family == family),
    )
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
    lines = {one.method: one for one in results if (one.proxy, one.task) == (proxy, task)}
    ends = [one for one in tried_settings(points) if (one.proxy, one.task) == (proxy, task)]
    placed = {method for methods in FAMILIES.values() for method in methods}
    others = tuple(m for m in lines if m not in placed and m != "alignment-loss")
    panels = [
        _family(name, methods, lines, ends, safety, limits)
        for name, methods in (FAMILIES | {"Other methods": others}).items()
        if any(method in lines for method in methods)
    ]
    caption = (
        "Every method over its own knob, at equal rows a step, with Case I in each panel: means "
        "over seeds, and each seed faintly. Left and below is better."
    )
    return Figure(5, caption, tuple(one for one in panels if one), ())


def _family(
    name: str,
    methods: Sequence[str],
    lines: dict[str, MethodResult],
    ends: Sequence[Tried],
    safety: SafetyGap,
    limits: Limits | None,
) -> Panel | None:
    shown = [m for m in ("alignment-loss", *methods) if m in lines]
    # Black is Case I's in every panel; the others take the six colours in turn, as often as needed.
    colours = {method: (place - 1) % 6 for place, method in enumerate(shown)}
    colours |= {"alignment-loss": 6}
    series = [
        Series(
            title(method),
            ink(colours[method], place),
            tuple(map(_setting, lines[method].tried)),
        )
        for place, method in enumerate(shown)
    ]
    for end in ends:
        if end.method in ("aligned", "plain"):
            series.append(
                Series(
                    title(end.method), star(6 if end.method == "plain" else 4), (_end(end),), False
                )
            )
    oracle = limits.oracle_curves(ends[0].task) if limits and safety == "alignment gap" else ()
    return panel(name, series, safety, "capability gap", drawn(oracle))


def _setting(one: Tried) -> Setting:
    first = one.points[0]
    return Setting(
        first.case,
        first.penalty,
        first.radius,
        one.proxy,
        one.task,
        one.points,
        budget=first.budget,
        alpha=first.alpha,
        method=None if first.method is None else title(first.method),
        knob=first.knob,
    )


def _end(one: Tried) -> Setting:
    # Drawn as a mark of its own: plain fine-tuning is the end of every line here, not of Case I's.
    return Setting(one.points[0].case, None, None, one.proxy, one.task, one.points)
