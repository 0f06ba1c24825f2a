"""A plan becomes points, one training at a time; what is made is never made again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from trimtab.data.splits import Roles, load_roles
from trimtab.errors import UserError
from trimtab.experiment import Experiment
from trimtab.experiment_file import EXPERIMENT_FILE, differences, to_yaml
from trimtab.plan import Plan, plan_of
from trimtab.points import Point
from trimtab.records import (
    FAILURES_FILE,
    LANDSCAPE_FILE,
    POINTS_FILE,
    Failure,
    PointsFile,
    only_writer,
    read_failures,
    write_atomically,
    write_failures,
    write_landscape,
)
from trimtab.row_losses import ROW_LOSSES_FOLDER
from trimtab.samples import SAMPLES_FILE
from trimtab.train.budget import ImpossibleBudgetError
from trimtab.train.trainer import TrainingDivergedError
from trimtab.workshop import (
    ALIGNED_FOLDER,
    DIAL_FOLDER,
    MODELS_FOLDER,
    UNFINISHED_FOLDER,
    TrainingWatcher,
    Workshop,
)

DATA_FILE = "data.json"

_DIFFERENCES_SHOWN = 8


class Watcher(TrainingWatcher, Protocol):
    """Someone who looks on while a sweep is made."""

    def planned(self, plan: Plan, left: Plan) -> None:
        """The whole plan, and what of it is still to be made."""

    def measured(self, points: list[Point]) -> None:
        """A model was measured and its points written."""

    def failed(self, failure: Failure) -> None:
        """A training could not be finished; the sweep goes on."""


def sweep(
    experiment: Experiment,
    folder: Path,
    watcher: Watcher,
    restart: bool = False,
    retry: bool = False,
) -> list[Point]:
    """Every point of `experiment`, written to `folder` as each is made.

    Killed at any moment and called again, it makes what is missing: a point is in the file or it
    is not. `restart` discards what the folder holds; `retry` tries again what failed.

    Raises:
        UserError: the folder holds another experiment, is being written by another process, or
            the model or the data cannot be read.
    """
    if not experiment.grid:
        raise UserError("grid: nothing is given. Give a grid, or train a dial: trimtab dial train.")
    with only_writer(folder):
        claim(experiment, folder, restart)
        written = PointsFile(folder, experiment.known_entropies)
        if retry:
            write_failures(folder, [])
        failures = read_failures(folder)
        plan, left = left_of(experiment, folder)
        watcher.planned(plan, left)
        if left.points:
            roles = read_roles(experiment)
            for warning in roles.warnings:
                watcher.warned(warning)
            record_data(roles, experiment, folder)
            workshop = Workshop(experiment, roles, folder, watcher)
            written.add(workshop.measured_start(left.aligned))
            wants_landscape = experiment.measure.landscape_rows and experiment.tasks_in_case_2
            if wants_landscape and not (folder / LANDSCAPE_FILE).exists():
                write_landscape(folder, workshop.measured_landscape())
            for run in left.runs:
                try:
                    points = workshop.made(run)
                except (
                    TrainingDivergedError,
                    ImpossibleBudgetError,
                    torch.OutOfMemoryError,
                ) as error:
                    failed = [Failure(key, _reason(error)) for key in run.points]
                    failures += failed
                    watcher.failed(failed[0])
                else:
                    written.add(points)
                    watcher.measured(written.points[-len(points) :])
                write_failures(folder, failures)
        return written.points


def left_of(experiment: Experiment, folder: Path) -> tuple[Plan, Plan]:
    """The whole plan, and what of it `folder` has neither made nor failed at."""
    plan = plan_of(experiment)
    made = {point.key for point in PointsFile(folder, {}).points}
    return plan, plan.without(made | {failure.key for failure in read_failures(folder)})


def read_roles(experiment: Experiment) -> Roles:
    """The rows of every role, divided by the experiment's split seed. Raises UserError."""
    return load_roles(
        experiment.original,
        experiment.safety,
        experiment.task,
        experiment.split_seed,
        Path(experiment.data_root),
    )


def claim(experiment: Experiment, folder: Path, restart: bool) -> None:
    """Make `folder` the experiment's own, or refuse it as another's. Raises UserError."""
    recorded = folder / EXPERIMENT_FILE
    if restart:
        files = (EXPERIMENT_FILE, POINTS_FILE, FAILURES_FILE, DATA_FILE)
        for name in (*files, LANDSCAPE_FILE, SAMPLES_FILE):
            (folder / name).unlink(missing_ok=True)
        kept = (ALIGNED_FOLDER, DIAL_FOLDER, MODELS_FOLDER, UNFINISHED_FOLDER, ROW_LOSSES_FOLDER)
        for name in kept:
            shutil.rmtree(folder / name, ignore_errors=True)
    begun = [POINTS_FILE, FAILURES_FILE, ALIGNED_FOLDER, DIAL_FOLDER]
    if any((folder / name).exists() for name in begun):
        _refuse_another(experiment, folder)
    else:
        shutil.rmtree(folder / UNFINISHED_FOLDER, ignore_errors=True)
    here = Path(experiment.data_root).resolve() == folder.resolve()
    record = replace(experiment, data_root=".") if here else experiment
    write_atomically(recorded, to_yaml(record))


def _refuse_another(experiment: Experiment, folder: Path) -> None:
    recorded = folder / EXPERIMENT_FILE
    if not recorded.exists():
        raise UserError(
            f"{folder} holds points but no {EXPERIMENT_FILE}, so whether they belong to this "
            "experiment cannot be told. Give another --out, or --restart to discard them."
        )
    changed = differences(recorded.read_text(encoding="utf-8"), experiment)
    if changed:
        more = len(changed) - _DIFFERENCES_SHOWN
        told = " | ".join(changed[:_DIFFERENCES_SHOWN]) + (
            f" | and {more} more" if more > 0 else ""
        )
        raise UserError(
            f"{folder} holds the points of another experiment. What differs (- there, + now): "
            f"{told}. Give another --out, or --restart to discard what is there."
        )


def record_data(roles: Roles, experiment: Experiment, folder: Path) -> None:
    """Keep which rows were used and what was noticed about them."""
    named = [("original", "original", experiment.original, roles.original)]
    named += [
        ("safety", name, experiment.safety[name], roles.safety[name]) for name in roles.safety
    ]
    named += [("task", name, experiment.task[name], roles.task[name]) for name in roles.task]
    record = [
        {
            "role": role,
            "name": name,
            "path": source.path,
            "train_rows": len(split.train),
            "held_out_rows": len(split.held_out),
            "warnings": [line for line in roles.warnings if split.label in line],
        }
        for role, name, source, split in named
        if source and split
    ]
    write_atomically(folder / DATA_FILE, json.dumps(record, indent=1) + "\n")


def _reason(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory. Lower batch_size, or set gradient_checkpointing: true."
    return str(error)
