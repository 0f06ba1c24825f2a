"""Does a sweep on two nodes lose or double a point when a worker or a node is killed in its middle?

    python benchmarks/ray_kills.py [--times 10]

Each time a local Ray cluster of two nodes, of one CPU each, makes a small sweep with checkpoints;
once a training has a whole checkpoint, its worker (even times) or the second node (odd times) is
killed. What comes out is compared with the same sweep in one process: points that are missing,
points that are there twice, and whether all is equal but for seconds. The results go into
benchmarks/results/ray_kills.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster as LocalNodes
from rich.console import Console

from trimtab.cli.progress import TerminalWatcher
from trimtab.config.experiment import Block, Experiment, Training
from trimtab.config.grid import plan_of
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.models import quiet_libraries, save_tiny_llama
from trimtab.results.under_way import read_under_way
from trimtab.runner.cluster import Cluster
from trimtab.runner.sweep import sweep
from trimtab.train.checkpoints import is_whole

RESULTS = Path(__file__).parent / "results" / "ray_kills.json"


def small_experiment(folder: Path) -> Experiment:
    original, safety, task = write_data(make_world({"near": 0.1}, {"shared": 1.0}), folder, rows=60)
    save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", seed=0)
    return Experiment(
        model=str(folder / "base"),
        original=original,
        safety=safety,
        task=task,
        train=Training(
            steps=60, batch_size=4, learning_rate=2e-3, checkpoint_every=20, lora_rank=2
        ),
        grid=(
            Block("alignment-loss", (0.0, 0.3, 1.0)),
            Block("alignment-parameter", radii=(0.5, 1.0)),
            Block("method", method="wise-ft", values=(0.3,)),
        ),
        data_root=str(folder),
    )


def kill_in_the_middle(folder: Path, nodes: LocalNodes, second: Any, killed: list[str]) -> None:
    """Wait for a training with a whole checkpoint; kill its worker, or the node `second`."""
    while not killed:
        time.sleep(0.005)
        for name, training in read_under_way(folder).items():
            checkpoints = (folder / "unfinished" / name).glob("checkpoint-*")
            if training.steps == training.of or not any(map(is_whole, checkpoints)):
                continue
            if second is None:
                os.kill(training.process, signal.SIGKILL)
                killed.append("worker")
            else:
                nodes.remove_node(second, allow_graceful=False)
                killed.append("node")
            break


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "points.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "wall_seconds"} for line in lines]


def disturbed(experiment: Experiment, folder: Path, expected: Path, whole_node: bool) -> Any:
    nodes = LocalNodes(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        killed: list[str] = []
        arguments = folder, nodes, second if whole_node else None, killed
        threading.Thread(target=kill_in_the_middle, args=arguments, daemon=True).start()
        console = Console(stderr=True)
        with TerminalWatcher(console) as watcher, Cluster(address=nodes.address) as cluster:
            sweep(experiment, folder, watcher, maker_of=cluster)
    finally:
        nodes.shutdown()
    planned = {json.dumps(spec.to_json()) for spec in plan_of(experiment).specs}
    key = ("method", "hyperparameter", "value", "proxy", "task", "seed")
    counts = Counter(json.dumps({name: record[name] for name in key}) for record in records(folder))
    return {
        "killed": killed[0] if killed else None,
        "points": len(planned),
        "lost": len(planned - counts.keys()),
        "doubled": sum(count > 1 for count in counts.values()),
        "equal to one process": records(folder) == records(expected),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=10)
    arguments = parser.parse_args()
    quiet_libraries()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        experiment = small_experiment(root / "world")
        with TerminalWatcher(Console(stderr=True)) as watcher:
            sweep(experiment, root / "one", watcher)
        results = []
        for time_number in range(arguments.times):
            out = root / str(time_number)
            results.append(disturbed(experiment, out, root / "one", bool(time_number % 2)))
            print(json.dumps(results[-1]), flush=True)
    record = {"ray": ray.__version__, "times": results}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
