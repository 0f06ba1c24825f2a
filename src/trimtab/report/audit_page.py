"""An audit's page, and its section in a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from trimtab.analysis.labels import nats
from trimtab.audit.in_short import InShort, in_short
from trimtab.audit.result import AUDIT_FILE, LandscapeResult, read_audit_result
from trimtab.config.methods import number
from trimtab.errors import UserError
from trimtab.report import audit_tables, renderer
from trimtab.report.axes import linear_axis, log_ticks
from trimtab.report.chart import Axis, Curve, Line, Mark, Panel
from trimtab.report.html import for_script, template
from trimtab.report.packed import packed
from trimtab.report.palette import SLATE, ink
from trimtab.report.tables import Table
from trimtab.results.files import write_atomically
from trimtab.stats import Estimate
from trimtab.theory import theorem_3

PAGE_FILE = "audit.html"


@dataclass(frozen=True)
class AuditSection:
    """What a page shows of an audit: sentences, tables by title, and panels."""

    model: str
    reference: str
    distances: Mapping[str, Estimate]
    """How far each proxy lies from what proxies are compared with: the total variation of words."""
    short: InShort
    reasoning: tuple[str, ...]
    tables: Mapping[str, Table]
    quantities: Table
    panels: tuple[Panel, ...]


def read_audit(folder: Path) -> AuditSection | None:
    """The audit of a folder; None where there is none.

    Raises:
        UserError: the file is not an audit of this version.
    """
    path = folder / AUDIT_FILE
    if not path.exists():
        return None
    result = read_audit_result(path)
    return AuditSection(
        result.model,
        result.reference,
        {similarity.proxy: similarity.nearness for similarity in result.similarity},
        in_short(result),
        result.forecast.reasoning,
        audit_tables.tables(result),
        audit_tables.quantities_table(result),
        () if result.landscape is None else _basin(result.landscape),
    )


def write_audit_page(folder: Path) -> Path:
    """Draw the audit of a folder into its audit.html. Raises UserError."""
    section = read_audit(folder)
    if section is None:
        raise UserError(f"{folder / AUDIT_FILE}: no such file. Give a folder of 'trimtab audit'.")
    page = folder / PAGE_FILE
    html = template("audit.html.j2").render(
        audit=section,
        first_plot=0,
        library=renderer.library() if section.panels else "",
        plots=for_script(packed([renderer.plot(panel) for panel in section.panels])),
    )
    write_atomically(page, html)
    return page


def _basin(landscape: LandscapeResult) -> tuple[Panel, ...]:
    """The safety loss against distance on every walk, with Theorem 3's estimate beside it."""
    lines = []
    for place, walk in enumerate(landscape.walks):
        marks = tuple(
            Mark(
                distance,
                loss - landscape.safety_loss,
                None,
                None,
                (
                    walk.direction,
                    f"distance {number(distance)}",
                    f"safety loss {nats(loss)}, {_signed_text(loss - landscape.safety_loss)}",
                ),
                joined=True,
            )
            for distance, loss in zip(walk.distances[1:], walk.losses[1:], strict=True)
        )
        lines.append(Line(walk.direction, replace(ink(place, place), colour=SLATE), marks))
    distances = sorted({mark.x for line in lines for mark in line.marks})
    rises = [mark.y for line in lines for mark in line.marks]
    low, high = min(0.0, *rises), max(rises)
    slope, curvature = landscape.safety_slope.value, abs(landscape.safety_curvature.value)
    reach = [
        distance
        for distance in _distance_grid(distances)
        if _bound(slope, curvature, distance) <= high
    ]
    curve = Curve(
        "Theorem 3 at most (estimate)",
        "#767676",
        "dash",
        2,
        tuple(reach),
        tuple(_bound(slope, curvature, distance) for distance in reach),
    )
    nearest, farthest = distances[0] / 1.15, distances[-1] * 1.15
    return (
        Panel(
            "How far the local estimate holds",
            Axis(
                f"distance from θₛ, over {landscape.space}",
                True,
                nearest,
                farthest,
                log_ticks(nearest, farthest),
            ),
            linear_axis("rise of the safety loss, nats per token", (low, high)),
            tuple(lines),
            (curve,),
            "Theorem 3 bounds every direction at once; where a walk rises above its curve, the "
            "curvature on the way is more than at θₛ.",
        ),
    )


def _bound(slope: float, curvature: float, distance: float) -> float:
    return theorem_3(
        gap_at_start=0.0, gradient_norm=slope, smoothness=curvature, radius=distance
    ).value


def _distance_grid(distances: list[float]) -> list[float]:
    ratio = (distances[-1] / distances[0]) ** (1 / 80)
    return [distances[0] * ratio**step for step in range(81)]


def _signed_text(rise: float) -> str:
    return f"+{nats(rise)}" if rise > 0 else nats(rise)
