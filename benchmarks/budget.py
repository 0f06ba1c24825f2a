"""Does one run meet its safety budget, at what cost in tokens and in capability?

    python benchmarks/budget.py                                    # three built-in worlds
    python benchmarks/budget.py --model MODEL --safety SAFETY.jsonl --task TASK.jsonl
    python benchmarks/budget.py --docs    # the tables of docs/budget.md from the points kept here

In the built-in world (its own for every seed, held-out losses exact) or on a model with LoRA, one
run for each budget and case is set beside plain fine-tuning and a fine sweep of the case's own
knob, λ or ε, all of the same steps, rows and share of safety rows. For each budget, as ratios:

- spent: held-out change of the safety loss over the budget; feasible up to 1.05;
- tokens: all that went through the model, forward passes for the budget alone included, over those
  of plain fine-tuning, which reads no safety rows;
- capability: held-out task loss over that of the best feasible point of the sweep; and what the run
  gained over the aligned model, as a share of what that point gained.

The points go into benchmarks/results/budget, where --docs reads them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console

from trimtab.cli.options import conditions_of
from trimtab.cli.progress import TerminalWatcher
from trimtab.config.experiment import Block, Experiment, Measuring, Training
from trimtab.config.methods import ALIGNED
from trimtab.config.yaml_io import experiment_from
from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
from trimtab.models import quiet_libraries, save_tiny_llama
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.result import Point
from trimtab.results.store import POINTS_FILE, read_points
from trimtab.runner.sweep import sweep

RESULTS = Path(__file__).parent / "results" / "budget"
PAGE = Path(__file__).parent.parent / "docs" / "budget.md"
WORLD, MODEL = "world", "model"
MARKS = {WORLD: "built-in worlds", MODEL: "SmolLM2"}

AIMS = {"spent": 1.0, "tokens": 1.25, "capability": 1.02}

UNSEEN = (3, 4, 5)
"""Worlds 0 to 2 were looked at when the constants of `Budget` were chosen."""

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
            "safety": {
                "safety": {
                    "path": str(safety.resolve()),
                    "where": conditions_of(list(where)),
                    "held_out_rows": 160,
                }
            },
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


def ratios(points: Sequence[Point], asked: Point) -> dict[str, float]:
    """What a budget's point came to, against the sweep of its case; see the top of this file."""
    aligned, plain = start_of(points)
    budget = float(asked.budget or 0)
    swept = [one for one in points if one.method.short == asked.method.short and one.budget is None]
    feasible = [one for one in swept if risen(points, one) <= budget]
    best = min(feasible, key=lambda one: one.capability_loss.value, default=aligned)

    def gained(point: Point) -> float:
        return aligned.capability_loss.value - point.capability_loss.value

    return {
        "spent": risen(points, asked) / budget,
        "tokens": asked.train_tokens / plain.train_tokens,
        "capability": asked.capability_loss.value / best.capability_loss.value,
        "gain": gained(asked) / gained(best) if best is not aligned else float("nan"),
    }


def start_of(points: Sequence[Point]) -> tuple[Point, Point]:
    """The aligned model's point and that of plain fine-tuning."""
    aligned = next(point for point in points if point.method is ALIGNED)
    return aligned, next(point for point in points if point.spec.is_plain)


def risen(points: Sequence[Point], point: Point) -> float:
    """L_ŝ(θ) − L_ŝ(θ_s) on held-out rows, nats per token."""
    aligned, _ = start_of(points)
    assert point.proxy_loss is not None
    assert aligned.proxy_loss is not None
    return point.proxy_loss.value - aligned.proxy_loss.value


def of_budgets(runs: Sequence[Sequence[Point]]) -> str:
    """A row for each case and budget, and how many figures lie outside the aims."""
    rows, outside, count = [], 0, 0
    asked = sorted((str(one.method.short), one.budget) for one in runs[0] if one.budget is not None)
    for case, budget in asked:
        found = [
            ratios(points, point)
            for points in runs
            for point in points
            if (point.method.short, point.budget) == (case, budget)
        ]
        columns = {name: [one[name] for one in found] for name in found[0]}
        rows.append((f"{case}, {budget:g}", *map(told, columns.values())))
        outside += sum(value > aim for name, aim in AIMS.items() for value in columns[name])
        count += len(AIMS) * len(found)
    aims = ", ".join(f"{name} ≤ {aim:g}" for name, aim in AIMS.items())
    table = markdown_table(("case, budget", "spent", "tokens", "capability", "gain"), rows)
    return f"{table}\n\nAims: {aims}. Of {count} figures {outside} lie outside."


def of_models(runs: Sequence[Sequence[Point]]) -> str:
    """A row for every model of every run, with the interval of a budget's change."""
    rows = []
    for points in runs:
        aligned, plain = start_of(points)
        for point in points:
            low_to_high = ""
            if point.safety_change is not None:
                change = point.safety_change
                low_to_high = signed(f" [{change.low:.3f}, {change.high:.3f}]")
            rows.append(
                (
                    "–" if point is aligned else str(point.seed),
                    described(point),
                    signed(f"{risen(points, point):.3f}") + low_to_high,
                    f"{point.capability_loss.value:.3f}",
                    "–" if point is aligned else f"{point.train_tokens / plain.train_tokens:.2f}×",
                )
            )
    return markdown_table(("seed", "model", "change of L_ŝ", "L_f", "tokens"), rows)


def described(point: Point) -> str:
    if point.method is ALIGNED:
        return "aligned model θ_s"
    if point.budget is not None:
        learned = f", λ = {point.multiplier:.2g} at the end" if point.multiplier else ""
        return f"{point.method.short}, budget {point.budget:g}{learned}"
    if point.spec.is_plain:
        return "plain fine-tuning"
    return f"{point.method.short}, {point.spec.label}"


def told(values: Sequence[float]) -> str:
    return signed(f"{median(values):.3f} [{min(values):.3f}, {max(values):.3f}]")


def signed(text: str) -> str:
    return text.replace("-", "−")


def tables() -> dict[str, str]:
    """By what they are of: the tables of the points kept here, of worlds those unseen."""
    kept = {
        WORLD: [folder for seed in UNSEEN if (folder := RESULTS / f"{WORLD}-{seed}").exists()],
        MODEL: sorted(RESULTS.glob(f"{MODEL}-*")),
    }
    made = {}
    for kind, folders in kept.items():
        runs = [read_points(folder) for folder in folders]
        if runs:
            title = f"Median [least, most] of {len(runs)} {'worlds' if kind == WORLD else 'seeds'}:"
            made[kind] = f"{title}\n\n{of_budgets(runs)}"
            if kind == MODEL:
                made[kind] += f"\n\nEvery model, in nats per token:\n\n{of_models(runs)}"
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="work here, and go on from what is there")
    parser.add_argument("--seeds", type=int, nargs="+", default=UNSEEN)
    parser.add_argument("--model", help="with LoRA, instead of the worlds: smollm2, or a folder")
    parser.add_argument("--safety", type=Path)
    parser.add_argument("--safety-where", nargs="*", default=[], help="as in harmful=0")
    parser.add_argument("--task", type=Path)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.1])
    parser.add_argument("--docs", action="store_true", help="only write the tables of the page")
    given = parser.parse_args()
    if given.model and not (given.safety and given.task):
        parser.error("--model needs --safety and --task")
    if given.docs:
        for kind, text in tables().items():
            replace_between(PAGE, MARKS[kind], text)
        return
    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        for seed in given.seeds:
            name = f"{MODEL if given.model else WORLD}-{seed}"
            folder = (given.out or Path(scratch)) / name
            if given.model:
                experiment = model_experiment(
                    given.model,
                    given.safety,
                    given.safety_where,
                    given.task,
                    given.steps,
                    given.budgets,
                    seed,
                )
            else:
                experiment = world_experiment(folder, seed)
            with TerminalWatcher(Console(stderr=True)) as watcher:
                sweep(experiment, folder, watcher)
            (RESULTS / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / POINTS_FILE, RESULTS / name)
    print("\n\n".join(tables().values()))


if __name__ == "__main__":
    main()
