"""Facts about sweeps in several processes: the same results, nothing lost, nothing made twice."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.cli.test_one_line import assert_one_line, invoke
from tests.forked import that_can_be_interrupted
from tests.runner import on_shards
from tests.runner.test_processes import ROOT, assert_same_results, sweep_command
from tests.small_worlds import small_world
from tests.watchers import Watcher
from trimtab.config.experiment import Block, Dial, Experiment, Training
from trimtab.config.grid import plan_of
from trimtab.config.yaml_io import to_yaml
from trimtab.models import quiet_libraries
from trimtab.results.files import only_writer, read_arrays
from trimtab.results.result import Point
from trimtab.results.under_way import Tracker, read_under_way
from trimtab.runner.cluster import Cluster
from trimtab.runner.status import status_of
from trimtab.runner.sweep import sweep
from trimtab.train.checkpoints import is_whole

STEPS, CHECKPOINT = 60, 20


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Every kind of run: plain with a repair of it, two constraints, a dial, one that diverges."""
    quiet_libraries()
    training = Training(
        steps=STEPS, batch_size=4, learning_rate=2e-3, checkpoint_every=CHECKPOINT, lora_rank=2
    )
    return small_world(
        tmp_path_factory.mktemp("world"),
        60,
        align=Training(steps=2, batch_size=4),
        train=training,
        dial=Dial(steps=2),
        grid=(
            Block("alignment-loss", (0.0, 1.0, 1e38)),
            Block("alignment-parameter", radii=(0.5,)),
            Block("dial", values=(0.0, 1.0)),
            Block("method", method="wise-ft", values=(0.3,)),
        ),
    )


@pytest.fixture(scope="module")
def serial(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serial")
    sweep(experiment, folder, Watcher())
    return folder


class Killer(threading.Thread):
    """Kills the first worker that has a checkpoint, and sees where its run goes on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.killed: int | None = None
        self.went_on: int | None = None

    def run(self) -> None:
        end = time.monotonic() + 120
        name = ""
        while self.went_on is None and time.monotonic() < end:
            time.sleep(0.002)
            for run, record in read_under_way(self.folder).items():
                checkpoints = (self.folder / "unfinished" / run).glob("checkpoint-*")
                if self.killed is None and record.steps == 0 and any(map(is_whole, checkpoints)):
                    os.kill(record.process, signal.SIGKILL)
                    name, self.killed = run, record.process
                elif run == name and record.process != self.killed:
                    self.went_on = record.steps


class Stopped(Watcher):
    def measured(self, points: list[Point]) -> None:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def parallel(
    experiment: Experiment, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Watcher, Killer]:
    """Begun in one process and stopped; finished by two workers, one of which is killed."""
    pytest.importorskip("ray")
    folder, watcher = tmp_path_factory.mktemp("parallel"), Watcher()
    with pytest.raises(KeyboardInterrupt):
        sweep(experiment, folder, Stopped())
    killer = Killer(folder)
    killer.start()
    with Cluster(workers=2) as cluster:
        sweep(experiment, folder, watcher, maker_of=cluster)
    killer.join(timeout=5)
    return folder, watcher, killer


def untimed(folder: Path) -> list[Mapping[str, object]]:
    records = map(json.loads, (folder / "points.jsonl").read_text().splitlines())
    return [{name: record[name] for name in record if name != "wall_seconds"} for record in records]


def test_a_killed_workers_run_goes_on_from_its_checkpoint(
    parallel: tuple[Path, Watcher, Killer],
) -> None:
    _, _, killer = parallel
    assert killer.killed is not None
    assert killer.went_on is not None
    assert killer.went_on >= CHECKPOINT


def test_workers_make_what_one_process_makes(
    experiment: Experiment, serial: Path, parallel: tuple[Path, Watcher, Killer]
) -> None:
    folder, watcher, _ = parallel
    assert untimed(folder) == untimed(serial)
    failures = "failures.jsonl"
    assert (folder / failures).read_bytes() == (serial / failures).read_bytes()
    assert len(watcher.failures) == 1
    assert not (folder / "unfinished").exists()
    for kind in ("row-losses", "models", "metrics"):
        names = sorted(str(path.relative_to(serial)) for path in (serial / kind).rglob("*"))
        assert names == sorted(str(path.relative_to(folder)) for path in (folder / kind).rglob("*"))
    for path in (serial / "row-losses").glob("*.npz"):
        ours, theirs = read_arrays(folder / "row-losses" / path.name), read_arrays(path)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    for path in (serial / "models").rglob("*.safetensors"):
        assert (folder / path.relative_to(serial)).read_bytes() == path.read_bytes()


def test_one_process_has_nothing_to_add_to_what_workers_made(
    experiment: Experiment, parallel: tuple[Path, Watcher, Killer]
) -> None:
    folder, _, _ = parallel
    again = Watcher()
    sweep(experiment, folder, again)
    assert again.trainings == []


def test_a_spec_is_itself_in_another_process(experiment: Experiment) -> None:
    for spec in plan_of(experiment).specs:
        unpickled = pickle.loads(pickle.dumps(spec))
        assert unpickled == spec
        assert unpickled.method is spec.method


def test_results_are_in_the_order_of_the_plan(experiment: Experiment, serial: Path) -> None:
    written = [(record["method"], record["value"]) for record in untimed(serial)]
    planned = [(spec.method.name, spec.value) for spec in plan_of(experiment).specs]
    assert written == [setting for setting in planned if setting[1] != 1e38]


def test_a_status_tells_what_is_done_failed_and_left(serial: Path) -> None:
    result = invoke("status", serial)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert lines[:2] == ["points 7 of 8 written", "done 4 of 5 trainings"]
    assert lines[2].startswith("failed Case I λ = 1e+38")
    assert lines[-1] == "left 0 trainings"


def test_a_status_tells_who_makes_a_training_while_they_do(
    experiment: Experiment, tmp_path: Path
) -> None:
    (tmp_path / "experiment.yaml").write_text(to_yaml(experiment))
    run = plan_of(experiment).runs[0]
    Tracker(tmp_path / "unfinished" / run.name, STEPS).at(0)
    with only_writer(tmp_path):
        during = status_of(tmp_path)
    assert during.running[run.name].process == os.getpid()
    assert during.is_being_made
    after = status_of(tmp_path)
    assert (list(after.running), list(after.stopped)) == ([], [run.name])
    assert "5 trainings; the same command goes on" in invoke("status", tmp_path).output


def test_a_status_of_no_sweep_is_one_line(tmp_path: Path) -> None:
    assert "no such file" in assert_one_line(invoke("status", tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--workers", "0"], "--workers"),
        (["--workers", "2", "--ray", "auto"], "either a number of workers"),
        (["--workers", "2", "--gpus-per-run", "1.5"], "or several whole ones"),
        (["--workers", "2", "--gpus-per-run", "4", "--processes-per-run", "2"], "run 2 or 0"),
        (["--workers", "2", "--gpus-per-run", "0.5", "--processes-per-run", "2"], "run 2 or 0"),
        (["--gpus-per-run", "1"], "has nothing to divide"),
        (["--processes-per-run", "2"], "has nothing to divide"),
        (["--ray", "nowhere"], "--ray nowhere: there is no such cluster"),
        (["--ray", "127.0.0.1:1"], "--ray 127.0.0.1:1: there is no such cluster"),
    ],
)
def test_what_no_cluster_can_do_is_one_line(
    options: list[str], told: str, experiment: Experiment, tmp_path: Path
) -> None:
    (tmp_path / "e.yaml").write_text(to_yaml(experiment))
    out = tmp_path / "out"
    assert told in assert_one_line(invoke("sweep", tmp_path / "e.yaml", "--out", out, *options))
    assert not (out / "points.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gpus-per-run", "4"], "--gpus-per-run 4: Ray finds 2 GPUs here"),
        (["--processes-per-run", "3"], "--processes-per-run 3: Ray finds 2 GPUs here"),
        (["--processes-per-run", "5", "--gpus-per-run", "0"], "Ray finds 4 CPUs here"),
    ],
)
def test_a_run_that_no_cluster_has_room_for_is_one_line(
    options: list[str],
    told: str,
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", lambda *args, **named: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0})
    (tmp_path / "e.yaml").write_text(to_yaml(experiment))
    arguments = [tmp_path / "e.yaml", "--out", tmp_path / "out", "--ray", "auto", *options]
    assert told in assert_one_line(invoke("sweep", *arguments))


def test_without_ray_one_line_says_what_to_install(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "e.yaml").write_text(to_yaml(experiment))
    monkeypatch.setitem(sys.modules, "ray", None)
    result = invoke("sweep", tmp_path / "e.yaml", "--out", tmp_path / "out", "--workers", 2)
    assert "pip install ray" in assert_one_line(result)


@pytest.fixture(scope="module")
def of_two_runs(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    pytest.importorskip("ray")
    return small_world(
        tmp_path_factory.mktemp("of-two-runs"),
        60,
        align=Training(steps=2, batch_size=4),
        train=Training(
            steps=STEPS, batch_size=4, learning_rate=2e-3, checkpoint_every=CHECKPOINT, lora_rank=2
        ),
        dial=Dial(),
        grid=(Block("alignment-loss", (1.0,)), Block("dial", values=(0.0, 1.0))),
    )


def group_of(leader: int) -> list[psutil.Process]:
    """The processes that make runs beside one, itself among them: Ray's, begun by this process."""
    started = [process.children() for process in psutil.Process().children()]
    siblings = next(group for group in started if leader in [process.pid for process in group])
    return [process for process in siblings if "_Member" in " ".join(process.cmdline())]


class GroupKiller(threading.Thread):
    """Kills a process that follows, then one that leads, each when its run has a checkpoint."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.killed: list[tuple[str, int]] = []
        """The run, and the process that led it."""
        self.went_on: dict[str, int] = {}
        """From which step, by run."""

    def run(self) -> None:
        end = time.monotonic() + 240
        while len(self.went_on) < 2 and time.monotonic() < end:
            time.sleep(0.002)
            for name, record in read_under_way(self.folder).items():
                checkpoints = (self.folder / "unfinished" / name).glob("checkpoint-*")
                led = dict(self.killed).get(name)
                if led is None and record.steps == 0 and any(map(is_whole, checkpoints)):
                    self._kill(name, record.process)
                elif led is not None and record.process != led:
                    self.went_on.setdefault(name, record.steps)

    def _kill(self, name: str, leader: int) -> None:
        if self.killed:
            os.kill(leader, signal.SIGKILL)
        else:
            (follower,) = [process for process in group_of(leader) if process.pid != leader]
            follower.kill()
        self.killed.append((name, leader))


def test_runs_of_two_processes_have_the_points_of_one_whichever_is_killed(
    of_two_runs: Experiment, tmp_path: Path
) -> None:
    sweep(of_two_runs, tmp_path / "alone", Watcher())
    folder = tmp_path / "together"
    killer = GroupKiller(folder)
    killer.start()
    with Cluster(workers=1, processes_per_run=2) as cluster:
        sweep(of_two_runs, folder, Watcher(), maker_of=cluster)
    killer.join(timeout=5)
    assert len(killer.went_on) == 2
    assert min(killer.went_on.values()) >= CHECKPOINT
    assert_same_results(folder, tmp_path / "alone")
    assert not (folder / "unfinished").exists()


def test_groups_divide_weights_as_accelerate_was_told_and_have_the_points_of_one_process(
    of_two_runs: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(of_two_runs.train, steps=4, lora_rank=None)
    in_a_ball = replace(
        of_two_runs, train=short, grid=(Block("alignment-parameter", radii=(0.1,)),)
    )
    sweep(in_a_ball, tmp_path / "alone", Watcher())
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr("trimtab.runner.cluster._prepared", on_shards.prepared_on_shards)
    with Cluster(workers=1, processes_per_run=2) as maker_of:
        sweep(in_a_ball, tmp_path / "together", Watcher(), maker_of=maker_of)
    assert_same_results(tmp_path / "together", tmp_path / "alone")


def test_an_interruption_ends_all_processes_of_all_runs(
    of_two_runs: Experiment, tmp_path: Path
) -> None:
    long = replace(of_two_runs, train=replace(of_two_runs.train, steps=10**5))
    command = [*sweep_command(long, tmp_path), "--workers", 2, "--processes-per-run", 2]
    with that_can_be_interrupted():
        process = subprocess.Popen(
            [sys.executable, "-m", "trimtab", *map(str, command)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
    while len(read_under_way(tmp_path / "out")) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.count("trimtab: interrupted.") == 1
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
