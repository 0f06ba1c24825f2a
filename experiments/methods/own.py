"""θ_s's own answers as safety data, beside the other teacher's: take the run in, write the table.

python experiments/methods/own.py [RUNS/methods-own]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from write import (
    ANSWERED,
    HERE,
    REFUSED,
    STATED,
    TASK,
    adjusted,
    height_over,
    lines_of,
    names_of,
    over,
    rates,
)

from trimtab.analysis.groups import Setting, all_settings
from trimtab.analysis.labels import change_in_words
from trimtab.config.data_names import ORIGINAL
from trimtab.config.methods import ALIGNED, CASE_1
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.per_row_losses import RowLosses, known
from trimtab.results.store import read_points
from trimtab.runner.status import copy_if_whole
from trimtab.stats import Statistic

OWN = HERE / "own"


def main() -> None:
    if len(sys.argv) > 1:
        copy_if_whole(Path(sys.argv[1]), OWN)
    text = own_table()
    replace_between(HERE / "README.md", "own answers", text)
    print(text)


class OwnAnswers:
    """The models with own answers, paired by row with those of the first table."""

    def __init__(self, folder: Path = OWN) -> None:
        self.rows, self.others = RowLosses(folder), RowLosses(HERE)
        self.settings = [
            each for each in all_settings(read_points(folder)) if each.method is not ALIGNED
        ]
        self.other_settings = all_settings(read_points(HERE))
        (self.plain,) = (each for each in self.other_settings if each.is_plain)
        stated = [s for s in self.other_settings if s.method is CASE_1 and s.value in STATED]
        self.lines = lines_of([self.plain, *stated], self.others)

    def minus(self, setting: Setting, data: str, reference: Mapping[int, str]) -> list[Statistic]:
        """A loss or rate less that of another model of the same seed."""
        return [
            known(self.rows.loss(data, str(point.model)))
            - known(self.others.loss(data, reference[point.seed]))
            for point in setting.points
        ]

    def start(self, setting: Setting) -> dict[int, str]:
        return {point.seed: ALIGNED.name for point in setting.points}

    def twin(self, setting: Setting) -> dict[int, str]:
        """The same method's models with the other teacher's answers."""
        (twin,) = (
            each
            for each in self.other_settings
            if (each.method, each.value) == (setting.method, setting.value)
        )
        return names_of(twin)

    def judging(self, setting: Setting) -> list[Statistic]:
        """J − J(plain), points."""
        plain = names_of(self.plain)
        pairs = zip(
            *(self.minus(setting, rate, plain) for rate in (REFUSED, ANSWERED)), strict=True
        )
        return [(refused + answered) * 50 for refused, answered in pairs]


def own_table() -> str:
    """Each setting, with p adjusted over them."""
    beside = OwnAnswers()
    heights = [height_over(beside.lines, setting, beside.rows) for setting in beside.settings]
    judging = [beside.judging(setting) for setting in beside.settings]
    cells = []
    for place, setting in enumerate(beside.settings):
        height, start, twin = heights[place], beside.start(setting), beside.twin(setting)
        changes = [
            change_in_words(over(beside.minus(setting, data, reference)), 4)
            for data, reference in (
                (ORIGINAL, start),
                (TASK, names_of(beside.plain)),
                (ORIGINAL, twin),
                (TASK, twin),
            )
        ]
        cells.append(
            (
                setting.name,
                *changes[:2],
                change_in_words(over(height), 4) if height else "beyond its ends",
                adjusted(heights)[place],
                *rates(setting.points, beside.rows),
                change_in_words(over(judging[place]), 1),
                adjusted(judging)[place],
                *changes[2:],
            )
        )
    columns = (
        "with θ_s’s own answers", "L_s − L_s(θ_s)", "L_f − L_f(plain)", "L_f above Case I’s front",
        "adjusted p", "harmful refused", "benign answered", "J − J(plain), points", "adjusted p",
        "L_s less the other teacher’s", "L_f less the other teacher’s",
    )  # fmt: skip
    return markdown_table(columns, cells)


if __name__ == "__main__":
    main()
