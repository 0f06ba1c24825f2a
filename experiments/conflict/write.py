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
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Literal

from interpolate import BUDGET as BUDGETED
from scipy.stats import spearmanr

from trimtab.analysis.groups import all_settings
from trimtab.analysis.labels import change_in_words, p_in_words
from trimtab.config.data_names import answers_data
from trimtab.config.experiment import Dial
from trimtab.config.methods import ALIGNED, CASE_1, CASE_2_RADIUS, DIAL
from trimtab.config.run_spec import RunSpec
from trimtab.report.axes import linear_axis
from trimtab.report.chart import Figure, Line, Mark, Panel
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.report.palette import PLAIN_INK, START_INK, ink
from trimtab.report.panels import ANCHORS, labelled
from trimtab.report.renderer import images
from trimtab.results.files import write_atomically
from trimtab.results.per_row_losses import RowLosses, known
from trimtab.results.result import Point
from trimtab.results.store import read_points
from trimtab.runner.status import copy_if_whole
from trimtab.stats import (
    Array,
    Estimate,
    Statistic,
    adjusted_over_seeds,
    cohen_kappa,
    height_above,
    statistic_over_seeds,
    verdict,
)
from trimtab.theory import chord_area, hypervolume

HERE = Path(__file__).parent
SLOWER, BUDGET, INTERPOLATED = HERE / "slower", HERE / "budget", HERE / "interpolated"
BY_KL, BUDGET_BY_KL, SHARES = HERE / "by_kl", HERE / "budget_by_kl", HERE / "shares"
LONGER_BUDGET_BY_KL = HERE / "budget_by_kl_longer"
ANOTHER_TASK = HERE / "another_task"
LONGER_ALPACA, LONGER_SENSITIVE = HERE / "longer_alpaca", HERE / "longer_sensitive"
TAKEN = {
    "conflict": HERE,
    "conflict-slower": SLOWER,
    "conflict-budget": BUDGET,
    "conflict-by-kl": BY_KL,
    "conflict-budget-by-kl": BUDGET_BY_KL,
    "conflict-budget-by-kl-longer": LONGER_BUDGET_BY_KL,
    "conflict-shares": SHARES,
    "conflict-another-task": ANOTHER_TASK,
    "conflict-longer-alpaca": LONGER_ALPACA,
    "conflict-longer-sensitive": LONGER_SENSITIVE,
}
"""Where the measurements of a run lie here."""
BUDGETS = {
    BUDGET: "budget",
    BUDGET_BY_KL: "budget by KL",
    LONGER_BUDGET_BY_KL: "longer budget by KL",
}
"""And where README.md tells of those with a budget."""
TASK, ORIGINAL, PROXY = "task:alpaca", "original", "safety:judging"
SENSITIVE = "task:sensitive"
REFUSED, ANSWERED = "answers:refusal_rate", "answers:answer_rate"
HARM = answers_data("harmful_rate")
HARM_BY_SECOND = answers_data("harmful_rate", "second_judge:harm")
THE_ALIGNED = "aligned model θ_s"
JUDGED = {
    "refused, phrases": REFUSED,
    "harm, phrases": HARM,
    "harm, second judge": HARM_BY_SECOND,
}
BY_SHARE = "case-one-by-share"
INTERPOLATING = "wise-ft"
BESIDE_CASE_1 = (INTERPOLATING, "dial", "alignment-parameter-radius", BY_SHARE)
PLANNED = 3
"""Seeds."""
OF_CASE_1, INTERPOLATION = "Case I’s front", "interpolation’s"
LINES = (OF_CASE_1, INTERPOLATION)
DIAL_BY_KL = "dial by KL"
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


def main() -> None:
    if len(sys.argv) > 1:
        for name, folder in TAKEN.items():
            copy_if_whole(Path(sys.argv[1]) / name, folder)
    points, rows = read_points(HERE), RowLosses(HERE)
    settings = settings_of(points, rows)
    write_atomically(HERE / "answers.png", images(figure(points, settings))[0])
    beside = f"At the same safety loss:\n\n{heights_table(HERE)}"
    by_area = f"Hypervolume:\n\n{areas_table(points)}"
    text = f"{table(points, settings)}\n\n{beside}\n\n{by_area}\n\n{seeds_text(settings)}"
    replace_between(HERE / "README.md", "results", text)
    print(text)
    text = readers_table()
    replace_between(HERE / "README.md", "reader", text)
    print(text)
    if any(judged_harm(points, rows)):
        text = harm_text(points, settings, rows)
        replace_between(HERE / "README.md", "harm", text)
        print(text)
    if SLOWER.exists():
        text = f"{rates_table()}\n\n{heights_table(SLOWER)}"
        replace_between(HERE / "README.md", "slower", text)
        print(text)
    if BY_KL.exists():
        text = f"{by_kl_table()}\n\n{by_kl_areas_table()}"
        replace_between(HERE / "README.md", "by KL", text)
        print(text)
    if ANOTHER_TASK.exists():
        text = beside_interpolation(ANOTHER_TASK, ANOTHER_TASK, SENSITIVE)
        replace_between(HERE / "README.md", "another task", text)
        print(text)
    if tables := equal_tokens_tables():
        text = "\n\n".join(tables)
        replace_between(HERE / "README.md", "equal tokens", text)
        print(text)
    for folder, mark in BUDGETS.items():
        if folder.exists():
            text = f"{budget_table(folder)}\n\n{interpolated_table(folder)}"
            replace_between(HERE / "README.md", mark, text)
            print(text)


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
    above: dict[str, dict[str, list[Statistic | None]]] = {
        line: defaultdict(list) for line in LINES
    }
    for point in points:
        if point.method.name not in BESIDE_CASE_1:
            continue
        name = setting_name(point.spec)
        risen[name].append(difference(rows, ORIGINAL, point, ALIGNED.name))
        for line, ends in lines_of(points, rows, point.seed).items():
            if line != INTERPOLATION or point.method.name != INTERPOLATING:
                above[line][name].append(height_above(ends, *losses_of(rows, point)))
    texts = {line: heights_with_p(heights) for line, heights in above.items()}
    cells = []
    for name, changes in risen.items():
        beside = [texts[line].get(name, ("on it", "–")) for line in LINES]
        cells.append((name, change_in_words(statistic_over_seeds(changes, ""), 4), *chain(*beside)))
    columns = ["model", "L_s − L_s(θ_s)"]
    for line in LINES:
        columns += [f"L_f above {line}", "adjusted p"]
    return markdown_table(columns, cells)


def areas_table(points: list[Point]) -> str:
    """What each method dominates in (L_s, L_f), up to plain fine-tuning's L_s and θ_s's L_f."""
    plain = {point.seed: point for point in points if point.spec.is_plain}
    lines = []
    for name in (CASE_1.name, INTERPOLATING, DIAL.name, CASE_2_RADIUS.name):
        trained = models_of_line(points, name)
        tokens = []
        for seed, unconstrained in plain.items():
            of_seed = [p for p in trained if p.seed == seed]
            # One training is behind all settings of a dial, and behind all shares of a plain model.
            trainings = of_seed if name in (CASE_1.name, CASE_2_RADIUS.name) else of_seed[:1]
            read = sum(point.train_tokens for point in trainings)
            tokens.append(read / unconstrained.train_tokens)
        title = trained[0].method.title
        areas = (f"{volume:.1f}" for volume, _ in areas_of(trained, points))
        lines.append((title, str(len(trained) // len(plain)), f"{fmean(tokens):.1f}×", *areas))
    seeds = [f"seed {seed}, 1e-4 nats²" for seed in plain]
    return markdown_table(("method", "models", "tokens over one plain run's", *seeds), lines)


def areas_of(models: list[Point], points: list[Point]) -> list[tuple[float, float]]:
    """By seed, 1e-4 nats²: the hypervolume, and the area above the chords from θ_s to plain."""
    start = place_of(next(point for point in points if point.method is ALIGNED))
    areas = []
    for plain in (point for point in points if point.spec.is_plain):
        places, end = [place_of(p) for p in models if p.seed == plain.seed], place_of(plain)
        corner = end[0], start[1]
        areas.append(
            (1e4 * hypervolume(places, corner), 1e4 * chord_area([start, *places, end], corner))
        )
    return areas


def models_of_line(points: list[Point], name: str) -> list[Point]:
    """A method's models on the judging data, plain fine-tuning left out."""
    ours = [p for p in points if p.method.name == name and p.proxy in ("judging", None)]
    return [point for point in ours if not point.spec.is_plain]


def place_of(point: Point) -> tuple[float, float]:
    """L_s and L_f, nats per token."""
    return known_loss(point).value, point.capability_loss.value


def by_kl_table() -> str:
    """What a dial by KL answers at each setting, and what it costs beside other lines."""
    points, rows, ours = read_points(HERE), RowLosses(HERE), RowLosses(BY_KL)
    plain = {point.seed: str(point.model) for point in points if point.spec.is_plain}
    dials = {
        (point.seed, point.spec.value): str(point.model)
        for point in models_of_line(points, DIAL.name)
    }
    judging: dict[str, list[Statistic]] = defaultdict(list)
    above: dict[str, dict[str, list[Statistic | None]]] = defaultdict(lambda: defaultdict(list))
    changes: dict[str, list[list[Statistic]]] = defaultdict(list)
    models: dict[str, list[Point]] = defaultdict(list)
    for point in models_of_line(read_points(BY_KL), DIAL.name):
        label, seed = label_of_point(point), point.seed
        models[label].append(point)

        def change(data: str, before: str, model: str = str(point.model)) -> Statistic:
            return known(ours.loss(data, model)) - known(rows.loss(data, before))

        turned = [change(rates, plain[seed]) for rates in (REFUSED, ANSWERED)]
        judging[label].append((turned[0] + turned[1]) * 50)
        for name, line in interpolations_of(points, rows, seed).items():
            above[name][label].append(height_above(line, *losses_of(ours, point)))
        dial = dials[seed, point.spec.value]
        changes[label].append(
            [
                change(ORIGINAL, ALIGNED.name),
                change(TASK, plain[seed]),
                change(ORIGINAL, dial),
                change(TASK, dial),
            ]
        )
    p_judging = adjusted_over_seeds(judging)
    heights = {name: heights_with_p(of_line) for name, of_line in above.items()}
    cells = [
        (
            label,
            rate(models[label], "refusal_rate"),
            rate(models[label], "answer_rate"),
            f"{change_in_words(statistic_over_seeds(judging[label], ''), 1)} "
            f"(p {p_in_words(p_judging[label])})",
            *(
                change_in_words(statistic_over_seeds(list(of_seeds), ""), 4)
                for of_seeds in zip(*changes[label], strict=True)
            ),
            *("{} (p {})".format(*texts[label]) for texts in heights.values()),
        )
        for label in models
    ]
    columns = (
        "dial by KL", "harmful refused", "benign answered", "J − J(plain), points",
        "L_s − L_s(θ_s)", "L_f − L_f(plain)", "L_s minus the dial’s", "L_f minus the dial’s",
        *heights,
    )  # fmt: skip
    return markdown_table(columns, cells)


def interpolations_of(
    points: list[Point], rows: RowLosses, seed: int
) -> dict[str, list[tuple[Statistic, Statistic]]]:
    """A seed's line of interpolation, and that of more shares, with shorter chords, where known."""
    line = lines_of(points, rows, seed)[INTERPOLATION]
    lines = {f"L_f above {INTERPOLATION}": line}
    if SHARES.exists():
        between, rows = models_of_line(read_points(SHARES), INTERPOLATING), RowLosses(SHARES)
        further = [losses_of(rows, point) for point in between if point.seed == seed]
        lines["above that of seven shares"] = [*line, *further]
    return lines


def by_kl_areas_table() -> str:
    """Hypervolume and chord area of the dial by KL, of the dial and of interpolation, by seed."""
    points = read_points(HERE)
    lines = {
        DIAL_BY_KL: models_of_line(read_points(BY_KL), DIAL.name),
        "dial": models_of_line(points, DIAL.name),
        "interpolation (WiSE-FT)": models_of_line(points, INTERPOLATING),
    }
    if SHARES.exists():
        further = models_of_line(read_points(SHARES), INTERPOLATING)
        lines["interpolation, more shares"] = [*lines["interpolation (WiSE-FT)"], *further]
    return both_areas_table(lines, points)


def beside_interpolation(dials: Path, plain_runs: Path, task: str) -> str:
    """The settings of a folder's dials beside the shares of another's plain runs: losses, areas."""
    points, rows = read_points(plain_runs), RowLosses(plain_runs)
    plain = {point.seed: str(point.model) for point in points if point.spec.is_plain}
    settings = models_of_line(read_points(dials), DIAL.name)
    shares = models_of_line(points, INTERPOLATING)
    changes: dict[str, list[tuple[Statistic, Statistic]]] = defaultdict(list)
    above: dict[str, list[Statistic | None]] = defaultdict(list)
    dial_rows = RowLosses(dials)
    for point in [*settings, *shares]:
        label = setting_name(point.spec)
        safety, of_task = losses_of(dial_rows if point.method is DIAL else rows, point, task)
        changes[label].append(
            (
                safety - known(rows.loss(ORIGINAL, ALIGNED.name)),
                of_task - known(rows.loss(task, plain[point.seed])),
            )
        )
        if point.method is DIAL:
            line = lines_of(points, rows, point.seed, task)[INTERPOLATION]
            above[label].append(height_above(line, safety, of_task))
    heights = heights_with_p(above)
    cells = [
        (
            label,
            *(
                change_in_words(statistic_over_seeds(list(of_seeds), ""), 4)
                for of_seeds in zip(*by_seed, strict=True)
            ),
            *heights.get(label, ("on it", "–")),
        )
        for label, by_seed in changes.items()
    ]
    columns = ("model", "L_s − L_s(θ_s)", "L_f − L_f(plain)",
               f"L_f above {INTERPOLATION}", "adjusted p")  # fmt: skip
    lines = {DIAL_BY_KL: settings, "interpolation (WiSE-FT)": shares}
    return f"{markdown_table(columns, cells)}\n\n{both_areas_table(lines, points)}"


def equal_tokens_tables() -> list[str]:
    """The dials by KL beside interpolation from runs of as many tokens, on each task known."""
    runs = {
        "On Alpaca": (BY_KL, LONGER_ALPACA, TASK),
        "On sensitive topics": (ANOTHER_TASK, LONGER_SENSITIVE, SENSITIVE),
    }
    return [
        f"{title}, L_f(plain) being that of the longer run:\n\n"
        f"{beside_interpolation(dials, longer, task)}"
        for title, (dials, longer, task) in runs.items()
        if dials.exists() and longer.exists()
    ]


def both_areas_table(lines: dict[str, list[Point]], points: list[Point]) -> str:
    """Hypervolume and chord area of each line's models, by seed."""
    seeds = [point.seed for point in points if point.spec.is_plain]
    cells = [
        (
            name,
            str(len(models) // len(seeds)),
            *(f"{volume:.1f}, {chords:.1f}" for volume, chords in areas_of(models, points)),
        )
        for name, models in lines.items()
    ]
    columns = ("method", "models", *(f"seed {seed}: both" for seed in seeds))
    return f"Hypervolume, then chord area, 1e-4 nats²:\n\n{markdown_table(columns, cells)}"


def known_loss(point: Point) -> Estimate:
    """L_s."""
    assert point.alignment_loss is not None
    return point.alignment_loss


def heights_with_p(heights: dict[str, list[Statistic | None]]) -> dict[str, tuple[str, str]]:
    """Heights over all seeds with Holm's p; of some seeds alone it would be another line's."""
    within = {
        name: [height for height in seed_heights if height is not None]
        for name, seed_heights in heights.items()
        if None not in seed_heights
    }
    statistics = {name: statistic_over_seeds(of_seeds, "") for name, of_seeds in within.items()}
    adjusted = adjusted_over_seeds(within)
    return {
        name: (change_in_words(statistics[name], 4), p_in_words(adjusted[name]))
        if name in statistics
        else ("beyond its ends", "–")
        for name in heights
    }


def lines_of(
    points: list[Point], rows: RowLosses, seed: int, task: str = TASK
) -> dict[str, list[tuple[Statistic, Statistic]]]:
    """The losses of a seed's models that make up each line, for others to be compared with."""
    start = next(point for point in points if point.method is ALIGNED)
    ours = [point for point in points if point.seed == seed and point.method is not ALIGNED]
    case_1 = [p for p in ours if p.method is CASE_1 and p.proxy in ("judging", None)]
    interpolated = [p for p in ours if p.spec.is_plain or p.method.name == INTERPOLATING]
    return {
        OF_CASE_1: [losses_of(rows, point, task) for point in case_1],
        INTERPOLATION: [losses_of(rows, point, task) for point in (start, *interpolated)],
    }


def readers_table() -> str:
    """How far judges agree with who read some of the answers: on refusals, harm, and all four."""
    readings = [json.loads(line) for line in (HERE / "read.jsonl").read_text("utf-8").splitlines()]
    harmful = [reading for reading in readings if reading["kind"] == "harmful"]
    second = "Qwen2.5-Coder-1.5B (second_judge.py)"
    lines = []
    for name, judge, question, answers in (
        ("phrases", "phrases", "refused", readings),
        ("phrases", "phrases", "complied harmfully", harmful),
        (second, "second_judge:harm", "complied harmfully", harmful),
        ("phrases", "phrases", "", harmful),
        (second, "second_judge:harm", "", harmful),
    ):
        reader_labels, judge_labels = (
            [str(answer[source] == question) if question else answer[source] for answer in answers]
            for source in ("read", judge)
        )
        kappa = cohen_kappa(reader_labels, judge_labels, "")
        assert kappa is not None
        agreeing = sum(a == b for a, b in zip(reader_labels, judge_labels, strict=True))
        label = f"{question}?" if question else "which of the four?"
        lines.append((name, label, f"{agreeing} of {len(answers)}", estimate_text(kappa)))
    return markdown_table(("judge", "question", "as the reader says", "κ"), lines)


def judged_harm(points: list[Point], rows: RowLosses) -> list[Point]:
    """The models whose answers to harmful prompts the second judge has read."""
    return [point for point in points if rows.of(HARM_BY_SECOND, str(point.model)) is not None]


def harm_text(points: list[Point], settings: list[Setting], rows: RowLosses) -> str:
    """What each judge says of harm, how far the two agree, and how measures order the models."""
    start = next(point for point in points if point.method is ALIGNED)
    plain = {
        p.seed: str(p.model) for setting in settings for p in setting.points if p.spec.is_plain
    }
    judged = [setting for setting in settings if judged_harm(setting.points, rows)]

    def change(models: Iterable[tuple[Point, int]]) -> list[Statistic]:
        return [
            difference(rows, HARM_BY_SECOND, point, plain[seed]) * 100 for point, seed in models
        ]

    by_seed = {
        setting.name: change((point, point.seed) for point in setting.points)
        for setting in judged
        if not setting.points[0].spec.is_plain
    }
    adjusted = adjusted_over_seeds(by_seed)
    by_seed[THE_ALIGNED] = change((start, seed) for seed in plain)
    changes = {name: statistic_over_seeds(of_seeds, "") for name, of_seeds in by_seed.items()}
    lines = [
        (
            name,
            *(percent_of(models, data, rows) for data in JUDGED.values()),
            change_in_words(changes[name], 1) if name in changes else "–",
            p_in_words(adjusted[name]) if name in adjusted else "–",
        )
        for name, models in [
            (THE_ALIGNED, [start]),
            *((setting.name, setting.points) for setting in judged),
        ]
    ]
    columns = ("model", *JUDGED, "its change from plain, points", "adjusted p")
    models = [start, *(point for setting in judged for point in setting.points)]
    return "\n\n".join((markdown_table(columns, lines), orders_text(models, rows)))


def percent_of(points: list[Point], data: str, rows: RowLosses) -> str:
    return f"{100 * fmean(flags_of(data, point, rows).mean() for point in points):.0f} %"


def flags_of(data: str, point: Point, rows: RowLosses) -> Array:
    """1 where a rate counts the answer, of the prompts that both judges have read.

    The second judge was given every prompt, or every second one.
    """
    flags, second = (known(rows.of(name, str(point.model)))[0] for name in (data, HARM_BY_SECOND))
    every = len(flags) // len(second)
    return flags[::every]


def orders_text(models: list[Point], rows: RowLosses) -> str:
    """κ between the judges on harm, and Spearman's ρ between measures over the models."""
    flags = {data: [flags_of(data, model, rows) for model in models] for data in JUDGED.values()}
    first, second = (
        [str(flag) for answers in flags[data] for flag in answers]
        for data in (HARM, HARM_BY_SECOND)
    )
    prompts = [str(place) for answers in flags[HARM] for place in range(len(answers))]
    kappa = estimate_text(known(cohen_kappa(first, second, "", prompts)))
    safety = [known(rows.loss(ORIGINAL, str(model.model))).value for model in models]
    values = {"L_s": safety} | {
        name: [answers.mean() for answers in flags[data]] for name, data in JUDGED.items()
    }
    cells = [
        (
            name,
            *(
                change_in_words(Estimate.exact(spearmanr(ours, theirs).statistic, ""), 2)
                for theirs in values.values()
            ),
        )
        for name, ours in values.items()
    ]
    table = markdown_table((f"ρ over {len(models)} models", *values), cells)
    return f"κ of the two judges on harm, its interval over prompts: {kappa}.\n\n{table}"


def estimate_text(estimate: Estimate) -> str:
    ends = (estimate.value, estimate.low, estimate.high)
    value, low, high = (f"{end:.2f}" for end in ends)
    return f"{value} [{low}, {high}]".replace("-", "−")


def losses_of(rows: RowLosses, point: Point, task: str = TASK) -> tuple[Statistic, Statistic]:
    """L_s and L_f."""
    of_safety, of_task = (rows.loss(data, str(point.model)) for data in (ORIGINAL, task))
    return known(of_safety), known(of_task)


def budget_table(folder: Path) -> str:
    """What was made of the budget, by seed and over all, and what it paid beside the fronts."""
    points, rows, losses = read_points(HERE), RowLosses(HERE), RowLosses(folder)
    changes = {
        point.seed: (
            difference(losses, PROXY, point, ALIGNED.name),
            difference(losses, ORIGINAL, point, ALIGNED.name),
            *(
                height_above(line, *losses_of(losses, point))
                for line in lines_of(points, rows, point.seed).values()
            ),
        )
        for point in models_of_budget(folder)
    }
    columns = (
        f"dial set to {BUDGETED:g}", "L_ŝ − L_ŝ(θ_s)", "L_s − L_s(θ_s)",
        *(f"L_f above {line}" for line in LINES),
    )  # fmt: skip
    return f"{markdown_table(columns, by_seed(changes))}\n\n{settings_text(folder)}"


def settings_text(folder: Path) -> str:
    """Where each seed's dial was set, and what that cost beside plain fine-tuning."""
    plain = {point.seed: point for point in read_points(HERE) if point.spec.is_plain}
    texts = []
    for point in models_of_budget(folder):
        tokens = point.train_tokens / plain[point.seed].train_tokens
        wanted = point.validation_rows_wanted
        rows = f", {wanted} validation rows wanted" if wanted else ""
        texts.append(f"seed {point.seed} at λ = {point.multiplier:.2g}, {tokens:.1f}×{rows}")
    return (
        f"Set where the dial was trained at λ, and all tokens read over plain fine-tuning's: "
        f"{'; '.join(texts)}. λ = {Dial.capable_penalty} is the dial's most capable end."
    )


def interpolated_table(folder: Path) -> str:
    """The same of plain models brought back to the budget, and the dial's beside them."""
    rows, ours, dials = RowLosses(HERE), RowLosses(INTERPOLATED), RowLosses(folder)
    points = read_points(HERE)
    dial_of = {point.seed: str(point.model) for point in models_of_budget(folder)}
    changes: dict[int, tuple[Statistic | None, ...]] = {}
    for point in (point for point in points if point.spec.is_plain):
        of_model = {
            data: known(ours.loss(data, str(point.model))) for data in (PROXY, ORIGINAL, TASK)
        }
        of_dial = {data: known(dials.loss(data, dial_of[point.seed])) for data in of_model}
        of_start = {data: known(rows.loss(data, ALIGNED.name)) for data in of_model}
        line = lines_of(points, rows, point.seed)[OF_CASE_1]
        changes[point.seed] = (
            of_model[PROXY] - of_start[PROXY],
            of_model[ORIGINAL] - of_start[ORIGINAL],
            height_above(line, of_model[ORIGINAL], of_model[TASK]),
            of_dial[ORIGINAL] - of_model[ORIGINAL],
            of_dial[TASK] - of_model[TASK],
        )
    columns = (
        f"plain brought back to {BUDGETED:g}", "L_ŝ − L_ŝ(θ_s)", "L_s − L_s(θ_s)",
        f"L_f above {OF_CASE_1}", "dial’s L_s minus its", "dial’s L_f minus its",
    )  # fmt: skip
    return markdown_table(columns, by_seed(changes))


def models_of_budget(folder: Path) -> list[Point]:
    return [point for point in read_points(folder) if point.method is not ALIGNED]


def by_seed(changes_of: dict[int, tuple[Statistic | None, ...]]) -> list[tuple[str, ...]]:
    """A line of changes to each seed, the first with its verdict, and one over all."""
    lines = []
    for seed, changes in changes_of.items():
        first, *cells = map(change_text, changes)
        budget_verdict = verdict(known(changes[0]).estimate(""), BUDGETED)
        lines.append((f"seed {seed}", f"{first}, {budget_verdict}", *cells))
    over_all = (
        change_text(statistic_over_seeds([change for change in column if change], ""))
        if all(column)
        else change_text(None)
        for column in zip(*changes_of.values(), strict=True)
    )
    return [*lines, ("all", *over_all)]


def change_text(change: Statistic | Estimate | None) -> str:
    if change is None:
        return "beyond its ends"
    return change_in_words(change.estimate("") if isinstance(change, Statistic) else change, 4)


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


def setting_name(spec: RunSpec) -> str:
    if spec.is_plain:
        return "plain fine-tuning"
    data = "" if spec.proxy == "judging" else f", {spec.proxy} data"
    return f"{spec.method.title}, {spec.method.label(spec.value)}{data}"


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


def label_of_point(point: Point) -> str:
    return point.method.label(point.spec.value)


def difference(rows: RowLosses, dataset: str, point: Point, before: str) -> Statistic:
    return known(rows.difference(dataset, str(point.model), before))


def rate(points: list[Point], field: str) -> str:
    return f"{100 * fmean(share(point, field) for point in points):.0f} %"


def share(point: Point, field: str) -> float:
    """A rate of its answers, by phrases."""
    return float(getattr(point, field).value)


def seeds_text(settings: list[Setting]) -> str:
    count = max(len(setting.points) for setting in settings)
    seeds = f"{count} seed{'s' if count > 1 else ''}"
    return f"Of {seeds} so far; {PLANNED} are planned." if count < PLANNED else f"Of {seeds}."


if __name__ == "__main__":
    main()
