"""Commands that make points: demo, sweep and train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.command import end, say
from trimtab.cli.looking import report
from trimtab.cli.options import (
    BatchSize,
    CheckpointEvery,
    DryRun,
    HeldOutRows,
    LearningRate,
    MaxPrompt,
    MaxResponse,
    Model,
    Original,
    OriginalWhere,
    Out,
    Precision,
    Restart,
    Retry,
    Safety,
    SafetyWhere,
    Task,
    TaskWhere,
    source_of,
)
from trimtab.config.ranges import Count, FiniteOrInfinity, From0, Radius, Rank, Seed

if TYPE_CHECKING:
    from trimtab.config.experiment import Experiment
    from trimtab.config.grid import Plan


def demo(
    out: Out = Path("demo"),
    seed: Annotated[Seed, typer.Option(help="Of the world, its data and the training.")] = 0,
    restart: Restart = False,
) -> None:
    """Measure the paper's figures in a small world."""
    from trimtab.models import quiet_libraries
    from trimtab.runner.demo import demo_experiment

    quiet_libraries()
    sweep_and_report(demo_experiment(out, seed, restart), out, restart)
    end_with_failures(out, "--restart")


def sweep(
    experiment: Annotated[
        Path, typer.Argument(help="A YAML file, or a recipe: smollm2, smollm2-safety, llama-2-7b.")
    ],
    out: Out,
    data_root: Annotated[
        Path | None, typer.Option(help="Where relative paths of data start, if not as it says.")
    ] = None,
    restart: Restart = False,
    retry: Retry = False,
    dry_run: DryRun = False,
) -> None:
    """Make every point of an experiment's grid."""
    from dataclasses import replace

    from trimtab.config.yaml_io import read_experiment

    read = read_experiment(experiment)
    if data_root is not None:
        read = replace(read, data_root=str(data_root.resolve()))
    if dry_run:
        print_plan(read, out)
    else:
        sweep_and_report(read, out, restart, retry)
        end_with_failures(out, "--retry")
        tell_where_models_are(read, out)


def train(
    model: Model,
    task: Task,
    safety: Safety,
    out: Out,
    original: Original = None,
    penalty: Annotated[
        From0 | None, typer.Option(help="λ; 0 is plain fine-tuning. 1 where nothing is said.")
    ] = None,
    radius: Annotated[
        Radius | None, typer.Option(help="ε: stay within this distance of the model (Case II).")
    ] = None,
    budget: Annotated[
        FiniteOrInfinity | None,
        typer.Option(help="What the safety loss may rise by, nats per token; λ or ε is learned."),
    ] = None,
    case: Annotated[
        str | None,
        typer.Option(help="What λ weighs: alignment-loss (Case I) or alignment-parameter (II)."),
    ] = None,
    task_where: TaskWhere = None,
    safety_where: SafetyWhere = None,
    original_where: OriginalWhere = None,
    steps: Annotated[Count, typer.Option(help="Optimizer steps.")] = 200,
    batch_size: BatchSize = 8,
    learning_rate: LearningRate = 1e-4,
    lora_rank: Annotated[
        Rank | None, typer.Option(help="Train an adapter of this rank, not all weights.")
    ] = None,
    precision: Precision = "float32",
    max_prompt: MaxPrompt = 512,
    max_response: MaxResponse = 512,
    held_out_rows: HeldOutRows = None,
    checkpoint_every: CheckpointEvery = None,
    seed: Annotated[Seed, typer.Option(help="Order of rows; a new adapter's weights.")] = 0,
    restart: Restart = False,
    dry_run: DryRun = False,
) -> None:
    """Fine-tune, measure and save one model."""
    from trimtab.config.grid import plan_of
    from trimtab.config.yaml_io import experiment_from

    if penalty is None and radius is None and budget is None:
        penalty = 1.0
    block: dict[str, Any] = {
        "case": case or ("alignment-loss" if radius is None else "alignment-parameter")
    }
    if budget is not None:
        block["budgets"] = [budget]
    if penalty is not None:
        block["penalties"] = [penalty]
    if radius is not None:
        block["radii"] = [radius]

    one = experiment_from(
        {
            "model": model,
            "task": {"task": source_of(task, task_where, held_out_rows)},
            "safety": {"safety": source_of(safety, safety_where, held_out_rows)},
            "original": source_of(original, original_where, held_out_rows) if original else None,
            "train": {
                "steps": steps,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "lora_rank": lora_rank,
                "precision": precision,
                "checkpoint_every": checkpoint_every,
            },
            "grid": [block],
            "seeds": [seed],
            "lengths": {"prompt": max_prompt, "response": max_response},
            "keep_models": True,
            "data_root": str(Path.cwd()),
        },
        "options",
    )
    if dry_run:
        print_plan(one, out)
    else:
        sweep_and_report(one, out, restart)
        end_with_failures(out, "--restart")
        (run,) = plan_of(one).runs
        say(f"The model is in {out / 'models' / run.name}.")


def sweep_and_report(experiment: Experiment, out: Path, restart: bool, retry: bool = False) -> None:
    """Make what is missing of an experiment, then its page."""
    from rich.console import Console

    from trimtab.cli.progress import TerminalWatcher
    from trimtab.models import quiet_libraries
    from trimtab.runner.sweep import sweep

    quiet_libraries()
    with TerminalWatcher(Console(stderr=True)) as watcher:
        sweep(experiment, out, watcher, restart, retry)
    report(out)


def end_with_failures(out: Path, again: str) -> None:
    """Exit with 1 where points have failed, now or before; `again` is the option to retry."""
    from trimtab.results.store import read_failures

    failures = read_failures(out)
    if failures:
        count = "1 point" if len(failures) == 1 else f"{len(failures)} points"
        reason = failures[0].reason.rstrip(".")
        end(f"{count} failed ({reason}). {again} tries again.", 1)


def tell_where_models_are(experiment: Experiment, out: Path) -> None:
    """The folder of the trained models, where they are kept."""
    if experiment.keeps_models:
        say(f"The trained models are in {out / 'models'}.")


def print_plan(experiment: Experiment, out: Path) -> None:
    """What an experiment's grid would make, and what that costs."""
    from trimtab.runner.sweep import left_of

    print_cost(experiment, *left_of(experiment, out))


def print_cost(experiment: Experiment, plan: Plan, left: Plan) -> None:
    """A plan, what of it is left to make, and what that costs."""
    from rich.console import Console

    from trimtab.cli.progress import plain, plan_table
    from trimtab.models import quiet_libraries
    from trimtab.runner.cost import estimate_cost
    from trimtab.runner.sweep import read_roles

    quiet_libraries()
    console = Console()
    roles = read_roles(experiment)
    for warning in roles.warnings:
        console.print(f"[yellow]warning[/] {plain(warning)}", highlight=False, soft_wrap=True)
    console.print(plan_table(plan, left, estimate_cost(experiment, roles, left)), highlight=False)
