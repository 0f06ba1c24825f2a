"""The audit's order of proxies beside training's, from the folder that holds both.

    python docs/audit/smollm2.py OUT RESULT.json

OUT holds the points of a sweep and the audit.json of an audit of the same aligned model.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from trimtab.config.methods import ALIGNED
from trimtab.results.store import read_points


def main() -> None:
    comparison = compared(Path(sys.argv[1]))
    text = json.dumps(comparison, indent=1) + "\n"
    Path(sys.argv[2]).write_text(text, encoding="utf-8")
    print(text)


def compared(folder: Path) -> dict[str, Any]:
    points = read_points(folder)
    record = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    losses: dict[str, dict[int, float]] = defaultdict(dict)
    intervals: dict[str, list[tuple[float, float]]] = defaultdict(list)
    plain, aligned = {}, None
    for point in points:
        assert point.alignment_loss
        if point.method is ALIGNED:
            aligned = point.alignment_loss.value
        elif point.spec.is_plain:
            plain[point.seed] = point.alignment_loss.value
        elif point.proxy:
            losses[point.proxy][point.seed] = point.alignment_loss.value
            intervals[point.proxy].append((point.alignment_loss.low, point.alignment_loss.high))
    shared = sorted(set.intersection(*(set(by_seed) for by_seed in losses.values())))
    mean = {name: float(np.mean([losses[name][seed] for seed in shared])) for name in losses}
    proxies = sorted(losses, key=mean.__getitem__)
    audited = {similarity["proxy"]: similarity for similarity in record["similarity"]}
    rows = [
        {
            "proxy": name,
            "alignment_loss": mean[name],
            "alignment_loss_by_seed": losses[name],
            "interval_over_rows_of_the_first_seed": intervals[name][0],
            **{
                measure: audited[name][measure] and audited[name][measure]["value"]
                for measure in ("excess_loss", "total_variation", "given_prompt")
            },
            "excess_loss_interval": [
                audited[name]["excess_loss"]["low"],
                audited[name]["excess_loss"]["high"],
            ],
            "total_variation_interval": [
                audited[name]["total_variation"]["low"],
                audited[name]["total_variation"]["high"],
            ],
        }
        for name in proxies
    ]
    measured = [row["alignment_loss"] for row in rows]
    seeds = sorted({seed for by_seed in losses.values() for seed in by_seed})
    return {
        "aligned_alignment_loss": aligned,
        "plain_alignment_loss_by_seed": plain,
        "seeds_of_all_proxies": shared,
        "proxies": rows,
        "order_by_training": proxies,
        "order_by_audit": record["forecast"]["proxies"],
        "kendall": {
            measure: _tau([row[measure] for row in rows], measured)
            for measure in ("excess_loss", "total_variation", "given_prompt")
        },
        "kendall_between_seeds": [
            _tau(
                [by_seed[first] for by_seed in shared_losses],
                [by_seed[second] for by_seed in shared_losses],
            )
            for first, second in pairwise(seeds)
            if (
                shared_losses := [
                    by_seed for by_seed in losses.values() if first in by_seed and second in by_seed
                ]
            )
        ],
    }


def _tau(first: Sequence[float | None], second: Sequence[float]) -> float | None:
    if len(first) < 2 or any(value is None for value in first):
        return None
    tau = float(kendalltau(first, second).statistic)
    return None if np.isnan(tau) else tau


if __name__ == "__main__":
    main()
