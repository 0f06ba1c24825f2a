"""trimtab sweep, and what every command that makes points shares."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.answer import print_settings_to_choose
from trimtab.cli.command import end, say
from trimtab.cli.options import (
    Benign,
    DataRoot,
    DryRun,
    Harmful,
    JudgeNames,
    MeasureEvery,
    Out,
    Restart,
    Retry,
    answers_of,
)
from trimtab.cli.report import report
from trimtab.config.ranges import Count, From0
from trimtab.errors import UserError
from trimtab.runner.processes import require_one_process

if TYPE_CHECKING:
    from trimtab.config.experiment import Experiment
    from trimtab.config.grid import Plan
    from trimtab.runner.cluster import Cluster


def sweep(
    experiment: Annotated[
        Path, typer.Argument(help="A YAML file, or a recipe: smollm2, smollm2-safety, llama-2-7b.")
    ],
    out: Out,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Make one model of the grid and keep it: its name in the results."
        ),
    ] = None,
    data_root: DataRoot = None,
    measure_every: MeasureEvery = None,
    harmful: Harmful = None,
    benign: Benign = None,
    judge: JudgeNames = None,
    restart: Restart = False,
    retry: Retry = False,
    dry_run: DryRun = False,
    workers: Annotated[
        Count | None,
        typer.Option(help="Make so many runs at a time on this machine, by Ray; else one."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Make runs on a Ray cluster that sees --out: HOST:PORT or auto."
        ),
    ] = None,
    gpus_per_run: Annotated[
        From0 | None,
        typer.Option(
            help="GPUs of a run beside --workers or --ray: a share of one, or several whole ones."
        ),
    ] = None,
    processes_per_run: Annotated[
        Count | None,
        typer.Option(
            help="Processes that train a run together, beside --workers or --ray; else one, or one "
            "for each GPU of --gpus-per-run."
        ),
    ] = None,
) -> None:
    """Train and measure every setting of an experiment's file."""
    from dataclasses import replace

    from trimtab.config.grid import only_model
    from trimtab.config.yaml_io import read_experiment

    base = read_experiment(experiment)
    if only is not None:
        base = only_model(base, only)
    if data_root is not None:
        base = replace(base, data_root=str(data_root.resolve()))
    if measure_every is not None:
        base = replace(base, measure=replace(base.measure, every=measure_every))
    base = replace(base, answers=answers_of(harmful, benign, judge, base.answers))
    if dry_run:
        print_plan(base, out, restart, retry)
    else:
        cluster = _cluster(workers, ray, gpus_per_run, processes_per_run)
        sweep_and_report(base, out, restart, retry, cluster)
        print_settings_to_choose(base, out)
        end_with_failures(out, "--retry")


def _cluster(
    workers: int | None, address: str | None, gpus: float | None, processes: int | None
) -> Cluster | None:
    if workers is None and address is None:
        for option, value in (("--gpus-per-run", gpus), ("--processes-per-run", processes)):
            if value is not None:
                raise UserError(f"{option} has nothing to divide. Give --workers or --ray too.")
        return None
    from trimtab.runner.cluster import Cluster

    require_one_process("a sweep with --workers or --ray")
    return Cluster(workers, address, gpus, processes)


def sweep_and_report(
    experiment: Experiment,
    out: Path,
    restart: bool,
    retry: bool = False,
    cluster: Cluster | None = None,
) -> None:
    """Make what is missing of an experiment, here or on a cluster, then its page."""
    from contextlib import nullcontext, redirect_stdout

    from rich.console import Console

    from trimtab.cli.progress import TerminalWatcher
    from trimtab.models import quiet_libraries
    from trimtab.runner.runner import Runner
    from trimtab.runner.sweep import sweep

    quiet_libraries()
    with (
        TerminalWatcher(Console(stderr=True)) as watcher,
        redirect_stdout(sys.stderr),  # Ray prints there that it lost a worker
        cluster or nullcontext(Runner) as maker,
    ):
        sweep(experiment, out, watcher, restart, retry, maker)
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
    from trimtab.results.layout import MODELS_FOLDER

    if experiment.keeps_models:
        say(f"The trained models are in {out / MODELS_FOLDER}.")


def print_plan(
    experiment: Experiment, out: Path, restart: bool, retry: bool = False, again: str = "--retry"
) -> None:
    """What an experiment's grid would make in `out`, and what that costs.

    `again` is the option that tries again what failed.
    """
    from trimtab.runner.sweep import left_of

    print_cost(experiment, *left_of(experiment, out, restart, retry), again)


def print_cost(experiment: Experiment, plan: Plan, left: Plan, again: str = "--retry") -> None:
    """A plan, what of it is left to make, and what that costs."""
    from trimtab.cli.progress import output_console, plain, plan_table
    from trimtab.models import quiet_libraries
    from trimtab.runner.answering import read_rows_and_prompts
    from trimtab.runner.cost import estimate_cost

    quiet_libraries()
    console = output_console()
    roles, prompts = read_rows_and_prompts(experiment)
    for warning in roles.warnings:
        console.print(f"[yellow]warning[/] {plain(warning)}", highlight=False, soft_wrap=True)
    cost = estimate_cost(experiment, roles, left)
    console.print(plan_table(plan, left, cost, len(prompts), again), highlight=False)
