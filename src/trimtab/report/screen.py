"""A panel for the page: Plotly's data and layout, with hover on every mark."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from trimtab.report.chart import Axis, Curve, Ink, Line, Mark, Marker, Panel
from trimtab.report.palette import GREY

SYMBOLS: dict[Marker, str] = {
    "circle": "circle",
    "square": "square",
    "triangle": "triangle-up",
    "diamond": "diamond",
    "cross": "x",
    "star": "star",
}
FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "#1d1d1f"}
HEIGHT, LEGEND_ROW = 340, 20
LABEL_GAP = "\u00a0\u00a0"


def plot(panel: Panel) -> dict[str, Any]:
    """The panel as the JSON object that Plotly.newPlot takes; every name in it is escaped."""
    traces: list[go.Scatter] = [_curve(curve) for curve in panel.curves]
    for line in panel.lines:
        traces += _line(line)
    kinds = {curve.name: curve for curve in panel.curves}
    traces += [_curve_in_legend(curve) for curve in kinds.values()]
    rows = len(panel.lines) + len(kinds)
    layout = go.Layout(
        height=HEIGHT + LEGEND_ROW * rows,
        margin={"l": 62, "r": 14, "t": 12, "b": 20},
        paper_bgcolor="white",
        plot_bgcolor="white",
        font=FONT,
        hovermode="closest",
        hoverlabel={"align": "left", "bgcolor": "white", "font": FONT},
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "xref": "container",
            "x": 0,
            "tracegroupgap": 0,
            "entrywidthmode": "fraction",
            "entrywidth": 1,
            "itemclick": False,
            "itemdoubleclick": False,
        },
        xaxis=_axis(panel.x),
        yaxis=_axis(panel.y),
        annotations=[*_break(panel.x, "x"), *_break(panel.y, "y")],
    )
    figure: dict[str, Any] = go.Figure(traces, layout).to_plotly_json()
    figure["layout"].pop("template", None)
    return figure


def ring(place: tuple[float, float]) -> dict[str, Any]:
    """A trace of one ring around a mark."""
    marker = {
        "symbol": "circle-open",
        "size": 20,
        "color": "#1d1d1f",
        "line": {"width": 3, "color": "#1d1d1f"},
    }
    x, y = place
    trace = go.Scatter(
        x=[x], y=[y], mode="markers", marker=marker, hoverinfo="skip", showlegend=False
    )
    drawn: dict[str, Any] = trace.to_plotly_json()
    return drawn


def as_text(words: str) -> str:
    """Words as Plotly shows them literally: it reads tags, entities and $TeX$ in every text.

    >>> as_text("<b>R&D</b> $x$")
    '&lt;b&gt;R&amp;D&lt;/b&gt; &#36;x&#36;'
    """
    return html.escape(words, quote=False).replace("$", "&#36;")


def _line(line: Line) -> list[go.Scatter]:
    joined = [mark for mark in line.marks if mark.joined]
    name, group = as_text(line.name), as_text(line.name)
    style = {"color": line.ink.colour, "dash": line.ink.dash, "width": 2}
    labelled = [mark for mark in line.marks if mark.label]
    return [
        go.Scatter(
            x=[mark.x for mark in joined],
            y=[mark.y for mark in joined],
            mode="lines",
            line=style,
            hoverinfo="skip",
            showlegend=False,
            legendgroup=group,
        ),
        _marks(line.seeds, line.ink, 6, 0.35, group),
        _marks(line.marks, line.ink, 14 if line.ink.marker == "star" else 9, 1.0, group),
        go.Scatter(
            x=[mark.x for mark in labelled],
            y=[mark.y for mark in labelled],
            text=[f"{LABEL_GAP}{as_text(mark.label or '')}{LABEL_GAP}" for mark in labelled],
            mode="text",
            textposition=[f"top {mark.label_side}" for mark in labelled],
            textfont={"size": 11, "color": "#333333"},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=group,
        ),
        go.Scatter(
            x=[None],
            y=[None],
            mode="lines+markers" if joined else "markers",
            line=style,
            marker={"symbol": SYMBOLS[line.ink.marker], "color": line.ink.colour, "size": 9},
            name=name,
            legendgroup=group,
        ),
    ]


def _marks(marks: Iterable[Mark], ink: Ink, size: int, opacity: float, group: str) -> go.Scatter:
    marks = list(marks)
    return go.Scatter(
        x=[mark.x for mark in marks],
        y=[mark.y for mark in marks],
        error_x=_bars([(mark.x, mark.x_interval) for mark in marks]),
        error_y=_bars([(mark.y, mark.y_interval) for mark in marks]),
        mode="markers",
        marker={
            "symbol": SYMBOLS[ink.marker],
            "color": ink.colour,
            "size": size,
            "opacity": opacity,
            "line": {"color": "white", "width": 1},
        },
        hovertext=["<br>".join(map(as_text, mark.hover)) for mark in marks],
        hoverinfo="text",
        cliponaxis=False,
        showlegend=False,
        legendgroup=group,
    )


def _bars(marks: list[tuple[float, tuple[float, float] | None]]) -> dict[str, Any]:
    if not any(interval for _, interval in marks):
        return {"visible": False}
    ends = [interval or (value, value) for value, interval in marks]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for (value, _), (_, high) in zip(marks, ends, strict=True)],
        "arrayminus": [value - low for (value, _), (low, _) in zip(marks, ends, strict=True)],
        "thickness": 1,
        "width": 3,
    }


def _curve(curve: Curve) -> go.Scatter:
    return go.Scatter(
        x=list(curve.x),
        y=list(curve.y),
        mode="lines",
        line={"color": curve.colour, "dash": curve.dash, "width": 1.5 * curve.width},
        opacity=0.5,
        hoverinfo="skip",
        showlegend=False,
        legendgroup=curve.name,
    )


def _curve_in_legend(curve: Curve) -> go.Scatter:
    return go.Scatter(
        x=[None],
        y=[None],
        mode="lines",
        line={"color": GREY, "dash": curve.dash, "width": 1.5 * curve.width},
        opacity=0.5,
        name=as_text(curve.name),
        legendgroup=curve.name,
    )


def _axis(axis: Axis) -> dict[str, Any]:
    return {
        "title": {"text": as_text(axis.label), "standoff": 8, "font": {"size": 13}},
        "type": "log" if axis.log else "linear",
        "range": [math.log10(end) if axis.log else end for end in (axis.low, axis.high)],
        "tickvals": [position for position, _ in axis.ticks],
        "ticktext": [as_text(label).replace("\n", "<br>") for _, label in axis.ticks],
        "gridcolor": "#e8e8ea",
        "linecolor": "#6e6e73",
        "ticks": "outside",
        "zeroline": False,
        "automargin": True,
    }


def _break(axis: Axis, side: str) -> list[dict[str, Any]]:
    if axis.strip is None:
        return []
    at = math.log10(axis.strip.break_at) if axis.log else axis.strip.break_at
    here = {"x": at, "y": 0, "yref": "paper"} if side == "x" else {"y": at, "x": 0, "xref": "paper"}
    return [
        {
            **here,
            "text": "//",
            "textangle": 0 if side == "x" else 90,
            "showarrow": False,
            "bgcolor": "white",
            "borderpad": 0,
            "xanchor": "center",
            "yanchor": "middle",
        }
    ]
