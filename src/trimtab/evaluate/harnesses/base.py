"""What every harness does, and how its samples are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from trimtab.config.loading import Loading
from trimtab.errors import UserError, reason_of
from trimtab.evaluate.harnesses.task_files import task_digest
from trimtab.models import weights_sha256
from trimtab.results.harness_samples import (
    HARNESS_FOLDER,
    HarnessRun,
    HarnessSample,
    read_harness_samples,
    write_harness_samples,
)


@dataclass(frozen=True)
class Measured:
    """A sample of a task as a harness tells it; see `HarnessSample`."""

    sample: str
    content: str
    metrics: Mapping[str, float]


class Harness(Protocol):
    """A harness with the tasks it is to run."""

    name: ClassVar[str]
    """What it and its extra are called."""
    package: ClassVar[str]
    """The distribution that it comes in."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is asked for, in order."""

    @property
    def limit(self) -> int | None:
        """At most as many samples of a task."""

    @property
    def load(self) -> Loading:
        """How the weights of models are held in memory."""

    def loaded(self, run: HarnessRun) -> AbstractContextManager[Callable[[str], list[Measured]]]:
        """A model in the harness, which measures the samples of a task.

        Its errors of a task may be any.
        """

    def place(self, task: str) -> Path | None:
        """The file or folder here that a task is read from; None of the harness's own."""

    def command(self, model: str) -> str | None:
        """How the harness itself runs this from a shell; None where it cannot load a model so.

        Raises:
            UserError: no such model.
        """


def kept_samples(
    harness: Harness, name: str, model: str, out: Path, finished: Callable[[int], None]
) -> list[HarnessSample]:
    """The samples of every task, from `out` where they are there, else of the harness.

    A task is kept when it is finished, and not run again unless its own files here were changed.

    Args:
        name: what the model's file goes by.
        finished: hears how many tasks are there by now.

    Raises:
        UserError: the harness is not installed, a task cannot be run, or `out` holds what another
            model, other weights or other settings gave.
    """
    path = out / HARNESS_FOLDER / harness.name / f"{name}.jsonl"
    run = HarnessRun(
        harness.name,
        installed_version(harness),
        model,
        weights_sha256(model),
        harness.limit,
        harness.load.in_words,
    )
    digests = {task: task_digest(harness.place(task)) for task in harness.tasks}
    samples = [
        sample
        for sample in read_harness_samples(path)
        if sample.task_files == digests.get(sample.task, sample.task_files)
    ]
    for sample in samples:
        _require_same(sample.run, run, path)
    missing_tasks = [
        task for task in harness.tasks if task not in {sample.task for sample in samples}
    ]
    kept = len(harness.tasks) - len(missing_tasks)
    finished(kept)
    if missing_tasks:
        with harness.loaded(run) as measured:
            for done, task in enumerate(missing_tasks, start=kept + 1):
                with _task_errors(harness, task):
                    results = measured(task)
                if not any(result.metrics for result in results):
                    raise UserError(
                        f"{harness.name} task {task!r} has no metric that is a mean over its "
                        "samples, so that models cannot be compared sample by sample. Leave it out."
                    )
                samples += [
                    HarnessSample(
                        task, result.sample, result.content, result.metrics, run, digests[task]
                    )
                    for result in results
                ]
                write_harness_samples(path, samples)
                finished(done)
    return [sample for task in harness.tasks for sample in samples if sample.task == task]


def installed_version(harness: Harness) -> str:
    """The version of its package. Raises UserError: it is not installed."""
    try:
        return version(harness.package)
    except PackageNotFoundError:
        raise UserError(
            f"--{harness.name} needs the package {harness.package}. Install it with pip install "
            f"{harness.package}."
        ) from None


def _require_same(recorded_run: HarnessRun, run: HarnessRun, path: Path) -> None:
    settings = asdict(run)
    for setting, value in asdict(recorded_run).items():
        if value != settings[setting]:
            raise UserError(
                f"{path} holds samples under {setting} {value!r}, and {settings[setting]!r} is "
                "asked for. Give another --out, or remove the file."
            )


@contextmanager
def _task_errors(harness: Harness, task: str) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    # A task is a program of somebody else's, and what it raises has no common class.
    except Exception as error:
        raise UserError(
            f"{harness.name} task {task!r} cannot be run ({reason_of(error)}). Check its name or "
            "path, and that this machine can reach its data."
        ) from error
