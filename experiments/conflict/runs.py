"""Where the measurements of each run lie, and what is read of a model there."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from trimtab.config.data_names import answers_data
from trimtab.config.run_spec import RunSpec
from trimtab.results.per_row_losses import RowLosses, known
from trimtab.results.result import Point
from trimtab.stats import Estimate, Statistic

HERE = Path(__file__).parent
BUDGET, INTERPOLATED = HERE / "budget", HERE / "interpolated"
BY_KL, BUDGET_BY_KL, SHARES = HERE / "by_kl", HERE / "budget_by_kl", HERE / "shares"
LONGER_BUDGET_BY_KL, BUDGET_AT_LENGTH = HERE / "budget_by_kl_longer", HERE / "budget_at_length"
ANOTHER_TASK = HERE / "another_task"
LONGER_ALPACA, LONGER_SENSITIVE = HERE / "longer_alpaca", HERE / "longer_sensitive"
EIGHT_RUNS = HERE / "eight_runs"
TAKEN = {
    "conflict": HERE,
    "conflict-budget": BUDGET,
    "conflict-by-kl": BY_KL,
    "conflict-budget-by-kl": BUDGET_BY_KL,
    "conflict-budget-by-kl-longer": LONGER_BUDGET_BY_KL,
    "conflict-budget-at-length": BUDGET_AT_LENGTH,
    "conflict-shares": SHARES,
    "conflict-another-task": ANOTHER_TASK,
    "conflict-longer-alpaca": LONGER_ALPACA,
    "conflict-longer-sensitive": LONGER_SENSITIVE,
    "conflict-eight-runs": EIGHT_RUNS,
}
"""The folder here of each run."""
TASK, ORIGINAL, PROXY = "task:alpaca", "original", "safety:judging"
SENSITIVE = "task:sensitive"
REFUSED, ANSWERED = "answers:refusal_rate", "answers:answer_rate"
HARM = answers_data("harmful_rate")
HARM_BY_SECOND = answers_data("harmful_rate", "second_judge:harm")
INTERPOLATING = "wise-ft"
DIAL_BY_KL = "dial by KL"
THE_ALIGNED = "aligned model θ_s"


def models_of_line(points: list[Point], name: str) -> list[Point]:
    """A method's models on the judging data, plain fine-tuning left out."""
    ours = [p for p in points if p.method.name == name and p.proxy in ("judging", None)]
    return [point for point in ours if not point.spec.is_plain]


def place_of(point: Point) -> tuple[float, float]:
    """L_s and L_f, nats per token."""
    return known_loss(point).value, point.capability_loss.value


def known_loss(point: Point) -> Estimate:
    """L_s."""
    assert point.alignment_loss is not None
    return point.alignment_loss


def losses_of(rows: RowLosses, point: Point, task: str = TASK) -> tuple[Statistic, Statistic]:
    """L_s and L_f."""
    of_safety, of_task = (rows.loss(data, str(point.model)) for data in (ORIGINAL, task))
    return known(of_safety), known(of_task)


def setting_name(spec: RunSpec) -> str:
    if spec.is_plain:
        return "plain fine-tuning"
    data = "" if spec.proxy == "judging" else f", {spec.proxy} data"
    return f"{spec.method.title}, {spec.method.label(spec.value)}{data}"


def label_of_point(point: Point) -> str:
    return point.method.label(point.spec.value)


def difference(rows: RowLosses, dataset: str, point: Point, before: str) -> Statistic:
    return known(rows.difference(dataset, str(point.model), before))


def rate(points: list[Point], field: str) -> str:
    return f"{100 * fmean(share(point, field) for point in points):.0f} %"


def share(point: Point, field: str) -> float:
    """A rate of its answers, by phrases."""
    return float(getattr(point, field).value)
