"""What a training changed: each loss and rate at the start, after it, and the paired difference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trimtab.config.data_names import answers_data
from trimtab.config.methods import ALIGNED
from trimtab.evaluate.rates import IN_SHORT, REFUSALS, Rate
from trimtab.results.gaps import with_gaps
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import Estimate, share_change

SAFETY_LOSS, ORIGINAL_LOSS, TASK_LOSS = (
    "safety loss",
    "loss on the original safety data",
    "task loss",
)


_MORE, _LESS, _OPEN = "yes", "no, it gained", "not told, its interval holds no change"


@dataclass(frozen=True)
class LossChange:
    """One held-out loss, L(θ_s) and L(θ), in nats per token."""

    what: str
    data: str
    """The data set's name."""
    start: Estimate | None
    now: Estimate
    change: Estimate | None
    """L(θ) − L(θ_s), its interval that of the difference on the same rows where they are known."""


def loss_changes(
    model: Sequence[Point], points: Iterable[Point], rows: RowLosses
) -> tuple[LossChange, ...]:
    """The changes of one model's losses: of every safety set it was measured on, then of its task.

    Args:
        model: the points of that model, which differ in the safety data or in the method's name.
        points: all of its experiment, those of the start among them.
    """
    starts = {(point.proxy, point.task): point for point in points if point.method is ALIGNED}
    changes: dict[tuple[str, str], LossChange] = {}
    for point in model:
        start = starts.get((point.proxy, point.task))
        # With no entropies known, gaps are the changes from the start.
        changed = point if start is None else with_gaps([start, point], {}, rows)[1]
        for what, data, field, gap in (
            (SAFETY_LOSS, point.proxy or "", "proxy_loss", changed.proxy_gap),
            (ORIGINAL_LOSS, "original", "alignment_loss", changed.alignment_gap),
            (TASK_LOSS, point.task, "capability_loss", changed.capability_gap),
        ):
            now, before = getattr(point, field), getattr(start, field, None)
            if now is not None:
                change = gap if before is not None else None
                changes.setdefault((what, data), LossChange(what, data, before, now, change))
    order = (SAFETY_LOSS, ORIGINAL_LOSS, TASK_LOSS)
    return tuple(sorted(changes.values(), key=lambda change: order.index(change.what)))


@dataclass(frozen=True)
class RateChange:
    """How often prompts meet one outcome, at the start and after the training: shares."""

    rate: Rate
    prompts: int | None
    """Of how many; None where outcomes were not kept prompt by prompt."""
    start: Estimate | None
    now: Estimate
    change: Estimate | None
    """Paired by prompt."""


def rate_changes(model: Point, points: Iterable[Point], rows: RowLosses) -> tuple[RateChange, ...]:
    """The changes of a model's judged rates; none where its answers were not judged."""
    start = next((point for point in points if point.method is ALIGNED), None)
    changes = []
    for rate in IN_SHORT:
        now = rate.of(model)
        if now is None:
            continue
        after_rows, before_rows = (
            rows.of(answers_data(rate.field), point.model)
            if point is not None and point.model
            else None
            for point in (model, start)
        )
        change = (
            share_change(after_rows[0], before_rows[0], now.unit)
            if after_rows is not None
            and before_rows is not None
            and after_rows.shape == before_rows.shape
            else None
        )
        count = None if after_rows is None else after_rows.shape[1]
        before = rate.of(start) if start else None
        changes.append(RateChange(rate, count, before, now, change))
    return tuple(changes)


def less_safe_in_words(losses: Sequence[LossChange], rates: Sequence[RateChange]) -> str:
    """Whether a model is less safe than the start, by what it answers and by its loss, apart.

    >>> fell = Estimate(-0.2, -0.3, -0.1, "share", "estimate")
    >>> less_safe_in_words([], [RateChange(REFUSALS, 96, None, fell, fell)])
    'By refusals: yes'
    """
    refusals = next((rate.change for rate in rates if rate.rate is REFUSALS), None)
    by_what = {loss.what: loss.change for loss in losses}
    sides = [("refusals", refusals, -1), ("the safety loss", by_what.get(SAFETY_LOSS), 1)]
    sides.append(("the loss on the original safety data", by_what.get(ORIGINAL_LOSS), 1))
    told = []
    for name, change, worse in sides:
        if change is None:
            continue
        low, high = sorted((worse * change.low, worse * change.high))
        answer = _MORE if low > 0 else _LESS if high < 0 else _OPEN
        told.append(f"{name}: {answer}")
    return f"By {'; by '.join(told)}" if told else "That was not measured"
