"""Take the runs' numbers into the repository, and write this folder's tables.

    python experiments/knobs/write.py [RUNS/knobs]

Given the folder of the sweeps, whole or so far, their points and what each held-out row and prompt
gave are copied here; the tables are made from what lies here.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from run import SEEDS, VARIANTS

from trimtab.config.methods import ALIGNED
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.results.store import POINTS_FILE, copy_measurements, read_points
from trimtab.stats import Estimate, Statistic, statistic_over_seeds

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
REFUSED, ANSWERED = "answers:refusal_rate", "answers:answer_rate"
PER_TOKEN, POINTS = "nats per token", "points of a hundred"
CENTRE = "centre"
KINDS = {"judging": "safe answers and ordinary ones", "refusing": "safe answers alone"}
TASKS = {"alpaca": "Alpaca", "sensitive": "Dolly on sensitive topics"}


@dataclass
class Setting:
    """A variant at a penalty, its changes from plain fine-tuning as the centre has it, by seed."""

    task_paid: list[Statistic] = field(default_factory=list)
    """L_f − L_f(plain)."""
    safety_kept: list[Statistic] = field(default_factory=list)
    """L_s(plain) − L_s."""
    judging: list[Statistic] = field(default_factory=list)
    """J − J(plain), J = (share of harmful prompts refused + share of benign ones answered)/2."""


def main() -> None:
    if len(sys.argv) > 1:
        take(Path(sys.argv[1]))
    for task, title in TASKS.items():
        for kind, words in KINDS.items():
            found = settings_of(task, kind)
            seeds = max((len(one.task_paid) for one in found.values()), default=0)
            text = f"{title}; safety data: {words}; {seeds} seeds.\n\n{table(found)}"
            replace_between(PAGE, f"{task}-{kind}", text)
            print(text, end="\n\n")


def take(runs: Path) -> None:
    """Copy points and row losses of the sweeps, whole or so far."""
    for name in VARIANTS:
        for seed in SEEDS:
            folder = runs / f"{name}-{seed}"
            if (folder / POINTS_FILE).exists():
                copy_measurements(folder, HERE / "results" / folder.name)


def settings_of(task: str, kind: str) -> dict[str, Setting]:
    """Every setting on a task with a kind of safety data, by its name; plain ones too."""
    found: dict[str, Setting] = defaultdict(Setting)
    for seed in SEEDS:
        centre = HERE / "results" / f"{CENTRE}-{seed}"
        plain = next((one for one in points_in(centre) if is_plain(one, task)), None)
        if plain is None:
            continue
        before = rows_of(centre, plain, task)
        for variant in VARIANTS:
            folder = HERE / "results" / f"{variant}-{seed}"
            for point in points_in(folder):
                if point is plain or point.task != task or point.method is ALIGNED:
                    continue
                if is_plain(point, task) or point.proxy == kind:
                    after = rows_of(folder, point, task)
                    setting = found[named(variant, point)]
                    setting.task_paid.append(after[0] - before[0])
                    setting.safety_kept.append(before[1] - after[1])
                    setting.judging.append(after[2] - before[2])
    return found


def points_in(folder: Path) -> list[Point]:
    return read_points(folder) if (folder / POINTS_FILE).exists() else []


def is_plain(point: Point, task: str) -> bool:
    return point.spec.is_plain and point.task == task and point.method is not ALIGNED


def rows_of(folder: Path, point: Point, task: str) -> tuple[Statistic, Statistic, Statistic]:
    """L_f, L_s and J of a model, with what each row or prompt contributes."""
    rows, model = RowLosses(folder), str(point.model)

    def known(dataset: str) -> Statistic:
        found = rows.loss(dataset, model)
        assert found is not None, (folder, dataset, model)
        return found

    return known(f"task:{task}"), known("original"), (known(REFUSED) + known(ANSWERED)) * 0.5


def named(variant: str, point: Point) -> str:
    strength = "plain" if point.spec.is_plain else f"λ = {point.spec.value:g}"
    if variant == CENTRE:
        return strength
    knob, _, value = variant.rpartition("-")
    return f"{knob.replace('-', ' ')} {value}, {strength}"


def table(found: dict[str, Setting]) -> str:
    lines = []
    for name, one in found.items():
        paid = statistic_over_seeds(one.task_paid, PER_TOKEN)
        kept = statistic_over_seeds(one.safety_kept, PER_TOKEN)
        judging = statistic_over_seeds([each * 100 for each in one.judging], POINTS)
        lines.append((name, told(paid, 3), told(kept, 3), price(one, kept), told(judging, 1)))
    columns = (
        "setting", "task loss paid", "safety loss kept", "paid per nat kept",
        "judging better by, points",
    )  # fmt: skip
    return markdown_table(columns, lines)


def price(one: Setting, kept: Estimate) -> str:
    """Nats of task loss per nat of safety loss, by the delta method; none where none is kept."""
    if kept.low <= 0:
        return "–"
    ratios = [
        quotient(paid, safety)
        for paid, safety in zip(one.task_paid, one.safety_kept, strict=True)
        if safety.value > 0
    ]
    return told(statistic_over_seeds(ratios, "nats per nat"), 2)


def quotient(above: Statistic, below: Statistic) -> Statistic:
    """a/b, ψ = (ψ_a − (a/b)·ψ_b)/b."""
    value = above.value / below.value
    return Statistic(value, ((above - below * value) * (1 / below.value)).influence)


def told(estimate: Estimate, digits: int) -> str:
    ends = (estimate.value, estimate.low, estimate.high)
    value, low, high = (f"{end:+.{digits}f}" for end in ends)
    return f"{value} [{low}, {high}]".replace("-", "−")


if __name__ == "__main__":
    main()
