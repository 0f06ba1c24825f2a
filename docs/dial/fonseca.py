"""A frontier that no sum of losses reaches: Fonseca and Fleming's problem, for docs/dial.md.

    python docs/dial/fonseca.py

f₁(x) = 1 − exp(−‖x − c‖²) and f₂(x) = 1 − exp(−‖x + c‖²) with c = (1/√n, …), n = 2. The frontier is
the segment of points u·c, u from 1 to −1, and bulges outwards. Where f₁ + λf₂ is stationary on it,
its second derivative along it is 4(2u² − 1)/(1 + u) times a positive number: below 0 for
u² < ½, so that no λ has a minimum there, and runs at a fixed λ end near an end. A dial draws λ anew
at every step, and its settings are a line between its two ends. Fine-tuning from near the safe end
−c within a radius, or to a budget of f₂, reaches the whole of the frontier: a constraint needs no
convexity to single a point out. Writes docs/dial/fonseca.json and the table of dial.md.
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


def within_radius(aligned: Array, radius: float) -> Array:
    """Case II: the task's loss alone, projected onto the ball round θ_s after every step."""
    x = aligned.copy()
    for _ in range(STEPS):
        x -= RATE * gradient(x, 0.0)
        moved = x - aligned
        x = aligned + moved * min(1.0, radius / max(float(np.linalg.norm(moved)), 1e-12))
    return x


def within_budget(aligned: Array, budget: float) -> Array:
    """Case I with λ learned for a budget (νPI on log λ), then back towards θ_s until f₂ is kept."""
    x, penalty, mean = aligned.copy(), 0.3, None
    for _ in range(STEPS):
        x -= RATE * gradient(x, penalty)
        error = float(np.clip(losses(x)[1] / max(budget, 1e-9) - 1, -1, 1))
        before = error if mean is None else mean
        mean = 0.8 * before + 0.2 * error
        penalty = float(np.clip(penalty * np.exp(0.05 * (error + 5 * (mean - before))), 1e-4, 1e4))
    shares = np.linspace(0, 1, 1001)
    allowed = [share for share in shares if losses(aligned + share * (x - aligned))[1] <= budget]
    return aligned + max(allowed, default=0.0) * (x - aligned)


def area(points: list[Array]) -> float:
    return hypervolume([losses(x) for x in points], CORNER)


def main() -> None:
    frontier_area = area([CENTRE * (1 - 2 * share) for share in np.linspace(0, 1, 10_001)])
    by_method: dict[str, list[float]] = {}
    for seed in SEEDS:
        start = np.random.default_rng(seed).normal(0, 0.3, SIZE)
        runs = [separate_run(start, float(penalty)) for penalty in np.geomspace(100, 0.01, 8)]
        by_method.setdefault("eight runs at λ from 100 to 0.01", []).append(
            area(runs) / frontier_area
        )
        for safest, capable in ((100.0, 0.01), (3.0, 0.3)):
            ends = dial(start, seed, Dial(safest_penalty=safest, capable_penalty=capable))
            for count in (8, 81):
                line = [start + a * ends[0] + (1 - a) * ends[1] for a in np.linspace(0, 1, count)]
                name = f"a dial from λ = {safest:g} to {capable:g}, {count} settings"
                by_method.setdefault(name, []).append(area(line) / frontier_area)
        aligned = np.random.default_rng(seed).normal(0, 0.05, SIZE) - CENTRE
        reach = float(np.linalg.norm(CENTRE - aligned))
        from_aligned = {
            "eight runs at λ from 100 to 0.01": [
                separate_run(aligned, float(penalty)) for penalty in np.geomspace(100, 0.01, 8)
            ],
            "eight runs within a radius (Case II)": [
                within_radius(aligned, radius) for radius in np.linspace(0, reach, 8)
            ],
            "eight runs with λ learned for a budget of f₂": [
                within_budget(aligned, budget)
                for budget in (losses(u * CENTRE)[1] for u in np.linspace(-1, 1, 8))
            ],
        }
        for name, points in from_aligned.items():
            by_method.setdefault(f"{name}, from the safe end", []).append(
                area(points) / frontier_area
            )
    (HERE / "fonseca.json").write_text(json.dumps(by_method, indent=1) + "\n", encoding="utf-8")
    rows = [
        (
            name,
            f"{100 * np.mean(shares):.1f} %",
            f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %",
        )
        for name, shares in by_method.items()
    ]
    columns = ("method", "share of the frontier’s area", f"least to most of {len(SEEDS)} starts")
    replace_between(HERE.parent / "dial.md", "fonseca", markdown_table(columns, rows))


if __name__ == "__main__":
    main()
