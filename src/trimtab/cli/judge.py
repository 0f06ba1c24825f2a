"""trimtab judge."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.command import say
from trimtab.cli.evaluate import agreement_in_words, rate_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from trimtab.evaluate.evaluation import EvaluatedModel
    from trimtab.evaluate.rates import Rate


def judge(
    folder: Annotated[Path, typer.Argument(help="A run whose models have answered prompts.")],
    judge: Annotated[
        list[str],
        typer.Option(
            help="NAME, NAME=MODEL, NAME=URL/v1/MODEL, or module:function; repeatable.",
        ),
    ],
) -> None:
    """Have other judges read the answers that a run has kept: no model answers again."""
    from trimtab.cli.audit_output import watched_stages
    from trimtab.cli.progress import output_console
    from trimtab.evaluate.evaluation import DISAGREEMENTS_FOLDER
    from trimtab.evaluate.later_judges import agreements_over, judged_later
    from trimtab.evaluate.named_judges import judge_named
    from trimtab.evaluate.rates import RATES
    from trimtab.results.store import POINTS_FILE

    judges = [judge_named(name) for name in judge]
    with watched_stages(True) as watcher:
        models = judged_later(folder, judges, watcher)
    for rate in RATES:
        if _speaks(models, rate):
            output_console().print(_table(models, rate), "", highlight=False)
    agreements = agreements_over(models)
    for agreement in agreements:
        say(agreement_in_words(agreement))
    if agreements:
        say(f"The answers they differ on are in {folder / DISAGREEMENTS_FOLDER}.")
    if (folder / POINTS_FILE).exists():  # a folder of 'evaluate' has no page
        report = shlex.join(["trimtab", "report", str(folder)])
        say(f"To see the answers side by side: {report}")


def _speaks(models: Sequence[EvaluatedModel], rate: Rate) -> bool:
    """Whether a prompt of the rate's kinds was asked; of what should never be, whether it is."""
    from trimtab.evaluate.outcome import Outcome

    if rate.counted not in (Outcome.INCOHERENT, Outcome.UNPARSED):
        return any(generation.prompt.kind in rate.kinds for generation in models[0].generations)
    estimates = [model.rates(judge)[rate.name] for model in models for judge in model.judgements]
    return any(estimate.value for estimate in estimates)


def _table(models: Sequence[EvaluatedModel], rate: Rate) -> Table:
    """How often each judge finds one outcome, model by model."""
    from rich.table import Table

    from trimtab.cli.progress import plain

    count = sum(generation.prompt.kind in rate.kinds for generation in models[0].generations)
    prompts_label = f"{rate.kinds[0]} prompts" if len(rate.kinds) == 1 else "all prompts"
    title = f"{rate.name.capitalize()}, of {count} {prompts_label}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("model", overflow="fold")
    judges = list(models[0].judgements)
    for judge in judges:
        table.add_column(plain(judge), overflow="fold")
    for model in models:
        estimates = [model.rates(judge)[rate.name] for judge in judges]
        table.add_row(plain(model.name), *map(rate_cell, estimates))
    return table
