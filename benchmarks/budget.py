"""Does one run meet its safety budget, at what cost in tokens and in capability?

    python benchmarks/budget.py
    python benchmarks/budget.py --model smollm2 --safety SAFETY.jsonl --task TASK.jsonl

In the built-in world (its own for every seed, held-out losses exact) or on a model with LoRA, one
run for each budget and case is set beside plain fine-tuning and a fine sweep of the case's own
knob, λ or ε, all of the same steps, rows and share of safety rows. Printed for each budget, as
ratios:

- spent: held-out change of the safety loss over the budget, with its interval; feasible up to 1.05;
- tokens: all that went through the model, forward passes for the budget alone included, over those
  of plain fine-tuning, which reads no safety rows;
- capability: held-out task loss over that of the best feasible point of the sweep; and what the run
  gained over the aligned model, as a share of what that point gained.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from trimtab.cli.options import source_of
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.experiment import Block, Experiment, Measuring, Training
from trimtab.experiment_file import experiment_from
from trimtab.models import quiet_libraries, save_tiny_llama
from trimtab.points import BUDGET_TOLERANCE, Point
from trimtab.sweep import sweep
from trimtab.terminal import TerminalWatcher

MOST_TOKENS, MOST_CAPABILITY = 1.25, 1.02

BUDGETS = (0.03, 0.05, 0.1, 0.2)
PENALTIES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 14.0)
RADII = (0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0)

MODEL_PENALTIES = (0.0, 0.01, 0.03, 0.1, 0.3)


def world_experiment(folder: Path, seed: int) -> Experiment:
    """200 steps of 64 task rows and 7 safety rows, from 20,000 draws of each."""
    world = make_world({"near": 0.1}, {"shared": 1.0}, seed)
    original, safety, task = write_data(world, folder, rows=20_000, seed=seed)
    save_tiny_llama([*CONTEXTS, *RESPONSES], folder / "base", seed)
    return Experiment(
        model=str(folder / "base"),
        original=original,
        safety=safety,
        task=task,
        align=Training(steps=200, batch_size=64, learning_rate=2e-3),
        train=Training(steps=200, batch_size=64, learning_rate=2e-3, safety_share=0.1),
        grid=(
            Block("alignment-loss", PENALTIES),
            Block("alignment-loss", budgets=BUDGETS),
            Block("alignment-parameter", radii=RADII),
            Block("alignment-parameter", budgets=BUDGETS),
        ),
        seeds=(seed,),
        measure=Measuring(tokens_per_batch=16_384),
        data_root=str(folder),
    )


def model_experiment(
    model: str,
    safety: Path,
    where: Sequence[str],
    task: Path,
    steps: int,
    budgets: Sequence[float],
    seed: int,
) -> Experiment:
    """LoRA of rank 16: 16 task rows and 1 safety row a step."""
    return experiment_from(
        {
            "model": model,
            "safety": {"safety": source_of(str(safety.resolve()), list(where), 160)},
            "task": {"task": {"path": str(task.resolve()), "held_out_rows": 96}},
            "train": {
                "steps": steps,
                "batch_size": 16,
                "learning_rate": 1e-3,
                "safety_share": 1 / 17,
                "validation_rows": 32,
                "lora_rank": 16,
            },
            "grid": [
                {"case": "alignment-loss", "penalties": list(MODEL_PENALTIES)},
                {"case": "alignment-loss", "budgets": list(budgets)},
            ],
            "seeds": [seed],
            "lengths": {"prompt": 48, "response": 32},
        },
        "benchmark",
    )


def made(experiment: Experiment, folder: Path) -> list[Point]:
    with TerminalWatcher(Console(stderr=True)) as watcher:
        return sweep(experiment, folder, watcher)


def compare(points: Sequence[Point], budget_point: Point) -> tuple[float, float, float, float]:
    """Spent, tokens, capability and gain, as ratios; see the top of this file."""
    aligned = next(point for point in points if point.case == "aligned")
    plain = next(point for point in points if point.penalty == 0)
    budget, change = budget_point.budget, budget_point.safety_change
    assert budget is not None
    assert change is not None

    def gained(point: Point) -> float:
        return aligned.capability_loss.value - point.capability_loss.value

    def risen(point: Point) -> float:
        assert point.proxy_loss is not None
        assert aligned.proxy_loss is not None
        return point.proxy_loss.value - aligned.proxy_loss.value

    allowed = budget * (1 + BUDGET_TOLERANCE)
    feasible = [
        point
        for point in points
        if point.case == budget_point.case and point.budget is None and risen(point) <= allowed
    ]
    best = min(feasible, key=lambda point: point.capability_loss.value, default=aligned)
    return (
        change.value / budget,
        budget_point.train_tokens / plain.train_tokens,
        budget_point.capability_loss.value / best.capability_loss.value,
        gained(budget_point) / gained(best) if best is not aligned else float("nan"),
    )


def show(name: str, runs: Sequence[Sequence[Point]]) -> None:
    """One line for each case and budget: the median over the runs, with the least and the most."""
    print(f"\n{name}; median [least, most] of {len(runs)}")
    print(f"{'':22s}{'spent':22s}{'tokens':22s}{'capability':22s}{'gain':22s}")
    keys = [(point.case, point.budget) for point in runs[0] if point.budget is not None]
    outside = 0
    for case, budget in dict.fromkeys(keys):
        rows = [
            compare(points, point)
            for points in runs
            for point in points
            if (point.case, point.budget) == (case, budget)
        ]
        cells = [
            f"{statistics.median(column):.3f} [{min(column):.3f}, {max(column):.3f}]"
            for column in zip(*rows, strict=True)
        ]
        label = f"Case {'I' if case == 'alignment-loss' else 'II'}, {budget:g}"
        print(f"{label:22s}" + "".join(f"{cell:22s}" for cell in cells))
        for spent, tokens, capability, _ in rows:
            outside += spent > 1 + BUDGET_TOLERANCE
            outside += tokens > MOST_TOKENS
            outside += capability > MOST_CAPABILITY
    print(
        f"aims: spent ≤ {1 + BUDGET_TOLERANCE:g}, tokens ≤ {MOST_TOKENS:g}, capability ≤ "
        f"{MOST_CAPABILITY:g}: {outside} of {3 * len(keys) * len(runs)} figures lie outside"
    )
    for point in itertools.chain(*runs):
        if point.budget and point.safety_change and point.safety_change.kind != "exact":
            low, high = (
                end / point.budget for end in (point.safety_change.low, point.safety_change.high)
            )
            print(
                f"budget {point.budget:g}, seed {point.seed}: spent has a 95 % interval of "
                f"[{low:.2f}, {high:.2f}] over held-out rows"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="keep the points here, and go on from them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", help="with LoRA, instead of the worlds: smollm2")
    parser.add_argument("--safety", type=Path)
    parser.add_argument("--safety-where", nargs="*", default=[], help="as in harmful=0")
    parser.add_argument("--task", type=Path)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.1])
    given = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        out = given.out or Path(scratch)
        if given.model:
            name = f"{given.model}, LoRA"
            folders = {seed: out / f"model-{seed}" for seed in given.seeds}
            experiments = {
                seed: model_experiment(
                    given.model,
                    given.safety,
                    given.safety_where,
                    given.task,
                    given.steps,
                    given.budgets,
                    seed,
                )
                for seed in folders
            }
        else:
            name = "built-in worlds"
            folders = {seed: out / f"world-{seed}" for seed in given.seeds}
            experiments = {seed: world_experiment(path, seed) for seed, path in folders.items()}
        show(name, [made(experiments[seed], path) for seed, path in folders.items()])
