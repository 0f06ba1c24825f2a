"""One drawing of a panel, in Vega-Lite: behind PNG, SVG, PDF and the page alike."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup
from PIL import Image

from trimtab.errors import printable
from trimtab.report.chart import Axis, Curve, Dash, Figure, Ink, Line, Mark, Marker, Panel
from trimtab.report.palette import GREY, PLAIN_INK, START_INK
from trimtab.results.files import write_atomically

# Vega has no star and no oblique cross; a path spans −1 to 1.
SYMBOLS: dict[Marker, str] = {
    "circle": "circle",
    "square": "square",
    "triangle": "triangle-up",
    "diamond": "diamond",
    "hourglass": "M-1,-1L1,-1L-1,1L1,1Z",
    "plus": "cross",
    "cross": "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z",
    "wedge": "triangle-down",
    "star": "M0,-1L.22,-.31L.95,-.31L.36,.12L.59,.81L0,.38L-.59,.81L-.36,.12L-.95,-.31L-.22,-.31Z",
}
DASHES: dict[Dash, list[float]] = {
    "solid": [1, 0],
    "dash": [6, 3],
    "dot": [1.5, 3],
    "dashdot": [8, 3, 1.5, 3],
}
TEXT, SOFT, GRID = "#1d1d1f", "#6e6e73", "#e6e6e9"
# An image takes the first font that is there for a whole text, and few have the ₛ of θₛ.
PAPER_FONT = "DejaVu Sans, Arial, Helvetica, sans-serif"
PAGE_FONT = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"
TITLE_SIZE, FONT_SIZE, LABEL_SIZE = 13, 12, 11
WIDTH, HEIGHT, PAGE_HEIGHT = 330, 240, 280
"""Of a panel's axes, in pixels of 1/96 inch; labels and legend stand outside."""
PIXELS_PER_PIXEL = 3.2
"""About 300 dpi."""
SIZES: dict[Marker, float] = {
    "circle": 46,
    "square": 42,
    "triangle": 50,
    "diamond": 68,
    "hourglass": 44,
    "plus": 58,
    "cross": 60,
    "wedge": 50,
    "star": 180,
}
"""In square pixels, so that each looks as large as the next; the star stands out."""
WIDEST, GROWTH = 1.6, 0.3
"""How much wider a mark may be than one of its shape above it, and each than the next."""
OUTLINE, FILL = 1.5, 0.4
"""How wide a mark's outline is, and how opaque what it encloses: what lies below shows through."""
SEED_SHARE, RING_SIZE = 0.36, 300
TITLE_WIDTH, LEGEND_WIDTH, PAGE_LEGEND_WIDTH, NOTE_WIDTH = 46, 48, 42, 56
"""In characters."""
NAME_HEIGHT, NAME_LETTER = 0.06, 0.03
"""The room of a curve's name, which stands upright, and of its letter, as shares of a panel."""
MOST_IN_A_ROW = 3
KINDS = ("png", "svg", "pdf")
LEGEND_TOP, LEGEND_ROW, LEGEND_LINE, KEY_WIDTH, TICK_LINE = 56, 18, 15, 30, 13
FAINT, SHADE = 0.6, 0.12
"""How opaque theory is, behind what was measured."""
RING, MEASURED = "ring", "measured"
IN_PIXELS: dict[str, Any] = {"x": alt.X("x:Q", scale=None), "y": alt.Y("y:Q", scale=None)}
"""Where a row stands that is not on the scales, from the upper left corner of the axes."""

Row = dict[str, Any]


def images(figure: Figure) -> tuple[bytes, bytes, bytes]:
    """The figure as PNG at about 300 dpi, and as SVG and PDF whose text is text."""
    spec = json.dumps(sheet(figure))
    return (
        _compressed(vl_convert.vegalite_to_png(spec, scale=PIXELS_PER_PIXEL)),
        vl_convert.vegalite_to_svg(spec).encode(),
        vl_convert.vegalite_to_pdf(spec),
    )


def _compressed(png: bytes) -> bytes:
    """The same picture without its alpha channel: less than half as large."""
    smaller = BytesIO()
    Image.open(BytesIO(png)).convert("RGB").save(smaller, "PNG", optimize=True, dpi=(300, 300))
    return smaller.getvalue()


def save(figure: Figure, folder: Path) -> tuple[Path, ...]:
    """Write the figure as PNG, SVG and PDF; return the three paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = _paths(figure, folder)
    for path, image in zip(paths, images(figure), strict=True):
        write_atomically(path, image)
    return paths


def remove_others(drawn: Iterable[Figure], folder: Path) -> None:
    """Take away the files of figures that are not among those drawn, as of another experiment."""
    stems = {figure.stem for figure in drawn}
    for path in folder.glob("figure*"):
        if re.fullmatch(r"figure\d", path.stem) and path.stem not in stems:
            path.unlink()


def sheet(figure: Figure) -> dict[str, Any]:
    """The figure's panels side by side, more than three in two columns, as Vega-Lite."""
    columns = len(figure.panels) if len(figure.panels) <= MOST_IN_A_ROW else 2
    panels = []
    for panel in figure.panels:
        chart = _panel_chart(panel, HEIGHT, LEGEND_WIDTH, panel.note) + _title(panel)
        panels.append(chart.properties(width=WIDTH, height=HEIGHT))
    return _vega_lite(alt.concat(*panels, columns=columns, spacing=28), PAPER_FONT)


def plot(panel: Panel, ring: tuple[float, float] | None = None) -> dict[str, Any]:
    """The panel as wide as its box on the page, as Vega-Lite; title and note are the page's.

    Args:
        panel: what is drawn.
        ring: a place to ring. The page moves it: it is the data set named `ring`.
    """
    chart = _panel_chart(panel, PAGE_HEIGHT, PAGE_LEGEND_WIDTH)
    if ring is not None:
        ring_data = alt.Data(alt.InlineData([{"x": ring[0], "y": ring[1]}], name=RING))
        chart += alt.Chart(ring_data).mark_point(
            size=RING_SIZE, color=TEXT, strokeWidth=3, filled=False
        )
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    sized = chart.properties(width="container", height=PAGE_HEIGHT, autosize=fit)
    return _vega_lite(sized, PAGE_FONT)


@cache
def library() -> Markup:
    """Vega, Vega-Lite and vega-embed as one script, so that a page opens with no network."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(script.replace("</script", "<\\/script"))


def _paths(figure: Figure, folder: Path) -> tuple[Path, ...]:
    return tuple(folder / f"{figure.stem}.{kind}" for kind in KINDS)


def _panel_chart(panel: Panel, height: float, legend_width: int, note: str = "") -> alt.LayerChart:
    lines = _anchors_last(panel.lines)
    sizes = _sizes(lines)
    layers = [
        *(_shade(curve, panel.x, panel.y) for curve in panel.curves if curve.shaded),
        *(_curve(curve) for curve in panel.curves),
        *(_joined_line(line) for line in lines),
        *_bars(lines),
        _marks(
            [
                _mark(mark, line.ink, SEED_SHARE * SIZES[line.ink.marker], outline=0)
                for line in lines
                for mark in line.seeds
            ]
        ),
        _marks(
            [_mark(mark, line.ink, sizes[line.ink]) for line in lines for mark in line.marks]
        ).properties(name=MEASURED),
        *_curve_names(panel),
        *_labels(lines),
        *_break(panel.x, {"x": alt.X("at:Q"), "y": alt.value(height)}, 0),
        *_break(panel.y, {"x": alt.value(0), "y": alt.Y("at:Q")}, 90),
        *_legend(panel, sizes, height, legend_width, note),
    ]
    axes = {"x": alt.X("x:Q", **_axis(panel.x)), "y": alt.Y("y:Q", **_axis(panel.y))}
    return alt.LayerChart(layer=layers, encoding=axes)


def _axis(axis: Axis) -> dict[str, Any]:
    # A number may lose its last digit on its way into an image, so a tick is found by nearness.
    named = "".join(
        f"abs(datum.value - {position:.12g}) <= {1e-9 * abs(position) or 1e-12:.1g} ? "
        f"{json.dumps(label)} : "
        for position, label in axis.ticks
    )
    return {
        "scale": alt.Scale(type="log" if axis.log else "linear", domain=[axis.low, axis.high]),
        "axis": alt.Axis(
            title=axis.label,
            values=[position for position, _ in axis.ticks],
            labelExpr=f"{named}''",
        ),
    }


def _data(rows: Iterable[Row]) -> alt.InlineData:
    return alt.InlineData(list(rows))


def _path(x: Iterable[float], y: Iterable[float]) -> alt.InlineData:
    return _data(
        {"x": a, "y": b, "order": number} for number, (a, b) in enumerate(zip(x, y, strict=True))
    )


def _rounded(curve: Curve) -> tuple[list[float], list[float]]:
    """To more digits than can be seen: a page holds hundreds of points a curve."""
    return [float(f"{x:.6g}") for x in curve.x], [float(f"{y:.6g}") for y in curve.y]


def _curve(curve: Curve) -> alt.Chart:
    line = alt.Chart(_path(*_rounded(curve))).mark_line(
        color=curve.colour,
        strokeDash=DASHES[curve.dash],
        strokeWidth=1.4 * curve.width,
        opacity=FAINT,
        clip=True,
    )
    return line.encode(order="order:Q")


def _shade(curve: Curve, x_axis: Axis, y_axis: Axis) -> alt.Chart:
    """What lies below a curve that falls, and left of where it begins."""
    points = sorted(zip(*_rounded(curve), strict=True))
    strip = x_axis.strip
    last = strip.break_at if strip is not None and strip.position > points[-1][0] else x_axis.high
    first = points[0][0]
    corners = [(x_axis.low, y_axis.high), (first, y_axis.high), *points, (last, points[-1][1])]
    path = _path((x for x, _ in corners), (y for _, y in corners))
    area = alt.Chart(path).mark_area(color=curve.colour, opacity=SHADE, clip=True)
    return area.encode(y2=alt.datum(y_axis.low))


def _joined_line(line: Line) -> alt.Chart:
    joined = [mark for mark in line.marks if mark.joined]
    chart = alt.Chart(_path((mark.x for mark in joined), (mark.y for mark in joined)))
    dash = DASHES[line.ink.dash]
    return chart.mark_line(color=line.ink.colour, strokeDash=dash, strokeWidth=1.8).encode(
        order="order:Q"
    )


def _bars(lines: Iterable[Line]) -> tuple[alt.Chart, alt.Chart]:
    """Error bars, and the caps at their ends."""
    bars: list[Row] = []
    for line in lines:
        for mark in line.marks:
            colour = {"color": line.ink.colour}
            if mark.x_interval:
                low, high = mark.x_interval
                bars.append({"x": low, "x2": high, "y": mark.y, "y2": mark.y, "angle": 90} | colour)
            if mark.y_interval:
                low, high = mark.y_interval
                bars.append({"x": mark.x, "x2": mark.x, "y": low, "y2": high, "angle": 0} | colour)
    caps = [bar | {"x": x, "y": y} for bar in bars for x, y in _ends(bar)]
    return (
        alt.Chart(_data(bars))
        .mark_rule(strokeWidth=1)
        .encode(x2="x2:Q", y2="y2:Q", color=_as_given("color")),
        alt.Chart(_data(caps))
        .mark_point(shape="stroke", size=25, strokeWidth=1, opacity=1)
        .encode(color=_as_given("color"), angle=alt.Angle("angle:Q", scale=None)),
    )


def _ends(bar: Row) -> tuple[tuple[float, float], tuple[float, float]]:
    return (bar["x"], bar["y"]), (bar["x2"], bar["y2"])


def _marks(rows: Sequence[Row], **place: Any) -> alt.Chart:
    return (
        alt.Chart(_data(rows))
        .mark_point(opacity=1, fillOpacity=FILL)
        .encode(
            fill=alt.Fill("color:N", scale=None),
            stroke=alt.Stroke("color:N", scale=None),
            strokeWidth=alt.StrokeWidth("outline:Q", scale=None),
            shape=alt.Shape("shape:N", scale=None),
            size=alt.Size("size:Q", scale=None),
            tooltip=alt.Tooltip("hover:N") if not place else alt.Undefined,
            **place,
        )
    )


def _anchors_last(lines: Iterable[Line]) -> list[Line]:
    """What every plane is read by is drawn over the rest."""
    order = {PLAIN_INK: 1, START_INK: 2}
    return sorted(lines, key=lambda line: order.get(line.ink, 0))


def _sizes(lines: Sequence[Line]) -> dict[Ink, float]:
    """A size to each line: of one shape the upper are the smaller, so that none hides another."""
    sizes = {}
    for marker, size in SIZES.items():
        inks = list(dict.fromkeys(line.ink for line in lines if line.ink.marker == marker))
        step = min(GROWTH, (WIDEST - 1) / max(1, len(inks) - 1))
        for place, ink in enumerate(reversed(inks)):
            sizes[ink] = size * (1 + step * place) ** 2
    return sizes


def _mark(mark: Mark, ink: Ink, size: float, outline: float = OUTLINE) -> Row:
    return {
        "x": mark.x,
        "y": mark.y,
        "color": ink.colour,
        "shape": SYMBOLS[ink.marker],
        "size": size,
        "outline": outline,
        "hover": "\n".join(mark.hover),
    }


def _as_given(field: str) -> alt.Color:
    return alt.Color(f"{field}:N", scale=None)


def _labels(lines: Iterable[Line]) -> tuple[alt.Chart, alt.Chart]:
    """Words beside marks, on a white rim that parts them from lines behind."""
    rows = [
        {"x": mark.x, "y": mark.y, "label": mark.label, "side": mark.label_side}
        for line in lines
        for mark in line.marks
        if mark.label
    ]
    words = alt.Chart(_data(rows)).encode(text="label:N")
    style: dict[str, Any] = {
        "align": alt.expr("test(/right/, datum.side) ? 'left' : 'right'"),
        "dx": alt.expr("test(/right/, datum.side) ? 9 : -9"),
        "dy": alt.expr("test(/lower/, datum.side) ? 10 : -10"),
        "fontSize": LABEL_SIZE,
    }
    rim = words.mark_text(color="white", stroke="white", strokeWidth=3, opacity=0.8, **style)
    return rim, words.mark_text(color=TEXT, **style)


def _curve_names(panel: Panel) -> tuple[alt.Chart, ...]:
    """A name along the outer side of each curve's upper end; of ends too near, one for all."""
    ends = [
        (*max(zip(curve.x, curve.y, strict=True), key=lambda place: place[1]), curve.label)
        for curve in panel.curves
        if curve.label
    ]
    rows: list[Row] = []
    for x, y, label in sorted(ends, key=lambda end: -end[1]):
        across, top = panel.x.share(x), panel.y.share(y)
        in_the_way = (
            row
            for row in rows
            if abs(row["across"] - across) < NAME_HEIGHT
            and row["top"] - NAME_LETTER * len(row["name"]) < top
        )
        if row := next(in_the_way, None):
            row["name"] += f", {printable(label)}"
        else:
            name = printable(label)
            rows.append({"x": x, "y": y, "name": name, "across": across, "top": top})
    if not rows:
        return ()
    words = alt.Chart(_data(rows)).encode(text="name:N")
    style: dict[str, Any] = {"angle": 270, "align": "right", "dy": -9, "fontSize": LABEL_SIZE}
    return (words.mark_text(color=SOFT, **style),)


def _break(axis: Axis, place: dict[str, Any], angle: int) -> tuple[alt.Chart, ...]:
    """Two slashes over a white gap in the axis line."""
    if axis.strip is None:
        return ()
    chart = alt.Chart(_data([{"at": axis.strip.break_at}])).encode(**place)
    return (
        chart.mark_point(shape="square", size=40, filled=True, color="white", opacity=1),
        chart.mark_text(text="//", fontSize=FONT_SIZE, angle=angle, color=TEXT),
    )


def _title(panel: Panel) -> alt.Chart:
    """Above the axes at a height of its own, so that the titles of a row stand level."""
    lines = wrap(printable(panel.title), TITLE_WIDTH)
    rows = [
        {"x": 0, "y": -16 * (len(lines) - number) - 4, "line": line}
        for number, line in enumerate(lines)
    ]
    text = alt.Chart(_data(rows)).mark_text(align="left", fontSize=TITLE_SIZE, color=TEXT)
    return text.encode(**IN_PIXELS, text="line:N")


def _legend(
    panel: Panel, sizes: dict[Ink, float], height: float, width: int, note: str
) -> tuple[alt.Chart, ...]:
    """A row to each line and each kind of curve, below the axes, in pixels from their corner.

    In an image, which stands alone, the note is below them.
    """
    top = height + LEGEND_TOP + TICK_LINE * max(label.count("\n") for _, label in panel.x.ticks)
    keys: list[Row] = []
    marks: list[Row] = []
    names: list[Row] = []

    def name(words: str) -> float:
        nonlocal top
        middle = top
        names.append({"x": KEY_WIDTH + 8, "y": middle, "name": wrap(printable(words), width)})
        top += LEGEND_ROW + LEGEND_LINE * (len(names[-1]["name"]) - 1)
        return middle

    def key(middle: float, colour: str, dash: Dash, width: float, opacity: float) -> None:
        ends = {"x": 0, "x2": KEY_WIDTH, "y": middle}
        style = {"color": colour, "dash": DASHES[dash], "width": width, "opacity": opacity}
        keys.append(ends | style)

    for line in panel.lines:
        middle = name(line.name)
        if sum(mark.joined for mark in line.marks) > 1:
            key(middle, line.ink.colour, line.ink.dash, 1.8, 1)
        style = {"color": line.ink.colour, "shape": SYMBOLS[line.ink.marker]}
        at = {"x": KEY_WIDTH / 2, "y": middle}
        marks.append(at | style | {"size": sizes[line.ink], "outline": OUTLINE})
    for kind in {curve.name: curve for curve in panel.curves}.values():
        middle = name(kind.name)
        key(middle, GREY, kind.dash, 1.4 * kind.width, FAINT)
        if kind.shaded:
            key(middle + 4, GREY, "solid", 8, SHADE)
    note_lines = {"x": 0, "y": top - 4, "note": wrap(printable(note), NOTE_WIDTH)}
    return (
        alt.Chart(_data(keys))
        .mark_rule()
        .encode(
            **IN_PIXELS,
            x2="x2:Q",
            color=_as_given("color"),
            strokeDash=alt.StrokeDash("dash:N", scale=None),
            strokeWidth=alt.StrokeWidth("width:Q", scale=None),
            opacity=alt.Opacity("opacity:Q", scale=None),
        ),
        _marks(marks, **IN_PIXELS),
        alt.Chart(_data(names))
        .mark_text(align="left", baseline="middle", lineHeight=LEGEND_LINE, color=TEXT)
        .encode(**IN_PIXELS, text="name:N"),
        *(
            [
                alt.Chart(_data([note_lines]))
                .mark_text(
                    align="left",
                    baseline="top",
                    lineHeight=LEGEND_LINE,
                    color=SOFT,
                    fontSize=LABEL_SIZE,
                )
                .encode(**IN_PIXELS, text="note:N")
            ]
            if note
            else []
        ),
    )


def _vega_lite(chart: alt.LayerChart | alt.ConcatChart, font: str) -> dict[str, Any]:
    config = alt.Config(
        aria=False,  # a page describes each plot in words of its own
        font=font,
        lineBreak="\n",
        view=alt.ViewConfig(stroke=None),
        text=alt.MarkConfig(fontSize=FONT_SIZE),
        axis=alt.AxisConfig(
            labelFontSize=FONT_SIZE,
            titleFontSize=FONT_SIZE,
            titleFontWeight="normal",
            titlePadding=8,
            labelColor=TEXT,
            titleColor=TEXT,
            domainColor=SOFT,
            tickColor=SOFT,
            gridColor=GRID,
            labelFlush=False,
            labelOverlap=False,
        ),
    )
    spec: dict[str, Any] = chart.configure(**config.to_dict()).to_dict()
    return spec
