"""How much sooner do two workers finish a CPU-bound grid than one?

    python benchmarks/ray_speedup.py [--rounds 3] [--steps 200] [--runs 8]

A round makes the same grid with `--workers 1` and with `--workers 2`, in turn, one thread to a run,
so that a noisy machine disturbs both. A ratio is the time with one worker over that with two; 2
would be all that two cores can give. It is told for the whole sweep, with the seconds that Ray and
its workers take to start, and for a run once each worker has made its first. The results go into
benchmarks/results/ray_speedup.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from trimtab.config.experiment import Block, Experiment, Training
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.models import quiet_libraries, save_tiny_llama
from trimtab.results.result import Point
from trimtab.results.store import Failure
from trimtab.runner.cluster import Cluster
from trimtab.runner.sweep import SilentWatcher, sweep

RESULTS = Path(__file__).parent / "results" / "ray_speedup.json"


class Clock(SilentWatcher):
    """When each run is finished."""

    def __init__(self) -> None:
        self.finished: list[float] = []

    def failed(self, failure: Failure) -> None:
        raise RuntimeError(failure.reason)

    def measured(self, points: list[Point]) -> None:
        self.finished.append(time.perf_counter())


def seconds(experiment: Experiment, folder: Path, workers: int) -> tuple[float, float]:
    """Of the whole sweep, and of a run once each worker has made its first."""
    clock = Clock()
    started = time.perf_counter()
    with Cluster(workers=workers) as cluster:
        sweep(experiment, folder, clock, maker_of=cluster)
    total = time.perf_counter() - started
    first, last = clock.finished[workers - 1], clock.finished[-1]
    return total, (last - first) / (len(clock.finished) - workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--runs", type=int, default=8)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    quiet_libraries()
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        world = make_world({"near": 0.1}, {"shared": 1.0})
        original, safety, task = write_data(world, root / "world", rows=400)
        save_tiny_llama([*CONTEXTS, *RESPONSES], root / "world" / "base", seed=0)
        experiment = Experiment(
            model=str(root / "world" / "base"),
            original=original,
            safety=safety,
            task=task,
            train=Training(steps=arguments.steps, batch_size=32),
            grid=(Block("alignment-loss", tuple(0.1 * n for n in range(1, arguments.runs + 1))),),
            data_root=str(root / "world"),
        )
        for number in range(arguments.rounds):
            one_worker, two_workers = (
                seconds(experiment, root / f"{number}-{workers}", workers) for workers in (1, 2)
            )
            rounds.append(
                {
                    "whole, one worker, s": round(one_worker[0], 1),
                    "whole, two workers, s": round(two_workers[0], 1),
                    "whole, ratio": round(one_worker[0] / two_workers[0], 3),
                    "without the start, ratio": round(one_worker[1] / two_workers[1], 3),
                }
            )
            print(json.dumps(rounds[-1]), flush=True)
    middle = statistics.median(entry["without the start, ratio"] for entry in rounds)
    record = {
        "cores": os.cpu_count(),
        "runs": arguments.runs,
        "steps": arguments.steps,
        "median ratio without the start": middle,
        "rounds": rounds,
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
