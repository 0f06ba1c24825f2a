"""Whether an experiment's folder is still what was made: data, numbers, models, their losses."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.data_names import by_data_name
from trimtab.config.experiment import Experiment
from trimtab.config.grid import plan_of
from trimtab.config.methods import ALIGNED
from trimtab.config.yaml_io import recorded_experiment
from trimtab.data.encoding import encode
from trimtab.data.files import local_path
from trimtab.data.rows import prompt_numbers
from trimtab.data.splits import Roles, Split, read_roles
from trimtab.errors import UserError
from trimtab.measure.losses import response_nll
from trimtab.models import limits_of, load_model, load_tokenizer, to_device
from trimtab.results.checksums import changed_files, sha256_of
from trimtab.results.data_summary import read_data
from trimtab.results.layout import ALIGNED_FOLDER, DIAL_FOLDER, MODELS_FOLDER, model_folder
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.results.store import read_points
from trimtab.runner.saved_models import adapter_on, is_adapter, load_whole, start_of
from trimtab.runner.verify_numbers import recomputed
from trimtab.stats import Array, summed

ROWS = 8
"""Held-out rows of a data set that are measured again, evenly spread over all of them."""

TOLERANCE = 1e-3
"""Nats per token by which a row's loss may differ in float32, where batches are padded otherwise
and another processor adds in another order."""

TOLERANCE_OF_SMALL_WEIGHTS = 5e-2
"""The same in 16 bits or quantised, whose kernels round otherwise from machine to machine."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    passed: bool | None
    """None where it could not be looked at."""
    finding: str


def verify(folder: Path, data_root: Path | None = None) -> Iterator[Check]:
    """Every check of an experiment's folder, each as it is made.

    Files of data and of models are compared with the SHA-256 recorded of them, and losses, gaps and
    rates of points with what the rows kept beside them give; then the start model and every kept
    one are measured again on `ROWS` held-out rows of each data set. A row's loss must be the
    recorded one to `TOLERANCE` nats per token.

    Args:
        data_root: where relative paths of data start, if not as the experiment's record says.

    Raises:
        UserError: the folder holds no points, or a model or data cannot be read.
    """
    points = read_points(folder)
    if not points:
        raise UserError(f"{folder}: no point is finished yet, so there is nothing to verify.")
    experiment = recorded_experiment(folder)
    if data_root is not None:
        experiment = replace(experiment, data_root=str(data_root.resolve()))
    of_data = list(_data_checks(folder, Path(experiment.data_root)))
    yield from of_data
    yield from _number_checks(experiment, points, folder)
    names = list(dict.fromkeys(point.model for point in points if point.model is not None))
    saved_names = [name for name in names if (model_folder(folder, name)).is_dir()]
    for name in _models_gone(experiment, points, folder):
        yield Check(f"model {name}", None, "not checked: it was to be kept, and is not there")
    changed = set()
    for model in _kept_models(experiment, folder):
        check = _model_check(model)
        yield check
        changed |= {model.name} if check.passed is False else set()
    whole = [name for name in names if name in (ALIGNED.name, *saved_names) and name not in changed]
    if ALIGNED_FOLDER in changed:
        yield Check("losses", None, "not measured again: the aligned model is not what was saved")
        return
    if any(check.passed is False for check in of_data):
        yield Check("losses", None, "not measured again: the data are not those that were used")
        return
    if experiment.align is not None and not (folder / ALIGNED_FOLDER).exists():
        message = "not measured again: the aligned model that all start from was not kept"
        yield Check("losses", None, message)
        return
    roles = read_roles(experiment)
    models = _Models(experiment, folder)
    for name in whole:
        yield from _loss_checks(experiment, roles, folder, name, models)


def _models_gone(experiment: Experiment, points: Sequence[Point], folder: Path) -> list[str]:
    """Models that have points, that the experiment keeps, and that are not there."""
    finished = {point.spec for point in points}
    return [
        model
        for run in plan_of(experiment).runs
        if experiment.keeps_models and finished.issuperset(run.specs)
        for model in run.models
        if not model_folder(folder, model).is_dir()
    ]


def _kept_models(experiment: Experiment, folder: Path) -> list[Path]:
    """Where θ_s, models and the ends of dials are kept, of those that are."""
    models = dict.fromkeys(model for run in plan_of(experiment).runs for model in run.models)
    places = [ALIGNED_FOLDER, DIAL_FOLDER, *(f"{MODELS_FOLDER}/{model}" for model in models)]
    return [folder / place for place in places if (folder / place).is_dir()]


def _data_checks(folder: Path, root: Path) -> Iterator[Check]:
    for summary in read_data(folder):
        what = f"data {summary.role} {summary.name}"
        if not summary.files:
            yield Check(what, None, f"no checksum of {summary.path} was recorded")
        for name, recorded in summary.files.items():
            path = local_path(name, root)
            if not path.is_file():
                yield Check(what, False, f"{path} is not there")
            elif sha256_of(path) == recorded:
                yield Check(what, True, f"{name} has the SHA-256 recorded")
            else:
                yield Check(what, False, f"{path} has another SHA-256 than what was used")


def _number_checks(
    experiment: Experiment, points: Sequence[Point], folder: Path
) -> Iterator[Check]:
    numbers = recomputed(points, experiment.known_entropies, RowLosses(folder))
    without_rows = [
        name
        for name, of_model in numbers.items()
        if of_model.fault is None and not of_model.compared
    ]
    if without_rows:
        whose = without_rows[0] if len(without_rows) == 1 else f"{len(without_rows)} models"
        yield Check(f"numbers of {whose}", None, "not compared: their rows were not kept")
    for name, of_model in numbers.items():
        if name in without_rows:
            continue
        what = f"numbers of {name}"
        if of_model.fault is not None:
            yield Check(what, False, of_model.fault)
        elif of_model.without_rows:
            fields = ", ".join(of_model.without_rows)
            yield Check(what, True, f"they follow from its rows, but for {fields}, without rows")
        else:
            yield Check(what, True, "they follow from its rows")


def _model_check(model: Path) -> Check:
    changed = changed_files(model)
    if changed is None:
        return Check(f"model {model.name}", None, "no checksums were recorded")
    if changed:
        return Check(f"model {model.name}", False, f"changed or missing: {', '.join(changed)}")
    return Check(f"model {model.name}", True, "every file has the SHA-256 recorded")


def _loss_checks(
    experiment: Experiment, roles: Roles, folder: Path, name: str, models: _Models
) -> Iterator[Check]:
    recorded = RowLosses(folder)
    splits = by_data_name(roles.original, roles.safety, roles.task)
    losses = {data: recorded.of(data, name) for data in splits}
    if all(row_losses is None for row_losses in losses.values()):
        yield Check(f"losses of {name}", None, "none were recorded by row")
        return
    model = models.loaded(name)
    for data, row_losses in losses.items():
        if row_losses is not None:
            yield _loss_check(
                experiment, model, models.tokenizer, name, data, splits[data], row_losses
            )


def _loss_check(
    experiment: Experiment,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    data: str,
    split: Split,
    recorded: Array,
) -> Check:
    what = f"losses of {name} on {data}"
    count = recorded.shape[1]
    numbers = np.arange(len(split.held_out))  # of the row in which each was recorded
    if count == split.draws_held_out < len(numbers):
        prompts = prompt_numbers(split.held_out)
        assert prompts is not None
        numbers = prompts
    elif count != len(numbers):
        return Check(what, False, f"{len(numbers)} rows are held out, and {count} were")
    places = _spread(count)
    is_read = np.isin(numbers, places)
    rows = [row for row, reads in zip(split.held_out, is_read, strict=True) if reads]
    encoded = encode(rows, tokenizer, experiment.lengths, limits_of(model))
    by_row = np.stack(response_nll(model, encoded, experiment.measure.tokens_per_batch))
    nats, tokens = summed(by_row, np.searchsorted(places, numbers[is_read]))
    far = float(np.max(np.abs(nats - recorded[0, places]) / tokens))
    is_small = experiment.load.is_half or experiment.load.is_quantised
    most = TOLERANCE_OF_SMALL_WEIGHTS if is_small else TOLERANCE
    passed = bool(np.array_equal(tokens, recorded[1, places])) and far <= most
    message = f"{len(places)} rows differ by {far:.1e} nats per token at most, {most:g} is allowed"
    return Check(what, passed, message)


def _spread(count: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, count - 1, min(ROWS, count)).astype(np.intp))


class _Models:
    """The start model and the kept ones, of which each adapter stands on the one start."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.experiment, self.folder = experiment, folder
        self.name = start_of(experiment, folder)
        self.tokenizer = load_tokenizer(self.name, experiment.load.revision)

    @cached_property
    def start(self) -> PreTrainedModel:
        """As it was loaded for training."""
        load = self.experiment.load
        if self.name != self.experiment.model:
            return load_whole(Path(self.name), load)
        return to_device(load_model(self.name, load)[0])

    def loaded(self, name: str) -> Any:
        """One of them; the start is as it was whatever becomes of it."""
        saved = model_folder(self.folder, name)
        if name == ALIGNED.name:
            return self.start
        if is_adapter(saved):
            return adapter_on(self.start, self.name, saved)
        self.__dict__.pop("start", None)  # before there is another in memory
        gc.collect()
        return load_whole(saved, self.experiment.load)
