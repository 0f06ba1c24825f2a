"""A dial that asks safety rows for the aligned model's distribution, beside the comparison.

    python docs/comparison/dial_kl.py OUT

In the comparison's world, from the same aligned model, with the same rows and seeds: areas by seed,
as shares of the comparison's rectangle, go to dial-kl.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from rich.console import Console

from trimtab.cli.progress import TerminalWatcher
from trimtab.config.methods import ALIGNED, DIAL
from trimtab.models import quiet_libraries
from trimtab.results.result import Point
from trimtab.results.store import read_points
from trimtab.runner.comparison import DIAL_BLOCK, comparison_of, comparison_world
from trimtab.runner.sweep import sweep
from trimtab.theory import hypervolume

HERE = Path(__file__).parent


def main() -> None:
    quiet_libraries()
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    experiment, _ = comparison_of(comparison_world(out))
    training = replace(experiment.train, safety_target="kl")
    with TerminalWatcher(Console(stderr=True)) as watcher:
        points = sweep(replace(experiment, grid=(DIAL_BLOCK,), train=training), out, watcher)
    compared = read_points(HERE)
    corner = (
        mean(gaps(point)[0] for point in compared if point.spec.is_plain),
        next(gaps(point)[1] for point in compared if point.method is ALIGNED),
    )
    lines = {
        "dial, kl": [point for point in points if point.method is DIAL],
        "dial": [point for point in compared if point.method is DIAL],
        "safegrad": [point for point in compared if point.method.name == "safegrad"],
        "kl-anchor": [point for point in compared if point.method.name == "kl-anchor"],
    }
    areas_by_line = {name: areas(line, corner) for name, line in lines.items()}
    (HERE / "dial-kl.json").write_text(json.dumps(areas_by_line, indent=1) + "\n", encoding="utf-8")


def areas(line: Sequence[Point], corner: tuple[float, float]) -> dict[int, float]:
    """The share of the rectangle that each seed's settings dominate."""
    seeds = sorted({point.seed for point in line})
    rectangle = corner[0] * corner[1]
    return {
        seed: round(hypervolume([gaps(p) for p in line if p.seed == seed], corner) / rectangle, 4)
        for seed in seeds
    }


def gaps(point: Point) -> tuple[float, float]:
    """Alignment gap and capability gap, nats per token."""
    assert point.alignment_gap is not None
    assert point.capability_gap is not None
    return point.alignment_gap.value, point.capability_gap.value


if __name__ == "__main__":
    main()
