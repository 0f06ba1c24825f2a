"""Figure 6 and its table: what models answer, beside what they gave up in loss."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mode

from trimtab.analysis.groups import case_2_lines, lines_of, settings_of
from trimtab.analysis.labels import share_in_words, shortened
from trimtab.config.methods import ALIGNED, CASE_1, CASE_2, CASE_2_RADIUS
from trimtab.evaluate.rates import RATES
from trimtab.report.chart import Curve, Figure
from trimtab.report.palette import GREY, START_INK, Palette
from trimtab.report.panels import Series, panel
from trimtab.report.tables import NAMES, Row, Table, names_of
from trimtab.results.result import Point
from trimtab.stats import Estimate

ANSWERS_FIGURE = 6


def answers_figure(points: Sequence[Point]) -> Figure | None:
    """Refusals against λ by proxy, capability and answers; None where none were counted.

    Of several tasks the one with most proxies is drawn.
    """
    counted = [point for point in points if point.refusal_rate is not None]
    if not counted:
        return None
    palette = Palette.of(points)
    lines = lines_of(counted, CASE_1)
    tasks = [task for _, task in lines] or [counted[0].task]
    main_task = mode(tasks)
    by_proxy = {proxy: line for (proxy, task), line in lines.items() if task == main_task}
    series = [
        Series(shortened(proxy), palette.of_pair(proxy, main_task), tuple(line))
        for proxy, line in by_proxy.items()
    ]
    start = settings_of((point for point in counted if point.task == main_task), ALIGNED)[:1]
    by_method = {
        method: case_2_lines(counted, method).get(main_task, [])
        for method in (CASE_2, CASE_2_RADIUS)
    }
    at_start = start[0].measured("refusal rate") if start else None
    penalties = [setting.value for line in by_proxy.values() for setting in line if setting.value]
    level = (
        [
            Curve(
                "aligned model θₛ",
                GREY,
                "dash",
                1.2,
                (min(penalties), max(penalties)),
                (at_start.value, at_start.value),
            )
        ]
        if at_start and penalties
        else []
    )
    beside = [
        *series,
        *(
            Series(
                f"Case II by {method.symbol}" if all(by_method.values()) else "Case II",
                palette.of_method(method, None, main_task),
                tuple(line),
            )
            for method, line in by_method.items()
        ),
        Series("aligned model θₛ", START_INK, tuple(start), joined=False),
    ]
    panels = (
        panel(
            f"Case I: refusals, task {shortened(main_task)}",
            series,
            "penalty",
            "refusal rate",
            level,
        ),
        panel("Refusals against capability", beside, "capability gap", "refusal rate"),
        panel("Refusals against answers", beside, "answer rate", "refusal rate"),
    )
    caption = (
        "Harmful prompts refused: against the penalty λ, against what was not learned of the task, "
        "and against the benign prompts still answered."
    )
    return Figure(
        ANSWERS_FIGURE, caption, tuple(drawn_panel for drawn_panel in panels if drawn_panel), ()
    )


def answers_table(points: Sequence[Point], judge: str) -> Table | None:
    """The models whose answers were judged, in the words of one judge; None without any."""
    judged = [point for point in points if point.refusal_rate or point.answer_rate]
    shown = [rate for rate in RATES if any(rate.of(point) for point in judged)]
    rows = tuple(
        Row((*names_of(point.spec), *(share_or_dash(rate.of(point)) for rate in shown)))
        for point in judged
    )
    caption = f"Answers as {judge} judges them, with 95 % intervals."
    return Table(caption, (*NAMES, *(rate.brief for rate in shown)), 5, rows) if rows else None


def share_or_dash(rate: Estimate | None) -> str:
    """A rate and its interval as percentages, or a dash where nothing was counted."""
    return "–" if rate is None else share_in_words(rate)
