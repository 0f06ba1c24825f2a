"""The runs of a sweep in other processes, on this machine or on many, scheduled by Ray.

Ray is imported here and nowhere else, and only when something is to be made.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from trimtab.config.experiment import Experiment
from trimtab.config.grid import Run
from trimtab.config.run_spec import RunSpec
from trimtab.config.yaml_io import EXPERIMENT_FILE
from trimtab.data.splits import Roles
from trimtab.errors import UserError, reason_of
from trimtab.models import quiet_libraries
from trimtab.results.metrics import Metrics
from trimtab.results.result import LocalGeometry, Point
from trimtab.results.under_way import read_under_way
from trimtab.runner.runner import ALIGNED_FOLDER, Made, Runner, TrainingWatcher

RETRIES = 10
"""How often a run whose process or node was lost is begun again, from its newest checkpoint."""

_LOOK_EVERY = 1.0
_SECONDS_TO_END = 10.0


@dataclass(frozen=True)
class Cluster:
    """Where runs are made: so many at a time on this machine, or on the cluster at an address.

    Within it, Ray is started or joined when a sweep first has something to make, and left at the
    end. A run takes one CPU and `gpus_per_run` GPUs (where not given, 1 if there are any), which
    it has to itself; a share below 1 lets runs have a GPU together.

    Raises:
        UserError: Ray is not installed, or a run is given more than one GPU.
    """

    workers: int | None = None
    address: str | None = None
    gpus_per_run: float | None = None

    def __post_init__(self) -> None:
        if (self.workers is None) == (self.address is None):
            raise UserError(
                "give either a number of workers on this machine or a cluster's address: "
                "--workers or --ray."
            )
        if self.gpus_per_run is not None and not 0 <= self.gpus_per_run <= 1:
            raise UserError(
                f"--gpus-per-run {self.gpus_per_run:g}: a run has one process, and so 1 GPU at "
                "most. Give 0 to 1."
            )
        if find_spec("ray") is None:
            raise UserError(
                "runs in several processes need the package ray. Install it with pip install "
                "'trimtab[ray]', or leave out --workers and --ray."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        import ray

        ray.shutdown()

    def __call__(
        self, experiment: Experiment, roles: Roles, folder: Path, watcher: TrainingWatcher
    ) -> RemoteRunners:
        """Who makes the runs of one sweep. Raises UserError: no cluster, or too few GPUs in it."""
        self._join()
        work = _Work(experiment, roles, folder.resolve(), Path.cwd(), self._threads)
        return RemoteRunners(work, self._gpus(), watcher)

    def _join(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if self.address is None:
            ray.init("local", num_cpus=self.workers, include_dashboard=False, **quiet)
            return
        try:
            if self.address != "auto":
                _require_listener(self.address)
            ray.init(self.address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"--ray {self.address}: there is no such cluster ({reason_of(error)}). Start one "
                "with ray start --head, or give --workers to stay on this machine."
            ) from None

    @property
    def _threads(self) -> int | None:
        """Of each run, where the user has not said: this machine's cores, divided."""
        if self.workers is None or "OMP_NUM_THREADS" in os.environ:
            return None
        return max(1, (os.cpu_count() or 1) // self.workers)

    def _gpus(self) -> float:
        import ray

        there = ray.cluster_resources().get("GPU", 0.0)
        if self.gpus_per_run is None:
            return min(1.0, there)
        if self.gpus_per_run > there:
            raise UserError(
                f"--gpus-per-run {self.gpus_per_run:g}: Ray finds no GPU here. Give 0, or a "
                "cluster that has some."
            )
        return self.gpus_per_run


def _require_listener(address: str) -> None:
    """Raises OSError or ValueError where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


class RemoteRunners:
    """Runners in processes of Ray's, each of which keeps θ_s and the rows from run to run.

    Every run of a plan is one task: models that share a training share the run, so that no two
    tasks write one folder. θ_s is made by a first task, which the others wait for.
    """

    def __init__(self, work: _Work, gpus: float, watcher: TrainingWatcher) -> None:
        import ray

        self.folder = work.folder
        self.watcher = watcher
        self._shown: set[str] = set()
        self._work = ray.put(work)
        self._needed = [work.folder / EXPERIMENT_FILE, work.started_in]
        self._start = [work.folder / ALIGNED_FOLDER] if work.experiment.align else []
        self._resources = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES}

    def measured_start(self, specs: tuple[RunSpec, ...]) -> list[Point]:
        """The starting model's own points, once it is made."""
        points, warnings = self._only(self._begun(_start_measured, specs))
        self._needed += self._start
        for warning in warnings:
            self.watcher.warned(warning)
        return points

    def measured_landscape(self) -> dict[str, LocalGeometry]:
        """Slope and curvature at θ_s of every loss that Theorems 3 and 4 speak of."""
        return self._only(self._begun(_landscape_measured))

    def all_made(self, runs: Iterable[Run]) -> Iterator[Made]:
        """Every run as it is finished, with its points, or with why it has none."""
        begun = {self._begun(_made, run): run for run in runs}
        for task in self._finished(begun.keys()):
            try:
                points, warnings = _result(task)
                for warning in warnings:
                    self.watcher.warned(warning)
                yield begun[task], points
            except _LostError as lost:
                yield begun[task], str(lost)

    def _begun(self, function: Any, *given: object) -> Any:
        import ray

        # In a list, so that each process reads it once and not each task.
        return (
            ray.remote(function)
            .options(**self._resources)
            .remote([self._work], self._needed, *given)
        )

    def _only(self, task: Any) -> Any:
        for finished in self._finished([task]):
            try:
                return _result(finished)
            except _LostError as lost:
                raise UserError(f"the aligned model: {lost}") from None

    def _finished(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Tasks as they finish; those that are left are ended if nobody asks for more."""
        import ray

        left = list(tasks)
        try:
            while left:
                done, left = ray.wait(left, timeout=_LOOK_EVERY)
                yield from done
                self._show_progress()
        finally:
            for task in left:
                ray.cancel(task, force=True)
            if left:  # what goes on in this folder next must not meet them
                ray.wait(left, num_returns=len(left), timeout=_SECONDS_TO_END)

    def _show_progress(self) -> None:
        under_way = read_under_way(self.folder)
        if set(under_way) != self._shown:
            self._shown = set(under_way)
            several = f"{len(under_way)} at a time"
            name = several if len(under_way) > 1 else "".join(under_way)
            self.watcher.training(name, sum(one.of for one in under_way.values()))
        self.watcher.stepped(sum(one.steps for one in under_way.values()), None)


class _LostError(Exception):
    """A task was lost more often than it is begun again."""


def _result(task: Any) -> Any:
    """What a finished task returned; what it raised is raised here."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(task)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise _LostError(
            f"its process was lost {RETRIES + 1} times ({reason_of(error)}). Look at the memory "
            "of the machine, and at Ray's logs"
        ) from None


# What follows runs in the processes that Ray starts.


@dataclass(frozen=True)
class _Work:
    """What every run of a sweep needs, wherever it is made."""

    experiment: Experiment
    roles: Roles
    folder: Path
    started_in: Path
    """Where paths in the experiment start, and judges of one's own are found."""
    threads: int | None


@dataclass
class _Warnings:
    """A watcher who keeps warnings; how far a training is, is read from the folder."""

    kept: list[str] = field(default_factory=list)

    def warned(self, warning: str) -> None:
        self.kept.append(warning)

    def training(self, name: str, steps: int) -> None: ...

    def doing(self, what: str, steps: int | None = None) -> None: ...

    def stepped(self, steps: int, loss: float | None) -> None: ...

    def logged(self, metrics: Metrics) -> None: ...


def _start_measured(
    work: list[Any], needed: list[Path], specs: tuple[RunSpec, ...]
) -> tuple[list[Point], list[str]]:
    _require_seen(needed)
    runner, warnings = _opened(*work)
    return runner.measured_start(specs), warnings.kept


def _landscape_measured(work: list[Any], needed: list[Path]) -> dict[str, LocalGeometry]:
    _require_seen(needed)
    return _opened(*work)[0].measured_landscape()


def _made(work: list[Any], needed: list[Path], run: Run) -> tuple[list[Point] | str, list[str]]:
    _require_seen(needed)
    runner, warnings = _opened(*work)
    before = len(warnings.kept)
    return runner.tried(run), warnings.kept[before:]


def _require_seen(needed: list[Path]) -> None:
    for path in needed:
        if not path.exists():
            raise UserError(
                f"{path} is not seen from the node {socket.gethostname()}. Start the sweep in a "
                "folder, and give an --out, on storage that every node has under the same path."
            )


@lru_cache(maxsize=1)
def _opened(work: Any) -> tuple[Runner, _Warnings]:
    """This process's runner, made once."""
    import ray

    given: _Work = ray.get(work)
    os.chdir(given.started_in)
    quiet_libraries()
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    warnings = _Warnings()
    return Runner(given.experiment, given.roles, given.folder, warnings), warnings
