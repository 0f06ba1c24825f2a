"""trimtab compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.command import say
from trimtab.cli.options import (
    Benign,
    DataRoot,
    DryRun,
    Harmful,
    JudgeNames,
    Out,
    Restart,
    Retry,
    answers_of,
)
from trimtab.cli.sweep import (
    end_with_failures,
    print_plan,
    sweep_and_report,
    tell_where_models_are,
)
from trimtab.config.ranges import Seed
from trimtab.errors import UserError


def compare(
    experiment: Annotated[
        Path | None,
        typer.Argument(help="A YAML file; left out, a small world whose answer is known."),
    ] = None,
    out: Out = Path("comparison"),
    data_root: DataRoot = None,
    seed: Annotated[Seed, typer.Option(help="Of the small world, where no file is given.")] = 0,
    harmful: Harmful = None,
    benign: Benign = None,
    judge: JudgeNames = None,
    restart: Restart = False,
    retry: Retry = False,
    dry_run: DryRun = False,
) -> None:
    """Train and measure the published methods beside penalties, all on your data."""
    from dataclasses import replace

    from trimtab.config.yaml_io import read_experiment
    from trimtab.models import quiet_libraries
    from trimtab.runner.comparison import comparison_of, comparison_world

    if experiment is None and data_root is not None:
        raise UserError("--data-root is where an experiment's files lie. Give the experiment too.")
    if experiment is not None and seed:
        raise UserError(
            "--seed is of the small world. Leave it out; a file says its own seeds (seeds)."
        )
    quiet_libraries()
    if experiment is None:
        base = comparison_world(out, seed, restart)
    else:
        base = read_experiment(experiment)
        if data_root is not None:
            base = replace(base, data_root=str(data_root.resolve()))
    base = replace(base, answers=answers_of(harmful, benign, judge, base.answers))
    grid, left_out = comparison_of(base)
    for name, reason in left_out.items():
        say(f"{name} is left out: {reason}.")
    if dry_run:
        print_plan(grid, out, restart, retry)
        return
    sweep_and_report(grid, out, restart, retry)
    _print_methods(out)
    end_with_failures(out, "--retry")
    tell_where_models_are(grid, out)


def _print_methods(folder: Path) -> None:
    from trimtab.analysis.labels import area_in_words
    from trimtab.analysis.methods import method_results
    from trimtab.results.per_row_losses import RowLosses
    from trimtab.results.store import read_points

    results = method_results(read_points(folder), RowLosses(folder))
    if not results:
        return
    pair = None
    has_several = len({(result.proxy, result.task) for result in results}) > 1
    for result in results:
        if (result.proxy, result.task) != pair:
            pair = result.proxy, result.task
            if has_several:
                say(f"Task {result.task}, safety data {result.proxy}:")
            say(f"{'method':38}  {'hypervolume':22} {'chord area':22} settings beaten")
        areas = " ".join(
            f"{area_in_words(area.share):22}" for area in (result.volume, result.chords)
        )
        beaten = f"{result.dominated} of {result.judged}" if result.judged else "–"
        say(f"{result.method.title:38}  {areas} {beaten}")
