"""From losses to gaps: what is subtracted, and the interval of the difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from trimtab.config.methods import ALIGNED
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import Estimate


def with_gaps(
    points: Iterable[Point], known: Mapping[str, float], rows: RowLosses | None = None
) -> list[Point]:
    """The points with G = L − L* and, under a budget, L_ŝ(θ) − L_ŝ(θ_s), in nats per token.

    L* is the data set's entropy where `known` has it, and then the gap's interval is the loss's.
    Elsewhere it is the lowest loss that any of the points reached, so that gaps are relative and
    too small, and with `rows` the interval is that of the difference on the same held-out rows.
    Data sets go by the names "original", "safety:NAME" and "task:NAME".

    >>> loss = lambda v: Estimate(v, v, v, "nats per token", "exact")
    >>> from trimtab.config.methods import CASE_1
    >>> from trimtab.config.run_spec import RunSpec
    >>> make = lambda v, penalty: Point(spec=RunSpec(CASE_1, penalty, "near", "code", 0),
    ...     capability_loss=loss(v), distance=0.0, relative_distance=0.0, train_tokens=1,
    ...     wall_seconds=0.0)
    >>> [p.capability_gap.value for p in with_gaps([make(2.0, 0.1), make(1.5, 1.0)], {})]
    [0.5, 0.0]
    """
    points = list(points)
    aligned = {(point.proxy, point.task): point for point in points if point.method is ALIGNED}
    lowest: dict[str, Point] = {}
    for point in points:
        for name, loss in _losses(point).items():
            best = _losses(lowest[name])[name] if name in lowest else None
            if loss is not None and (best is None or loss.value < best.value):
                lowest[name] = point

    def gap(point: Point, name: str) -> Estimate | None:
        loss = _losses(point)[name]
        if loss is None:
            return None
        if name in known:
            return loss.minus(known[name])
        return difference(point, lowest[name], name)

    def difference(point: Point, other: Point, name: str) -> Estimate:
        loss, reference = _losses(point)[name], _losses(other)[name]
        assert loss is not None
        assert reference is not None
        between = loss.minus(reference.value)
        if rows is None or point.model is None or other.model is None:
            return between
        paired = rows.difference(name, point.model, other.model)
        if paired is None:
            return between
        half = paired.half_width
        return replace(between, low=between.value - half, high=between.value + half)

    def safety_change(point: Point, name: str) -> Estimate | None:
        start = aligned.get((point.proxy, point.task))
        if point.budget is None or start is None or point.proxy_loss is None:
            return None
        return difference(point, start, name)

    filled = []
    for point in points:
        original, safety, task = _losses(point)
        filled.append(
            replace(
                point,
                alignment_gap=gap(point, original),
                proxy_gap=gap(point, safety),
                capability_gap=gap(point, task),
                safety_change=safety_change(point, safety),
            )
        )
    return filled


def _losses(point: Point) -> dict[str, Estimate | None]:
    return {
        "original": point.alignment_loss,
        f"safety:{point.proxy}": point.proxy_loss,
        f"task:{point.task}": point.capability_loss,
    }
