"""Take the run's numbers into the repository, and write this folder's table.

    python experiments/gemma/write.py [RUNS/gemma]

Given the folder of the sweep, its points and the losses of every held-out row are copied here; the
table of README.md is made from what lies here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab.analysis.labels import estimate_in_words
from trimtab.config.methods import ALIGNED
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.result import Point
from trimtab.results.store import copy_measurements, read_points

HERE = Path(__file__).parent


def main() -> None:
    if len(sys.argv) > 1:
        copy_measurements(Path(sys.argv[1]), HERE)
    columns = ("model", "safety loss", "over θ_s", "task loss", "over θ_s")
    text = markdown_table(columns, [told(point) for point in read_points(HERE)])
    replace_between(HERE / "README.md", "results", f"{text}\n\nLosses in nats per token.")
    print(text)


def told(point: Point) -> tuple[str, ...]:
    assert point.alignment_loss is not None
    changes = ("–", "–")
    if point.method is not ALIGNED:
        changes = (
            estimate_in_words(point.alignment_gap),
            estimate_in_words(point.capability_gap),
        )
    return (
        named(point),
        estimate_in_words(point.alignment_loss),
        changes[0],
        estimate_in_words(point.capability_loss),
        changes[1],
    )


def named(point: Point) -> str:
    if point.method is ALIGNED:
        return "aligned model θ_s"
    return (
        "plain fine-tuning" if point.spec.is_plain else f"{point.method.short}, {point.spec.label}"
    )


if __name__ == "__main__":
    main()
