"""A figure as data: what is drawn, decided once, for the paper and for the page alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Marker = Literal[
    "circle",
    "square",
    "triangle",
    "diamond",
    "hourglass",
    "plus",
    "wedge",
    "cross",
    "star",
]
Dash = Literal["solid", "dash", "dot", "dashdot"]
Side = Literal["right", "left", "lower right", "lower left"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Ink:
    """How a line is told from its neighbours: in colour, and without it."""

    colour: str
    marker: Marker
    dash: Dash


@dataclass(frozen=True)
class Strip:
    """A place beside a broken axis for the values `first` to `last`, which its scale cannot hold.

    Zero on a logarithmic axis has one, and so has the gap of plain fine-tuning where it dwarfs
    every other. What is drawn there is never joined to what is drawn on the scale.
    """

    first: float
    last: float
    position: float
    label: str
    break_at: float

    def covers(self, value: float) -> bool:
        return self.first <= value <= self.last


@dataclass(frozen=True)
class Axis:
    """From `low` to `high` in the coordinates of the scale; ticks are (position, label)."""

    label: str
    log: bool
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    strip: Strip | None = None

    def in_strip(self, value: float) -> bool:
        return self.strip is not None and self.strip.covers(value)

    def place(self, value: float) -> float:
        """Where on the axis a value is drawn."""
        if self.strip is not None and self.strip.covers(value):
            return self.strip.position
        return value

    def share(self, value: float) -> float:
        """How far along the axis a position lies, from 0 at `low` to 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def place_interval(self, value: float, interval: Interval) -> Interval | None:
        """Where its error bar ends: cut at the axis, absent in the strip and where it has none."""
        low, high = interval
        if self.in_strip(value) or low == high:
            return None
        return min(max(low, self.low), value), max(min(high, self.high), value)

    def scales(self, value: float) -> bool:
        """Whether a value lies on the scale itself, short of any break."""
        if not self.low <= value <= self.high:
            return False
        if self.strip is None:
            return True
        return (value < self.strip.break_at) == (self.strip.position > self.strip.break_at)


@dataclass(frozen=True)
class Mark:
    """One measured model, or the mean of several that differ in the seed alone."""

    x: float
    y: float
    x_interval: Interval | None
    y_interval: Interval | None
    hover: tuple[str, ...]
    joined: bool
    label: str | None = None
    label_side: Side = "right"


@dataclass(frozen=True)
class Line:
    """Measured marks in the order they are joined, and faintly each seed behind a mean."""

    name: str
    ink: Ink
    marks: tuple[Mark, ...]
    seeds: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Curve:
    """What theory says: drawn behind the marks, and named in the legend once for all its kind.

    Below a shaded one no model lies. A label at its upper end tells it from others of its kind.
    """

    name: str
    colour: str
    dash: Dash
    width: float
    x: tuple[float, ...]
    y: tuple[float, ...]
    shaded: bool = False
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """One pair of axes with its lines; `note` says what a reader would otherwise assume wrongly."""

    title: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    curves: tuple[Curve, ...] = ()
    note: str = ""

    @property
    def description(self) -> str:
        """The panel in words, for a reader who does not see it."""
        names = "; ".join(line.name for line in self.lines)
        return f"{self.title}. {self.y.label} against {self.x.label}. Lines: {names}."


@dataclass(frozen=True)
class Figure:
    """Panels side by side under one caption, and what a fuller experiment would have added."""

    number: int
    caption: str
    panels: tuple[Panel, ...]
    missing: tuple[str, ...]

    @property
    def stem(self) -> str:
        return f"figure{self.number}"
