"""The runs of a sweep in other processes, on this machine or on many, scheduled by Ray.

Ray is imported here and in `groups` alone, and only when something is to be made.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
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
from trimtab.results.layout import ALIGNED_FOLDER
from trimtab.results.metrics import Metrics
from trimtab.results.result import LocalGeometry, Point
from trimtab.results.store import Failure
from trimtab.results.under_way import read_under_way
from trimtab.runner.groups import (
    LOOK_EVERY,
    RETRIES,
    SECONDS_TO_END,
    Groups,
    Lost,
    LostError,
    result_of,
)
from trimtab.runner.runner import Runner, RunResult
from trimtab.runner.trainings import TrainingWatcher

_OF_ACCELERATE = ("ACCELERATE_", "FSDP_")
"""How the names begin of what its launcher says in the environment."""


@dataclass(frozen=True)
class Cluster:
    """Where runs are made: so many at a time on this machine, or on the cluster at an address.

    Within it, Ray is started or joined when a sweep first has something to make, and left at the
    end. A run is made by `processes_per_run` processes together (where not given, one for each of
    several GPUs, else 1), each with one CPU. It has `gpus_per_run` GPUs (where not given, one for
    each process if there are any) to itself; a share below 1 lets runs have a GPU together.

    Raises:
        UserError: Ray is not installed, or GPUs cannot be divided among processes so.
    """

    workers: int | None = None
    address: str | None = None
    gpus_per_run: float | None = None
    processes_per_run: int | None = None

    def __post_init__(self) -> None:
        if (self.workers is None) == (self.address is None):
            raise UserError(
                "give either a number of workers on this machine or a cluster's address: "
                "--workers or --ray."
            )
        self._require_gpus_to_be_divided()
        if find_spec("ray") is None:
            raise UserError(
                "runs in several processes need the package ray. Install it with pip install ray, "
                "or leave out --workers and --ray."
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
        gpus = self._gpus()
        self._require_cpus()
        environment = {
            name: value for name, value in os.environ.items() if name.startswith(_OF_ACCELERATE)
        }
        work = _Work(experiment, roles, folder.resolve(), Path.cwd(), self._threads, environment)
        return RemoteRunners(work, self._processes, gpus, watcher)

    def _join(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if self.address is None:
            assert self.workers is not None
            cpus = self.workers * self._processes
            ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
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
    def _processes(self) -> int:
        """Of each run."""
        if self.processes_per_run is not None:
            return self.processes_per_run
        return max(1, int(self.gpus_per_run or 1))

    @property
    def _threads(self) -> int | None:
        """Of each process, where the user has not said: this machine's cores, divided."""
        if self.workers is None or "OMP_NUM_THREADS" in os.environ:
            return None
        return max(1, (os.cpu_count() or 1) // (self.workers * self._processes))

    def _require_gpus_to_be_divided(self) -> None:
        gpus, processes = self.gpus_per_run, self.processes_per_run
        if gpus is None:
            return
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise UserError(
                f"--gpus-per-run {gpus:g}: a run has a share of one GPU, or several whole ones. "
                "Give 0 to 1, or a whole number."
            )
        if processes is not None and gpus not in (0, processes) and not (processes == 1 > gpus):
            raise UserError(
                f"--gpus-per-run {gpus:g} with --processes-per-run {processes}: each process of a "
                f"run has one GPU, or none has. Give --gpus-per-run {processes} or 0."
            )

    def _gpus(self) -> float:
        """Of each process."""
        import ray

        available = ray.cluster_resources().get("GPU", 0.0)
        if self.gpus_per_run is None:
            needed = float(self._processes) if available else 0.0
        else:
            needed = self.gpus_per_run
        if needed > available:
            option, most = (
                (f"--processes-per-run {self._processes}", 0)
                if self.gpus_per_run is None
                else (f"--gpus-per-run {needed:g}", available)
            )
            raise UserError(
                f"{option}: Ray finds {_counted(available, 'GPU')} here. Give --gpus-per-run "
                f"{most:g}, or a cluster that has more."
            )
        return needed / self._processes

    def _require_cpus(self) -> None:
        import ray

        available = ray.cluster_resources().get("CPU", 0.0)
        if self._processes > available:
            raise UserError(
                f"a run of {self._processes} processes: Ray finds {_counted(available, 'CPU')} "
                "here, and each process takes one. Give fewer, or a cluster that has more."
            )


def _counted(number: float, what: str) -> str:
    return f"{number:g} {what}s" if number > 1 else f"{'1' if number else 'no'} {what}"


def _require_listener(address: str) -> None:
    """Raises OSError or ValueError where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


class RemoteRunners:
    """Runners in processes of Ray's, each of which keeps θ_s and the rows from run to run.

    Every run of a plan is one task: models that share a training share the run, so that no two
    tasks write one folder. θ_s is made by a first task, which the others wait for. A run of
    several processes is made by the first of a group, whose others follow it.
    """

    def __init__(self, work: _Work, processes: int, gpus: float, watcher: TrainingWatcher) -> None:
        import ray

        self.folder = work.folder
        self.watcher = watcher
        self._shown: set[str] = set()
        # In a list, so that each process reads it once and not each task.
        self._work = [ray.put(work)]
        self._needed = [work.folder / EXPERIMENT_FILE, work.started_in]
        self._start = [work.folder / ALIGNED_FOLDER] if work.experiment.align else []
        prepare = partial(_prepared, self._work, tuple(self._needed))
        self._makers: _Tasks | Groups = (
            _Tasks(gpus, self._show_progress)
            if processes == 1
            else Groups(prepare, processes, gpus, self._show_progress)
        )

    def measured_start(self, specs: tuple[RunSpec, ...]) -> list[Point]:
        """The starting model's own points, once it is made."""
        points, warnings = self._only(_start_measured, specs)
        self._needed += self._start
        for warning in warnings:
            self.watcher.warned(warning)
        return points

    def measured_landscape(self) -> dict[str, LocalGeometry]:
        """Slope and curvature at θ_s of every loss that Theorems 3 and 4 speak of."""
        return self._only(_landscape_measured)

    def run_results(self, runs: Iterable[Run]) -> Iterator[RunResult]:
        """Every run as it is finished, with its points and its failures."""
        listed_runs = list(runs)
        arguments = [(self._work, self._needed, run) for run in listed_runs]
        for number, result in self._makers.finished(_run_measured, arguments, are_last=True):
            if isinstance(result, Lost):
                run = listed_runs[number]
                yield run, [], [Failure(spec, str(result)) for spec in run.specs]
                continue
            (points, failures), warnings = result
            for warning in warnings:
                self.watcher.warned(warning)
            yield listed_runs[number], points, failures

    def _only(self, function: Callable[..., Any], *arguments: object) -> Any:
        argument_lists = [(self._work, self._needed, *arguments)]
        ((_, result),) = self._makers.finished(function, argument_lists, are_last=False)
        if isinstance(result, Lost):
            raise UserError(f"the aligned model: {result}.")
        return result

    def _show_progress(self) -> None:
        under_way = read_under_way(self.folder)
        if set(under_way) != self._shown:
            self._shown = set(under_way)
            count_text = f"{len(under_way)} at a time"
            name = count_text if len(under_way) > 1 else "".join(under_way)
            self.watcher.training(name, sum(training.of for training in under_way.values()))
        self.watcher.stepped(sum(training.steps for training in under_way.values()))


class _Tasks:
    """Calls as tasks of Ray's, each in one process; Ray begins again what was lost.

    Args:
        gpus: of each task.
        look: called every second while something is made.
    """

    def __init__(self, gpus: float, look: Callable[[], None]) -> None:
        self._resources = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES}
        self._look = look

    def finished(
        self, function: Callable[..., Any], argument_lists: list[tuple[Any, ...]], are_last: bool
    ) -> Iterator[tuple[int, Any]]:
        """As `Groups.finished`; those that are left are ended if nobody asks for more."""
        import ray

        task_of = ray.remote(function).options(**self._resources)
        begun = {
            task_of.remote(*arguments): number for number, arguments in enumerate(argument_lists)
        }
        running = list(begun)
        try:
            while running:
                ended, running = ray.wait(running, timeout=LOOK_EVERY)
                for task in ended:
                    try:
                        result = result_of(task)
                    except LostError as lost:
                        result = Lost(str(lost))
                    yield begun[task], result
                self._look()
        finally:
            for task in running:
                ray.cancel(task, force=True)
            if running:  # what goes on in this folder next must not meet them
                ray.wait(running, num_returns=len(running), timeout=SECONDS_TO_END)


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
    environment: dict[str, str]
    """What Accelerate's launcher would say."""


@dataclass
class _Warnings:
    """A watcher who keeps warnings; how far a training is, is read from the folder."""

    kept: list[str] = field(default_factory=list)

    def warned(self, warning: str) -> None:
        self.kept.append(warning)

    def training(self, name: str, steps: int) -> None: ...

    def doing(self, what: str, steps: int | None = None) -> None: ...

    def stepped(self, steps: int) -> None: ...

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


def _run_measured(
    work: list[Any], needed: list[Path], run: Run
) -> tuple[tuple[list[Point], list[Failure]], list[str]]:
    _require_seen(needed)
    runner, warnings = _opened(*work)
    before = len(warnings.kept)
    return runner.tried(run), warnings.kept[before:]


def _require_seen(needed: Iterable[Path]) -> None:
    for path in needed:
        if not path.exists():
            raise UserError(
                f"{path} is not seen from the node {socket.gethostname()}. Start the sweep in a "
                "folder, and give an --out, on storage that every node has under the same path."
            )


@lru_cache(maxsize=1)
def _opened(reference: Any) -> tuple[Runner, _Warnings]:
    """This process's runner, made once."""
    import ray

    work: _Work = ray.get(reference)
    _prepare(work)
    warnings = _Warnings()
    return Runner(work.experiment, work.roles, work.folder, warnings), warnings


def _prepared(work: list[Any], needed: Iterable[Path]) -> None:
    """Make this process one that can follow another."""
    import ray

    _require_seen(needed)
    _prepare(ray.get(work[0]))


def _prepare(work: _Work) -> None:
    os.chdir(work.started_in)
    os.environ.update(work.environment)
    quiet_libraries()
    if work.threads is not None:
        torch.set_num_threads(work.threads)
