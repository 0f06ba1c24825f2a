"""A plan becomes points, one training at a time; what is made is never made again."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from trimtab.analysis.results import DATA_FILE, read_data
from trimtab.config.data_source import DataSource
from trimtab.config.experiment import Experiment
from trimtab.config.grid import Plan, Run, is_more_of, plan_of
from trimtab.config.methods import PUBLISHED
from trimtab.config.run_spec import RunSpec
from trimtab.config.yaml_io import (
    EXPERIMENT_FILE,
    differences,
    parse_experiment,
    read_experiment,
    to_yaml,
)
from trimtab.data.files import MissingFilesError, local_path
from trimtab.data.splits import Roles, Split, load_roles
from trimtab.errors import UserError
from trimtab.models import load_model
from trimtab.report.model_card import has_card, write_model_card
from trimtab.results.checksums import sha256_of
from trimtab.results.files import only_writer, write_atomically
from trimtab.results.generations import GENERATIONS_FOLDER
from trimtab.results.judgements import JUDGEMENTS_FOLDER
from trimtab.results.metrics import METRICS_FOLDER, Metrics
from trimtab.results.per_row_losses import ROW_LOSSES_FOLDER
from trimtab.results.result import LocalGeometry, Point
from trimtab.results.samples import SAMPLES_FILE
from trimtab.results.store import (
    FAILURES_FILE,
    LANDSCAPE_FILE,
    POINTS_FILE,
    Failure,
    PointsFile,
    read_failures,
    read_landscape,
    write_failures,
    write_landscape,
)
from trimtab.results.under_way import UNFINISHED_FOLDER, forget_under_way
from trimtab.runner.answering import judges_of, prompts_to_ask
from trimtab.runner.evaluator import EncodedRoles, row_weights
from trimtab.runner.library_settings import check_library_settings
from trimtab.runner.processes import processes
from trimtab.runner.rates import ASKED_FOLDER
from trimtab.runner.runner import (
    DIAL_FOLDER,
    MODELS_FOLDER,
    Runner,
    RunResult,
    forget_checkpoints,
)
from trimtab.runner.trainings import ALIGNED_FOLDER, TrainingWatcher
from trimtab.stats import note_on_rows
from trimtab.train.methods import method_at

log = logging.getLogger(__name__)

_RESULTS = (
    POINTS_FILE,
    FAILURES_FILE,
    DATA_FILE,
    LANDSCAPE_FILE,
    SAMPLES_FILE,
    ALIGNED_FOLDER,
    DIAL_FOLDER,
    UNFINISHED_FOLDER,
    ROW_LOSSES_FOLDER,
    METRICS_FOLDER,
    GENERATIONS_FOLDER,
    JUDGEMENTS_FOLDER,
    ASKED_FOLDER,
)
_RECORD = "# What trimtab makes in this folder. To make something else, edit a copy.\n"

_DIFFERENCES_SHOWN = 8


class Watcher(TrainingWatcher, Protocol):
    """Someone who looks on while a sweep is made."""

    def planned(self, plan: Plan, left: Plan) -> None:
        """The whole plan, and what of it is still to be made."""

    def measured(self, points: list[Point]) -> None:
        """A model was measured and its points written."""

    def failed(self, failure: Failure) -> None:
        """A training could not be finished; the sweep goes on."""


class SilentWatcher(Watcher):
    """Says nothing: what a script overrides, it looks at."""

    def planned(self, plan: Plan, left: Plan) -> None: ...

    def warned(self, warning: str) -> None: ...

    def doing(self, what: str, steps: int | None = None) -> None: ...

    def training(self, name: str, steps: int) -> None: ...

    def stepped(self, steps: int, loss: float | None) -> None: ...

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
    watcher: Watcher,
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
        remaining = plan.without(measured_specs | {failure.spec for failure in failures})
        for run in plan.runs:
            # It was interrupted between its points and this.
            if measured_specs.issuperset(run.specs):
                forget_checkpoints(folder, run.name)
                for model in run.models:
                    if not has_card(folder / MODELS_FOLDER / model):
                        write_model_card(folder, model)
        watcher.planned(plan, remaining)
        if remaining.specs:
            roles = read_roles(experiment)
            for warning in roles.warnings:
                watcher.warned(warning)
            record_data(roles, experiment, folder)
            _record(experiment, folder)
            maker = maker_of(experiment, roles, folder, watcher)
            points_file.add(maker.measured_start(remaining.aligned))
            wants_landscape = experiment.measure.landscape_rows and experiment.tasks_in_case_2
            if wants_landscape and not read_landscape(folder):
                write_landscape(folder, maker.measured_landscape())
            for run, points in maker.run_results(remaining.runs):
                if isinstance(points, str):
                    failed = [Failure(spec, points) for spec in run.specs]
                    failures = plan.in_order([*failures, *failed])
                    forget_under_way(folder, run.name)
                    watcher.failed(failed[0])
                else:
                    points_file.add(points)
                    forget_checkpoints(folder, run.name)
                    for model in run.models:
                        write_model_card(folder, model)
                    watcher.measured(
                        [point for point in points_file.points if point.spec in run.specs]
                    )
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
    if _is_ours(folder) and _has_begun(folder):
        _as_begun(experiment, folder)
    measured_specs = {point.spec for point in PointsFile(folder, {}).points}
    failures = [] if retry else read_failures(folder)
    return plan, plan.without(measured_specs | {failure.spec for failure in failures})


def read_roles(experiment: Experiment) -> Roles:
    """The rows of every role, divided by the experiment's split seed. Raises UserError."""
    try:
        return load_roles(
            experiment.original,
            experiment.safety,
            experiment.task,
            experiment.split_seed,
            Path(experiment.data_root),
        )
    except MissingFilesError as missing:
        raise UserError(
            f"{missing} If the data lie in another folder, give it: --data-root, or data_root in "
            "the experiment's file."
        ) from None


def claim(experiment: Experiment, folder: Path, restart: bool) -> None:
    """Make `folder` the experiment's own, or refuse it as another's.

    With `restart` what trimtab made there is moved aside, once the experiment has shown that it
    can be read. What has been added to a sweep's grid or its seeds is not recorded yet: its data
    may prove to be others.

    Raises:
        UserError: the folder holds another experiment, or files that trimtab did not make there.
    """
    if restart and _is_ours(folder):
        _require_readable(experiment, folder)
        _move_aside(folder)
    if _is_ours(folder):
        if _has_begun(folder):
            experiment = _as_begun(experiment, folder)
        else:
            shutil.rmtree(folder / UNFINISHED_FOLDER, ignore_errors=True)
    else:
        _refuse_others_files(folder)
    _record(experiment, folder)


def _record(experiment: Experiment, folder: Path) -> None:
    is_in_folder = Path(experiment.data_root).resolve() == folder.resolve()
    record = replace(experiment, data_root=".") if is_in_folder else experiment
    write_atomically(folder / EXPERIMENT_FILE, _RECORD + to_yaml(record))


def _is_ours(folder: Path) -> bool:
    """Whether trimtab has claimed `folder`; earlier versions left no mark in their record."""
    recorded = folder / EXPERIMENT_FILE
    if not recorded.exists():
        return False
    has_results = any((folder / name).exists() for name in (POINTS_FILE, FAILURES_FILE))
    return recorded.read_bytes().startswith(_RECORD.encode()) or has_results


def _has_begun(folder: Path) -> bool:
    names = (POINTS_FILE, FAILURES_FILE, LANDSCAPE_FILE, ALIGNED_FOLDER, DIAL_FOLDER)
    checkpoints = (folder / UNFINISHED_FOLDER).glob("*/checkpoint-*")
    return any((folder / name).exists() for name in names) or any(checkpoints)


def _refuse_others_files(folder: Path) -> None:
    for name in (EXPERIMENT_FILE, *_RESULTS):
        if (folder / name).exists():
            raise UserError(
                f"{folder / name} is there, and trimtab has no record of having made it. Give "
                "another --out."
            )


def _require_readable(experiment: Experiment, folder: Path) -> None:
    """Read model and data as the sweep will, before anything is moved. Raises UserError."""
    model = Path(experiment.model).resolve()
    if any(model.is_relative_to((folder / name).resolve()) for name in (*_RESULTS, MODELS_FOLDER)):
        raise UserError(
            f"model {experiment.model!r} lies in what --restart moves aside. Give another --out."
        )
    roles = read_roles(experiment)
    _, tokenizer = load_model(experiment.model, experiment.load)
    EncodedRoles.of(roles, tokenizer, experiment.lengths)
    if experiment.answers:
        prompts_to_ask(experiment.answers, experiment.split_seed, Path(experiment.data_root))
        judges_of(experiment.answers)


def _move_aside(folder: Path) -> None:
    """Move what trimtab made in `folder` into one below it; the record last, as it says whose."""
    try:
        runs = plan_of(read_experiment(folder / EXPERIMENT_FILE)).runs
    except UserError:
        runs = ()  # a damaged record: which models are trimtab's is not known
    models = [f"{MODELS_FOLDER}/{model}" for run in runs for model in run.models]
    names = [*_RESULTS, *models, EXPERIMENT_FILE]
    numbered = (folder / f"before-restart-{number}" for number in count(1))
    aside = next(path for path in numbered if not path.exists())
    for name in names:
        if (folder / name).exists():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).rename(aside / name)
    log.warning("What %s held is in %s.", folder, aside)


def _as_begun(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment with the grid and the seeds that `folder` was begun with.

    Raises:
        UserError: more than those differs, or something of them is gone.
    """
    recorded = (folder / EXPERIMENT_FILE).read_text(encoding="utf-8")
    before = parse_experiment(recorded, EXPERIMENT_FILE)
    if is_more_of(experiment, before):
        experiment = replace(experiment, grid=before.grid, seeds=before.seeds)
    changed = differences(recorded, experiment)
    if changed:
        more = len(changed) - _DIFFERENCES_SHOWN
        differences_text = " | ".join(changed[:_DIFFERENCES_SHOWN]) + (
            f" | and {more} more" if more > 0 else ""
        )
        raise UserError(
            f"{folder} holds the points of another experiment. What differs (- there, + now): "
            f"{differences_text}. Give another --out, or --restart to move aside what is there."
        )
    return experiment


def record_data(roles: Roles, experiment: Experiment, folder: Path) -> None:
    """Keep which rows were used and what was noticed about them.

    Raises:
        UserError: what is in `folder` was made of a file that has another SHA-256 now.
    """
    named = [("original", "original", experiment.original, roles.original)]
    named += [
        ("safety", name, experiment.safety[name], roles.safety[name]) for name in roles.safety
    ]
    named += [("task", name, experiment.task[name], roles.task[name]) for name in roles.task]
    record: list[dict[str, Any]] = [
        {
            "role": role,
            "name": name,
            "path": source.path,
            "train_rows": len(split.train),
            "held_out_rows": len(split.held_out),
            "warnings": [
                *(line for line in roles.warnings if split.label in line),
                *_note_on_rows(split),
            ],
            "files": _checksums(source, Path(experiment.data_root)),
        }
        for role, name, source, split in named
        if source and split
    ]
    if _has_begun(folder):
        sums = {name: sum_of for part in record for name, sum_of in part["files"].items()}
        _require_same_data(sums, folder, Path(experiment.data_root))
    write_atomically(folder / DATA_FILE, json.dumps(record, indent=1) + "\n")


def _require_same_data(sums: Mapping[str, str], folder: Path, root: Path) -> None:
    for summary in read_data(folder):
        for name, recorded in summary.files.items():
            if sums.get(name, recorded) != recorded:
                raise UserError(
                    f"{local_path(name, root)} has changed since {folder} was begun, and its "
                    "points would be of two data sets. Restore the file, give another --out, or "
                    "--restart to move aside what is there."
                )


def _checksums(source: DataSource, root: Path) -> dict[str, str]:
    """SHA-256 of the files that a source names, the held-out rows' own among them."""
    named = [source.path, *([source.held_out] if isinstance(source.held_out, str) else [])]
    files = {name: local_path(name, root) for name in named}
    return {name: sha256_of(file) for name, file in files.items() if file.is_file()}


def _note_on_rows(split: Split) -> list[str]:
    if row_weights(split.held_out) is not None:
        return []  # a whole distribution, whose losses are exact
    note = note_on_rows(len(split.held_out))
    return [] if note is None else [f"{note} (held out)"]
