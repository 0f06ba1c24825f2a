"""How tight the four theorems are in ordinary worlds, for docs/theory.md.

    python docs/theory/tightness.py

Writes docs/theory/tightness.json, and from it the table of docs/theory.md between its markers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trimtab.data.synthetic import make_world
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.theory import (
    Distribution,
    SoftmaxModel,
    capability_bound,
    exact_frontier,
    gap,
    safety_bound,
    theorem_3,
    theorem_4,
)

HERE = Path(__file__).parent
WORLDS = 300
PENALTIES = (0.1, 1.0, 10.0)
Pair = tuple[float, float, float]
"""What was reached, the bound on it, and what is reached without any constraint."""


def main() -> None:
    generator = np.random.default_rng(0)
    by_bound: dict[str, list[Pair]] = {}
    for seed in range(WORLDS):
        for name, pair in (*_case_1(generator, seed), *_case_2(generator)):
            by_bound.setdefault(name, []).append(pair)
    record = {name: _quantiles(pairs) for name, pairs in sorted(by_bound.items())}
    (HERE / "tightness.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    columns = ("bound", "actual over bound: median", "5 % to 95 %", "vacuous")
    rows = [
        (
            name,
            f"{quantiles['median']:.2f}",
            f"{quantiles['low']:.2f} to {quantiles['high']:.2f}",
            f"{100 * quantiles['vacuous']:.0f} %",
        )
        for name, quantiles in record.items()
    ]
    replace_between(HERE.parent / "theory.md", "tightness", markdown_table(columns, rows))


def _case_1(generator: np.random.Generator, seed: int) -> Iterator[tuple[str, Pair]]:
    """Theorems 1 and 2 at the exact optimum of a built-in world of random distance and overlap."""
    far, overlap = generator.uniform(0.02, 0.8), generator.uniform(0.05, 1.0)
    world = make_world({"proxy": float(far)}, {"task": float(overlap)}, seed)
    task, proxy, original = world.task["task"], world.safety["proxy"], world.original
    free = exact_frontier(task, proxy, original, [0.0, np.inf])
    unsafest, least_capable = free[0].alignment_gap, free[1].capability_gap
    for optimum in exact_frontier(task, proxy, original, PENALTIES):
        for form, sharp in (("sharp", True), ("classical", False)):
            safety = safety_bound(task, proxy, original, optimum.penalty, sharp=sharp)
            capability = capability_bound(task, proxy, optimum.penalty, sharp=sharp)
            yield f"Theorem 1, {form}", (optimum.alignment_gap, safety.value, unsafest)
            yield f"Theorem 2, {form}", (optimum.capability_gap, capability.value, least_capable)


def _case_2(generator: np.random.Generator) -> Iterator[tuple[str, Pair]]:
    """Theorems 3 and 4 at the exact solution of a ball in a random softmax world."""
    contexts, responses, features = 5, 4, 4
    task, safety = (
        Distribution(
            generator.dirichlet(np.ones(contexts)),
            generator.dirichlet(np.ones(responses), size=contexts),
        )
        for _ in range(2)
    )
    model = SoftmaxModel(generator.normal(size=(contexts, features)))
    start = model.penalty_solution(safety, np.zeros((features, responses)), 1e-4)
    free = model.penalty_solution(task, start, 1e-6)
    for radius in (0.1, 0.3, 1.0):
        solution = model.ball_solution(task, start, radius)
        for name, data, theorem, worst in (
            ("Theorem 3, sharp", safety, theorem_3, free),
            ("Theorem 4, sharp", task, theorem_4, start),
        ):
            bound = theorem(
                gap_at_start=_gap(model, data, start),
                gradient_norm=float(np.linalg.norm(model.gradient(data, start))),
                smoothness=model.smoothness(data),
                radius=radius,
            )
            yield name, (_gap(model, data, solution), bound.value, _gap(model, data, worst))


def _gap(model: SoftmaxModel, data: Distribution, weights: np.ndarray) -> float:
    return gap(data, model.probabilities(weights))


def _quantiles(pairs: list[Pair]) -> dict[str, float]:
    ratios = [reached / bound for reached, bound, _ in pairs if bound > 0]
    low, median, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    vacuous = np.mean([bound >= without for _, bound, without in pairs])
    return {
        "median": float(median),
        "low": float(low),
        "high": float(high),
        "vacuous": float(vacuous),
        "count": len(pairs),
    }


if __name__ == "__main__":
    main()
