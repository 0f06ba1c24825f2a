"""Axes: their range, their ticks, and the strip beside a break for what the scale cannot hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from trimtab.report.chart import Axis, Strip
from trimtab.results.result import Estimate

DWARFING = 3.0
"""Plain fine-tuning this many times beyond every other gap is drawn past a break."""
LOG_SPAN = 10.0
"""A gap that spans this factor or more is drawn on a logarithmic scale where it may be."""
MARGIN = 0.06
STRIP_WIDTH = 0.14


def penalty_axis(penalties: Sequence[float], label: str) -> Axis:
    """λ on a logarithmic scale, λ = 0 in a strip on the left. One penalty must be positive."""
    positive = [penalty for penalty in penalties if penalty > 0]
    low, high, width = _log_range(positive)
    if len(positive) == len(penalties):
        return Axis(label, True, low, high, log_ticks(low, high))
    first = min(positive)
    strip = Strip(0.0, 0.0, first * 10**-width, "0", first * 10 ** (-width / 2))
    ticks = ((strip.position, strip.label), *log_ticks(first / 1.01, high))
    return Axis(label, True, strip.position * 10 ** (-width / 2), high, ticks, strip)


def radius_axis(radii: Sequence[float], label: str) -> Axis:
    """ε on a logarithmic scale, ε = ∞ in a strip on the right. One radius must be finite."""
    finite = [radius for radius in radii if math.isfinite(radius)]
    low, high, width = _log_range(finite)
    if len(finite) == len(radii):
        return Axis(label, True, low, high, log_ticks(low, high))
    last = max(finite)
    strip = Strip(math.inf, math.inf, last * 10**width, "∞", last * 10 ** (width / 2))
    ticks = (*log_ticks(low, last * 1.01), (strip.position, strip.label))
    return Axis(label, True, low, strip.position * 10 ** (width / 2), ticks, strip)


def gap_axis(
    label: str, constrained: Sequence[Estimate], plain: Sequence[Estimate], *, may_be_log: bool
) -> Axis:
    """A gap: logarithmic where allowed and all are positive, else from zero.

    Args:
        label: with its unit.
        constrained: the gaps of models trained under a constraint.
        plain: the gaps of plain fine-tuning; where they dwarf the others they get a strip.
        may_be_log: whether the panel's other axis is logarithmic too.
    """
    values = [gap.value for gap in (*constrained, *plain)]
    if may_be_log and min(values) > 0 and max(values) >= LOG_SPAN * min(values):
        low, high, _ = _log_range(values)
        return Axis(label, True, low, high, log_ticks(low, high))
    constrained_values = [gap.value for gap in constrained]
    largest = max(constrained_values, default=0.0)
    # Where no other gap is above 0, none is dwarfed: all stand on one scale.
    far = [gap.value for gap in plain if largest > 0 and gap.value > DWARFING * largest]
    shown = [gap for gap in (*constrained, *plain) if gap.value not in far]
    low, high = _linear_range(shown)
    if not far:
        return Axis(label, False, low, high, linear_ticks(low, high))
    span = high - low
    first, last = min(far), max(far)
    ends = dict.fromkeys(f"{end:.2g}" for end in (first, last))
    name = f"{'–'.join(ends)}\nplain"
    strip = Strip(first, last, high + STRIP_WIDTH * span, name, high + STRIP_WIDTH / 2 * span)
    ticks = (*linear_ticks(low, high), (strip.position, strip.label))
    return Axis(label, False, low, strip.position + STRIP_WIDTH / 2 * span, ticks, strip)


def rate_axis(label: str) -> Axis:
    """A share, from none to all."""
    return Axis(label, False, -MARGIN, 1 + MARGIN, linear_ticks(0.0, 1.0))


def linear_axis(label: str, values: Iterable[float], margin: float = MARGIN) -> Axis:
    """From the least value to the largest, and this share of what lies between beyond both.

    >>> axis = linear_axis("loss (nats per token)", [1.0, 2.0], margin=0.5)
    >>> axis.low, axis.high
    (0.5, 2.5)
    """
    numbers = list(values)
    beyond = margin * (max(numbers) - min(numbers))
    low, high = min(numbers) - beyond, max(numbers) + beyond
    return Axis(label, False, low, high, linear_ticks(low, high))


def log_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Powers of ten, with 2 and 5 between them where there is room; round numbers on a short axis.

    >>> [label for _, label in log_ticks(0.05, 200)]
    ['0.1', '1', '10', '100']
    >>> [label for _, label in log_ticks(0.9, 6)]
    ['1', '2', '5']
    >>> [label for _, label in log_ticks(0.38, 0.42)]
    ['0.38', '0.39', '0.4', '0.41', '0.42']
    """
    span = math.log10(high / low)
    digits = (1, 2, 5) if span < 1.5 else (1, 3) if span < 3 else (1,)
    stride = max(1, math.ceil(span / 7))
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [digit * 10.0**power for power in exponents[::stride] for digit in digits]
    inside = [value for value in values if low <= value <= high]
    if len(inside) < 2:
        return linear_ticks(low, high)
    return tuple((value, f"{value:g}") for value in inside)


def linear_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Four to eight round numbers.

    >>> [label for _, label in linear_ticks(-0.02, 0.41)]
    ['0', '0.1', '0.2', '0.3', '0.4']
    """
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return tuple((index * step, f"{index * step:.6g}") for index in range(first, last + 1))


def _log_range(positive: Sequence[float]) -> tuple[float, float, float]:
    smallest, largest = min(positive), max(positive)
    decades = max(math.log10(largest / smallest), 0.5)
    margin = 10 ** (MARGIN * decades)
    return smallest / margin, largest * margin, STRIP_WIDTH * decades


def _linear_range(gaps: Sequence[Estimate]) -> tuple[float, float]:
    low = min(0.0, *(gap.low for gap in gaps))
    high = max(0.0, *(gap.high for gap in gaps))
    span = high - low or 1.0
    return low - MARGIN * span, (high or low + span) + MARGIN * span
