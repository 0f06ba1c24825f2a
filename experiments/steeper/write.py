"""Take the run's numbers into the repository, and write this folder's table.

    python experiments/steeper/write.py [RUNS/steeper]

Given the folder of the sweep, its points and the losses of every held-out row are copied here; the
table of README.md is made from what lies here.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from trimtab.analysis.labels import change_in_words
from trimtab.analysis.verdicts import lies_above_zero
from trimtab.config.methods import ALIGNED, CASE_1
from trimtab.config.run_spec import RunSpec
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.results.store import copy_measurements, read_points
from trimtab.stats import Statistic, front, height_above, statistic_over_seeds

HERE = Path(__file__).parent
ORIGINAL, TASK, START = "original", "task:alpaca", "aligned"


def main() -> None:
    if len(sys.argv) > 1:
        copy_measurements(Path(sys.argv[1]), HERE)
    for mark, text in (("results", results_text()), ("afterwards", afterwards_text())):
        replace_between(HERE / "README.md", mark, text)
        print(text)


def results_text() -> str:
    """Each setting's losses and Case II's heights, and the endpoint over those within range."""
    points, rows = read_points(HERE), RowLosses(HERE)
    by_setting = points_by_setting(points)
    (plain,) = (group for spec, group in by_setting.items() if spec.is_plain)
    plain_of = {point.seed: str(point.model) for point in plain}

    def change(data: str, point: Point, before: str) -> Statistic:
        return known(rows.difference(data, str(point.model), before))

    lines, within = [], []
    for spec, group in by_setting.items():
        name = "plain fine-tuning" if spec.is_plain else f"{spec.method.title}, {spec.label}"
        paid = [change(TASK, point, plain_of[point.seed]) for point in group]
        heights = [] if spec.method is CASE_1 else [height(point, points, rows) for point in group]
        in_range = [value for value in heights if value is not None]
        if heights and len(in_range) == len(group):
            within.append(in_range)
        lines.append(
            (
                name,
                over_seeds([change(ORIGINAL, point, START) for point in group]),
                "–" if spec.is_plain else over_seeds(paid),
                "–" if not heights
                else over_seeds(in_range) if len(in_range) == len(group)
                else f"beyond its ends in {len(group) - len(in_range)} of {len(group)} seeds",
            )
        )  # fmt: skip
    columns = ("model", "L_s − L_s(θ_s)", "L_f − L_f(plain)", "L_f above Case I’s front")
    table = markdown_table(columns, lines)
    if not within:
        return f"{table}\n\nNo Case II model lies within the front’s range in every seed."
    means = [sum(column[1:], column[0]) * (1 / len(column)) for column in zip(*within, strict=True)]
    endpoint = statistic_over_seeds(means, "nats per token")
    verdict = f"**{lies_above_zero(endpoint)}**, {change_in_words(endpoint, 4)} nats per token"
    return f"{table}\n\nCase II is steeper: {verdict}, with {len(means)} seeds."


def afterwards_text() -> str:
    """Case II beside the line of Case I's means over seeds, and beside its safest setting."""
    rows, by_setting = RowLosses(HERE), points_by_setting(read_points(HERE))
    case_1 = [group for spec, group in by_setting.items() if spec.method is CASE_1]
    safest = min(case_1, key=lambda group: mean_losses(group, rows)[0])
    lines = []
    for spec, group in by_setting.items():
        if spec.method is CASE_1:
            continue
        changes = [
            over_seeds(
                [
                    known(rows.difference(data, str(ours.model), str(theirs.model)))
                    for ours, theirs in zip(group, safest, strict=True)
                ]
            )
            for data in (ORIGINAL, TASK)
        ]
        heights = heights_above_means(group, case_1, rows)
        on_means = over_seeds(heights) if heights else "beyond its ends"
        lines.append((f"{spec.method.title}, {spec.label}", on_means, *changes))
    beside = f"minus {safest[0].spec.label}"
    columns = ("model", "L_f above the line of means", f"L_s {beside}", f"L_f {beside}")
    return markdown_table(columns, lines)


def heights_above_means(
    group: list[Point], case_1: list[list[Point]], rows: RowLosses
) -> list[Statistic] | None:
    """L_f above the line through the means over seeds of Case I's settings, at the same L_s.

    By seed, linear in that seed's losses (the delta method), so that their mean is the height of
    the means: y − (1−w)·y_a − w·y_b − k·(x − (1−w)·x_a − w·x_b), for settings a and b on either
    side, with w = (x̄ − x̄_a)/(x̄_b − x̄_a) and k = (ȳ_b − ȳ_a)/(x̄_b − x̄_a). None beyond the line.
    """
    at, _ = mean_losses(group, rows)
    places = {id(settings): mean_losses(settings, rows) for settings in case_1}
    line = sorted(
        (case_1[place] for place in front(list(places.values()))),
        key=lambda settings: places[id(settings)],
    )
    for before, after in pairwise(line):
        (x_a, y_a), (x_b, y_b) = places[id(before)], places[id(after)]
        if x_a <= at <= x_b:
            weight, slope = (at - x_a) / (x_b - x_a), (y_b - y_a) / (x_b - x_a)
            return [
                (task - task_a * (1 - weight) - task_b * weight)
                - (safety - safety_a * (1 - weight) - safety_b * weight) * slope
                for (safety, task), (safety_a, task_a), (safety_b, task_b) in zip(
                    *(
                        [losses(rows, point) for point in group_of]
                        for group_of in (group, before, after)
                    ),
                    strict=True,
                )
            ]
    return None


def mean_losses(group: list[Point], rows: RowLosses) -> tuple[float, float]:
    """L_s and L_f, each its mean over the seeds."""
    safety, task = zip(*(losses(rows, point) for point in group), strict=True)
    return fmean(loss.value for loss in safety), fmean(loss.value for loss in task)


def points_by_setting(points: list[Point]) -> dict[RunSpec, list[Point]]:
    """The points of every setting but the start, by seed."""
    by_setting: dict[RunSpec, list[Point]] = defaultdict(list)
    for point in sorted(points, key=lambda point: point.seed):
        if point.method is not ALIGNED:
            by_setting[replace(point.spec, seed=0)].append(point)
    return by_setting


def height(point: Point, points: list[Point], rows: RowLosses) -> Statistic | None:
    """L_f above the front of Case I's models of the same seed, at the same L_s."""
    case_1 = [model for model in points if model.method is CASE_1 and model.seed == point.seed]
    return height_above([losses(rows, model) for model in case_1], *losses(rows, point))


def losses(rows: RowLosses, point: Point) -> tuple[Statistic, Statistic]:
    """L_s and L_f."""
    safety, task = (rows.loss(data, str(point.model)) for data in (ORIGINAL, TASK))
    return known(safety), known(task)


def over_seeds(changes: list[Statistic]) -> str:
    return change_in_words(statistic_over_seeds(changes, "nats per token"), 4)


def known(value: Statistic | None) -> Statistic:
    assert value is not None
    return value


if __name__ == "__main__":
    main()
