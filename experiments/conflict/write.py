"""Take the runs' numbers into the repository, and write this folder's table.

    python experiments/conflict/write.py [RUNS]

Given the folder of the sweeps, those of them that are whole are copied here: their points and what
each held-out row and prompt gave; of budget.yaml and slower.yaml into folders of their own. The
tables of README.md are made from what lies here.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Literal, TypeVar

from interpolate import BUDGET as BUDGETED
from scipy.stats import spearmanr

from trimtab.analysis.labels import change_in_words
from trimtab.config.data_names import answers_data
from trimtab.config.methods import ALIGNED, CASE_1
from trimtab.config.run_spec import RunSpec
from trimtab.report.axes import linear_axis
from trimtab.report.chart import Figure, Line, Mark, Panel
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.report.palette import PLAIN_INK, START_INK, ink
from trimtab.report.panels import ANCHORS, labelled
from trimtab.report.renderer import images
from trimtab.report.tables import p_in_words
from trimtab.results.files import write_atomically
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.results.store import copy_measurements, read_points
from trimtab.runner.status import status_of
from trimtab.stats import (
    Estimate,
    Statistic,
    cohen_kappa,
    height_above,
    holm,
    statistic_over_seeds,
    verdict,
)

HERE = Path(__file__).parent
SLOWER, BUDGET, INTERPOLATED = HERE / "slower", HERE / "budget", HERE / "interpolated"
TAKEN = {
    "conflict": HERE,
    "conflict-slower": SLOWER,
    "conflict-budget": BUDGET,
}
"""Where the measurements of a run lie here."""
TASK, ORIGINAL, PROXY = "task:alpaca", "original", "safety:judging"
REFUSED, ANSWERED = "answers:refusal_rate", "answers:answer_rate"
HARM = answers_data("harmful_rate")
HARM_BY_SECOND = answers_data("harmful_rate", "second_judge:harm")
HARMFUL_PROMPTS = 100
MEASURES = {
    "L_s": ORIGINAL,
    "refused, phrases": REFUSED,
    "harm, phrases": HARM,
    "harm, second judge": HARM_BY_SECOND,
}
START = "aligned"
BY_SHARE = "case-one-by-share"
INTERPOLATING = "wise-ft"
BESIDE_CASE_1 = (INTERPOLATING, "dial", "alignment-parameter-radius")
PLANNED = 3
"""Seeds."""
OF_CASE_1, INTERPOLATION = "Case I’s front", "interpolation’s"
LINES = (OF_CASE_1, INTERPOLATION)
DRAWN = (
    "plain fine-tuning",
    "interpolation (WiSE-FT)",
    "Case I (alignment loss)",
    "dial",
    "Case II (parameters, by ε)",
)
THE_START, PLAIN = ANCHORS
LABEL_MARGIN = 0.12
"""Beyond what is drawn, as a share of it: room for labels."""


Value = TypeVar("Value")


@dataclass(frozen=True)
class Setting:
    """A method at a value, over its seeds, with its changes from θ_s or from plain fine-tuning."""

    name: str
    points: list[Point]
    judging: list[Statistic]
    safety: list[Statistic]
    task: list[Statistic]


def main() -> None:
    if len(sys.argv) > 1:
        take(Path(sys.argv[1]))
    points, rows = read_points(HERE), RowLosses(HERE)
    found = settings_of(points, rows)
    write_atomically(HERE / "answers.png", images(figure(points, found, rows))[0])
    beside = f"At the same safety loss:\n\n{heights_table(HERE)}"
    text = f"{table(points, found)}\n\n{beside}\n\n{seeds_told(found)}"
    replace_between(HERE / "README.md", "results", text)
    print(text)
    text = readers_table()
    replace_between(HERE / "README.md", "reader", text)
    print(text)
    if any(judged_harm(points, rows)):
        text = harm_told(found, rows)
        replace_between(HERE / "README.md", "harm", text)
        print(text)
    if SLOWER.exists():
        text = f"{rates_table()}\n\n{heights_table(SLOWER)}"
        replace_between(HERE / "README.md", "slower", text)
        print(text)
    if BUDGET.exists():
        text = f"{budget_table()}\n\n{interpolated_table()}"
        replace_between(HERE / "README.md", "budget", text)
        print(text)


def take(runs: Path) -> None:
    """Copy the measurements of the runs that are whole."""
    for name, here in TAKEN.items():
        if (runs / name).exists() and not status_of(runs / name).left:
            copy_measurements(runs / name, here)


def rates_table() -> str:
    """Plain fine-tuning at the lower rate minus at the higher one, from the same θ_s and seed."""
    (slow,) = (point for point in read_points(SLOWER) if point.spec.is_plain)
    (fast,) = (p for p in read_points(HERE) if p.spec.is_plain and p.seed == slow.seed)
    after, before = RowLosses(SLOWER), RowLosses(HERE)
    changes = []
    for data in (ORIGINAL, TASK):
        pair = (rows.loss(data, str(p.model)) for rows, p in ((after, slow), (before, fast)))
        later, earlier = map(known, pair)
        changes.append(change_in_words((later - earlier).estimate(""), 4))
    moved = f"{fast.distance:.2f} → {slow.distance:.2f}"
    columns = ("plain fine-tuning", "L_s", "L_f", "‖θ − θ_s‖")
    return markdown_table(columns, [("at 2e-4 minus at 5e-4", *changes, moved)])


def heights_table(folder: Path) -> str:
    """L_f above two fronts at the same L_s, over all seeds: Case I's, and interpolation's."""
    rows, points = RowLosses(folder), read_points(folder)
    risen: dict[str, list[Statistic]] = defaultdict(list)
    above: dict[str, dict[str, list[Statistic | None]]] = {one: defaultdict(list) for one in LINES}
    for point in points:
        if point.method.name not in BESIDE_CASE_1:
            continue
        name = named(point.spec)
        risen[name].append(difference(rows, ORIGINAL, point, START))
        for line, ends in lines_of(points, rows, point.seed).items():
            if line != INTERPOLATION or point.method.name != INTERPOLATING:
                above[line][name].append(height_above(ends, *losses_of(rows, point)))
    told_of = {line: told_with_p(found) for line, found in above.items()}
    cells = []
    for name, changes in risen.items():
        beside = [told_of[line].get(name, ("on it", "–")) for line in LINES]
        cells.append((name, change_in_words(statistic_over_seeds(changes, ""), 4), *chain(*beside)))
    columns = ["model", "L_s − L_s(θ_s)"]
    for line in LINES:
        columns += [f"L_f above {line}", "adjusted p"]
    return markdown_table(columns, cells)


def told_with_p(found: dict[str, list[Statistic | None]]) -> dict[str, tuple[str, str]]:
    """Heights over all seeds with Holm's p; of some seeds alone it would be another line's."""
    whole = {
        name: statistic_over_seeds([one for one in each if one is not None], "")
        for name, each in found.items()
        if None not in each
    }
    adjusted = dict(zip(whole, holm([one.p_value for one in whole.values()]), strict=True))
    return {
        name: (change_in_words(whole[name], 4), p_in_words(adjusted[name]))
        if name in whole
        else ("beyond its ends", "–")
        for name in found
    }


def lines_of(
    points: list[Point], rows: RowLosses, seed: int
) -> dict[str, list[tuple[Statistic, Statistic]]]:
    """The losses of a seed's models that make up each line, for others to be compared with."""
    start = next(point for point in points if point.method is ALIGNED)
    ours = [point for point in points if point.seed == seed and point.method is not ALIGNED]
    case_1 = [p for p in ours if p.method is CASE_1 and p.proxy in ("judging", None)]
    interpolated = [p for p in ours if p.spec.is_plain or p.method.name == INTERPOLATING]
    return {
        OF_CASE_1: [losses_of(rows, point) for point in case_1],
        INTERPOLATION: [losses_of(rows, point) for point in (start, *interpolated)],
    }


def readers_table() -> str:
    """How far judges agree with who read some of the answers: on refusals, harm, and all four."""
    read = [json.loads(line) for line in (HERE / "read.jsonl").read_text("utf-8").splitlines()]
    harmful = [one for one in read if one["kind"] == "harmful"]
    second = "Qwen2.5-Coder-1.5B (second_judge.py)"
    lines = []
    for name, judge, question, answers in (
        ("phrases", "phrases", "refused", read),
        ("phrases", "phrases", "complied harmfully", harmful),
        (second, "second_judge:harm", "complied harmfully", harmful),
        ("phrases", "phrases", "", harmful),
        (second, "second_judge:harm", "", harmful),
    ):
        ours, said = (
            [str(one[who] == question) if question else one[who] for one in answers]
            for who in ("read", judge)
        )
        kappa = cohen_kappa(ours, said, "")
        assert kappa is not None
        same = sum(one == other for one, other in zip(ours, said, strict=True))
        asked = f"{question}?" if question else "which of the four?"
        lines.append((name, asked, f"{same} of {len(answers)}", told_plainly(kappa)))
    return markdown_table(("judge", "question", "as the reader says", "κ"), lines)


def judged_harm(points: list[Point], rows: RowLosses) -> list[Point]:
    """The models whose answers to harmful prompts the second judge has read."""
    return [point for point in points if rows.of(HARM_BY_SECOND, str(point.model)) is not None]


def harm_told(settings: list[Setting], rows: RowLosses) -> str:
    """What each judge says of harm, how far the two agree, and how measures order the models."""
    start = next(point for point in read_points(HERE) if point.method is ALIGNED)
    plain = {p.seed: str(p.model) for one in settings for p in one.points if p.spec.is_plain}
    judged = [setting for setting in settings if judged_harm(setting.points, rows)]
    others = [setting for setting in judged if not setting.points[0].spec.is_plain]
    changes = {
        setting.name: statistic_over_seeds(
            [
                difference(rows, HARM_BY_SECOND, point, plain[point.seed]) * 100
                for point in setting.points
            ],
            "",
        )
        for setting in others
    }
    adjusted = dict(zip(changes, holm([c.p_value for c in changes.values()]), strict=True))
    lines = [
        (
            name,
            *(percent_of(points, data, rows) for data in (REFUSED, HARM, HARM_BY_SECOND)),
            change_in_words(changes[name], 1) if name in changes else "–",
            p_in_words(adjusted[name]) if name in changes else "–",
        )
        for name, points in [
            ("aligned model θ_s", [start]),
            *((setting.name, setting.points) for setting in judged),
        ]
    ]
    columns = ("model", "refused, phrases", "harm, phrases", "harm, second judge",
               "its change from plain, points", "adjusted p")  # fmt: skip
    models = [start, *(point for setting in judged for point in setting.points)]
    return "\n\n".join((markdown_table(columns, lines), orders_told(models, rows)))


def percent_of(points: list[Point], data: str, rows: RowLosses) -> str:
    return (
        f"{100 * fmean(known(rows.loss(data, str(point.model))).value for point in points):.0f} %"
    )


def orders_told(models: list[Point], rows: RowLosses) -> str:
    """κ between the judges on harm, and Spearman's ρ between measures over the models."""
    first, second = (
        [str(flag) for model in models for flag in known(rows.of(data, str(model.model)))[0]]
        for data in (HARM, HARM_BY_SECOND)
    )
    prompts = [str(place % HARMFUL_PROMPTS) for place in range(len(first))]
    kappa = told_plainly(known(cohen_kappa(first, second, "", prompts)))
    values = {
        name: [known(rows.loss(data, str(model.model))).value for model in models]
        for name, data in MEASURES.items()
    }
    cells = [
        (
            name,
            *(
                f"{spearmanr(ours, theirs).statistic:+.2f}".replace("-", "−")
                for theirs in values.values()
            ),
        )
        for name, ours in values.items()
    ]
    table = markdown_table((f"ρ over {len(models)} models", *values), cells)
    return f"κ of the two judges on harm, its interval over prompts: {kappa}.\n\n{table}"


def told_plainly(estimate: Estimate) -> str:
    ends = (estimate.value, estimate.low, estimate.high)
    value, low, high = (f"{end:.2f}" for end in ends)
    return f"{value} [{low}, {high}]".replace("-", "−")


def losses_of(rows: RowLosses, point: Point) -> tuple[Statistic, Statistic]:
    """L_s and L_f."""
    one, other = (rows.loss(data, str(point.model)) for data in (ORIGINAL, TASK))
    return known(one), known(other)


def budget_table() -> str:
    """What was made of the budget, by seed and over all, and what it paid beside the fronts."""
    every, rows, losses = read_points(HERE), RowLosses(HERE), RowLosses(BUDGET)
    found = {
        point.seed: (
            difference(losses, PROXY, point, START),
            difference(losses, ORIGINAL, point, START),
            *(
                height_above(line, *losses_of(losses, point))
                for line in lines_of(every, rows, point.seed).values()
            ),
        )
        for point in models_of_budget()
    }
    columns = (
        f"dial set to {BUDGETED:g}", "L_ŝ − L_ŝ(θ_s)", "L_s − L_s(θ_s)",
        *(f"L_f above {one}" for one in LINES),
    )  # fmt: skip
    return markdown_table(columns, by_seed(found))


def interpolated_table() -> str:
    """The same of plain models brought back to the budget, and the dial's beside them."""
    rows, ours, dials = RowLosses(HERE), RowLosses(INTERPOLATED), RowLosses(BUDGET)
    every = read_points(HERE)
    dial_of = {point.seed: str(point.model) for point in models_of_budget()}
    found: dict[int, tuple[Statistic | None, ...]] = {}
    for point in (one for one in every if one.spec.is_plain):
        at = {data: known(ours.loss(data, str(point.model))) for data in (PROXY, ORIGINAL, TASK)}
        of_dial = {data: known(dials.loss(data, dial_of[point.seed])) for data in at}
        of_start = {data: known(rows.loss(data, START)) for data in at}
        line = lines_of(every, rows, point.seed)[OF_CASE_1]
        found[point.seed] = (
            at[PROXY] - of_start[PROXY],
            at[ORIGINAL] - of_start[ORIGINAL],
            height_above(line, at[ORIGINAL], at[TASK]),
            of_dial[ORIGINAL] - at[ORIGINAL],
            of_dial[TASK] - at[TASK],
        )
    columns = (
        f"plain brought back to {BUDGETED:g}", "L_ŝ − L_ŝ(θ_s)", "L_s − L_s(θ_s)",
        f"L_f above {OF_CASE_1}", "dial’s L_s minus its", "dial’s L_f minus its",
    )  # fmt: skip
    return markdown_table(columns, by_seed(found))


def models_of_budget() -> list[Point]:
    return [point for point in read_points(BUDGET) if point.method is not ALIGNED]


def by_seed(found: dict[int, tuple[Statistic | None, ...]]) -> list[tuple[str, ...]]:
    """A line of changes to each seed, the first with its verdict, and one over all."""
    lines = []
    for seed, changes in found.items():
        first, *others = map(told_or_beyond, changes)
        kept = verdict(known(changes[0]).estimate(""), BUDGETED)
        lines.append((f"seed {seed}", f"{first}, {kept}", *others))
    over_all = (
        told_or_beyond(statistic_over_seeds([one for one in column if one], ""))
        if all(column)
        else told_or_beyond(None)
        for column in zip(*found.values(), strict=True)
    )
    return [*lines, ("all", *over_all)]


def told_or_beyond(change: Statistic | Estimate | None) -> str:
    if change is None:
        return "beyond its ends"
    return change_in_words(change.estimate("") if isinstance(change, Statistic) else change, 4)


def settings_of(points: list[Point], rows: RowLosses) -> list[Setting]:
    """Every setting but the start, of the seeds whose plain model is there."""
    plain = {point.seed: point for point in points if point.spec.is_plain}
    grouped: dict[RunSpec, list[Point]] = defaultdict(list)
    for point in points:
        if point.method is not ALIGNED and point.seed in plain:
            grouped[replace(point.spec, seed=0)].append(point)

    def change(dataset: str, point: Point, before: str) -> Statistic:
        return difference(rows, dataset, point, before)

    def settled(spec: RunSpec, made: list[Point]) -> Setting:
        against = [str(plain[point.seed].model) for point in made]
        judging = [
            (change(REFUSED, point, other) + change(ANSWERED, point, other)) * 0.5
            for point, other in zip(made, against, strict=True)
        ]
        return Setting(
            named(spec),
            made,
            judging,
            [change(ORIGINAL, point, START) for point in made],
            [change(TASK, point, other) for point, other in zip(made, against, strict=True)],
        )

    return [settled(spec, made) for spec, made in grouped.items()]


def named(spec: RunSpec) -> str:
    if spec.is_plain:
        return "plain fine-tuning"
    data = "" if spec.proxy == "judging" else f", {spec.proxy} data"
    return f"{spec.method.title}, {spec.method.label(spec.value)}{data}"


def table(points: list[Point], found: list[Setting]) -> str:
    judged = [statistic_over_seeds([each * 100 for each in one.judging], "") for one in found]
    others = [place for place, one in enumerate(found) if not one.points[0].spec.is_plain]
    adjusted = dict(zip(others, holm([judged[place].p_value for place in others]), strict=True))
    start = next(point for point in points if point.method is ALIGNED)
    lines = [("aligned model θ_s", "–", rate([start], "refusal_rate"), rate([start], "answer_rate"),
              "–", "–", "0", "–")]  # fmt: skip
    for place, (one, judging) in enumerate(zip(found, judged, strict=True)):
        is_plain = one.points[0].spec.is_plain
        lines.append(
            (
                one.name,
                str(len(one.points)),
                rate(one.points, "refusal_rate"),
                rate(one.points, "answer_rate"),
                "–" if is_plain else change_in_words(judging, 1),
                "–" if is_plain else p_in_words(adjusted[place]),
                change_in_words(statistic_over_seeds(one.safety, ""), 4),
                "–" if is_plain else change_in_words(statistic_over_seeds(one.task, ""), 4),
            )
        )
    columns = (
        "model", "seeds", "harmful refused", "benign answered", "J − J(plain), points",
        "adjusted p", "L_s − L_s(θ_s)", "L_f − L_f(plain)",
    )  # fmt: skip
    return markdown_table(columns, lines)


def figure(points: list[Point], found: list[Setting], rows: RowLosses) -> Figure:
    """What settings answer, and what their task loss is: each seed, and the mean over the seeds.

    Those of `DRAWN` alone: more would hide each other, and all stand in the table.
    """
    start = next(point for point in points if point.method is ALIGNED)

    def rate_of(which: str, point: Point) -> float:
        return known(rows.loss(which, str(point.model))).value

    def learned(point: Point) -> float:
        return difference(rows, TASK, point, START).value

    def refused_against(across: Callable[[Point], float]) -> tuple[Line, ...]:
        def mark(made: list[Point], label: str, joined: bool = True) -> Mark:
            x = fmean(map(across, made))
            y = fmean(rate_of(REFUSED, point) for point in made)
            return Mark(x, y, None, None, (), joined, label)

        lines = []
        for place, name in enumerate(DRAWN):
            settings = sorted((one for one in found if line_of(one) == name), key=value_of)
            is_plain = settings[0].points[0].spec.is_plain
            ink_of = PLAIN_INK if is_plain else ink(place, place)
            means = [mark(one.points, PLAIN if is_plain else label_of(one)) for one in settings]
            seeds = [mark([point], "", False) for one in settings for point in one.points]
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
        lambda point: rate_of(ANSWERED, point),
    )
    of_task = panel(
        "And what was learned: up and left is better",
        "task loss over the start’s (nats per token)",
        learned,
    )
    return Figure(1, "", (answered, of_task), ())


def values_of(lines: Iterable[Line], side: Literal["x", "y"]) -> list[float]:
    """Of all seeds and means."""
    return [getattr(one, side) for line in lines for one in (*line.marks, *line.seeds)]


def value_of(one: Setting) -> float:
    return float(one.points[0].spec.value or 0.0)


def line_of(one: Setting) -> str:
    spec = one.points[0].spec
    return one.name if spec.is_plain else one.name.replace(f", {label_of(one)}", "")


def label_of(one: Setting) -> str:
    spec = one.points[0].spec
    return spec.method.label(spec.value)


def difference(rows: RowLosses, dataset: str, point: Point, before: str) -> Statistic:
    return known(rows.difference(dataset, str(point.model), before))


def known(found: Value | None) -> Value:
    assert found is not None
    return found


def rate(points: list[Point], field: str) -> str:
    values = [getattr(point, field).value for point in points]
    return f"{100 * sum(values) / len(values):.0f} %"


def seeds_told(found: list[Setting]) -> str:
    most = max(len(one.points) for one in found)
    seeds = f"{most} seed{'s' if most > 1 else ''}"
    return f"Of {seeds} so far; {PLANNED} are planned." if most < PLANNED else f"Of {seeds}."


if __name__ == "__main__":
    main()
