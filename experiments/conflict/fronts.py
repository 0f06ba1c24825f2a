"""What models lose and learn beside the fronts of Case I and of interpolation (WiSE-FT)."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from pathlib import Path
from statistics import fmean

import numpy as np
from runs import (
    ANOTHER_TASK,
    ANSWERED,
    BY_KL,
    DIAL_BY_KL,
    EIGHT_RUNS,
    HERE,
    INTERPOLATING,
    LONGER_ALPACA,
    LONGER_BUDGET_BY_KL,
    LONGER_SENSITIVE,
    ORIGINAL,
    REFUSED,
    SENSITIVE,
    SHARES,
    TASK,
    difference,
    label_of_point,
    losses_of,
    models_of_line,
    place_of,
    rate,
    setting_name,
)

from trimtab.analysis.labels import area_in_words, change_in_words, p_in_words
from trimtab.config.methods import ALIGNED, CASE_1, CASE_1_BUDGET, CASE_2_RADIUS, DIAL, Method
from trimtab.report.markdown import markdown_table
from trimtab.results.per_row_losses import RowLosses, known
from trimtab.results.result import Point
from trimtab.results.store import read_points
from trimtab.stats import (
    Statistic,
    adjusted_over_seeds,
    height_above,
    statistic_over_seeds,
    student_mean,
)
from trimtab.theory import chord_area, hypervolume

BY_SHARE = "case-one-by-share"
BESIDE_CASE_1 = (INTERPOLATING, "dial", "alignment-parameter-radius", BY_SHARE)
OF_CASE_1, INTERPOLATION = "Case I’s front", "interpolation’s"
LINES = (OF_CASE_1, INTERPOLATION)


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
            read = sum(point.train_tokens for point in trainings_of(of_seed))
            tokens.append(read / unconstrained.train_tokens)
        title = trained[0].method.title
        areas = (f"{volume:.1f}" for volume, _ in areas_of(trained, points))
        lines.append((title, str(len(trained) // len(plain)), f"{fmean(tokens):.1f}×", *areas))
    seeds = [f"seed {seed}, 1e-4 nats²" for seed in plain]
    return markdown_table(("method", "models", "tokens over one plain run's", *seeds), lines)


def trainings_of(models: list[Point]) -> list[Point]:
    """A method's models, of each training one: a dial's settings have one, a plain run's shares."""
    if models[0].method.name in (DIAL.name, INTERPOLATING):
        return list({point.seed: point for point in models}.values())
    return models


def areas_of(
    models: list[Point], points: list[Point], *, with_ends: bool = True
) -> list[tuple[float, float]]:
    """By seed, 1e-4 nats²: the hypervolume, and the area above the chords from θ_s to plain.

    Of `points` θ_s and plain fine-tuning are read; without `with_ends` they are no places of the
    chords, and set the corner alone.
    """
    start = place_of(next(point for point in points if point.method is ALIGNED))
    areas = []
    for plain in (point for point in points if point.spec.is_plain):
        places, end = [place_of(p) for p in models if p.seed == plain.seed], place_of(plain)
        corner, ends = (end[0], start[1]), [start, end] if with_ends else []
        areas.append(
            (1e4 * hypervolume(places, corner), 1e4 * chord_area([*places, *ends], corner))
        )
    return areas


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


def dials_beside_interpolation(dials: Path, plain_runs: Path, task: str) -> str:
    """The settings of a folder's dials beside the shares of another's plain runs: losses, areas."""
    points = read_points(plain_runs)
    lines = {
        DIAL_BY_KL: models_of_line(read_points(dials), DIAL.name),
        "interpolation (WiSE-FT)": models_of_line(points, INTERPOLATING),
    }
    losses = beside_interpolation(dials, DIAL, plain_runs, task)
    return f"{losses}\n\n{both_areas_table(lines, points)}"


def beside_interpolation(folder: Path, method: Method, plain_runs: Path, task: str) -> str:
    """A folder's models of a method beside the shares of another's plain runs: their losses."""
    points, rows, our_rows = read_points(plain_runs), RowLosses(plain_runs), RowLosses(folder)
    plain = {point.seed: str(point.model) for point in points if point.spec.is_plain}
    models = models_of_line(read_points(folder), method.name)
    shares = models_of_line(points, INTERPOLATING)
    changes: dict[str, list[tuple[Statistic, Statistic]]] = defaultdict(list)
    above: dict[str, list[Statistic | None]] = defaultdict(list)
    for point in [*models, *shares]:
        label, is_ours = setting_name(point.spec), point.method is method
        safety, of_task = losses_of(our_rows if is_ours else rows, point, task)
        changes[label].append(
            (
                safety - known(rows.loss(ORIGINAL, ALIGNED.name)),
                of_task - known(rows.loss(task, plain[point.seed])),
            )
        )
        if is_ours:
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
    return markdown_table(columns, cells)


def equal_tokens_tables() -> list[str]:
    """The dials by KL beside interpolation from runs of as many tokens, on each task known."""
    runs = {
        "On Alpaca": (BY_KL, LONGER_ALPACA, TASK),
        "On sensitive topics": (ANOTHER_TASK, LONGER_SENSITIVE, SENSITIVE),
    }
    tables = [
        f"{title}, L_f(plain) being that of the longer run:\n\n"
        f"{dials_beside_interpolation(dials, longer, task)}"
        for title, (dials, longer, task) in runs.items()
        if dials.exists() and longer.exists()
    ]
    if LONGER_ALPACA.exists():
        budgets = beside_interpolation(LONGER_BUDGET_BY_KL, CASE_1_BUDGET, LONGER_ALPACA, TASK)
        head = "\n".join(budgets.splitlines()[:3])
        tables.append(f"And the budget’s models of [endpoint 15](#a-budget), on Alpaca:\n\n{head}")
    return tables


def eight_runs_table() -> str:
    """The areas of a dial's models, and of interpolation's, over those of eight runs."""
    points, plain_runs = read_points(EIGHT_RUNS), read_points(SHARES)
    runs = models_of_line(points, BY_SHARE)
    shares = chain(*(models_of_line(of, INTERPOLATING) for of in (read_points(HERE), plain_runs)))
    lines = {
        "eight runs by KL, rows by weight": runs,
        "dial by KL, 1.25 × a run’s steps": models_of_line(points, DIAL.name),
        "interpolation (WiSE-FT)": list(shares),
    }
    seeds = sorted({point.seed for point in runs})
    a_run = fmean(point.train_tokens for point in runs)
    of_runs = np.array(areas_of(runs, plain_runs, with_ends=False))
    cells = []
    for name, models in lines.items():
        tokens = sum(point.train_tokens for point in trainings_of(models)) / len(seeds) / a_run
        areas = np.array(areas_of(models, plain_runs, with_ends=False))
        ratios = (area_in_words(student_mean(column, "")) for column in (areas / of_runs).T)
        by_seed = (f"{volume:.1f}, {chords:.1f}" for volume, chords in areas)
        cells.append((name, str(len(models) // len(seeds)), f"{tokens:.2f}×", *by_seed, *ratios))
    columns = (
        "method", "models", "tokens over a run’s", *(f"seed {seed}: both" for seed in seeds),
        "hypervolume over the runs’", "chord area over the runs’",
    )  # fmt: skip
    return f"Hypervolume, then chord area, 1e-4 nats²:\n\n{markdown_table(columns, cells)}"


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
