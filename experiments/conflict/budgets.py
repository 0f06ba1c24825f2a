"""What was made of a budget, and what it paid beside the fronts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from fronts import INTERPOLATION, LINES, OF_CASE_1, beside_interpolation, lines_of
from interpolate import BUDGET as BUDGETED
from runs import (
    BUDGET,
    BUDGET_AT_LENGTH,
    BUDGET_BY_KL,
    BY_KL,
    HERE,
    INTERPOLATED,
    LONGER_BUDGET_BY_KL,
    ORIGINAL,
    PROXY,
    TASK,
    difference,
    losses_of,
    rate,
    setting_name,
)
from unread import FOLDER as UNREAD_FOLDER
from unread import UNREAD, aligned_name

from trimtab.analysis.labels import change_in_words
from trimtab.config.experiment import Dial
from trimtab.config.methods import ALIGNED, CASE_1_BUDGET
from trimtab.report.markdown import markdown_table
from trimtab.results.per_row_losses import RowLosses, known
from trimtab.results.result import Point
from trimtab.results.store import read_points
from trimtab.stats import (
    Estimate,
    Statistic,
    height_above,
    over_seeds,
    statistic_over_seeds,
    verdict,
)

BUDGETS = {
    BUDGET: "budget",
    BUDGET_BY_KL: "budget by KL",
    LONGER_BUDGET_BY_KL: "longer budget by KL",
}
"""The runs whose dial is set beside the conflict's own models, and README.md's marks for them."""


def scale_table() -> str:
    """What a rise of either safety loss went with in refusals, means over the seeds."""
    points = read_points(HERE)
    (start,) = (point for point in points if point.method is ALIGNED and point.proxy == "judging")
    groups: dict[str, list[Point]] = {}
    for folder, suffix in ((HERE, ""), (BY_KL, ", by KL"), (BUDGET, ""), (BUDGET_BY_KL, ", by KL")):
        for point in read_points(folder):
            if point.method is not ALIGNED and point.proxy == "judging":
                groups.setdefault(f"{setting_name(point.spec)}{suffix}", []).append(point)

    def risen(of: Callable[[Point], Estimate | None], models: list[Point]) -> float:
        return fmean(known(of(point)).value for point in models) - known(of(start)).value

    rows = [("the start", 0.0, 0.0, rates_of([start]))]
    rows += [
        (
            name,
            risen(lambda point: point.proxy_loss, models),
            risen(lambda point: point.alignment_loss, models),
            rates_of(models),
        )
        for name, models in groups.items()
    ]
    columns = (
        "model", "your rows' loss over the start's", "that of original rows", "harmful refused",
        "benign answered",
    )  # fmt: skip
    ordered = sorted(rows, key=lambda row: row[2])
    cells = [(name, *map(signed, losses), *rates) for name, *losses, rates in ordered]
    return markdown_table(columns, cells)


def rates_of(models: list[Point]) -> tuple[str, str]:
    return rate(models, "refusal_rate"), rate(models, "answer_rate")


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−") if abs(value) >= 5e-4 else "0"


def budget_table(folder: Path, beside: Path = HERE, fronts: tuple[str, ...] = LINES) -> str:
    """What was made of the budget, by seed and over all, and what it paid beside a run's fronts."""
    points, rows, losses = read_points(beside), RowLosses(beside), RowLosses(folder)
    changes = {
        point.seed: (
            difference(losses, PROXY, point, ALIGNED.name),
            difference(losses, ORIGINAL, point, ALIGNED.name),
            *(
                height_above(lines_of(points, rows, point.seed)[front], *losses_of(losses, point))
                for front in fronts
            ),
        )
        for point in models_of_budget(folder)
    }
    columns = (
        f"dial set to {BUDGETED:g}", "L_ŝ − L_ŝ(θ_s)", "L_s − L_s(θ_s)",
        *(f"L_f above {front}" for front in fronts),
    )  # fmt: skip
    return f"{markdown_table(columns, by_seed(changes))}\n\n{settings_text(folder, beside)}"


def budget_text(folder: Path, beside: Path = HERE, fronts: tuple[str, ...] = LINES) -> str:
    """`budget_table`, and what was spent on rows that no model read, where that was measured."""
    table = budget_table(folder, beside, fronts)
    if not (folder / UNREAD_FOLDER).exists():
        return table
    return f"{table}\n\n{unread_table(folder)}"


def at_length_text() -> str:
    """The budget where a run is four times as long, beside plain models of the same length."""
    run = BUDGET_AT_LENGTH
    of_budget = budget_text(run, run, (INTERPOLATION,))
    return f"{of_budget}\n\n{beside_interpolation(run, CASE_1_BUDGET, run, TASK)}"


def unread_table(folder: Path) -> str:
    """What was made of the budget on rows that no model read, which are other rows by seed."""
    losses = RowLosses(folder / UNREAD_FOLDER)
    changes, counts = [], []
    for point in models_of_budget(folder):
        change = losses.difference(UNREAD, str(point.model), aligned_name(point.seed))
        changes.append(known(change).estimate(""))
        counts.append(known(losses.of(UNREAD, str(point.model))).shape[1])
    names = [f"seed {point.seed}" for point in models_of_budget(folder)]
    cells = [
        (name, count, f"{change_in_words(change, 4)}, {verdict(change, BUDGETED)}", share)
        for name, count, change, share in zip(
            [*names, "all"],
            [*map(str, counts), "–"],
            [*changes, over_seeds(changes)],
            map(spent_text, [*changes, over_seeds(changes)]),
            strict=True,
        )
    ]
    columns = ("dial", "prompts that no model read", "L_ŝ − L_ŝ(θ_s) there", "of the budget spent")
    return markdown_table(columns, cells)


def spent_text(change: Estimate) -> str:
    value, low, high = (f"{end / BUDGETED:.2f}" for end in (change.value, change.low, change.high))
    return f"{value} [{low}, {high}]"


def settings_text(folder: Path, beside: Path) -> str:
    """Where each seed's dial was set, and what that cost beside a run's plain fine-tuning."""
    plain = {point.seed: point for point in read_points(beside) if point.spec.is_plain}
    texts = []
    for point in models_of_budget(folder):
        tokens = point.train_tokens / plain[point.seed].train_tokens
        wanted = point.validation_rows_wanted
        rows = f", {wanted} validation rows wanted" if wanted else ""
        texts.append(f"seed {point.seed} at λ = {point.multiplier:.2g}, {tokens:.1f}×{rows}")
    text = (
        f"Set where the dial was trained at λ, and all tokens read over plain fine-tuning's: "
        f"{'; '.join(texts)}. λ = {Dial.capable_penalty} is the dial's most capable end."
    )
    points = models_of_budget(folder)
    if all(point.refusal_rate for point in points):
        refused, answered = (rate(points, field) for field in ("refusal_rate", "answer_rate"))
        text += f" {refused} of the harmful prompts are refused, {answered} of the benign answered."
    return text


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
    return [point for point in read_points(folder) if point.method is CASE_1_BUDGET]


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
