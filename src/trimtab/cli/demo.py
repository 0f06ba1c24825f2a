"""trimtab demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.options import Out, Restart
from trimtab.cli.sweep import end_with_failures, sweep_and_report
from trimtab.config.ranges import Seed


def demo(
    out: Out = Path("demo"),
    seed: Annotated[Seed, typer.Option(help="Of the world, its data and the training.")] = 0,
    restart: Restart = False,
) -> None:
    """Measure the figures of arXiv 2503.20807 in a small world whose answer is known."""
    from trimtab.models import quiet_libraries
    from trimtab.runner.demo import demo_experiment

    quiet_libraries()
    sweep_and_report(demo_experiment(out, seed, restart), out, restart)
    end_with_failures(out, "--restart")
