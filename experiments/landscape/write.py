"""Take the audit's landscape into the repository, and draw it beside where trainings went.

    python experiments/landscape/write.py [RUNS/landscape]

Given the folder of the audit its landscape is copied here, without any row; the tables of README.md
and the figure are made from what lies here and in ../conflict.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from trimtab import theory
from trimtab.analysis.labels import estimate_in_words
from trimtab.audit.result import LandscapeResult, ProfileRecord, part, read_audit_result
from trimtab.config.methods import ALIGNED, CASE_1, CASE_2_RADIUS
from trimtab.report.axes import log_ticks
from trimtab.report.chart import Axis, Curve, Figure, Line, Mark, Panel
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.report.palette import PLAIN_INK, ink
from trimtab.report.renderer import images
from trimtab.results.files import write_atomically
from trimtab.results.result import Point
from trimtab.results.store import read_points

HERE = Path(__file__).parent
CONFLICT = HERE.parent / "conflict"
KEPT = HERE / "landscape.json"
TASK = "alpaca"
TRAINED_INKS = {"plain fine-tuning": PLAIN_INK, "Case I": ink(4, 4), "Case II": ink(5, 5)}


def main() -> None:
    if len(sys.argv) > 1:
        take(Path(sys.argv[1]))
    landscape = part(LandscapeResult, json.loads(KEPT.read_text(encoding="utf-8")))
    trained = [point for point in read_points(CONFLICT) if point.method is not ALIGNED]
    write_atomically(HERE / "landscape.png", images(figure(landscape, trained))[0])
    text = "\n\n".join(
        (terrain_table(landscape), walks_table(landscape), trained_table(landscape, trained))
    )
    replace_between(HERE / "README.md", "results", text)
    print(text)


def take(run: Path) -> None:
    """Copy what the audit found of the landscape, which names no row."""
    record = json.loads((run / "audit.json").read_text(encoding="utf-8"))
    read_audit_result(run / "audit.json")  # of this version
    write_atomically(KEPT, json.dumps(record["landscape"], indent=1) + "\n")


def theorem_3(landscape: LandscapeResult, distance: float) -> float:
    """What it lets the safety loss rise by at most, nats per token."""
    return theory.theorem_3(
        gap_at_start=0.0,
        gradient_norm=landscape.safety_slope.value,
        smoothness=abs(landscape.safety_curvature.value),
        radius=distance,
    ).value


def theorem_4(landscape: LandscapeResult, radius: float) -> float:
    """By how much the best model of the ball lowers L_f at least, nats per token."""
    side = landscape.tasks[TASK]
    most = theory.theorem_4(
        gap_at_start=side.loss,
        gradient_norm=side.slope.value,
        smoothness=abs(side.curvature.value),
        radius=radius,
    ).value
    return side.loss - most


def terrain_table(landscape: LandscapeResult) -> str:
    task = landscape.tasks[TASK]
    rows = [
        (
            "safety",
            f"{landscape.safety_loss:.4g}",
            estimate_in_words(landscape.safety_slope),
            estimate_in_words(landscape.safety_curvature),
            "–",
        ),
        (
            "task",
            f"{task.loss:.4g}",
            estimate_in_words(task.slope),
            estimate_in_words(task.curvature),
            estimate_in_words(task.cosine),
        ),
    ]
    columns = ("loss", "at θ_s", "‖∇L‖", "top of ∇²L", "cosine of the gradients")
    return markdown_table(columns, rows)


def walks_table(landscape: LandscapeResult) -> str:
    """By how much each walk has risen, and where it leaves the local estimate behind."""
    rows = []
    for walk in landscape.walks:
        rises = np.array(walk.losses) - landscape.safety_loss
        above = [
            distance
            for distance, rise in zip(walk.distances[1:], rises[1:], strict=True)
            if rise > theorem_3(landscape, distance)
        ]
        rows.append(
            (
                walk.direction,
                *(rise_text(walk, landscape, distance) for distance in (0.5, 1.0, 3.5)),
                f"{above[0]:.3g}" if above else f"nowhere up to {walk.distances[-1]:.3g}",
            )
        )
    rows.append(
        (
            "Theorem 3 at most",
            *(f"{theorem_3(landscape, distance):.4f}" for distance in (0.5, 1.0, 3.5)),
            "–",
        )
    )
    columns = ("walk", "rise at 0.5", "at 1", "at 3.5", "above Theorem 3's from")
    return markdown_table(columns, rows)


def rise_text(walk: ProfileRecord, landscape: LandscapeResult, distance: float) -> str:
    """Between the steps of a walk on a line; a dash where it did not go so far."""
    if distance > walk.distances[-1]:
        return "–"
    rise = np.interp(distance, walk.distances, walk.losses) - landscape.safety_loss
    return f"{rise:.4f}".replace("-", "−")


def trained_table(landscape: LandscapeResult, points: list[Point]) -> str:
    """Means over the seeds, the far ones first."""
    rows = []
    for name, group in grouped(points).items():
        distance = float(np.mean([point.distance for point in group]))
        risen = float(np.mean([rise_of(point) for point in group]))
        most = theorem_3(landscape, distance)
        fallen = -float(np.mean([fall_of(point) for point in group]))
        is_ball = group[0].method is CASE_2_RADIUS
        least = f"{theorem_4(landscape, distance):.3g}" if is_ball else "–"
        share = f"{100 * risen / most:.1f} %"
        measured = (f"{distance:.3g}", f"{risen:.3g}", f"{most:.3g}", share, f"{fallen:.3g}", least)
        rows.append((name, *measured))
    columns = (
        "trained model", "‖θ − θ_s‖", "rise of L_s", "Theorem 3 at most", "share of it",
        "fall of L_f", "Theorem 4 at least",
    )  # fmt: skip
    return markdown_table(columns, rows)


def grouped(points: list[Point]) -> dict[str, list[Point]]:
    """The settings that theory speaks of, each with its seeds."""
    by_setting: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        if point.spec.is_plain:
            by_setting["plain fine-tuning"].append(point)
        elif point.method in (CASE_1, CASE_2_RADIUS):
            data = "" if point.proxy in ("judging", None) else f", {point.proxy} data"
            by_setting[f"{point.method.short}, {point.spec.label}{data}"].append(point)
    return by_setting


def rise_of(point: Point) -> float:
    assert point.alignment_gap is not None
    return point.alignment_gap.value


def fall_of(point: Point) -> float:
    assert point.capability_gap is not None
    return point.capability_gap.value


def figure(landscape: LandscapeResult, points: list[Point]) -> Figure:
    lines = []
    for place, walk in enumerate(landscape.walks):
        risen = [
            mark(distance, loss - landscape.safety_loss)
            for distance, loss in zip(walk.distances[1:], walk.losses[1:], strict=True)
            if loss > landscape.safety_loss
        ]
        lines.append(Line(f"walk: {walk.direction}", ink(place, place), tuple(risen)))
    by_case: dict[str, list[Mark]] = defaultdict(list)
    for name, group in grouped(points).items():
        by_case[name.split(",")[0]].extend(mark(p.distance, rise_of(p), False) for p in group)
    for name, marks in by_case.items():
        lines.append(Line(f"trained: {name}", TRAINED_INKS[name], tuple(marks)))
    all_marks = [drawn_mark for line in lines for drawn_mark in line.marks]
    x, y = (
        axis(label, [getattr(drawn_mark, side) for drawn_mark in all_marks])
        for label, side in (
            ("distance from θₛ", "x"),
            ("rise of the safety loss (nats per token)", "y"),
        )
    )
    distances = np.geomspace(x.low, x.high, 80)
    reach = [d for d in distances if y.low <= theorem_3(landscape, d) <= y.high]
    bound = Curve(
        "Theorem 3 at most, from θₛ alone (estimate)", "#767676", "dash", 2,
        tuple(reach), tuple(theorem_3(landscape, distance) for distance in reach),
    )  # fmt: skip
    return Figure(1, "", (Panel("Safety loss against distance", x, y, tuple(lines), (bound,)),), ())


def mark(x: float, y: float, joined: bool = True) -> Mark:
    return Mark(x, y, None, None, (), joined)


def axis(label: str, values: list[Any]) -> Axis:
    low, high = min(values) / 1.3, max(values) * 1.3
    return Axis(label, True, low, high, log_ticks(low, high))


if __name__ == "__main__":
    main()
