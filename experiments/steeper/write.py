"""Take the run's numbers into the repository, and write this folder's table.

    python experiments/steeper/write.py [RUNS/steeper]

Given the folder of the sweep, its points and the losses of every held-out row are copied here; the
table of README.md is made from what lies here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab.analysis.groups import Setting, all_settings
from trimtab.analysis.labels import change_in_words
from trimtab.analysis.verdicts import lies_above_zero
from trimtab.config.data_names import ORIGINAL, task_data
from trimtab.config.methods import ALIGNED, CASE_1, CASE_2_RADIUS, PLAIN
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.per_row_losses import RowLosses, known
from trimtab.results.result import Point
from trimtab.results.store import copy_measurements, read_points
from trimtab.stats import (
    Statistic,
    height_above,
    height_above_at_most,
    heights_above_means,
    mean_of,
    statistic_over_seeds,
)

HERE = Path(__file__).parent
TASK = task_data("alpaca")
Losses = tuple[Statistic, Statistic]
"""L_s and L_f."""


def main() -> None:
    if len(sys.argv) > 1:
        copy_measurements(Path(sys.argv[1]), HERE)
    settings, rows = all_settings(read_points(HERE)), RowLosses(HERE)
    case_1 = [setting for setting in settings if setting.method in (PLAIN, CASE_1)]
    case_2 = [setting for setting in settings if setting.method is CASE_2_RADIUS]
    texts = {
        "results": results_text(case_1, case_2, rows),
        "afterwards": afterwards_text(case_1, case_2, rows),
    }
    for mark, text in texts.items():
        replace_between(HERE / "README.md", mark, text)
        print(text)


def results_text(case_1: list[Setting], case_2: list[Setting], rows: RowLosses) -> str:
    """Each setting's losses and Case II's heights, and the endpoint."""
    (plain,) = (setting for setting in case_1 if setting.is_plain)
    lines = lines_by_seed(case_1, rows)
    table_rows = []
    within: list[list[Statistic]] = []
    at_most: list[list[Statistic]] = []
    for setting in (*case_1, *case_2):
        cell = "–"
        if setting in case_2:
            places = list(zip(lines, losses(setting, rows), strict=True))
            found = [height_above(line, *place) for line, place in places]
            beyond = found.count(None)
            heights = [known(height_above_at_most(line, *place)) for line, place in places]
            at_most.append(heights)
            if not beyond:
                within.append([height for height in found if height is not None])
            cell = f"{over_seeds(heights)}, {beyond} of {len(places)} seeds beyond its safe end"
        risen = [change(ORIGINAL, point, ALIGNED.name, rows) for point in setting.points]
        paid = "–" if setting is plain else over_seeds(differences(TASK, setting, plain, rows))
        table_rows.append((setting.name, over_seeds(risen), paid, cell))
    columns = ("model", "L_s − L_s(θ_s)", "L_f − L_f(plain)", "L_f above Case I’s front, at most")
    return f"{markdown_table(columns, table_rows)}\n\n{endpoint_text(within, at_most)}"


def endpoint_text(within: list[list[Statistic]], at_most: list[list[Statistic]]) -> str:
    """The mean over the settings within the front in every seed, by seed, over the seeds.

    Where there is none, that of all, of which only what it is at most is known: a mean below 0 then
    decides, and none above.
    """
    by_seed = [mean_of(heights) for heights in zip(*(within or at_most), strict=True)]
    mean = statistic_over_seeds(by_seed, "nats per token")
    verdict = lies_above_zero(mean) if within or mean.high < 0 else "undecided"
    return (
        f"Case II is steeper: **{verdict}**, {'' if within else 'at most '}"
        f"{change_in_words(mean, 4)} nats per token, with {len(by_seed)} seeds."
    )


def afterwards_text(case_1: list[Setting], case_2: list[Setting], rows: RowLosses) -> str:
    """Case II beside the line of Case I's means over seeds, and beside its safest setting."""
    safest = min(
        case_1, key=lambda setting: mean_of([safety for safety, _ in losses(setting, rows)]).value
    )
    table_rows = []
    for setting in case_2:
        heights = heights_above_means(lines_by_seed(case_1, rows), losses(setting, rows))
        beside = [over_seeds(differences(data, setting, safest, rows)) for data in (ORIGINAL, TASK)]
        on_means = over_seeds(heights) if heights else "beyond its ends"
        table_rows.append((setting.name, on_means, *beside))
    columns = (
        "L_f above the line of means",
        *(f"{x} minus {safest.label}" for x in ("L_s", "L_f")),
    )
    return markdown_table(("model", *columns), table_rows)


def lines_by_seed(settings: list[Setting], rows: RowLosses) -> list[tuple[Losses, ...]]:
    """The losses of each seed's models."""
    return list(zip(*(losses(setting, rows) for setting in settings), strict=True))


def losses(setting: Setting, rows: RowLosses) -> list[Losses]:
    """Of each seed."""
    return [
        (known(rows.loss(ORIGINAL, str(point.model))), known(rows.loss(TASK, str(point.model))))
        for point in setting.points
    ]


def differences(
    data: str, setting: Setting, reference: Setting, rows: RowLosses
) -> list[Statistic]:
    """A loss minus the other setting's, seed by seed."""
    pairs = zip(setting.points, reference.points, strict=True)
    return [change(data, point, str(beside.model), rows) for point, beside in pairs]


def change(data: str, point: Point, reference: str, rows: RowLosses) -> Statistic:
    return known(rows.difference(data, str(point.model), reference))


def over_seeds(changes: list[Statistic]) -> str:
    return change_in_words(statistic_over_seeds(changes, "nats per token"), 4)


if __name__ == "__main__":
    main()
