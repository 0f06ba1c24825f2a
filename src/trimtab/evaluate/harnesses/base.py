"""What every harness does, and how its samples are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from trimtab.errors import UserError, reason_of
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

    def loaded(self, run: HarnessRun) -> AbstractContextManager[Callable[[str], list[Measured]]]:
        """A model in the harness, which measures the samples of a task.

        Its errors of a task may be any.
        """

    def command(self, model: str) -> str:
        """How the harness itself runs this from a shell. Raises UserError: no such model."""


def kept_samples(
    harness: Harness, name: str, model: str, out: Path, finished: Callable[[], None]
) -> list[HarnessSample]:
    """The samples of every task, from `out` where they are there, else of the harness.

    A task is kept when it is finished, and not run again.

    Args:
        name: what the model's file goes by.
        finished: hears of every task.

    Raises:
        UserError: the harness is not installed, a task cannot be run, or `out` holds what another
            model, other weights or other settings gave.
    """
    path = out / HARNESS_FOLDER / harness.name / f"{name}.jsonl"
    run = HarnessRun(
        harness.name, installed_version(harness), model, weights_sha256(model), harness.limit
    )
    kept = read_harness_samples(path)
    for sample in kept:
        _require_same(sample.run, run, path)
    left = [task for task in harness.tasks if task not in {one.task for one in kept}]
    if left:
        with harness.loaded(run) as measured:
            for task in left:
                with _task_told(harness, task):
                    found = measured(task)
                if not any(one.metrics for one in found):
                    raise UserError(
                        f"{harness.name} task {task!r} has no metric that is a mean over its "
                        "samples, so that models cannot be compared sample by sample. Leave it out."
                    )
                kept += [
                    HarnessSample(task, one.sample, one.content, one.metrics, run) for one in found
                ]
                write_harness_samples(path, kept)
                finished()
    return [sample for task in harness.tasks for sample in kept if sample.task == task]


def installed_version(harness: Harness) -> str:
    """The version of its package. Raises UserError: it is not installed."""
    try:
        return version(harness.package)
    except PackageNotFoundError:
        raise UserError(
            f"--{harness.name} needs the package {harness.package}. Install it with pip install "
            f"'trimtab[{harness.name}]'."
        ) from None


def _require_same(kept: HarnessRun, asked: HarnessRun, path: Path) -> None:
    wanted = asdict(asked)
    for setting, value in asdict(kept).items():
        if value != wanted[setting]:
            raise UserError(
                f"{path} holds samples under {setting} {value!r}, and {wanted[setting]!r} is asked "
                "for. Give another --out, or remove the file."
            )


@contextmanager
def _task_told(harness: Harness, task: str) -> Iterator[None]:
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
