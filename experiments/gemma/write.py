"""Take the run's numbers into the repository, and write this folder's table.

    python experiments/gemma/write.py [RUNS/gemma]

Given the folder of the sweep, its points and the losses of every held-out row are copied here; the
table of README.md is made from what lies here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab.analysis.labels import estimate_in_words
from trimtab.config.methods import ALIGNED, CASE_2_RADIUS
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.results.store import copy_measurements, read_points

HERE = Path(__file__).parent


def main() -> None:
    if len(sys.argv) > 1:
        copy_measurements(Path(sys.argv[1]), HERE)
    columns = ("model", "safety loss", "over θ_s", "task loss", "over θ_s")
    points = read_points(HERE)
    table = markdown_table(columns, [point_cells(point) for point in points])
    text = f"{table}\n\nLosses in nats per token.\n\n{beside_the_ball(points)}"
    replace_between(HERE / "README.md", "results", text)
    print(text)


def beside_the_ball(points: list[Point]) -> str:
    """The loosest ball of Case II minus each model without one, row by row."""
    rows = RowLosses(HERE)
    ball = max((p for p in points if p.method is CASE_2_RADIUS), key=lambda p: p.spec.value or 0.0)
    models = [p for p in points if p.method not in (CASE_2_RADIUS, ALIGNED)]
    lines = []
    for model in models:
        changes = []
        for data in ("original", f"task:{ball.task}"):
            change = rows.difference(data, str(ball.model), str(model.model))
            assert change is not None
            changes.append(estimate_in_words(change.estimate("nats per token")))
        lines.append((point_label(model), *changes))
    columns = (f"{point_label(ball)}, minus", "safety loss", "task loss")
    return markdown_table(columns, lines)


def point_cells(point: Point) -> tuple[str, ...]:
    assert point.alignment_loss is not None
    changes = ("–", "–")
    if point.method is not ALIGNED:
        changes = (
            estimate_in_words(point.alignment_gap),
            estimate_in_words(point.capability_gap),
        )
    return (
        point_label(point),
        estimate_in_words(point.alignment_loss),
        changes[0],
        estimate_in_words(point.capability_loss),
        changes[1],
    )


def point_label(point: Point) -> str:
    if point.method is ALIGNED:
        return "aligned model θ_s"
    return (
        "plain fine-tuning" if point.spec.is_plain else f"{point.method.short}, {point.spec.label}"
    )


if __name__ == "__main__":
    main()
