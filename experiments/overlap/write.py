"""Take the runs' numbers into the repository, and write this folder's table.

    python experiments/overlap/write.py [RUNS/overlap]

Given the folder of the sweep, its points and the losses of every held-out row are copied here; the
table of README.md is made from what lies here.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from trimtab.analysis.verdicts import Verdict
from trimtab.config.methods import ALIGNED
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.store import copy_measurements, read_points
from trimtab.stats import Estimate, Statistic, statistic_over_seeds

HERE = Path(__file__).parent
UNIT = "nats per token"
LOOSE, TIGHT = 0.1, 10.0
SAME, OTHER = "same-prompts", "code"
TASK = "task:alpaca"


def main() -> None:
    if len(sys.argv) > 1:
        copy_measurements(Path(sys.argv[1]), HERE)
    costs = costs_by_context()
    seeds = sorted(set(costs[SAME]) & set(costs[OTHER]))
    rows = [
        (name, *(f"{cost[seed].value:+.4f}".replace("-", "−") for seed in seeds), told(over(cost)))
        for name, cost in costs.items()
    ]
    apart = {seed: costs[SAME][seed] - costs[OTHER][seed] for seed in seeds}
    difference = over(apart)
    rows.append(
        (
            f"{SAME} − {OTHER}",
            *(f"{apart[seed].value:+.4f}".replace("-", "−") for seed in seeds),
            told(difference),
        )
    )
    columns = ("cost of safety data", *(f"seed {seed}" for seed in seeds), "mean [95 %]")
    table = markdown_table(columns, rows)
    text = f"{table}\n\nThe finding **{verdict(difference)}**, with {len(seeds)} seeds."
    replace_between(HERE / "README.md", "results", text)
    print(text)


def costs_by_context() -> dict[str, dict[int, Statistic]]:
    """By safety data and seed, L_f(λ = 10) − L_f(λ = 0.1) on the same held-out rows."""
    rows = RowLosses(HERE)
    models: dict[tuple[str, int], dict[float, str]] = defaultdict(dict)
    for point in read_points(HERE):
        if point.method is not ALIGNED and point.spec.value is not None:
            models[str(point.proxy), point.seed][point.spec.value] = str(point.model)
    costs: dict[str, dict[int, Statistic]] = {SAME: {}, OTHER: {}}
    for (proxy, seed), of_penalty in models.items():
        if {LOOSE, TIGHT} <= of_penalty.keys():
            cost = rows.difference(TASK, of_penalty[TIGHT], of_penalty[LOOSE])
            assert cost is not None
            costs[proxy][seed] = cost
    return costs


def over(by_seed: dict[int, Statistic]) -> Estimate:
    return statistic_over_seeds([by_seed[seed] for seed in sorted(by_seed)], UNIT)


def told(estimate: Estimate) -> str:
    value, low, high = (f"{end:+.4f}" for end in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]".replace("-", "−")


def verdict(difference: Estimate) -> Verdict:
    if difference.low > 0:
        return "holds"
    return "does not hold" if difference.high < 0 else "undecided"


if __name__ == "__main__":
    main()
