"""An experiment's folder: whose it is, and which model and data it was made of."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

from trimtab.config.data_source import DataSource
from trimtab.config.experiment import Experiment
from trimtab.config.grid import is_more_of, plan_of
from trimtab.config.yaml_io import (
    EXPERIMENT_FILE,
    differences,
    parse_experiment,
    read_experiment,
    to_yaml,
)
from trimtab.data.files import local_path
from trimtab.data.rows import row_weights
from trimtab.data.splits import Roles, Split
from trimtab.errors import UserError
from trimtab.models import load_model, model_parts
from trimtab.results.checksums import sha256_of
from trimtab.results.data_summary import DATA_FILE, DataSummary, read_data, write_data
from trimtab.results.files import read_if_whole, write_atomically
from trimtab.results.generations import GENERATIONS_FOLDER
from trimtab.results.judgements import JUDGEMENTS_FOLDER
from trimtab.results.layout import ALIGNED_FOLDER, DIAL_FOLDER, MODELS_FOLDER
from trimtab.results.metrics import METRICS_FOLDER
from trimtab.results.per_row_losses import ROW_LOSSES_FOLDER
from trimtab.results.samples import SAMPLES_FILE
from trimtab.results.store import FAILURES_FILE, LANDSCAPE_FILE, POINTS_FILE, read_points
from trimtab.results.under_way import UNFINISHED_FOLDER
from trimtab.runner.answering import read_rows_and_prompts
from trimtab.runner.evaluator import EncodedRoles
from trimtab.runner.rates import ASKED_FOLDER
from trimtab.stats import note_on_rows

log = logging.getLogger(__name__)

START_FILE = "start.json"

_RESULTS = (
    POINTS_FILE,
    FAILURES_FILE,
    DATA_FILE,
    START_FILE,
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
    record_experiment(experiment, folder)


def record_experiment(experiment: Experiment, folder: Path) -> None:
    """Keep what the folder is of."""
    is_in_folder = Path(experiment.data_root).resolve() == folder.resolve()
    record = replace(experiment, data_root=".") if is_in_folder else experiment
    write_atomically(folder / EXPERIMENT_FILE, _RECORD + to_yaml(record))


def require_same(experiment: Experiment, folder: Path) -> None:
    """Raises UserError where the folder holds results of another experiment."""
    if _is_ours(folder) and _has_begun(folder):
        _as_begun(experiment, folder)


def _is_ours(folder: Path) -> bool:
    """Whether trimtab has claimed `folder`; earlier versions left no mark in their record."""
    recorded = folder / EXPERIMENT_FILE
    if not recorded.exists():
        return False
    has_results = any((folder / name).exists() for name in (POINTS_FILE, FAILURES_FILE))
    return recorded.read_bytes().startswith(_RECORD.encode()) or has_results


def _has_begun(folder: Path) -> bool:
    # Answers and losses of the start are there before its points.
    asked = (GENERATIONS_FOLDER, JUDGEMENTS_FOLDER, ASKED_FOLDER, ROW_LOSSES_FOLDER)
    names = (POINTS_FILE, FAILURES_FILE, LANDSCAPE_FILE, ALIGNED_FOLDER, DIAL_FOLDER, *asked)
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
    roles, _ = read_rows_and_prompts(experiment)
    _, tokenizer = load_model(experiment.model, experiment.load)
    EncodedRoles.of(roles, tokenizer, experiment.lengths)


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

    A commit of the model is the same as the branch that was at it then.

    Raises:
        UserError: more than those differs, or something of them is gone.
    """
    recorded = (folder / EXPERIMENT_FILE).read_text(encoding="utf-8")
    before = parse_experiment(recorded, EXPERIMENT_FILE)
    if Path(before.model).resolve() == Path(experiment.model).resolve():
        experiment = replace(experiment, model=before.model)
    commit = _recorded_start(folder).get("commit")
    if commit is not None and experiment.load.revision == commit:
        experiment = replace(
            experiment, load=replace(experiment.load, revision=before.load.revision)
        )
    if is_more_of(experiment, before):
        experiment = replace(experiment, grid=before.grid, seeds=before.seeds)
    changed = differences(recorded, experiment)
    if changed:
        more = len(changed) - _DIFFERENCES_SHOWN
        differences_text = ", ".join(changed[:_DIFFERENCES_SHOWN]) + (
            f" and {more} more" if more > 0 else ""
        )
        raise UserError(
            f"{folder} holds results of another experiment. What differs (there → now): "
            f"{differences_text}. Give another --out, or --restart to move aside what is there."
        )
    return experiment


def record_inputs(roles: Roles, experiment: Experiment, folder: Path) -> None:
    """Keep of which rows and which weights everything here is made.

    Raises:
        UserError: what is in `folder` was made of a file, or from a model, that is another now.
    """
    record_data(roles, experiment, folder)
    _record_start(experiment, folder)


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
    summaries = [
        DataSummary(
            role,
            name,
            source.path,
            len(split.train),
            len(split.held_out),
            [*(line for line in roles.warnings if split.label in line), *_note_on_rows(split)],
            _checksums(source, Path(experiment.data_root)),
            source.licence,
        )
        for role, name, source, split in named
        if source and split
    ]
    if _has_begun(folder):
        sums = {name: sum_of for part in summaries for name, sum_of in part.files.items()}
        _require_same_data(sums, folder, Path(experiment.data_root))
    write_data(folder, summaries)


def _record_start(experiment: Experiment, folder: Path) -> None:
    """Keep what tells the model that the experiment starts from, as far as it is known.

    Raises:
        UserError: what is in `folder` was made from a model that is another now.
    """
    is_aligned = experiment.align is not None and (folder / ALIGNED_FOLDER).exists()
    if is_aligned and not _reads_unaligned(experiment, folder):
        return  # all that is left to make starts there
    model = experiment.model
    parts = model_parts(model, experiment.load.revision)
    recorded = _recorded_start(folder) if _has_begun(folder) else {}
    changed = [part for part in parts if recorded.get(part, parts[part]) != parts[part]]
    if changed:
        pin = ""
        if changed == ["commit"]:
            pin = f"Load it at that commit (load: {{revision: {recorded['commit']}}}), "
        raise UserError(
            f"model {model!r}: {_in_words(changed[0])} changed since {folder} was begun, and its "
            f"points would be of two models. {pin or 'Restore them, '}give another --out, or "
            "--restart to move aside what is there."
        )
    if parts:
        write_atomically(folder / START_FILE, json.dumps({**recorded, **parts}) + "\n")


def _reads_unaligned(experiment: Experiment, folder: Path) -> bool:
    """Whether what is left to make needs the model from before it was aligned."""
    made = read_points(folder) if (folder / POINTS_FILE).exists() else []
    left = plan_of(experiment).without({point.spec for point in made})
    return any(spec.method.needs_unaligned for spec in left.specs)


def _in_words(part: str) -> str:
    """Which part of a model it is that has changed, with its verb."""
    if part.startswith("base "):
        return "what it is an adapter on has"
    return {
        "weights": "its weights have",
        "files": "its configuration, tokenizer or chat template has",
        "commit": "its commit on the Hub has",
    }[part]


def _recorded_start(folder: Path) -> dict[str, str]:
    """What tells the model that `folder` was made from; of earlier versions its weights alone."""

    def read(path: Path) -> dict[str, str]:
        recorded = json.loads(path.read_bytes())
        return {str(part): str(value) for part, value in recorded.items()}

    unknown = "which model it starts from is not known"
    return read_if_whole(folder / START_FILE, read, unknown) or {}


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
    note = note_on_rows(split.draws_held_out)
    return [] if note is None else [f"{note} (held out)"]
