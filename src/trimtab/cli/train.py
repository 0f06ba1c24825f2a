"""trimtab train."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from trimtab.cli.answer import print_training_summary
from trimtab.cli.hub import PushToHub, push, require_access
from trimtab.cli.options import (
    Benign,
    DryRun,
    Harmful,
    HeldOutRows,
    JudgeNames,
    Model,
    Original,
    OriginalColumns,
    OriginalWhere,
    Out,
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
)
from trimtab.cli.panels import KEPT, TRAINING
from trimtab.cli.settings import Options, settings_as_options
from trimtab.cli.sweep import end_with_failures, print_plan, sweep_and_report
from trimtab.config.data_source import Lengths
from trimtab.config.experiment import Block, Measuring, Training
from trimtab.config.loading import Loading
from trimtab.config.ranges import FiniteOrInfinity, From0, Radius, Seed
from trimtab.errors import UserError
from trimtab.results.layout import model_folder


@settings_as_options
def train(
    model: Model,
    task: Task,
    safety: Safety,
    out: Out,
    original: Original = None,
    penalty: Annotated[
        From0 | None,
        typer.Option(
            "--penalty",
            "--lambda",
            help="λ, the weight of the safety loss beside the task loss; 0 is plain fine-tuning. "
            "[default: 1, without --radius and --budget]",
            rich_help_panel=KEPT,
        ),
    ] = None,
    radius: Annotated[
        Radius | None,
        typer.Option(
            help="ε (Case II): how far from the start's the weights may move, the length of their "
            "change over all weights. A quarter of what plain fine-tuning moved is a beginning: "
            "the page of a run with --penalty 0 tells it as the distance.",
            rich_help_panel=KEPT,
        ),
    ] = None,
    budget: Annotated[
        FiniteOrInfinity | None,
        typer.Option(
            help="What the safety loss may rise by, nats per token; a dial is set to it.",
            rich_help_panel=KEPT,
        ),
    ] = None,
    case: Annotated[
        Literal["alignment-loss", "alignment-parameter"] | None,
        typer.Option(
            help="What λ weighs: the loss on safety data (alignment-loss, Case I, the default), or "
            "how far the weights moved (alignment-parameter, Case II).",
            rich_help_panel=KEPT,
        ),
    ] = None,
    task_where: TaskWhere = None,
    safety_where: SafetyWhere = None,
    original_where: OriginalWhere = None,
    task_columns: TaskColumns = None,
    safety_columns: SafetyColumns = None,
    original_columns: OriginalColumns = None,
    training: Training = Training(),  # noqa: B008  # frozen
    load: Loading = Loading(),  # noqa: B008
    lengths: Annotated[Lengths, Options(prefix="max_")] = Lengths(),  # noqa: B008
    measuring: Annotated[Measuring, Options(prefix="measure_")] = Measuring(),  # noqa: B008
    held_out_rows: HeldOutRows = None,
    seed: Annotated[
        Seed, typer.Option(help="Order of rows; a new adapter's weights.", rich_help_panel=TRAINING)
    ] = 0,
    harmful: Harmful = None,
    benign: Benign = None,
    judge: JudgeNames = None,
    push_to_hub: PushToHub = None,
    restart: Restart = False,
    dry_run: DryRun = False,
) -> None:
    """Fine-tune, measure and save one model."""
    from trimtab.config.grid import plan_of

    constraints = {"--penalty": penalty, "--radius": radius, "--budget": budget}
    constraint_options = [option for option, value in constraints.items() if value is not None]
    if len(constraint_options) > 1:
        raise UserError(
            f"{' and '.join(constraint_options)} are given. Give one of {', '.join(constraints)}."
        )
    if radius is not None and case == "alignment-loss":
        raise UserError("--radius is for --case alignment-parameter. Give --penalty or --budget.")
    if case == "alignment-parameter" and budget is not None:
        raise UserError("--budget is for --case alignment-loss. Give --penalty or --radius.")
    is_case_2 = case == "alignment-parameter" or radius is not None
    if is_case_2 and training.safety_share != Training.safety_share:
        raise UserError(
            "--safety-share has no rows to share: Case II trains on none. Leave it out."
        )
    if is_case_2 and training.safety_target != Training.safety_target:
        raise UserError("--safety-target has no rows to ask: Case II trains on none. Leave it out.")
    if budget is None and training.validation_rows != Training.validation_rows:
        raise UserError("--validation-rows has no budget to set a dial by. Give --budget too.")
    if not constraint_options:
        penalty = 1.0
    block = Block(
        case or ("alignment-loss" if radius is None else "alignment-parameter"),
        penalties=() if penalty is None else (penalty,),
        radii=() if radius is None else (radius,),
        budgets=() if budget is None else (budget,),
    )
    experiment = experiment_of(
        model,
        data_source(task, task_where, task_columns),
        data_source(safety, safety_where, safety_columns),
        data_source(original, original_where, original_columns) if original else None,
        held_out_rows,
        load=load,
        train=training,
        grid=(block,),
        seeds=(seed,),
        lengths=lengths,
        measure=measuring,
        answers=answers_of(harmful, benign, judge),
        keep_models=True,
    )
    require_access(push_to_hub)
    if dry_run:
        print_plan(experiment, out, restart, again="--restart")
    else:
        sweep_and_report(experiment, out, restart)
        end_with_failures(out, "--restart")
        (run,) = plan_of(experiment).runs
        (model,) = run.models
        print_training_summary(experiment, out, model)
        push(model_folder(out, model), push_to_hub)
