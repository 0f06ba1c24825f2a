"""How does the cost of a point grow with the model and with the rows?

    python benchmarks/growth.py

A point is one training (Case I, one pass over the task rows) and the measuring of both losses on
held-out rows, a quarter as many. Five tiny Llamas of 2 to 32 layers, the rows the same; then five
numbers of rows, the model the same. Each point is made in a process of its own, one after another,
and again in the reverse order; of its two times the lesser counts. Fitted is cost ∝ size^exponent
by least squares on logarithms, with the 95 % interval of the slope. Peak memory is what a point
adds to the process before its model is loaded. Linear is an exponent of 1; fixed costs lower it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

LAYERS, ROWS = (2, 4, 8, 16, 32), (32, 64, 128, 256, 512)
SAME_LAYERS, SAME_ROWS = 4, 64
HIDDEN, WIDTH, BATCH = 256, 48, 8


@dataclass(frozen=True)
class Cost:
    """Of one point."""

    parameters: int
    seconds: float
    memory: float
    """MiB."""


def make_point(layers: int, rows: int) -> None:
    """Train and measure one point, and print its cost: what a process of its own does."""
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM

    from trimtab import AlignmentLossConstraint, SafetyAwareSFTTrainer
    from trimtab.config.experiment import Measuring, Training
    from trimtab.measure.losses import HeldOutRows, held_out_loss
    from trimtab.models import load_model, quiet_libraries, save_tiny_llama
    from trimtab.train.settings import sft_config

    quiet_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    words = [f"w{number}" for number in range(500)]

    def encoded(count: int, seed: int) -> Dataset:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(5, len(words), (count, WIDTH), generator=generator).tolist()
        labels = [[-100] * (WIDTH // 2) + row[WIDTH // 2 :] for row in ids]
        return Dataset.from_dict({"input_ids": ids, "labels": labels})

    with tempfile.TemporaryDirectory() as folder:
        save_tiny_llama(words, Path(folder) / "tokenizer", seed=0)
        tokenizer = load_model(str(Path(folder) / "tokenizer"))[1]
        task, safety, held_out = (
            encoded(count, seed) for seed, count in enumerate((rows, rows, rows // 4))
        )
        before = peak_memory()
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=HIDDEN,
                intermediate_size=2 * HIDDEN,
                num_hidden_layers=layers,
                num_attention_heads=4,
                pad_token_id=tokenizer.pad_token_id,
            )
        ).to(device)
        training = Training(steps=rows // BATCH, batch_size=BATCH)
        trainer = SafetyAwareSFTTrainer(
            model,
            args=sft_config(training, Measuring(), Path(folder) / "run", seed=0),
            train_dataset=task,
            safety_dataset=safety,
            objective=AlignmentLossConstraint(1.0),
            processing_class=tokenizer,
        )
        started = time.perf_counter()
        trainer.train()
        for split in (held_out, held_out):
            held_out_loss(model, HeldOutRows(split), Measuring())
        seconds = time.perf_counter() - started
    parameters = sum(weight.numel() for weight in model.parameters())
    memory = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    memory = memory or peak_memory() - before
    print(json.dumps([parameters, seconds, memory]))


def peak_memory() -> float:
    """Of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def cost(layers: int, rows: int) -> Cost:
    """The cost of a point made in a process of its own."""
    command = [sys.executable, __file__, "--point", str(layers), str(rows)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return Cost(*json.loads(process.stdout.splitlines()[-1]))


def exponent(sizes: list[float], costs: list[float]) -> str:
    """The slope of log cost on log size, with its 95 % interval."""
    fit = stats.linregress(np.log(sizes), np.log(costs))
    half = stats.t.ppf(0.975, len(sizes) - 2) * fit.stderr
    return f"{fit.slope:.2f} [{fit.slope - half:.2f}, {fit.slope + half:.2f}]"


def main() -> None:
    """Both growths, as one table."""
    points = [(layers, SAME_ROWS) for layers in LAYERS]
    points += [(SAME_LAYERS, rows) for rows in ROWS]
    best: dict[tuple[int, int], Cost] = {}
    for order in (points, points[::-1]):
        for point in dict.fromkeys(order):
            point_cost = cost(*point)
            best_cost = best.get(point, point_cost)
            best[point] = min(best_cost, point_cost, key=lambda candidate: candidate.seconds)
            if sys.stderr.isatty():
                print(f"{len(best)} points", end="\r", file=sys.stderr)
    by_layers = [best[layers, SAME_ROWS] for layers in LAYERS]
    by_rows = [best[SAME_LAYERS, rows] for rows in ROWS]

    print(f"{'':<30} {'seconds':>9} {'MiB':>8}")
    for point_cost in by_layers:
        print(
            f"{point_cost.parameters:>12,} parameters{'':<7} {point_cost.seconds:9.2f} "
            f"{point_cost.memory:8.0f}"
        )
    sizes = [float(point_cost.parameters) for point_cost in by_layers]
    print(
        f"  exponent of seconds {exponent(sizes, [point_cost.seconds for point_cost in by_layers])}"
    )
    print(
        f"  exponent of memory  {exponent(sizes, [point_cost.memory for point_cost in by_layers])}"
    )
    for rows, point_cost in zip(ROWS, by_rows, strict=True):
        print(f"{rows:>12,} task rows{'':<8} {point_cost.seconds:9.2f} {point_cost.memory:8.0f}")
    counts = [float(rows) for rows in ROWS]
    print(
        f"  exponent of seconds {exponent(counts, [point_cost.seconds for point_cost in by_rows])}"
    )
    print(
        f"  exponent of memory  {exponent(counts, [point_cost.memory for point_cost in by_rows])}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--point", nargs=2, type=int, metavar=("LAYERS", "ROWS"), default=None)
    arguments = parser.parse_args()
    if arguments.point:
        make_point(*arguments.point)
    else:
        main()
