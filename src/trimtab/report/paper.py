"""A figure for a paper: PNG and SVG, through Matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any, Literal
from warnings import catch_warnings, filterwarnings

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Sheet
from matplotlib.lines import Line2D

from trimtab.errors import printable
from trimtab.report.chart import Axis, Curve, Dash, Figure, Ink, Line, Mark, Marker, Panel
from trimtab.report.palette import GREY
from trimtab.results.files import write_atomically

MARKERS: dict[Marker, str] = {
    "circle": "o",
    "square": "s",
    "triangle": "^",
    "diamond": "D",
    "cross": "X",
    "star": "*",
}
DASHES: dict[Dash, Literal["-", "--", ":", "-."]] = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
}
PANEL_WIDTH, PANEL_HEIGHT = 3.5, 2.2
"""In inches; labels and legend stand outside and widen the sheet as they need."""
AXES_SHARE = 0.82
TITLE_WIDTH = 44
MOST_IN_A_ROW = 3
ROW_GAP, LEGEND_LINE = 0.5, 0.075
"""In heights of a panel: what labels and title take, and a line of the legend."""
LEGEND_TOP, TICK_LINE = -0.19, 0.06
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "trimtab",
    "text.parse_math": False,  # a data set may be named a$b$
}


def save(figure: Figure, folder: Path) -> tuple[Path, Path]:
    """Write the figure as PNG at 300 dpi and as SVG whose text is text; return both paths."""
    paths = _paths(figure, folder)
    with matplotlib.rc_context(STYLE), catch_warnings():
        # Of characters that the font lacks: the SVG's text is drawn in the reader's own font.
        filterwarnings("ignore", message="Glyph")
        sheet = _draw(figure)
        png, svg = BytesIO(), BytesIO()
        FigureCanvasAgg(sheet).print_figure(png, format="png", dpi=300, bbox_inches="tight")
        FigureCanvasSVG(sheet).print_figure(
            svg, format="svg", bbox_inches="tight", metadata={"Date": None}
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, image in zip(paths, (png, svg), strict=True):
        write_atomically(path, image.getvalue())
    return paths


def remove(figure: Figure, folder: Path) -> None:
    """Take away the files of a figure that can no longer be drawn."""
    for path in _paths(figure, folder):
        path.unlink(missing_ok=True)


def _paths(figure: Figure, folder: Path) -> tuple[Path, Path]:
    return folder / f"{figure.stem}.png", folder / f"{figure.stem}.svg"


def _draw(figure: Figure) -> Sheet:
    count = len(figure.panels) if len(figure.panels) <= MOST_IN_A_ROW else 2
    rows = [figure.panels[first : first + count] for first in range(0, len(figure.panels), count)]
    sheet = Sheet(figsize=(PANEL_WIDTH * count, PANEL_HEIGHT))
    bottom = 0.0
    for row in rows:
        for index, panel in enumerate(row):
            left, width = (index + 1 - AXES_SHARE) / count, AXES_SHARE / count
            _draw_panel(sheet.add_axes((left, bottom, width, 1)), panel)
        # A sheet is cropped to what is drawn, so further rows may stand below its edge.
        bottom -= 1 + ROW_GAP + LEGEND_LINE * max(len(_legend(panel)) for panel in row)
    return sheet


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(fill(printable(panel.title), TITLE_WIDTH), loc="left")
    _set_up(axes, panel.x, "x")
    _set_up(axes, panel.y, "y")
    axes.grid(color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for curve in panel.curves:
        axes.plot(curve.x, curve.y, **_curve_style(curve), zorder=1.5)
    for line in panel.lines:
        _draw_line(axes, line)
    legend = _legend(panel)
    lines_below = max(label.count("\n") for _, label in panel.x.ticks)
    axes.legend(
        handles=[handle for handle, _ in legend],
        labels=[_visible(name) for _, name in legend],
        loc="upper left",
        bbox_to_anchor=(-0.02, LEGEND_TOP - TICK_LINE * lines_below),
        borderaxespad=0,
        frameon=False,
        handlelength=2.6,
        labelspacing=0.3,
    )


def _set_up(axes: Axes, axis: Axis, side: str) -> None:
    positions = [position for position, _ in axis.ticks]
    labels = [label for _, label in axis.ticks]
    if side == "x":
        axes.set_xlabel(axis.label)
        axes.set_xscale("log" if axis.log else "linear")
        axes.set_xlim(axis.low, axis.high)
        axes.set_xticks(positions, labels)
        axes.set_xticks([], minor=True)
    else:
        axes.set_ylabel(axis.label)
        axes.set_yscale("log" if axis.log else "linear")
        axes.set_ylim(axis.low, axis.high)
        axes.set_yticks(positions, labels)
        axes.set_yticks([], minor=True)
    if axis.strip is not None:
        across = axes.get_xaxis_transform() if side == "x" else axes.get_yaxis_transform()
        at, edge = [axis.strip.break_at], [0.0]
        place = (at, edge) if side == "x" else (edge, at)
        # Two slashes over a white gap in the axis line.
        axes.plot(
            *place, "s", color="white", markersize=4, transform=across, clip_on=False, zorder=5
        )
        axes.text(
            place[0][0],
            place[1][0],
            "//",
            transform=across,
            ha="center",
            va="center",
            rotation=0 if side == "x" else 90,
            zorder=6,
        )


def _draw_line(axes: Axes, line: Line) -> None:
    colour = line.ink.colour
    joined = [mark for mark in line.marks if mark.joined]
    axes.plot(
        [mark.x for mark in joined],
        [mark.y for mark in joined],
        linestyle=DASHES[line.ink.dash],
        color=colour,
        linewidth=1.2,
        zorder=3,
    )
    _draw_marks(axes, line.seeds, line.ink, 2.5, 0.35)
    _draw_marks(axes, line.marks, line.ink, 7.0 if line.ink.marker == "star" else 4.5, 1.0)
    for mark in line.marks:
        if mark.x_interval or mark.y_interval:
            axes.errorbar(
                mark.x,
                mark.y,
                xerr=_reach(mark.x, mark.x_interval),
                yerr=_reach(mark.y, mark.y_interval),
                fmt="none",
                ecolor=colour,
                elinewidth=0.7,
                capsize=1.5,
                capthick=0.7,
                zorder=3.2,
            )
        if mark.label:
            axes.annotate(
                mark.label,
                (mark.x, mark.y),
                xytext=(4, 3) if mark.label_side == "right" else (-4, 3),
                ha="left" if mark.label_side == "right" else "right",
                textcoords="offset points",
                fontsize=7,
                color="#333333",
                zorder=4,
            )


def _draw_marks(axes: Axes, marks: Iterable[Mark], ink: Ink, size: float, opacity: float) -> None:
    marks = list(marks)
    axes.plot(
        [mark.x for mark in marks],
        [mark.y for mark in marks],
        linestyle="none",
        marker=MARKERS[ink.marker],
        color=ink.colour,
        alpha=opacity,
        markersize=size,
        markeredgecolor="white",
        markeredgewidth=0.4,
        zorder=3.5,
        clip_on=False,
    )


def _reach(value: float, interval: tuple[float, float] | None) -> list[list[float]] | None:
    return None if interval is None else [[value - interval[0]], [interval[1] - value]]


def _legend(panel: Panel) -> list[tuple[Line2D, str]]:
    lines = [
        (
            Line2D(
                [],
                [],
                color=line.ink.colour,
                marker=MARKERS[line.ink.marker],
                linestyle=DASHES[line.ink.dash] if any(m.joined for m in line.marks) else "none",
                linewidth=1.2,
                markersize=4.5,
                markeredgecolor="white",
                markeredgewidth=0.4,
            ),
            line.name,
        )
        for line in panel.lines
    ]
    kinds = {curve.name: curve for curve in panel.curves}
    curves = [
        (Line2D([], [], **{**_curve_style(curve), "color": GREY}), name)
        for name, curve in kinds.items()
    ]
    return [*lines, *curves]


def _curve_style(curve: Curve) -> dict[str, Any]:
    return {
        "color": curve.colour,
        "linestyle": DASHES[curve.dash],
        "linewidth": curve.width,
        "alpha": 0.5,
    }


def _visible(name: str) -> str:
    """Matplotlib leaves a name that begins with an underscore out of the legend."""
    name = printable(name)
    return f"\u200a{name}" if name.startswith("_") else name
