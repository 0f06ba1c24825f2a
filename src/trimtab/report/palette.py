"""Okabe and Ito's colours, which colour-blind readers can tell apart, with a shape to each line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from trimtab.analysis.limits import BOTH_BOUNDS, BOUND, EXACT, ORACLE, LimitCurve, LimitName
from trimtab.config.methods import (
    ALIGNED,
    CASE_1,
    CASE_1_BUDGET,
    CASE_2,
    CASE_2_RADIUS,
    DIAL,
    METHODS,
    PLAIN,
    Method,
)
from trimtab.report.chart import Curve, Dash, Ink, Marker
from trimtab.results.result import Point

# Blue, vermilion, green, purple, orange, sky; their yellow is too faint on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLACK = "#000000"
"""Of what stands in every plane: the aligned model, a star, and plain fine-tuning, a square."""
SLATE = "#3d4a5c"
"""Of an audit's walks, which are of no data and no method."""
MARKERS: tuple[Marker, ...] = (
    "circle", "square", "triangle", "diamond", "hourglass", "plus", "wedge", "cross",
)  # fmt: skip
DASHES: tuple[Dash, ...] = ("solid", "dash", "dashdot", "dot")
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
    return Ink(
        COLOURS[colour % len(COLOURS)],
        MARKERS[shape % len(MARKERS)],
        DASHES[shape % len(DASHES)],
    )


START_INK = Ink(BLACK, "star", "solid")
PLAIN_INK = Ink(BLACK, "square", "solid")
CASE_2_MARKS: dict[Method, tuple[Marker, Dash]] = {
    CASE_2: ("wedge", "dash"),
    CASE_2_RADIUS: ("plus", "dash"),
}


@dataclass(frozen=True)
class Palette:
    """An ink to each line, the same in every figure of a page.

    Each set of safety data and each task has a colour: tasks take those that safety data leave,
    so that none means two things while six suffice. A task has a marker too. Every other method
    has a pair of colour and marker that no line of the two cases has, of what colours are left.
    """

    proxies: tuple[str, ...]
    tasks: tuple[str, ...]
    others: tuple[tuple[Method, str | None, str], ...]
    """The lines of every other method, each with the safety data that it reads, and its task."""

    @classmethod
    def of(cls, points: Iterable[Point]) -> Palette:
        points = list(points)
        trained_on = [
            point.proxy for point in points if point.method in (CASE_1, CASE_1_BUDGET, DIAL)
        ]
        proxies = dict.fromkeys(
            proxy for proxy in (*trained_on, *(point.proxy for point in points)) if proxy
        )
        others = dict.fromkeys(
            _line(point.method, point.proxy, point.task)
            for point in points
            if point.method not in (ALIGNED, PLAIN, CASE_1, *CASE_2_MARKS)
        )
        order = list(METHODS.values())
        return cls(
            tuple(proxies),
            tuple(dict.fromkeys(point.task for point in points)),
            tuple(sorted(others, key=lambda line: order.index(line[0]))),
        )

    @property
    def suffices(self) -> bool:
        """Whether no colour is of two sets of data, and no colour and marker of two lines."""
        colours = len(self.proxies) + len(self.tasks)
        return colours <= len(COLOURS) and len(self.others) <= len(self._spare)

    def of_method(self, method: Method, proxy: str | None, task: str) -> Ink:
        """The ink of a method's line on this task, and on this safety data if it reads any."""
        if method is ALIGNED:
            return START_INK
        if method is PLAIN:
            return PLAIN_INK
        if method in CASE_2_MARKS:
            return Ink(self.of_task(task).colour, *CASE_2_MARKS[method])
        if method is CASE_1 and proxy is not None:
            return self.of_pair(proxy, task)
        return self._spare[self.others.index(_line(method, proxy, task)) % len(self._spare)]

    def of_pair(self, proxy: str, task: str) -> Ink:
        """Of Case I: safety data set the colour, the task the marker, and both the dash."""
        colour, shape = self.proxies.index(proxy), self.tasks.index(task)
        return replace(ink(colour, shape), dash=DASHES[(colour + shape) % len(DASHES)])

    def of_task(self, task: str) -> Ink:
        """Of Case I where tasks are compared: the task sets both colour and marker."""
        place = self.tasks.index(task)
        return ink(len(self.proxies) + place, place)

    @cached_property
    def _spare(self) -> list[Ink]:
        """Inks of no line of the two cases, each neighbours of another colour and marker."""
        taken = [self.of_pair(proxy, task) for proxy in self.proxies for task in self.tasks]
        taken += [self.of_task(task) for task in self.tasks]
        pairs = {(each.colour, each.marker) for each in taken}
        case_2 = [marker for marker, _ in CASE_2_MARKS.values()]
        pairs |= {(self.of_task(task).colour, marker) for task in self.tasks for marker in case_2}
        used = len(self.proxies) + len(self.tasks)
        left = range(used, len(COLOURS))
        inks = [
            ink(colour, place + row + 1)
            for colours in (left, range(len(COLOURS)))
            for row in range(len(MARKERS))
            for place, colour in enumerate(colours)
        ]
        free = dict.fromkeys(each for each in inks if (each.colour, each.marker) not in pairs)
        return [*free] or inks


def _line(method: Method, proxy: str | None, task: str) -> tuple[Method, str | None, str]:
    return method, proxy if method.reads_safety else None, task


def chart_curves(curves: Iterable[LimitCurve], colour: str = GREY, label: str = "") -> list[Curve]:
    """What theory says, in the colour of the line it speaks of; the oracle speaks of all."""
    return [
        Curve(
            curve.name, colour, *LIMITS[curve.name], curve.x, curve.y, curve.name == ORACLE, label
        )
        for curve in curves
    ]
