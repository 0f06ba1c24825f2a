"""Commands of the dial: train it, measure its curve, set it; and a demo of the three."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.answer import tell_budget
from trimtab.cli.command import Command, command, say, watched
from trimtab.cli.hub import PushToHub, push, require_access
from trimtab.cli.options import (
    AnswerTokens,
    Benign,
    BenignToLimit,
    DryRun,
    Harmful,
    HarmfulToLimit,
    HeldOutRows,
    JudgeNames,
    JudgesOfLimit,
    MaxHarmful,
    MinAnswered,
    MinRefused,
    Model,
    Original,
    OriginalColumns,
    OriginalWhere,
    Out,
    PromptRows,
    Restart,
    Safety,
    SafetyColumns,
    SafetyWhere,
    Task,
    TaskColumns,
    TaskWhere,
    answers_of,
    data_source,
    experiment_of,
    rate_limits,
    sources_of,
)
from trimtab.cli.panels import TRAINING
from trimtab.cli.report import report
from trimtab.cli.settings import Options, settings_as_options
from trimtab.config.data_source import Lengths
from trimtab.config.experiment import Dial, Measuring, Training
from trimtab.config.loading import Loading
from trimtab.config.ranges import CountOrNone, Finite, From0To1, Range, Seed

if TYPE_CHECKING:
    from trimtab.config.experiment import Experiment
    from trimtab.runner.dial import ChosenSetting

dial = typer.Typer(
    help="One training that holds the whole frontier: train it once, then choose the trade-off.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(help="What 'trimtab dial train' wrote.")]
FolderOfEnds = Annotated[
    Path,
    typer.Argument(
        help="What 'trimtab dial train' wrote, or a dial among the models that a sweep kept."
    ),
]
Settings = Annotated[
    Annotated[int, Range(at_least=2, at_most=10_000)],
    typer.Option(help="Measure at so many settings, 0 and 1 included."),
]
Samples = Annotated[
    CountOrNone, typer.Option(help="Answer so many prompts of the task and of the safety data.")
]


_TWICE_A_RUN = Training(steps=2 * Training.steps)


@dial.command("train", cls=Command)
@partial(command, by_processes=True)
@settings_as_options
def train(
    model: Model,
    task: Task,
    safety: Safety,
    out: Out,
    original: Original = None,
    penalties: Annotated[Dial, Options(without=("steps",))] = Dial(),  # noqa: B008  # frozen
    task_where: TaskWhere = None,
    safety_where: SafetyWhere = None,
    original_where: OriginalWhere = None,
    task_columns: TaskColumns = None,
    safety_columns: SafetyColumns = None,
    original_columns: OriginalColumns = None,
    training: Annotated[
        Training, Options(without=("epochs", "equal_rows", "validation_rows"))
    ] = _TWICE_A_RUN,
    load: Loading = Loading(),  # noqa: B008
    lengths: Annotated[Lengths, Options(prefix="max_")] = Lengths(),  # noqa: B008
    measuring: Annotated[
        Measuring, Options(prefix="measure_", without=("landscape_rows",))
    ] = Measuring(),  # noqa: B008
    held_out_rows: HeldOutRows = None,
    seed: Annotated[
        Seed,
        typer.Option(help="Order of rows and settings; new adapters.", rich_help_panel=TRAINING),
    ] = 0,
    harmful: Harmful = None,
    benign: Benign = None,
    judge: JudgeNames = None,
    restart: Restart = False,
    dry_run: DryRun = False,
) -> None:
    """Train both ends of a dial at once: twice the steps of one run are good."""
    from trimtab.cli.sweep import print_cost
    from trimtab.runner.dial import dial_plan

    experiment = experiment_of(
        model,
        data_source(task, task_where, task_columns),
        data_source(safety, safety_where, safety_columns),
        data_source(original, original_where, original_columns) if original else None,
        held_out_rows,
        load=load,
        train=training,
        dial=penalties,
        grid=(),
        seeds=(seed,),
        lengths=lengths,
        measure=measuring,
        answers=answers_of(harmful, benign, judge),
    )
    if dry_run:
        print_cost(experiment, *dial_plan(experiment, out))
        return
    _train(experiment, out, restart)
    say(f"The dial is in {out}. Next: {shlex.join(['trimtab', 'dial', 'curve', str(out)])}")


@dial.command("curve", cls=Command)
@command
def curve(folder: Folder, settings: Settings = 11, samples: Samples = 4) -> None:
    """Measure the frontier along a dial's settings, and write a page with a slider."""
    from trimtab.runner.dial import measure_curve

    with watched() as watcher:
        measure_curve(folder, settings, samples, watcher)
    report(folder)


@dial.command("set", cls=Command)
@command
def set_(
    folder: FolderOfEnds,
    out: Out,
    budget: Annotated[
        Finite | None,
        typer.Option(help="How far the safety loss may rise, in nats per token over the start."),
    ] = None,
    alpha: Annotated[
        From0To1 | None, typer.Option(help="The setting itself: 0 is safest, 1 most capable.")
    ] = None,
    max_harmful: MaxHarmful = None,
    min_refused: MinRefused = None,
    min_answered: MinAnswered = None,
    harmful: HarmfulToLimit = None,
    benign: BenignToLimit = None,
    judge: JudgesOfLimit = None,
    rows: PromptRows = None,
    max_tokens: AnswerTokens = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Write a whole model where the dial has adapters.")
    ] = False,
    push_to_hub: PushToHub = None,
) -> None:
    """Save the model at a setting, or the most capable one within a budget or limits on rates.

    Prompts and judges are those that the dial was trained with, where none are given.
    """
    from trimtab.runner.dial import set_dial
    from trimtab.runner.rates import Asking

    require_access(push_to_hub)
    limits = rate_limits(max_harmful, min_refused, min_answered)
    asking = Asking(sources_of(harmful), sources_of(benign), tuple(judge or ()), rows, max_tokens)
    with watched() as watcher:
        chosen = set_dial(folder, out, watcher, alpha, budget, merged, limits, asking)
    _tell(chosen)
    say(f"The model is in {out}.")
    push(out, push_to_hub)


@dial.command("demo", cls=Command)
@command
def demo(
    out: Out = Path("dial-demo"),
    seed: Annotated[Seed, typer.Option(help="Of the world, its data and the training.")] = 0,
    settings: Settings = 21,
    restart: Restart = False,
) -> None:
    """Train a dial and measure its curve in the small world of 'trimtab demo'."""
    from dataclasses import replace

    from trimtab.models import quiet_libraries
    from trimtab.runner.demo import demo_experiment

    quiet_libraries()
    world = demo_experiment(out, seed, restart)
    dial_experiment = replace(
        world,
        task={"shared": world.task["shared"]},
        safety={"near": world.safety["near"]},
        train=replace(world.train, steps=2 * world.train.steps),
        dial=Dial(),
        grid=(),
        seeds=(seed,),
    )
    _train(dial_experiment, out, restart)
    curve(out, settings)


def _train(experiment: Experiment, out: Path, restart: bool) -> None:
    from trimtab.runner.dial import train_dial

    with watched() as watcher:
        train_dial(experiment, out, watcher, restart)


def _tell(chosen: ChosenSetting) -> None:
    from trimtab.analysis.labels import before_and_after
    from trimtab.config.methods import number
    from trimtab.runner.rates import rate_lines

    say(f"α = {number(chosen.alpha)}, where the dial was trained at λ = {number(chosen.penalty)}.")
    if chosen.rates is not None:
        for line in rate_lines(chosen.rates):
            say(line)
    if chosen.budget is not None and chosen.chosen_rise is not None:
        tell_budget(chosen.budget, chosen.chosen_rise, chosen.rise)
    say("From the start to this model, in nats per token on held-out rows:")
    for loss in chosen.losses:
        assert loss.start is not None  # a dial has it in memory
        say(f"  {loss.what} {before_and_after(loss.start, loss.now, loss.change)}")
