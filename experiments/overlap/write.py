"""Take the runs' numbers into the repository, and write this folder's tables.

    python experiments/overlap/write.py [RUNS]

Given the folder of the sweeps, those of them that are whole are copied here: their points and the
losses of every held-out row; the tables of README.md are made from what lies here.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from trimtab.analysis.labels import change_in_words, estimate_in_words, p_in_words
from trimtab.analysis.verdicts import lies_above_zero
from trimtab.config.data_names import task_data
from trimtab.config.methods import ALIGNED
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.per_row_losses import RowLosses, known
from trimtab.results.result import Point
from trimtab.results.store import read_points
from trimtab.runner.status import copy_if_whole
from trimtab.stats import Estimate, Statistic, p_value_over_seeds, statistic_over_seeds

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
TASKS, PLAIN = HERE / "tasks", HERE / "tasks-plain"
TAKEN = {"overlap": HERE, "overlap-tasks": TASKS, "overlap-tasks-plain": PLAIN}
"""Where the measurements of a run lie here."""
LOOSE, TIGHT = 0.1, 10.0
SAME, OTHER = "same-prompts", "code"
UNIT = "nats per token"

BySeed = dict[int, Statistic]


def main() -> None:
    if len(sys.argv) > 1:
        for name, folder in TAKEN.items():
            copy_if_whole(Path(sys.argv[1]) / name, folder)
    text = costs_text()
    replace_between(PAGE, "results", text)
    print(text)
    if TASKS.exists() and PLAIN.exists():
        text = shares_text()
        replace_between(PAGE, "tasks", text)
        print(text)


def costs_text() -> str:
    """What safety costs by its prompts, seed by seed, and the difference."""
    costs = costs_by_context()
    difference = {seed: costs[SAME][seed] - costs[OTHER][seed] for seed in costs[SAME]}
    by_name = {**costs, f"{SAME} − {OTHER}": difference}
    rows = [
        (
            name,
            *(signed(cost[seed].value, 4) for seed in difference),
            change_in_words(over(cost), 4),
        )
        for name, cost in by_name.items()
    ]
    columns = ("cost of safety data", *(f"seed {seed}" for seed in difference), "mean [95 %]")
    return f"{markdown_table(columns, rows)}\n\n{verdict_text(difference)}"


def costs_by_context() -> dict[str, BySeed]:
    """By safety data and seed, L_f(λ = 10) − L_f(λ = 0.1) on the same held-out rows."""
    rows = RowLosses(HERE)
    models: dict[tuple[str, int], dict[float, str]] = defaultdict(dict)
    for point in trained(HERE):
        if point.spec.value is not None:
            models[str(point.proxy), point.seed][point.spec.value] = str(point.model)
    costs: dict[str, BySeed] = {SAME: {}, OTHER: {}}
    for (proxy, seed), of_penalty in sorted(models.items()):
        costs[proxy][seed] = known(
            rows.difference(task_data("alpaca"), of_penalty[TIGHT], of_penalty[LOOSE])
        )
    return costs


def shares_text() -> str:
    """The share of plain fine-tuning's gain that is lost, by task, and its slope over overlap."""
    overlaps: dict[str, Estimate | None] = {}
    gains: dict[str, BySeed] = defaultdict(dict)
    shares: dict[str, BySeed] = defaultdict(dict)
    rows, of_plain = RowLosses(TASKS), RowLosses(PLAIN)
    plain = {(point.task, point.seed): str(point.model) for point in trained(PLAIN)}
    for point in trained(TASKS):
        data = task_data(point.task)
        start = known(rows.loss(data, ALIGNED.name))
        freely = known(of_plain.loss(data, plain[point.task, point.seed]))
        constrained = known(rows.loss(data, str(point.model)))
        overlaps[point.task] = point.context_overlap
        gains[point.task][point.seed] = start - freely
        shares[point.task][point.seed] = (constrained - freely) / (start - freely)
    across = np.array([known(overlap).value for overlap in overlaps.values()])
    weights = (across - across.mean()) / np.sum((across - across.mean()) ** 2)
    slopes: BySeed = {}
    for seed in sorted({seed for of_task in shares.values() for seed in of_task}):
        parts = [of_task[seed] * w for of_task, w in zip(shares.values(), weights, strict=True)]
        slopes[seed] = reduce(add, parts)
    lines = [
        (
            task,
            estimate_in_words(known(overlaps[task])),
            estimate_in_words(over(gains[task])),
            *(signed(of_task[seed].value, 3) for seed in slopes),
            change_in_words(over(of_task), 3),
        )
        for task, of_task in shares.items()
    ]
    cells = (signed(slope.value, 3) for slope in slopes.values())
    lines.append(("slope over overlap", "–", "–", *cells, change_in_words(over(slopes), 3)))
    columns = ("task", "context overlap", "plain’s gain, nats per token",
               *(f"share lost, seed {seed}" for seed in slopes), "mean [95 %]")  # fmt: skip
    return f"{markdown_table(columns, lines)}\n\n{verdict_text(slopes, looks=2)}"


def trained(folder: Path) -> list[Point]:
    return [point for point in read_points(folder) if point.method is not ALIGNED]


def over(by_seed: BySeed) -> Estimate:
    return statistic_over_seeds(list(by_seed.values()), UNIT)


def signed(value: float, digits: int) -> str:
    return change_in_words(Estimate.exact(value, UNIT), digits)


def verdict_text(effects: BySeed, looks: int = 1) -> str:
    """What the interval says; of data looked at before, only with p adjusted for it."""
    p_value = min(1.0, looks * p_value_over_seeds(list(effects.values())))
    verdict = lies_above_zero(over(effects)) if looks == 1 or p_value < 0.05 else "undecided"
    p_text = f", p {p_in_words(p_value)} for {looks} looks" if looks > 1 else ""
    return f"The finding: **{verdict}**, with {len(effects)} seeds{p_text}."


if __name__ == "__main__":
    main()
