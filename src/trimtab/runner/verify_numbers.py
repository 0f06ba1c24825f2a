"""Whether the numbers of points are those that their held-out rows give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trimtab.config.data_names import answers_data
from trimtab.evaluate.rates import RATES
from trimtab.results.gaps import data_of_losses, with_gaps
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import Array, Estimate, share

_ROUNDING = 1e-9
"""Of a number or of 1, whichever is larger: by as much may sums in another order differ."""

_RATES = {rate.field: answers_data(rate.field) for rate in RATES}
_GAPS = ("alignment_gap", "proxy_gap", "capability_gap", "safety_change")


@dataclass(frozen=True)
class Recomputed:
    """What comes out again of the rows behind one model's numbers."""

    compared: int
    """How many losses and rates have their rows."""
    without_rows: tuple[str, ...]
    """Losses and rates that have none."""
    fault: str | None
    """The first number that is another, None where there is none."""


def recomputed(
    points: Sequence[Point], entropies: Mapping[str, float], rows: RowLosses
) -> dict[str, Recomputed]:
    """Every model's numbers, by its name, beside what follows from its rows.

    Losses are Σ nats/Σ tokens of the rows, rates the shares of prompts that the first judge counts,
    gaps and the change under a budget those of `with_gaps`. Not compared are intervals, which
    earlier versions took otherwise, and losses per response, since answers to one prompt are added
    up. A whole distribution, measured with weights, has no rows.
    """
    from_rows = [_with_losses_of(point, rows) for point in points]
    with_their_gaps = with_gaps(from_rows, entropies, rows)
    by_model: dict[str, list[tuple[Point, Point]]] = {}
    for point, again in zip(points, with_their_gaps, strict=True):
        by_model.setdefault(point.model or point.spec.folder, []).append((point, again))
    return {model: _compared(pairs, rows) for model, pairs in by_model.items()}


def _compared(pairs: Sequence[tuple[Point, Point]], rows: RowLosses) -> Recomputed:
    has_rows: dict[str, bool] = {}
    for point, _ in pairs:
        for field, data in (data_of_losses(point) | _RATES).items():
            if getattr(point, field) is not None:
                has_rows[field] = _rows_of(point, data, rows) is not None
    faults = [fault for point, again in pairs for fault in _faults(point, again, rows)]
    return Recomputed(
        sum(has_rows.values()),
        tuple(field for field, has in has_rows.items() if not has),
        next(iter(faults), None),
    )


def _faults(point: Point, again: Point, rows: RowLosses) -> Iterator[str]:
    for field in data_of_losses(point):
        yield from _fault(field, getattr(point, field), getattr(again, field), "its rows give")
    for field in _GAPS:
        recorded, gap = getattr(point, field), getattr(again, field)
        # Earlier versions took gaps from elsewhere, and their unit says so.
        if recorded is not None and gap is not None and recorded.unit == gap.unit:
            yield from _fault(field, recorded, gap, "its losses give")
    for rate in RATES:
        recorded = rate.of(point)
        counts = _rows_of(point, _RATES[rate.field], rows)
        if recorded is not None and counts is not None:
            counted = share(counts[0], rate.unit)
            yield from _fault(rate.field, recorded, counted, "its rows give")


def _fault(
    field: str, recorded: Estimate | None, again: Estimate | None, source: str
) -> Iterator[str]:
    if recorded is None or again is None:
        return
    if not abs(recorded.value - again.value) <= _ROUNDING * max(1.0, abs(again.value)):
        yield f"{field} is {recorded.value:.8g}, and {source} {again.value:.8g}"


def _with_losses_of(point: Point, rows: RowLosses) -> Point:
    """The point with the values of losses that its rows give, and the intervals it has."""
    losses: dict[str, Any] = {}
    for field, data in data_of_losses(point).items():
        recorded: Estimate | None = getattr(point, field)
        loss = None if point.model is None else rows.loss(data, point.model)
        if recorded is not None and loss is not None:
            losses[field] = replace(recorded, value=loss.value)
    return replace(point, **losses)


def _rows_of(point: Point, data: str, rows: RowLosses) -> Array | None:
    return None if point.model is None else rows.of(data, point.model)
