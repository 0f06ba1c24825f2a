"""Take the run's numbers into the repository, and write this folder's table.

    python experiments/methods/write.py [RUNS/methods]

Given the folder of the sweep, its points and what each held-out row and prompt gave are copied
here; the table of README.md is made from the seeds of which all is here.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from trimtab.analysis.groups import Setting, all_settings
from trimtab.analysis.labels import change_in_words, p_in_words
from trimtab.config.data_names import ORIGINAL, answers_data, task_data
from trimtab.config.methods import ALIGNED, CASE_1
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.per_row_losses import RowLosses, known
from trimtab.results.result import Point
from trimtab.results.store import copy_measurements, read_points
from trimtab.stats import (
    Estimate,
    Statistic,
    adjusted_over_seeds,
    front,
    height_above,
    statistic_over_seeds,
)

HERE = Path(__file__).parent
STATED = (0.3, 1.0, 3.0)
"""λ of the front that the endpoint was stated on; the denser one has all that are here."""
TASK = task_data("alpaca")
REFUSED, ANSWERED = answers_data("refusal_rate"), answers_data("answer_rate")


Line = list[tuple[Point, tuple[Statistic, Statistic]]]
"""Models with their L_s and L_f."""


@dataclass(frozen=True)
class Beside:
    """A setting beside θ_s, plain fine-tuning and Case I's front, over the seeds."""

    setting: Setting
    safety: Estimate
    """L_s − L_s(θ_s), nats per token."""
    task: Estimate
    """L_f − L_f(plain), nats per token."""
    judging: list[Statistic]
    """J − J(plain), points."""
    height: list[Statistic] | None
    """L_f above Case I's front, nats per token; None beyond its ends in some seed."""
    height_of_denser: list[Statistic] | None
    """The same of the front with every λ that is here."""
    place: str
    """Where it lies beside the stated front, where it has no height."""

    @property
    def is_published(self) -> bool:
        """Whether it is a method other than Case I, which the endpoint is about."""
        return self.setting.method is not CASE_1


def main() -> None:
    if len(sys.argv) > 1:
        copy_measurements(Path(sys.argv[1]), HERE)
    text = table(whole_seeds(read_points(HERE)), RowLosses(HERE))
    replace_between(HERE / "README.md", "results", text)
    print(text)


def whole_seeds(points: list[Point]) -> list[Point]:
    """Those of seeds of which every model is here, and θ_s."""
    counts = Counter(point.seed for point in points if point.method is not ALIGNED)
    return [
        point
        for point in points
        if point.method is ALIGNED or counts[point.seed] == max(counts.values())
    ]


def table(points: list[Point], rows: RowLosses) -> str:
    """Each setting, those of a lower front first."""
    settings = [setting for setting in all_settings(points) if setting.method is not ALIGNED]
    (plain,) = (setting for setting in settings if setting.is_plain)
    plain_of = names_of(plain)
    case_1 = [setting for setting in settings if setting.method is CASE_1]
    stated = lines_of([plain, *(each for each in case_1 if each.value in STATED)], rows)
    denser = lines_of([plain, *case_1], rows)
    ends = {seed: ends_of(line) for seed, line in stated.items()}

    def beside(setting: Setting) -> Beside:
        models = [(str(point.model), plain_of[point.seed]) for point in setting.points]
        is_on = setting.method is CASE_1
        is_on_stated = is_on and setting.value in STATED
        return Beside(
            setting,
            over([change(ORIGINAL, model, ALIGNED.name, rows) for model, _ in models]),
            over([change(TASK, *pair, rows) for pair in models]),
            [judged(pair, rows) * 100 for pair in models],
            None if is_on_stated else height_over(stated, setting, rows),
            None if is_on else height_over(denser, setting, rows),
            "on it" if is_on_stated else place_of(setting, ends, rows),
        )

    found = [beside(setting) for setting in settings if not setting.is_plain]
    ordered = sorted(
        found, key=lambda each: over(each.height).value if each.height else float("inf")
    )
    heights = adjusted([each.height if each.is_published else None for each in ordered])
    heights_of_denser = adjusted([each.height_of_denser for each in ordered])
    judging = adjusted([each.judging for each in ordered])
    start = next(point for point in points if point.method is ALIGNED)
    lines = [
        ("aligned model θ_s", "0", *("–",) * 5, *rates([start], rows), "–", "–"),
        (
            "plain fine-tuning",
            change_in_words(
                over([change(ORIGINAL, m, ALIGNED.name, rows) for m in plain_of.values()]), 4
            ),
            *("–",) * 5,
            *rates(plain.points, rows),
            *("–",) * 2,
        ),
    ]
    lines += [
        (
            each.setting.name,
            change_in_words(each.safety, 4),
            change_in_words(each.task, 4),
            change_in_words(over(each.height), 4) if each.height else each.place,
            p_height,
            change_in_words(over(each.height_of_denser), 4) if each.height_of_denser else "–",
            p_of_denser,
            *rates(each.setting.points, rows),
            change_in_words(over(each.judging), 1),
            p_judging,
        )
        for each, p_height, p_of_denser, p_judging in zip(
            ordered, heights, heights_of_denser, judging, strict=True
        )
    ]
    columns = (
        "model", "L_s − L_s(θ_s)", "L_f − L_f(plain)", "L_f above Case I’s front", "adjusted p",
        "above its denser front", "adjusted p",
        "harmful refused", "benign answered", "J − J(plain), points", "adjusted p",
    )  # fmt: skip
    count = len(plain_of)
    return f"{markdown_table(columns, lines)}\n\nOf {count} seed{'s' if count > 1 else ''}."


def names_of(setting: Setting) -> dict[int, str]:
    """The models of a setting by seed."""
    return {point.seed: str(point.model) for point in setting.points}


def lines_of(settings: Sequence[Setting], rows: RowLosses) -> dict[int, Line]:
    """The models of several settings with their losses, by seed."""
    lines: dict[int, Line] = {}
    for setting in settings:
        for point in setting.points:
            lines.setdefault(point.seed, []).append((point, losses(point, rows)))
    return lines


def height_over(
    lines: dict[int, Line], setting: Setting, rows: RowLosses
) -> list[Statistic] | None:
    """L_f above the front of each seed's line; None beyond its ends in some seed."""
    heights = [
        height_above([places for _, places in lines[point.seed]], *losses(point, rows))
        for point in setting.points
    ]
    within = [height for height in heights if height is not None]
    return within if len(within) == len(heights) else None


def ends_of(line: Line) -> tuple[Point, Point]:
    """The safest and the most capable model of the front of a line."""
    on_front = front([(safety.value, task.value) for _, (safety, task) in line])
    return line[on_front[0]][0], line[on_front[-1]][0]


def place_of(setting: Setting, ends: dict[int, tuple[Point, Point]], rows: RowLosses) -> str:
    """Beyond which end of the front, and both losses minus those of the model there."""
    sides = []
    for point in setting.points:
        at, (safest, most_capable) = losses(point, rows)[0].value, ends[point.seed]
        if at < losses(safest, rows)[0].value:
            sides.append(0)
        elif at > losses(most_capable, rows)[0].value:
            sides.append(1)
    if len(sides) < len(setting.points) or len(set(sides)) > 1:
        return f"beyond its ends in {len(sides)} of {len(setting.points)} seeds"
    (side,) = set(sides)
    pairs = [(str(p.model), str(ends[p.seed][side].model)) for p in setting.points]
    safety, task = (
        change_in_words(over([change(data, *pair, rows) for pair in pairs]), 4)
        for data in (ORIGINAL, TASK)
    )
    return f"beyond its {('safe', 'capable')[side]} end: L_s {safety}, L_f {task} of it"


def adjusted(effects: Sequence[list[Statistic] | None]) -> list[str]:
    """Holm's p over those that there are, each by seed, in words."""
    known = {place: by_seed for place, by_seed in enumerate(effects) if by_seed}
    p_values = adjusted_over_seeds(known)
    return [p_in_words(p_values[n]) if n in p_values else "–" for n in range(len(effects))]


def judged(models: tuple[str, str], rows: RowLosses) -> Statistic:
    """J of one model minus that of another, on the same prompts."""
    return (change(REFUSED, *models, rows) + change(ANSWERED, *models, rows)) * 0.5


def losses(point: Point, rows: RowLosses) -> tuple[Statistic, Statistic]:
    """L_s and L_f."""
    safety, task = (known(rows.loss(data, str(point.model))) for data in (ORIGINAL, TASK))
    return safety, task


def rates(points: Sequence[Point], rows: RowLosses) -> tuple[str, str]:
    """Harmful prompts refused, and benign ones answered."""
    refused, answered = (
        fmean(known(rows.loss(data, str(point.model))).value for point in points)
        for data in (REFUSED, ANSWERED)
    )
    return f"{100 * refused:.0f} %", f"{100 * answered:.0f} %"


def change(data: str, model: str, reference: str, rows: RowLosses) -> Statistic:
    return known(rows.difference(data, model, reference))


def over(changes: list[Statistic]) -> Estimate:
    return statistic_over_seeds(changes, "")


if __name__ == "__main__":
    main()
