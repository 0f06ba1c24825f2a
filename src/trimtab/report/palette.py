"""Okabe and Ito's colours, which colour-blind readers can tell apart, with a shape to each line."""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.analysis.limits import BOTH_BOUNDS, BOUND, EXACT, ORACLE, LimitCurve, LimitName
from trimtab.report.chart import Curve, Dash, Ink, Marker

# Blue, vermilion, green, purple, orange, sky, black; their yellow is too faint on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES: tuple[tuple[Marker, Dash], ...] = (
    ("circle", "solid"),
    ("square", "dash"),
    ("triangle", "dashdot"),
    ("diamond", "dot"),
    ("cross", "solid"),
    ("wedge", "dash"),
)
GREY = "#767676"
LIMITS: dict[LimitName, tuple[Dash, float]] = {
    EXACT: ("solid", 0.8),
    BOUND: ("dot", 1.0),
    BOTH_BOUNDS: ("dot", 1.0),
    ORACLE: ("solid", 2.2),
}
"""The dash and the width of each."""


def ink(colour: int, shape: int) -> Ink:
    """The ink of one line: what is compared first sets the colour, what second the shape."""
    marker, dash = SHAPES[shape % len(SHAPES)]
    return Ink(COLOURS[colour % len(COLOURS)], marker, dash)


def budget_ink(colour: int, *, case_1: bool = True) -> Ink:
    """The ink of models trained to a budget, in the colour of the line they belong to."""
    return Ink(COLOURS[colour % len(COLOURS)], "cross" if case_1 else "diamond", "dot")


def star(colour: int) -> Ink:
    """The ink of a model before training, in the colour of its line."""
    return Ink(COLOURS[colour % len(COLOURS)], "star", "solid")


def drawn(curves: Iterable[LimitCurve], colour: str = GREY) -> list[Curve]:
    """What theory says, in the colour of the line it speaks of; the oracle speaks of all."""
    return [
        Curve(curve.name, colour, *LIMITS[curve.name], curve.x, curve.y, curve.name == ORACLE)
        for curve in curves
    ]
