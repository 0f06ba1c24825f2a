"""What settings answer and what they cost: the table over seeds, and the figure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from runs import (
    ANSWERED,
    BY_KL,
    DIAL_BY_KL,
    ORIGINAL,
    REFUSED,
    TASK,
    THE_ALIGNED,
    difference,
    label_of_point,
    models_of_line,
    rate,
    setting_name,
    share,
)

from trimtab.analysis.groups import all_settings
from trimtab.analysis.labels import change_in_words, p_in_words
from trimtab.config.methods import ALIGNED, DIAL
from trimtab.report.axes import linear_axis
from trimtab.report.chart import Figure, Line, Mark, Panel
from trimtab.report.markdown import markdown_table
from trimtab.report.palette import PLAIN_INK, START_INK, ink
from trimtab.report.panels import ANCHORS, labelled
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.results.store import read_points
from trimtab.stats import Statistic, adjusted_over_seeds, statistic_over_seeds

PLANNED = 3
"""Seeds."""
DRAWN = (
    "plain fine-tuning",
    "interpolation (WiSE-FT)",
    "Case I (alignment loss)",
    DIAL_BY_KL,
    "Case II (parameters, by ε)",
)
THE_START, PLAIN = ANCHORS
LABEL_MARGIN = 0.12
"""Beyond what is drawn, as a share of it: room for labels."""


@dataclass(frozen=True)
class Setting:
    """A method at a value, over its seeds, with its changes from θ_s or from plain fine-tuning."""

    name: str
    points: list[Point]
    judging: list[Statistic]
    safety: list[Statistic]
    task: list[Statistic]


def settings_of(points: list[Point], rows: RowLosses) -> list[Setting]:
    """Every setting but the start, of the seeds whose plain model is there."""
    plain = {point.seed: point for point in points if point.spec.is_plain}

    def change(dataset: str, point: Point, before: str) -> Statistic:
        return difference(rows, dataset, point, before)

    def settled(group: list[Point]) -> Setting:
        against = [str(plain[point.seed].model) for point in group]
        judging = [
            (change(REFUSED, point, plain_model) + change(ANSWERED, point, plain_model)) * 0.5
            for point, plain_model in zip(group, against, strict=True)
        ]
        return Setting(
            setting_name(group[0].spec),
            group,
            judging,
            [change(ORIGINAL, point, ALIGNED.name) for point in group],
            [
                change(TASK, point, plain_model)
                for point, plain_model in zip(group, against, strict=True)
            ],
        )

    groups = (
        [point for point in setting.points if point.seed in plain]
        for setting in all_settings(points)
        if setting.method is not ALIGNED
    )
    return [settled(group) for group in groups if group]


def table(points: list[Point], settings: list[Setting]) -> str:
    by_seed = [[change * 100 for change in setting.judging] for setting in settings]
    judged = [statistic_over_seeds(of_seeds, "") for of_seeds in by_seed]
    places = [
        place for place, setting in enumerate(settings) if not setting.points[0].spec.is_plain
    ]
    adjusted = adjusted_over_seeds({place: by_seed[place] for place in places})
    start = next(point for point in points if point.method is ALIGNED)
    lines = [(THE_ALIGNED, "–", rate([start], "refusal_rate"), rate([start], "answer_rate"),
              "–", "–", "0", "–")]  # fmt: skip
    for place, (setting, judging) in enumerate(zip(settings, judged, strict=True)):
        is_plain = setting.points[0].spec.is_plain
        lines.append(
            (
                setting.name,
                str(len(setting.points)),
                rate(setting.points, "refusal_rate"),
                rate(setting.points, "answer_rate"),
                "–" if is_plain else change_in_words(judging, 1),
                "–" if is_plain else p_in_words(adjusted[place]),
                change_in_words(statistic_over_seeds(setting.safety, ""), 4),
                "–" if is_plain else change_in_words(statistic_over_seeds(setting.task, ""), 4),
            )
        )
    columns = (
        "model", "seeds", "harmful refused", "benign answered", "J − J(plain), points",
        "adjusted p", "L_s − L_s(θ_s)", "L_f − L_f(plain)",
    )  # fmt: skip
    return markdown_table(columns, lines)


def figure(points: list[Point], settings: list[Setting]) -> Figure:
    """What settings answer, and what their task loss is: each seed, and the mean over the seeds.

    Those of `DRAWN` alone: more would hide each other, and all stand in the tables.
    """
    start = next(point for point in points if point.method is ALIGNED)
    groups: dict[str, list[list[Point]]] = defaultdict(list)
    for setting in sorted(settings, key=value_of):
        groups[line_of(setting)].append(setting.points)
    if BY_KL.exists():
        turned = all_settings(models_of_line(read_points(BY_KL), DIAL.name))
        groups[DIAL_BY_KL] = [list(setting.points) for setting in turned]

    def learned(point: Point) -> float:
        return point.capability_loss.value - start.capability_loss.value

    def refused_against(across: Callable[[Point], float]) -> tuple[Line, ...]:
        def mark(group: list[Point], label: str, joined: bool = True) -> Mark:
            x = fmean(map(across, group))
            y = fmean(share(point, "refusal_rate") for point in group)
            return Mark(x, y, None, None, (), joined, label)

        lines = []
        for place, name in enumerate(DRAWN):
            is_plain = any(group[0].spec.is_plain for group in groups[name])
            ink_of = PLAIN_INK if is_plain else ink(place, place)
            means = [
                mark(group, PLAIN if is_plain else label_of_point(group[0]))
                for group in groups[name]
            ]
            seeds = [mark([point], "", False) for group in groups[name] for point in group]
            lines.append(Line(name, ink_of, tuple(means), tuple(seeds)))
        return (*lines, Line("the start θₛ", START_INK, (mark([start], THE_START),)))

    def panel(title: str, label: str, across: Callable[[Point], float]) -> Panel:
        lines = refused_against(across)
        x = linear_axis(label, values_of(lines, "x"), LABEL_MARGIN)
        y = linear_axis("harmful prompts refused (share)", values_of(lines, "y"), LABEL_MARGIN)
        return Panel(title, x, y, labelled(lines, x, y))

    answered = panel(
        "What is answered: up and right is better",
        "benign prompts answered (share)",
        lambda point: share(point, "answer_rate"),
    )
    of_task = panel(
        "And what was learned: up and left is better",
        "task loss over the start’s (nats per token)",
        learned,
    )
    return Figure(1, "", (answered, of_task), ())


def values_of(lines: Iterable[Line], side: Literal["x", "y"]) -> list[float]:
    """Of all seeds and means."""
    return [getattr(mark, side) for line in lines for mark in (*line.marks, *line.seeds)]


def value_of(setting: Setting) -> float:
    return float(setting.points[0].spec.value or 0.0)


def line_of(setting: Setting) -> str:
    spec = setting.points[0].spec
    return setting.name if spec.is_plain else setting.name.replace(f", {label_of(setting)}", "")


def label_of(setting: Setting) -> str:
    return label_of_point(setting.points[0])


def seeds_text(settings: list[Setting]) -> str:
    count = max(len(setting.points) for setting in settings)
    seeds = f"{count} seed{'s' if count > 1 else ''}"
    return f"Of {seeds} so far; {PLANNED} are planned." if count < PLANNED else f"Of {seeds}."
