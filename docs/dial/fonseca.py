"""A frontier that no sum of losses reaches: Fonseca and Fleming's problem, for docs/dial.md.

    python docs/dial/fonseca.py

f₁(x) = 1 − exp(−‖x − c‖²) and f₂(x) = 1 − exp(−‖x + c‖²) with c = (1/√n, …), n = 2. The frontier is
the segment from c to −c and bulges outwards: of f₁ + λf₂ every point of it but the two ends is a
saddle at most, so that runs at a fixed λ end at an end. A dial draws λ anew at every step, and its
settings are a line between its two ends. Writes docs/dial/fonseca.json and the table of dial.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trimtab.config.experiment import Dial
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.theory import hypervolume

HERE = Path(__file__).parent
Array = NDArray[np.float64]
SIZE, STEPS, RATE, SEEDS = 2, 2000, 0.02, range(10)
CENTRE = np.full(SIZE, SIZE**-0.5)
CORNER = (1.0, 1.0)


def losses(x: Array) -> tuple[float, float]:
    """f₁, the task's part, and f₂, that of safety."""
    first, second = np.exp(-((x - CENTRE) ** 2).sum()), np.exp(-((x + CENTRE) ** 2).sum())
    return float(1 - first), float(1 - second)


def gradient(x: Array, penalty: float) -> Array:
    """Of (f₁ + λf₂)/(1 + λ)."""
    first, second = np.exp(-((x - CENTRE) ** 2).sum()), np.exp(-((x + CENTRE) ** 2).sum())
    summed = first * (x - CENTRE) + penalty * second * (x + CENTRE)
    slope: Array = 2 * summed / (1 + penalty)
    return slope


def separate_run(start: Array, penalty: float) -> Array:
    x = start.copy()
    for _ in range(STEPS):
        x -= RATE * gradient(x, penalty)
    return x


def dial(start: Array, seed: int, settings: Dial) -> tuple[Array, Array]:
    """The displacements of both ends after as many steps as one run has."""
    task, safe = np.zeros(SIZE), np.zeros(SIZE)
    for step in range(STEPS):
        alpha = settings.setting_of_step(seed, step)
        g = gradient(start + alpha * task + (1 - alpha) * safe, settings.penalty_at(alpha))
        task -= RATE * alpha * g
        safe -= RATE * (1 - alpha) * g
    return task, safe


def area(points: list[Array]) -> float:
    return hypervolume([losses(x) for x in points], CORNER)


def main() -> None:
    whole = area([CENTRE * (1 - 2 * share) for share in np.linspace(0, 1, 10_001)])
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        start = np.random.default_rng(seed).normal(0, 0.3, SIZE)
        runs = [separate_run(start, float(penalty)) for penalty in np.geomspace(100, 0.01, 8)]
        found.setdefault("eight runs at λ from 100 to 0.01", []).append(area(runs) / whole)
        for safest, capable in ((100.0, 0.01), (3.0, 0.3)):
            ends = dial(start, seed, Dial(safest_penalty=safest, capable_penalty=capable))
            for count in (8, 81):
                line = [start + a * ends[0] + (1 - a) * ends[1] for a in np.linspace(0, 1, count)]
                name = f"a dial from λ = {safest:g} to {capable:g}, {count} settings"
                found.setdefault(name, []).append(area(line) / whole)
    (HERE / "fonseca.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rows = [
        (
            name,
            f"{100 * np.mean(shares):.1f} %",
            f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %",
        )
        for name, shares in found.items()
    ]
    columns = ("method", "share of the frontier’s area", f"least to most of {len(SEEDS)} starts")
    replace_between(HERE.parent / "dial.md", "fonseca", markdown_table(columns, rows))


if __name__ == "__main__":
    main()
