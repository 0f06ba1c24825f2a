"""Facts about what is measured while a model is trained: it changes nothing and is all written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from transformers import TrainerCallback

import trimtab.runner.trainings
from tests.cli.test_settings import help_text
from tests.small_worlds import small_world
from tests.watchers import Watcher
from trimtab.cli.audit_output import StageWatcher
from trimtab.cli.progress import TerminalWatcher
from trimtab.config.experiment import Block, Dial, Experiment, Measuring, Training
from trimtab.config.grid import plan_of
from trimtab.data.splits import read_roles
from trimtab.measure.losses import HeldOutRows, response_nll
from trimtab.models import load_model
from trimtab.results.metrics import Metrics, MetricsFile, read_metrics
from trimtab.results.store import read_points
from trimtab.runner.dial import train_dial
from trimtab.runner.evaluator import Trained
from trimtab.runner.runner import Runner
from trimtab.runner.sweep import sweep
from trimtab.stats import paired_difference
from trimtab.train.live import FEWEST_ROWS, fixed_rows, steps_and_rows
from trimtab.train.trainer import SafetyAwareSFTTrainer

pytestmark = pytest.mark.usefixtures("quiet")

OFF, EVERY_2 = Measuring(every=0, resamples=20), Measuring(every=2, resamples=20)
DROPPED = {"lora_rank": 2, "lora": {"lora_dropout": 0.2}}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("world")
    world = small_world(
        folder,
        200,
        align=Training(steps=60, batch_size=32, learning_rate=3e-3),
        train=Training(steps=4, batch_size=16, learning_rate=2e-3),
        grid=(Block("alignment-loss", (1.0,)),),
        dial=Dial(),
        measure=EVERY_2,
    )
    runner_of(world, folder / "made")
    return replace(world, model=str(folder / "made" / "aligned"), align=None)


def runner_of(experiment: Experiment, folder: Path, watcher: Watcher | None = None) -> Runner:
    return Runner(experiment, read_roles(experiment), folder, watcher or Watcher())


def weights_of(trained: Trained) -> dict[str, torch.Tensor]:
    own = trained.objective.optimized() if trained.objective else None
    model = trained.model if own is None else own
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@contextmanager
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Trained]]:
    """What every training makes, as it is made."""
    results: list[Trained] = []
    whole = Runner._trained

    def recorded(self: Runner, *args: Any, **settings: Any) -> Trained:
        results.append(whole(self, *args, **settings))
        return results[-1]

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "_trained", recorded)
        yield results


def lines(folder: Path) -> list[Metrics]:
    (file,) = (folder / "metrics").iterdir()
    return read_metrics(file)


@pytest.mark.parametrize(
    ("block", "settings"),
    [
        (Block("alignment-loss", (0.0,)), {}),
        (Block("alignment-loss", (1.0,)), DROPPED),
        (Block("alignment-loss", budgets=(0.001,)), DROPPED | {"length_bucketing": False}),
        (Block("dial", values=(0.5,)), {}),
        (Block("dial", values=(0.5,)), {"lora_rank": 2}),
    ],
    ids=["plain", "lora-dropout", "budget-lora", "dial", "dial-lora"],
)
def test_looking_changes_no_weight(
    block: Block,
    settings: dict[str, Any],
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = []
    for measuring in (OFF, replace(EVERY_2, every=1)):
        training = replace(experiment.train, **settings)
        measured = replace(experiment, train=training, grid=(block,), measure=measuring)
        with trainings(monkeypatch) as results:
            (run,) = plan_of(measured).runs
            torch.manual_seed(0)  # from which a dial's new adapters are drawn
            runner_of(measured, tmp_path / f"every-{measuring.every}").points_of(run)
        weights.append(weights_of(results[0]))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    assert [metrics.step for metrics in lines(tmp_path / "every-0")] == [4]
    assert [metrics.step for metrics in lines(tmp_path / "every-1")] == [1, 2, 3, 4]


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 2}, {"precision": "bfloat16"}])
def test_a_line_holds_the_change_of_every_role_at_its_step(
    settings: dict[str, Any],
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = replace(experiment, train=replace(experiment.train, **settings))
    watcher = Watcher()
    runner = runner_of(changed, tmp_path, watcher)
    with trainings(monkeypatch) as results:
        runner.points_of(plan_of(changed).runs[0])
    second, fourth = lines(tmp_path)
    assert (second.step, second.of, fourth.step) == (2, 4, 4)
    assert watcher.metrics == [second, fourth]
    assert 0 < second.seconds < fourth.seconds
    assert (second.lr, fourth.lr) == pytest.approx((2e-3 * 3 / 4, 2e-3 / 4))
    assert second.loss == pytest.approx((second.task_loss or 0) + (second.safety_loss or 0))
    assert second.task_loss_change != fourth.task_loss_change
    assert second.distance is None

    assert runner.rows.original is not None
    held_out = {
        "task": runner.rows.task["shared"].held_out,
        "safety": runner.rows.safety["near"].held_out,
        "original": runner.rows.original.held_out,
    }
    for role, rows in held_out.items():
        chosen = fixed_rows(rows, 32)
        assert len(chosen) == 32
        with torch.autocast("cpu", torch.bfloat16, enabled=changed.train.precision == "bfloat16"):
            after, before = (
                np.stack(response_nll(model, chosen, 2048))
                for model in (results[0].model, runner.aligned)
            )
        by_hand = paired_difference(after, before).estimate("nats per token")
        assert asdict(fourth)[f"{role}_loss_change"] == pytest.approx(by_hand.value, abs=1e-9)
        change = fourth.change(role)  # type: ignore[arg-type]
        assert change is not None
        assert (change.low, change.high) == pytest.approx((by_hand.low, by_hand.high), abs=1e-9)
        assert change.low < change.value < change.high


def test_a_case_two_training_tells_its_distance(experiment: Experiment, tmp_path: Path) -> None:
    limited = replace(experiment, grid=(Block("alignment-parameter", radii=(1e-3,)),))
    runner_of(limited, tmp_path).points_of(plan_of(limited).runs[0])
    assert 0 < (lines(tmp_path)[-1].distance or 0) <= 1e-3 * (1 + 1e-5)


def test_a_resumed_training_has_each_step_once(experiment: Experiment, tmp_path: Path) -> None:
    training = replace(experiment.train, steps=6, checkpoint_every=3)
    stepwise = replace(experiment, train=training, measure=replace(EVERY_2, every=1))

    class Stopped(Watcher):
        def logged(self, metrics: Metrics) -> None:
            if metrics.step == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(stepwise, tmp_path / "stopped", Stopped())
    before = lines(tmp_path / "stopped")
    assert [metrics.step for metrics in before] == [1, 2, 3, 4, 5]
    again = Watcher()
    sweep(stepwise, tmp_path / "stopped", again)
    assert again.steps[0] == 4
    resumed = lines(tmp_path / "stopped")
    *_, trained = read_points(tmp_path / "stopped")
    assert trained.wall_seconds >= resumed[-1].seconds  # of both sittings
    sweep(stepwise, tmp_path / "stopped", Watcher(), restart=True)
    whole = lines(tmp_path / "stopped")
    assert [replace(metrics, seconds=0) for metrics in resumed] == [
        replace(metrics, seconds=0) for metrics in whole
    ]
    assert resumed[:3] == before[:3]
    assert all(b.seconds > a.seconds for a, b in pairwise(resumed))
    assert lines(tmp_path / "stopped" / "before-restart-1") == resumed


def test_a_budget_at_risk_is_told_once_and_only_then(
    experiment: Experiment, tmp_path: Path
) -> None:
    training = replace(experiment.train, steps=12, learning_rate=1e-2, schedule="constant")
    warnings = {}
    for budget in (-0.4, 50.0):
        block = Block("alignment-loss", budgets=(budget,))
        limited = replace(experiment, train=training, grid=(block,))
        watcher = Watcher()
        sweep(limited, tmp_path / str(budget), watcher)
        warnings[budget] = [line for line in watcher.warnings if "at risk" in line]
    assert warnings[50.0] == []
    (line,) = warnings[-0.4]
    measured = [
        metrics for metrics in lines(tmp_path / "-0.4") if metrics.safety_loss_change is not None
    ]
    first = next(metrics for metrics in measured if (metrics.safety_loss_change_low or 0) > -0.4)
    assert line.startswith(plan_of(limited).runs[0].name)
    assert f"after {first.step} of 12 steps" in line
    assert f"{first.safety_loss_change:+.3f} [{first.safety_loss_change_low:+.3f}" in line
    assert "the budget is -0.4. Should it stay so, no setting keeps to it" in line


def test_trackers_get_what_is_written(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs_by_step: dict[int, dict[str, float]] = {}

    class Tracker(TrainerCallback):  # stands where those of report_to do, before all others
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            logs_by_step.setdefault(state.global_step, dict(logs))

    class Tracked(SafetyAwareSFTTrainer):
        def __init__(self, *args: Any, callbacks: Any, **settings: Any) -> None:
            super().__init__(*args, callbacks=[Tracker(), *callbacks], **settings)

    monkeypatch.setattr(trimtab.runner.trainings, "SafetyAwareSFTTrainer", Tracked)
    runner_of(experiment, tmp_path).points_of(plan_of(experiment).runs[0])
    written = lines(tmp_path)
    assert [metrics.step for metrics in written] == [2, 4]
    for metrics in written:
        changes = {name: value for name, value in asdict(metrics).items() if "_change" in name}
        assert len(changes) == 9
        logged = {name: logs_by_step[metrics.step][f"held_out/{name}"] for name in changes}
        assert logged == changes


def test_a_dial_is_measured_at_its_middle(experiment: Experiment, tmp_path: Path) -> None:
    watcher = Watcher()
    train_dial(replace(experiment, grid=()), tmp_path, watcher, restart=False)
    runner = runner_of(experiment, tmp_path)
    rows = fixed_rows(runner.rows.task["shared"].held_out, 32)
    ends = [load_model(str(tmp_path / "dial" / end))[0] for end in ("task", "safe")]
    middle = load_model(str(tmp_path / "dial" / "task"))[0]
    with torch.no_grad():
        for weight, *pair in zip(*(m.parameters() for m in (middle, *ends)), strict=True):
            weight.copy_(sum(pair) / 2)
    after, before = (
        np.stack(response_nll(model, rows, 2048)) for model in (middle, runner.aligned)
    )
    by_hand = paired_difference(after, before).value
    assert watcher.metrics[-1].step == 4
    assert watcher.metrics[-1].task_loss_change == pytest.approx(by_hand, abs=1e-5)


def test_pandas_reads_the_lines(experiment: Experiment, tmp_path: Path) -> None:
    file = MetricsFile(tmp_path, "one")
    assert file.begin(0) == 0
    file.add(Metrics.of_log(1, 3, 0.5, {"loss": 1.5, "learning_rate": 0.1, "radius": np.inf}))
    file.add(Metrics.of_log(2, 3, 0.75, {"loss": 1.25, "held_out/task_loss_change": -0.5}))
    assert json.loads(file.path.read_text().splitlines()[0]) == {
        "step": 1, "of": 3, "seconds": 0.5, "lr": 0.1, "loss": 1.5,
    }  # fmt: skip
    frame = pd.read_json(file.path, lines=True)
    assert list(frame.step) == [1, 2]
    assert frame.task_loss_change[1] == -0.5
    assert file.begin(1) == 0.5
    assert [metrics.step for metrics in read_metrics(file.path)] == [1]


def test_few_rows_and_short_runs_are_left_alone(experiment: Experiment) -> None:
    assert steps_and_rows(Measuring(every=3), steps=7, rows_per_step=1, roles=1) == ({3, 6}, 32)
    assert steps_and_rows(Measuring(every=3), steps=7, rows_per_step=1, roles=0) == (set(), 0)

    def affordable(steps: int, rows_per_step: int) -> int:
        return steps_and_rows(Measuring(), steps, rows_per_step, roles=3)[1]

    assert (affordable(149, 8), affordable(150, 8)) == (0, FEWEST_ROWS)
    assert (affordable(119, 64), affordable(120, 64)) == (0, 32)  # a pass in twelve half steps


def test_rows_of_a_distribution_come_by_their_weights(
    experiment: Experiment, tmp_path: Path
) -> None:
    rows = runner_of(experiment, tmp_path).rows.task["shared"].held_out.rows.select(range(3))
    drawn = fixed_rows(HeldOutRows(rows, np.array([0.0, 3.0, 1.0])), 400)
    counts = [sum(labels == row["labels"] for labels in drawn["labels"]) for row in rows]
    if rows[1]["labels"] != rows[2]["labels"]:
        assert counts[1] == pytest.approx(300, abs=40)
    plain = fixed_rows(HeldOutRows(rows), 2)
    assert plain["input_ids"] == fixed_rows(HeldOutRows(rows), 2)["input_ids"]
    assert len(fixed_rows(HeldOutRows(rows), 9)) == 3


def test_the_terminal_names_the_phase_and_shows_what_has_changed() -> None:
    console = Console(record=True, width=200, force_terminal=True)
    line = Metrics(
        20, 40, 1.0, loss=1.2345, task_loss_change=-0.14, task_loss_change_low=-0.18,
        task_loss_change_high=-0.1,
    )  # fmt: skip
    with TerminalWatcher(console) as watcher:
        described = lambda: watcher.progress.tasks[-1].description  # noqa: E731
        assert described() == "loading"
        watcher.training("one", 40)
        assert described() == "training one"
        watcher.stepped(20)
        watcher.logged(line)
        task = watcher.progress.tasks[-1]
        assert (task.completed, task.total) == (20, 40)
        status = task.fields["status"].replace("\\", "")
        assert status == "loss 1.234, task −0.140 [−0.180, −0.100]"
        with (plain := Console(width=200)).capture() as drawn:
            plain.print(watcher.progress.make_tasks_table(watcher.progress.tasks))
        assert "loss 1.234, task −0.140 [−0.180, −0.100]" in drawn.get()
        watcher.logged(Metrics(21, 40, 1.1, loss=1.0))
        assert "loss 1.000, task −0.140" in watcher.progress.tasks[-1].fields["status"]
        watcher.doing("measuring one")
        task = watcher.progress.tasks[-1]
        assert (task.description, task.total) == ("measuring one", None)
    assert "step 20/40 task −0.140 [−0.180, −0.100] nats per token" in console.export_text()


def test_a_stage_of_an_audit_does_not_keep_the_number_of_steps_before_it() -> None:
    with StageWatcher(Console(record=True, width=200, force_terminal=True)) as watcher:
        watcher.doing("reading rows", 400)
        watcher.stepped(37)
        stage = watcher.progress.tasks[-1]
        assert (stage.description, stage.completed, stage.total) == ("reading rows", 37, 400)
        watcher.doing("curvature of code")
        watcher.stepped(3)
        (stage,) = watcher.progress.tasks
        assert (stage.description, stage.completed, stage.total) == ("curvature of code", 3, None)


@pytest.mark.parametrize("command", ["train", "dial train", "sweep"])
def test_how_often_is_an_option(command: str) -> None:
    assert "--measure-every " in help_text(*command.split())
