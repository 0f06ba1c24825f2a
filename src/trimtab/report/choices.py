"""The first screen and the table below it: every model there is to choose, drawn and told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trimtab.analysis.groups import Gap, RateName, Setting
from trimtab.analysis.labels import (
    change_in_words,
    nats,
    percent,
    points_in_words,
    shortened,
    unbroken,
)
from trimtab.analysis.overview import Measured, Option, Overview
from trimtab.config.methods import ALIGNED, PLAIN, Method
from trimtab.evaluate.rates import ANSWERED, COMPLIANCE, REFUSALS
from trimtab.report.chart import Ink, Panel
from trimtab.report.packed import rounded
from trimtab.report.palette import GREY, Palette
from trimtab.report.panels import Series, panel
from trimtab.report.tables import Row, Table
from trimtab.results.gaps import with_gaps
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point

DRAWN_APART = 6
"""Of more lines than this, published methods are drawn as one."""
OTHERS = "other methods"
OTHERS_INK = Ink(GREY, "diamond", "dot")


@dataclass(frozen=True)
class Picture:
    """One plane, and where each option stands in it; None where it is of another task or proxy."""

    panel: Panel
    places: tuple[tuple[float, float] | None, ...]


def picture(overview: Overview, points: Sequence[Point], rows: RowLosses) -> Picture | None:
    """The start, plain fine-tuning and the choices: refusals if counted, else changes of losses."""
    # With no entropies known, gaps are the changes from the start.
    changed = {point.spec: point for point in with_gaps(points, {}, rows)}
    settings = [
        replace(
            option.setting, points=tuple(changed[point.spec] for point in option.setting.points)
        )
        for option in overview.options
    ]
    x: Gap = "alignment gap" if overview.on_original else "proxy gap"
    y: Gap | RateName = "capability gap"
    if overview.unit == "refusals":
        x, y = "capability gap", "refusal rate"
    pictured = [
        setting
        for setting, option in zip(settings, overview.options, strict=True)
        if option in overview.pictured
    ]
    better = "Upper left" if overview.unit == "refusals" else "Lower left"
    drawn_panel = panel(
        f"What each model gave up and gained on {shortened(overview.task)}",
        _series(pictured, Palette.of(points)),
        x,
        y,
        note=f"{better} is better. Click a mark or choose a model to read all that is known of it.",
    )
    if drawn_panel is None:
        return None
    places = []
    for setting in settings:
        measured = setting.measured(x), setting.measured(y)
        is_there = setting in pictured and measured[0] is not None and measured[1] is not None
        places.append(
            (drawn_panel.x.place(measured[0].value), drawn_panel.y.place(measured[1].value))
            if is_there and measured[0] and measured[1]
            else None
        )
    return Picture(drawn_panel, tuple(places))


def _series(settings: Sequence[Setting], palette: Palette) -> list[Series]:
    is_crowded = len({_line(setting) for setting in settings}) > DRAWN_APART
    lines: dict[tuple[Method | None, str | None], list[Setting]] = {}
    ranks = {ALIGNED: 0, PLAIN: 1}
    ordered = sorted(
        settings,
        key=lambda setting: (ranks.get(setting.method, 2), setting.method.strength(setting.value)),
    )
    for setting in ordered:
        is_one_of_many = is_crowded and setting.method.family is not None
        lines.setdefault((None, None) if is_one_of_many else _line(setting), []).append(setting)
    return [
        Series(
            _title(method, proxy),
            palette.of_method(method, proxy, line[0].task) if method else OTHERS_INK,
            tuple(line),
            joined=method not in (None, ALIGNED, PLAIN),
        )
        for (method, proxy), line in lines.items()
    ]


def _line(setting: Setting) -> tuple[Method | None, str | None]:
    return setting.method, setting.proxy if _is_of_proxy(setting.method) else None


def _is_of_proxy(method: Method) -> bool:
    return method.reads_safety and method is not ALIGNED


def _title(method: Method | None, proxy: str | None) -> str:
    if method is None:
        return OTHERS
    if method is ALIGNED:
        return "start: the aligned model θₛ"
    return method.title if proxy is None else f"{method.title}, {shortened(proxy)}"


def choices_table(overview: Overview) -> Table:
    """A row for each model: its answers, its losses, and how far both lie from the start."""
    options = overview.options
    proxies = {option.setting.proxy for option in options if _is_of_proxy(option.setting.method)}
    several_tasks = len({option.setting.task for option in options}) > 1
    of_proxy = len(proxies) > 1 or not overview.on_original
    rates = [
        rate
        for rate in (REFUSALS, COMPLIANCE, ANSWERED)
        if any(rate in option.rates for option in options)
    ]
    names = (
        "model",
        *(("safety data",) if of_proxy else ()),
        *(("task",) if several_tasks else ()),
    )
    columns = (
        *names,
        *(column for rate in rates for column in (rate.brief, "change")),
        *("safety loss", "change", "task loss", "change"),
    )
    rows = []
    for option in options:
        setting = option.setting
        touched = _is_of_proxy(setting.method) or not overview.on_original
        cells = [option.name]
        if of_proxy:
            cells.append((setting.proxy or "–") if touched else "–")
        if several_tasks:
            cells.append(setting.task)
        is_start = setting.method is ALIGNED
        for rate in rates:
            cells += _rate(option.rates.get(rate), is_start)
        for loss in (option.safety, option.task):
            cells += (nats(loss.value.value), "–" if is_start else _change(loss))
        rows.append(Row(tuple(cells)))
    data = "the original safety data" if overview.on_original else "each row’s safety data"
    caption = (
        f"Losses on held-out rows in nats per token, lower is better; safety’s is on {data}. "
        "A change is from the start θₛ on the same rows or prompts, with its 95 % interval."
    )
    return Table(caption, columns, len(names), tuple(rows))


def _rate(rate: Measured | None, is_start: bool) -> tuple[str, str]:
    if rate is None:
        return "–", "–"
    change = "–" if is_start or rate.change is None else unbroken(points_in_words(rate.change))
    return percent(rate.value.value), change


def _change(loss: Measured) -> str:
    return "–" if loss.change is None else unbroken(change_in_words(loss.change))


def for_script(overview: Overview, shown: Picture | None) -> list[dict[str, Any]]:
    """What the page's script knows of each option: its name, its mark, and what to read it with."""
    options = overview.options
    several = len({option.setting.task for option in options}) > 1

    def beside(option: Option, method: Method) -> int | None:
        """Where the start or plain fine-tuning stands that this option is read beside."""
        return next(
            (
                place
                for place, candidate in enumerate(options)
                if candidate.setting.method is method
                and candidate.setting.task == option.setting.task
                and (overview.on_original or candidate.setting.proxy == option.setting.proxy)
            ),
            None,
        )

    return [
        {
            "name": _full_name(option, several),
            "place": _rounded(shown.places[place]) if shown else None,
            "start": beside(option, ALIGNED),
            "plain": beside(option, PLAIN),
            "models": [point.model for point in option.setting.points if point.model],
        }
        for place, option in enumerate(options)
    ]


def _rounded(place: tuple[float, float] | None) -> tuple[float, float] | None:
    """As the plot has it, so that a mark is found by its place."""
    return place and (rounded(place[0]), rounded(place[1]))


def _full_name(option: Option, several_tasks: bool) -> str:
    setting = option.setting
    data = setting.proxy if _is_of_proxy(setting.method) else None
    task = setting.task if several_tasks else None
    return " · ".join(filter(None, (option.name, data, task)))
