"""From losses to gaps: what is subtracted, and the interval of the difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from trimtab.config.data_names import ORIGINAL, safety_data, task_data
from trimtab.config.methods import ALIGNED
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import Estimate

OVER_START = "nats per token over θₛ"
OVER_LOWEST = "nats per token over the lowest loss that any model here reached"
"""The unit of a gap whose data set's least possible loss is not known."""


def with_gaps(
    points: Iterable[Point], entropies: Mapping[str, float], rows: RowLosses | None = None
) -> list[Point]:
    """The points with their gaps and, under a budget, L_ŝ(θ) − L_ŝ(θ_s), in nats per token.

    A gap is L − L*, with L* the data set's entropy, where `entropies` has it; its interval is then
    the loss's. Elsewhere it is the change from the start, L(θ) − L(θ_s): 0 is the aligned model,
    below 0 is better than it, and with `rows` the interval is that of the difference on the same
    held-out rows. Data sets go by the names "original", "safety:NAME" and "task:NAME".

    >>> from trimtab.config.methods import ALIGNED, CASE_1
    >>> from trimtab.config.run_spec import RunSpec
    >>> loss = lambda v: Estimate(v, v, v, "nats per token", "exact")
    >>> make = lambda v, method, value: Point(spec=RunSpec(method, value, "near", "code", 0),
    ...     capability_loss=loss(v), distance=0.0, relative_distance=0.0, train_tokens=1,
    ...     wall_seconds=0.0)
    >>> points = [make(2.0, ALIGNED, None), make(1.5, CASE_1, 1.0)]
    >>> [p.capability_gap.value for p in with_gaps(points, {})]
    [0.0, -0.5]
    >>> [p.capability_gap.value for p in with_gaps(points, {"task:code": 1.25})]
    [0.75, 0.25]
    """
    points = list(points)
    starts = {(point.proxy, point.task): point for point in points if point.method is ALIGNED}

    def gap(point: Point, name: str) -> Estimate | None:
        loss = _losses(point)[name]
        if loss is not None and name in entropies:
            return loss.minus(entropies[name])
        change = from_start(point, name)
        return None if change is None else replace(change, unit=OVER_START)

    def from_start(point: Point, name: str) -> Estimate | None:
        start = starts.get((point.proxy, point.task))
        loss, before = _losses(point)[name], None if start is None else _losses(start)[name]
        if start is None or loss is None or before is None:
            return None
        return over_reference(loss.minus(before.value), point, start, name, rows)

    filled = []
    for point in points:
        original, safety, task = _losses(point)
        filled.append(
            replace(
                point,
                alignment_gap=gap(point, original),
                proxy_gap=gap(point, safety),
                capability_gap=gap(point, task),
                safety_change=None if point.budget is None else from_start(point, safety),
            )
        )
    return filled


def over_reference(
    change: Estimate, point: Point, reference: Point, dataset: str, rows: RowLosses | None
) -> Estimate:
    """How far a loss lies above that of a reference, with the interval of the difference by row.

    As it is where rows are not known; 0 of the reference itself.
    """
    if point is reference:
        return replace(change, value=0.0, low=0.0, high=0.0)
    if rows is None or point.model is None or reference.model is None:
        return change
    paired = rows.difference(dataset, point.model, reference.model)
    if paired is None:
        return change
    half = paired.half_width
    return replace(change, low=change.value - half, high=change.value + half)


def data_of_losses(point: Point) -> dict[str, str]:
    """The data set of each loss of a point, by the loss's field."""
    return {
        "alignment_loss": ORIGINAL,
        "proxy_loss": safety_data(point.proxy),
        "capability_loss": task_data(point.task),
    }


def _losses(point: Point) -> dict[str, Estimate | None]:
    return {data: getattr(point, field) for field, data in data_of_losses(point).items()}
