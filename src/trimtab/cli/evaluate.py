"""trimtab evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.command import say
from trimtab.cli.options import Out
from trimtab.cli.settings import Options, settings_as_options
from trimtab.config.loading import Loading
from trimtab.config.ranges import Count
from trimtab.errors import UserError
from trimtab.results.generations import Decoding

if TYPE_CHECKING:
    from rich.table import Table

    from trimtab.evaluate.agreement import Agreement
    from trimtab.evaluate.evaluation import Evaluation
    from trimtab.stats import Estimate


@settings_as_options
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(help="The start model, then those to compare with it: models or adapters."),
    ],
    out: Out,
    harmful: Annotated[
        list[str] | None, typer.Option(help="Prompts to refuse: a known set or a file; repeatable.")
    ] = None,
    benign: Annotated[
        list[str] | None, typer.Option(help="Prompts to answer: a known set or a file; repeatable.")
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME, NAME=MODEL, NAME=URL/v1/MODEL, or module:function; repeatable. "
            "Without any: qwen3guard and granite-guardian.",
        ),
    ] = None,
    rows: Annotated[Count | None, typer.Option(help="At most as many prompts of a source.")] = None,
    decoding: Decoding = Decoding(),  # noqa: B008  # frozen
    engine: Annotated[
        str,
        typer.Option(help="Who answers: transformers, vllm, or the URL of a server, up to /v1."),
    ] = "transformers",
    surprised: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Whose surprise tells what is coherent, if not the start model's: one that this "
            "machine can load, where a server answers.",
        ),
    ] = None,
    lm_eval: Annotated[
        str | None,
        typer.Option(metavar="TASK[,TASK…]", help="Run tasks of EleutherAI's lm-eval."),
    ] = None,
    lm_eval_path: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where lm-eval finds tasks of your own.")
    ] = None,
    inspect: Annotated[
        str | None,
        typer.Option(
            metavar="TASK[,TASK…]",
            help="Run tasks of Inspect: file.py@task, or those of a package.",
        ),
    ] = None,
    limit: Annotated[
        Count | None, typer.Option(help="At most as many samples of a harness's task.")
    ] = None,
    load: Annotated[Loading, Options(without=("revision",))] = Loading(),  # noqa: B008
) -> None:
    """Judge what models answer, and run the tasks of lm-eval and Inspect on them."""
    from trimtab.cli.audit_output import watched_stages
    from trimtab.cli.progress import output_console
    from trimtab.config.data_source import DataSource
    from trimtab.evaluate.endpoint import Endpoint
    from trimtab.evaluate.engines import (
        AnswerEngine,
        EndpointEngine,
        TransformersEngine,
        VllmEngine,
    )
    from trimtab.evaluate.evaluation import evaluate as evaluated
    from trimtab.evaluate.harnesses.inspect import Inspect
    from trimtab.evaluate.harnesses.lm_eval import LmEval
    from trimtab.evaluate.judges import DEFAULT_JUDGES
    from trimtab.evaluate.named_judges import judge_named
    from trimtab.evaluate.prompt_sets import distinct_prompts, prompts_of
    from trimtab.models import quiet_libraries

    if not harmful and not benign and judge:
        raise UserError("--judge has nothing to judge. Give --harmful or --benign too.")
    if rows and not harmful and not benign:
        raise UserError("--rows has no prompts to choose from. Give --harmful or --benign too.")
    of_answers = ["--surprised"] if surprised is not None else []
    of_answers += _changed(decoding)
    if of_answers and not harmful and not benign:
        raise UserError(
            f"{of_answers[0]} is of answers to prompts. Give --harmful or --benign too."
        )
    if limit and not lm_eval and not inspect:
        raise UserError("--limit is of a harness's tasks. Give --lm-eval or --inspect too.")
    if lm_eval_path and not lm_eval:
        raise UserError("--lm-eval-path holds tasks to run. Name some with --lm-eval.")
    if engine not in ("transformers", "vllm") and (lm_eval or inspect):
        raise UserError(
            f"lm-eval and Inspect load the model here, and --engine {engine} answers elsewhere. "
            "Run them in a command of their own."
        )
    if load != Loading() and engine != "transformers":
        raise UserError(
            f"--engine {engine} holds the model's weights its own way. Leave --dtype, "
            "--quantization, --attention and --device-map out."
        )
    if load != Loading() and inspect:
        raise UserError(
            "Inspect loads models itself, in what they were saved in. Run --inspect in a command "
            "of its own, without --dtype, --quantization, --attention and --device-map."
        )
    judges = [judge_named(name) for name in judge or DEFAULT_JUDGES]
    if lm_eval_path and not lm_eval_path.is_dir():
        raise UserError(f"--lm-eval-path {lm_eval_path} is no folder. Give one with tasks in YAML.")
    lm_evals = LmEval(_tasks(lm_eval, "--lm-eval"), limit, lm_eval_path, decoding.batch_size, load)
    inspects = Inspect(
        _tasks(inspect, "--inspect"), limit, out / "inspect-logs", decoding.batch_size
    )
    harnesses = [harness for harness in (lm_evals, inspects) if harness.tasks]
    quiet_libraries()
    prompts = distinct_prompts(
        prompt
        for kind, sources in (("harmful", harmful), ("benign", benign))
        for source in sources or []
        for prompt in prompts_of(
            DataSource(source, rows=rows),
            kind,  # type: ignore[arg-type]
            decoding.seed,
            warning=lambda line: say(f"warning {line}", error=True),
        )
    )

    def answers(model: str) -> AnswerEngine:
        if engine == "transformers":
            return TransformersEngine(model, load)
        if engine == "vllm":
            return VllmEngine(model)
        return EndpointEngine(Endpoint(engine, model))

    with watched_stages(True) as watcher:
        evaluation = evaluated(
            models, prompts, judges, out, watcher, decoding, answers, surprised, harnesses, load
        )
    if _are_numbered(evaluation):
        for place, evaluated_model in enumerate(evaluation.models, start=1):
            say(f"{place}: {evaluated_model.name}")
    for table in _tables(evaluation):
        output_console().print(table, "", highlight=False)
    for line in _agreement_lines(evaluation):
        say(line)
    say(f"What is kept is in {out}.")
    if engine == "transformers":
        named = (
            lm_evals if lm_evals.tasks else replace(lm_evals, tasks=("gsm8k",)),
            inspects if inspects.tasks else replace(inspects, tasks=("inspect_evals/gsm8k",)),
        )
        commands = [harness.command(model) for harness in named for model in models]
        say("The same models in the harnesses themselves:")
        for command in filter(None, commands):
            say(f"  {command}")


_COLUMNS = 2
"""Of rates or metrics beside each other: with their intervals more do not fit a terminal."""
_LONGEST_NAME, _LONGEST_BESIDE_JUDGES = 24, 12
"""Of longer names, models are numbered; there is less room where a column names the judge."""


def _changed(decoding: Decoding) -> list[str]:
    """The options of answers that are not at their defaults; a harness has batches too."""
    own = [field for field in fields(decoding) if field.name != "batch_size"]
    changed = [field.name for field in own if getattr(decoding, field.name) != field.default]
    return ["--" + name.replace("_", "-") for name in changed]


def _tasks(names: str | None, option: str) -> tuple[str, ...]:
    if names is None:
        return ()
    tasks = tuple(task.strip() for task in names.split(","))
    if not all(tasks) or len(set(tasks)) < len(tasks):
        raise UserError(f"{option} {names!r} names no task, or one twice. Write TASK,TASK.")
    return tasks


def _tables(evaluation: Evaluation) -> list[Table]:
    """Models as rows, in tables narrow enough for a terminal: rates by their prompts, metrics."""
    from trimtab.evaluate.rates import RATES

    start = evaluation.models[0]
    tables = []
    for kinds in dict.fromkeys(rate.kinds for rate in RATES):
        count = sum(generation.prompt.kind in kinds for generation in start.generations)
        names = [rate.name for rate in RATES if rate.kinds == kinds]
        if count:
            prompts_label = f"{kinds[0].capitalize()} prompts" if len(kinds) == 1 else "All prompts"
            tables.append(
                _table(evaluation, f"{prompts_label}, n = {count}", names, list(start.judgements))
            )
    metrics = list(start.metrics())
    for place in range(0, len(metrics), _COLUMNS):
        tables.append(_table(evaluation, "Tasks", metrics[place : place + _COLUMNS], [None]))
    return tables


def _are_numbered(evaluation: Evaluation) -> bool:
    several = len(evaluation.models[0].judgements) > 1
    longest = _LONGEST_BESIDE_JUDGES if several else _LONGEST_NAME
    return max(len(model.name) for model in evaluation.models) > longest


def _table(
    evaluation: Evaluation, title: str, names: Sequence[str], judges: Sequence[str | None]
) -> Table:
    from rich.table import Table

    from trimtab.cli.progress import plain

    start = evaluation.models[0]
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("model", no_wrap=True)
    if len(judges) > 1:
        table.add_column("judge", overflow="fold")
    for name in names:
        table.add_column(plain(name.replace(",", ", ")), overflow="fold")
    for place, model in enumerate(evaluation.models, start=1):
        who = str(place) if _are_numbered(evaluation) else plain(model.name)
        for judge in judges:
            estimates = model.metrics() if judge is None else model.rates(judge)
            by = [plain(judge or "")] if len(judges) > 1 else []
            table.add_row(who, *by, *_cells(estimates, names))
            if model is not start:
                changes = (
                    model.metric_changes(start) if judge is None else model.changes(judge, start)
                )
                blank = [""] * len(by)
                table.add_row("  change", *blank, *_cells(changes, names, is_change=True))
    return table


def _cells(
    estimates: Mapping[str, Estimate], names: Sequence[str], is_change: bool = False
) -> list[str]:
    cell = change_cell if is_change else rate_cell
    return [cell(estimates[name]) if name in estimates else "–" for name in names]


def rate_cell(estimate: Estimate) -> str:
    """A share in per cent, or a metric, with its interval."""
    is_share = estimate.unit.startswith("share")
    value, low, high = (
        f"{100 * end:.0f}" if is_share else f"{end:.3g}".replace("-", "−")
        for end in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value}{' %' if is_share else ''} ({low} to {high})"


def change_cell(change: Estimate) -> str:
    """A change of a share in percentage points, or that of a metric, with its interval."""
    from trimtab.analysis.labels import points_in_words

    if change.unit.startswith("share"):
        return points_in_words(change)
    value, low, high = (
        f"{end:+.3g}".replace("-", "−") for end in (change.value, change.low, change.high)
    )
    return f"{value} [{low}, {high}]"


def _agreement_lines(evaluation: Evaluation) -> list[str]:
    lines = []
    for place, model in enumerate(evaluation.models, start=1):
        for agreement in model.agreements():
            who = place if _are_numbered(evaluation) else model.name
            lines.append(f"{who}: {agreement_in_words(agreement)}")
    return lines


def agreement_in_words(agreement: Agreement) -> str:
    """Two judges' agreement as a sentence."""
    who = f"{agreement.first} and {agreement.second}"
    if agreement.kappa is None:
        return f"{who}: agreement is not known on {agreement.answers} answers."
    value, low, high = (
        f"{end:.2f}".replace("-0.00", "0.00")
        for end in (agreement.kappa.value, agreement.kappa.low, agreement.kappa.high)
    )
    return (
        f"{who}: agreement is {agreement.in_words}, κ = {value} ({low} to {high}) on "
        f"{agreement.answers} answers; they differ on {len(agreement.disagreements)}."
    )
