"""Okabe and Ito's colours, which colour-blind readers can tell apart, with a shape to each line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trimtab.analysis.limits import BOTH_BOUNDS, BOUND, EXACT, ORACLE, LimitCurve, LimitName
from trimtab.config.methods import CASE_1, CASE_1_BUDGET, DIAL
from trimtab.report.chart import Curve, Dash, Ink, Marker
from trimtab.results.result import Point

# Blue, vermilion, green, purple, orange, sky; their yellow is too faint on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLACK = "#000000"
"""Of what stands in every plane: the aligned model, a star, and plain fine-tuning, a square."""
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


def budget_ink(colour: int) -> Ink:
    """The ink of models trained to a budget, in the colour of the line they belong to."""
    return Ink(COLOURS[colour % len(COLOURS)], "cross", "dot")


START_INK = Ink(BLACK, "star", "solid")
PLAIN_INK = Ink(BLACK, "square", "solid")


@dataclass(frozen=True)
class Palette:
    """A colour to each set of safety data and to each task, the same in every figure.

    Tasks take the colours that safety data leave, so that none means two things while six suffice.
    """

    proxies: tuple[str, ...]
    tasks: tuple[str, ...]

    @classmethod
    def of(cls, points: Iterable[Point]) -> Palette:
        points = list(points)
        trained_on = [
            point.proxy for point in points if point.method in (CASE_1, CASE_1_BUDGET, DIAL)
        ]
        proxies = dict.fromkeys(
            proxy for proxy in (*trained_on, *(point.proxy for point in points)) if proxy
        )
        return cls(tuple(proxies), tuple(dict.fromkeys(point.task for point in points)))

    def proxy_colour(self, proxy: str) -> int:
        return self.proxies.index(proxy)

    def task_colour(self, task: str) -> int:
        return len(self.proxies) + self.tasks.index(task)


def chart_curves(curves: Iterable[LimitCurve], colour: str = GREY) -> list[Curve]:
    """What theory says, in the colour of the line it speaks of; the oracle speaks of all."""
    return [
        Curve(curve.name, colour, *LIMITS[curve.name], curve.x, curve.y, curve.name == ORACLE)
        for curve in curves
    ]
