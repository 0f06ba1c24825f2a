"""A plan becomes points, one training at a time; what is made is never made again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from trimtab.config.experiment import Experiment
from trimtab.config.grid import Plan, Run, plan_of
from trimtab.config.methods import PUBLISHED
from trimtab.config.run_spec import RunSpec
from trimtab.data.splits import Roles
from trimtab.errors import UserError
from trimtab.report.model_card import has_card, write_model_card
from trimtab.results.files import only_writer
from trimtab.results.layout import model_folder
from trimtab.results.metrics import Metrics
from trimtab.results.result import LocalGeometry, Point
from trimtab.results.store import (
    Failure,
    PointsFile,
    read_failures,
    read_landscape,
    write_failures,
    write_landscape,
)
from trimtab.results.under_way import forget_under_way
from trimtab.runner.answering import read_rows_and_prompts
from trimtab.runner.folder import claim, record_experiment, record_inputs, require_same
from trimtab.runner.library_settings import check_library_settings
from trimtab.runner.processes import processes
from trimtab.runner.runner import Runner, RunResult, forget_checkpoints
from trimtab.runner.trainings import TrainingWatcher
from trimtab.train.methods import method_at


class SweepWatcher(TrainingWatcher, Protocol):
    """Someone who looks on while a sweep is made."""

    def planned(self, plan: Plan, left: Plan) -> None:
        """The whole plan, and what of it is still to be made."""

    def measured(self, points: list[Point]) -> None:
        """A model was measured and its points written."""

    def failed(self, failure: Failure) -> None:
        """A training could not be finished; the sweep goes on."""


class SilentWatcher(SweepWatcher):
    """Says nothing: what a script overrides, it looks at."""

    def planned(self, plan: Plan, left: Plan) -> None: ...

    def warned(self, warning: str) -> None: ...

    def doing(self, what: str, steps: int | None = None) -> None: ...

    def training(self, name: str, steps: int) -> None: ...

    def stepped(self, steps: int) -> None: ...

    def logged(self, metrics: Metrics) -> None: ...

    def measured(self, points: list[Point]) -> None: ...

    def failed(self, failure: Failure) -> None: ...


class Maker(Protocol):
    """Who makes what a sweep is of: a `Runner`, or a cluster of them. The sweep alone writes it."""

    def measured_start(self, specs: tuple[RunSpec, ...]) -> list[Point]:
        """The starting model's own points; without `specs`, it is made all the same."""

    def measured_landscape(self) -> dict[str, LocalGeometry]:
        """Slope and curvature at θ_s of every loss that Theorems 3 and 4 speak of."""

    def run_results(self, runs: Iterable[Run]) -> Iterator[RunResult]:
        """Every run with its points, or with why it has none, in any order."""


def sweep(
    experiment: Experiment,
    folder: Path,
    watcher: SweepWatcher,
    restart: bool = False,
    retry: bool = False,
    maker_of: Callable[[Experiment, Roles, Path, TrainingWatcher], Maker] = Runner,
) -> list[Point]:
    """Every point of `experiment`, written to `folder` as each is made.

    Killed at any moment and called again, it makes what is missing: a point is in the file or it
    is not. What has been added to the grid or the seeds since is missing too. `restart` moves aside
    what the folder holds; `retry` tries again what failed; `maker_of` is who makes the runs: this
    process, or a `cluster.Cluster`.

    Raises:
        UserError: the folder holds another experiment, is being written by another process, or
            the model or the data cannot be read, or a launcher started several processes that do
            not follow this one.
    """
    if not experiment.grid:
        raise UserError("grid: nothing is given. Give a grid, or train a dial: trimtab dial train.")
    processes()
    check_library_settings(experiment)
    with only_writer(folder):
        claim(experiment, folder, restart)
        plan = plan_of(experiment)
        points_file = PointsFile(folder, experiment.known_entropies, plan)
        forget_under_way(folder)
        if retry:
            write_failures(folder, [])
        failures = read_failures(folder)
        measured_specs = {point.spec for point in points_file.points}
        remaining = plan.without(measured_specs, [failure.spec for failure in failures])
        for run in plan.runs:
            # It was interrupted between its points and this.
            if measured_specs.issuperset(run.specs):
                forget_checkpoints(folder, run.name)
                for model in run.models:
                    if not has_card(model_folder(folder, model)):
                        write_model_card(folder, model)
        watcher.planned(plan, remaining)
        if remaining.specs:
            roles, _ = read_rows_and_prompts(experiment)
            for warning in roles.warnings:
                watcher.warned(warning)
            record_inputs(roles, experiment, folder)
            record_experiment(experiment, folder)
            maker = maker_of(experiment, roles, folder, watcher)
            points_file.add(maker.measured_start(remaining.aligned))
            wants_landscape = experiment.measure.landscape_rows and experiment.tasks_in_case_2
            if wants_landscape and not read_landscape(folder):
                write_landscape(folder, maker.measured_landscape())
            for run, points, failed in maker.run_results(remaining.runs):
                if points:
                    points_file.add(points)
                    forget_checkpoints(folder, run.name)
                    for model in run.models:
                        write_model_card(folder, model)
                    watcher.measured(
                        [point for point in points_file.points if point.spec in run.specs]
                    )
                    for failure in failed:  # of a method after training: the run itself is made
                        watcher.warned(f"{failure.spec.folder}: {failure.reason}")
                else:
                    forget_under_way(folder, run.name)
                    watcher.failed(failed[0])
                failures = plan.in_order([*failures, *failed])
                write_failures(folder, failures)
        return points_file.points


def left_of(
    experiment: Experiment, folder: Path, restart: bool = False, retry: bool = False
) -> tuple[Plan, Plan]:
    """The whole plan, and what of it a sweep would make in `folder`, called so.

    Raises:
        UserError: the folder holds another experiment.
    """
    plan = plan_of(experiment)
    for spec in plan.specs:
        if spec.method in PUBLISHED.values():
            method_at(spec.method, spec.value)  # a value out of its range is told before training
    if restart:
        return plan, plan
    require_same(experiment, folder)
    measured_specs = {point.spec for point in PointsFile(folder, {}).points}
    failures = [] if retry else read_failures(folder)
    return plan, plan.without(measured_specs, [failure.spec for failure in failures])
