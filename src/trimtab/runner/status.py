"""How far a sweep is, as its folder tells it; no torch."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from trimtab.config.grid import Run, plan_of
from trimtab.config.yaml_io import recorded_experiment
from trimtab.errors import UserError
from trimtab.results.files import has_writer, is_running
from trimtab.results.store import Failure, PointsFile, copy_measurements, read_failures
from trimtab.results.under_way import UnderWay, read_under_way


@dataclass(frozen=True)
class Status:
    """What of a plan is made, being made, failed and left."""

    done: tuple[Run, ...]
    running: dict[str, UnderWay]
    """By name, θ_s being made among them."""
    stopped: dict[str, UnderWay]
    """Begun and given up by whoever made them; the same command goes on with them."""
    failed: tuple[tuple[Run, Failure], ...]
    left: tuple[Run, ...]
    """Neither done nor failed, those under way among them."""
    points: int
    """That are written, the starting model's own among them."""
    planned: int
    is_being_made: bool
    """Whether a command writes into the folder now."""


def copy_if_whole(run: Path, target: Path) -> None:
    """Copy the measurements of a sweep to `target`, where it is there and all of it is made."""
    if not run.exists():
        return
    status = status_of(run)
    if not status.left and not status.failed:
        copy_measurements(run, target)


def status_of(folder: Path) -> Status:
    """The status of the sweep in `folder`. Raises UserError: there is none."""
    plan = plan_of(recorded_experiment(folder))
    if not plan.runs:
        raise UserError(
            f"{folder} is that of a dial, which is one training. 'trimtab dial' goes on with it."
        )
    measured_specs = {point.spec for point in PointsFile(folder, {}).points}
    failures = {failure.spec: failure for failure in read_failures(folder)}
    failed = [
        (run, failures[spec])
        for run in plan.runs
        for spec in run.specs
        if spec in failures and spec not in measured_specs
    ]
    left = plan.without(measured_specs | set(failures)).runs
    names = {run.name for run in left}
    done = [run for run in plan.runs if measured_specs.issuperset(run.specs)]
    is_being_made = has_writer(folder)
    finished = {run.name for run in plan.runs} - names
    begun = {
        name: training for name, training in read_under_way(folder).items() if name not in finished
    }
    running = {
        name: training for name, training in begun.items() if is_being_made and _may_run(training)
    }
    return Status(
        done=tuple(done),
        running=running,
        stopped={name: training for name, training in begun.items() if name not in running},
        failed=tuple(failed),
        left=left,
        points=len(measured_specs.intersection(plan.specs)),
        planned=len(plan.specs),
        is_being_made=is_being_made,
    )


def _may_run(training: UnderWay) -> bool:
    """Whether its process is there, as far as that is seen from this machine."""
    return training.host != socket.gethostname() or is_running(training.process)
