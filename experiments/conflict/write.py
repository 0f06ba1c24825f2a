"""Take the runs' numbers into the repository, and write this folder's tables.

    python experiments/conflict/write.py [RUNS]

Given the folder of the sweeps, those of them that are whole are copied here: their points and what
each held-out row and prompt gave, of all but the first into folders of their own (runs.py). The
tables of README.md are made from what lies here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from answers import figure, seeds_text, settings_of, table
from budgets import BUDGETS, at_length_text, budget_text, interpolated_table, scale_table
from fronts import (
    areas_table,
    by_kl_areas_table,
    by_kl_table,
    dials_beside_interpolation,
    eight_runs_table,
    equal_tokens_tables,
    heights_table,
)
from judges import harm_text, judged_harm, readers_table
from runs import (
    ANOTHER_TASK,
    BUDGET_AT_LENGTH,
    BY_KL,
    EIGHT_RUNS,
    HERE,
    SENSITIVE,
    TAKEN,
)

from trimtab.report.markdown import replace_between
from trimtab.report.renderer import images
from trimtab.results.files import write_atomically
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.store import read_points
from trimtab.runner.status import copy_if_whole


def main() -> None:
    if len(sys.argv) > 1:
        for name, folder in TAKEN.items():
            copy_if_whole(Path(sys.argv[1]) / name, folder)
    points = read_points(HERE)
    settings = settings_of(points, RowLosses(HERE))
    write_atomically(HERE / "answers.png", images(figure(points, settings))[0])
    replace_between(HERE.parents[1] / "docs" / "budget.md", "scale", scale_table())
    for mark, text in texts():
        replace_between(HERE / "README.md", mark, text)
        print(text)


def texts() -> Iterator[tuple[str, str]]:
    """The marks of README.md and what stands there, of the runs that are here."""
    points, rows = read_points(HERE), RowLosses(HERE)
    settings = settings_of(points, rows)
    beside = f"At the same safety loss:\n\n{heights_table(HERE)}"
    by_area = f"Hypervolume:\n\n{areas_table(points)}"
    yield "results", f"{table(points, settings)}\n\n{beside}\n\n{by_area}\n\n{seeds_text(settings)}"
    yield "reader", readers_table()
    if any(judged_harm(points, rows)):
        yield "harm", harm_text(points, settings, rows)
    if BY_KL.exists():
        yield "by KL", f"{by_kl_table()}\n\n{by_kl_areas_table()}"
    if ANOTHER_TASK.exists():
        yield "another task", dials_beside_interpolation(ANOTHER_TASK, ANOTHER_TASK, SENSITIVE)
    if tables := equal_tokens_tables():
        yield "equal tokens", "\n\n".join(tables)
    if EIGHT_RUNS.exists():
        yield "eight runs", eight_runs_table()
    for folder, mark in BUDGETS.items():
        if folder.exists():
            yield mark, f"{budget_text(folder)}\n\n{interpolated_table(folder)}"
    if BUDGET_AT_LENGTH.exists():
        yield "budget at length", at_length_text()


if __name__ == "__main__":
    main()
