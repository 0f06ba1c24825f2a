"""Facts about a dial on a world whose answer is known: its curve, its budget, its mistakes."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.small_worlds import small_world
from tests.watchers import Watcher
from trimtab.analysis.optimality_gap import optimality_gap
from trimtab.analysis.results import read_results
from trimtab.cli import main
from trimtab.config.experiment import Block, Dial, Experiment, Training
from trimtab.config.grid import plan_of
from trimtab.config.methods import DIAL
from trimtab.data.splits import read_roles
from trimtab.errors import UserError
from trimtab.measure.losses import held_out_loss
from trimtab.models import load_model
from trimtab.report import write_report
from trimtab.results.result import Point
from trimtab.results.samples import read_samples
from trimtab.results.store import read_points
from trimtab.runner.dial import measure_curve, set_dial, train_dial
from trimtab.runner.runner import Runner
from trimtab.runner.sweep import sweep

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return small_world(
        tmp_path_factory.mktemp("world"),
        600,
        align=Training(steps=60, batch_size=32, learning_rate=3e-3),
        train=Training(steps=60, batch_size=32, learning_rate=3e-3),
        dial=Dial(),
        grid=(),
    )


@pytest.fixture(scope="module")
def dial(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dial")
    shutil.copy(Path(experiment.data_root) / "world.npz", folder)
    train_dial(experiment, folder, Watcher(), restart=False)
    measure_curve(folder, settings=6, samples=2, watcher=Watcher())
    return folder


def curve(folder: Path) -> list[Point]:
    return sorted(
        (point for point in read_points(folder) if point.method is DIAL),
        key=lambda point: point.spec.value or 0,
    )


def test_safety_is_lost_and_capability_gained_along_the_dial(dial: Path) -> None:
    points = curve(dial)
    assert [point.spec.value for point in points] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    safety = [point.proxy_loss.value for point in points if point.proxy_loss]
    task = [point.capability_loss.value for point in points]
    assert all(after > before - 0.01 for before, after in pairwise(safety))
    assert safety[-1] > safety[0] + 0.1
    assert all(after < before + 0.01 for before, after in pairwise(task))
    assert task[-1] < task[0] - 0.1


def test_no_setting_passes_the_exact_limit(dial: Path) -> None:
    results = read_results(dial)
    assert results.world is not None
    assert not any(gap.is_impossible for gap in optimality_gap(results.points, results.world))


def test_a_curve_goes_on_where_it_was(experiment: Experiment, dial: Path) -> None:
    before = (dial / "points.jsonl").read_text()
    watcher = Watcher()
    train_dial(experiment, dial, watcher, restart=False)
    measure_curve(dial, settings=6, samples=2, watcher=watcher)
    assert watcher.trainings == []
    assert watcher.points == []
    assert (dial / "points.jsonl").read_text() == before
    measure_curve(dial, settings=3, samples=0, watcher=watcher)
    assert [point.spec.value for point in watcher.points] == [0.5]
    (dial / "points.jsonl").write_text(before)


def test_a_dial_set_to_a_budget_keeps_it_and_no_more(
    experiment: Experiment, dial: Path, tmp_path: Path
) -> None:
    budget = 0.06
    chosen = set_dial(dial, tmp_path / "model", Watcher(), budget=budget)
    assert 0 < chosen.alpha < 1
    assert chosen.rise.value <= budget
    assert chosen.rise.value == pytest.approx(budget, rel=0.1)
    runner = Runner(experiment, read_roles(experiment), dial, Watcher())
    saved, _ = load_model(str(tmp_path / "model"))
    rows = runner.rows.safety["near"].held_out
    before, after = (
        held_out_loss(model, rows, experiment.measure).per_token.value
        for model in (runner.aligned, saved)
    )
    assert after - before == pytest.approx(chosen.rise.value, abs=1e-5)
    assert json.loads((tmp_path / "model/setting.json").read_text())["alpha"] == chosen.alpha


def test_a_generous_budget_turns_the_dial_all_the_way(dial: Path, tmp_path: Path) -> None:
    assert set_dial(dial, tmp_path / "model", Watcher(), budget=10.0).alpha == 1


def test_rows_that_choose_are_not_the_rows_that_tell(
    experiment: Experiment, tmp_path: Path
) -> None:
    """On draws the two halves differ, so that the two rises do, and both have an interval."""
    source = experiment.safety["near"]
    drawn = replace(source, held_out=0.2, lowest_loss=None)
    sampled = replace(experiment, safety={"near": drawn}, original=None, align=None)
    train_dial(sampled, tmp_path / "dial", Watcher(), restart=False)
    chosen = set_dial(tmp_path / "dial", tmp_path / "model", Watcher(), budget=0.0)
    assert chosen.chosen_rise is not None
    assert chosen.chosen_rise.value <= 0.0
    assert chosen.rise.value != chosen.chosen_rise.value
    assert chosen.rise.low < chosen.rise.value < chosen.rise.high


def test_samples_show_how_answers_change(dial: Path) -> None:
    samples = read_samples(dial)
    assert [sample.is_safety for sample in samples] == [False, False, True, True]
    for sample in samples:
        assert [answer.alpha for answer in sample.answers] == [0, 0.5, 1]
        assert all(answer.text and not answer.note for answer in sample.answers)


def test_the_page_of_a_dial_has_a_slider_over_its_settings(dial: Path) -> None:
    page = write_report(dial).page.read_text()
    assert 'id="alpha" type="range" min="0" max="5"' in page
    assert "Theorem 1 on it" in page
    assert (dial / "figures/figure4.png").exists()


def test_impossible_budget_is_said_with_the_least_that_is_possible(
    dial: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"no setting is within a budget of -1.*Give a budget above"
    ):
        set_dial(dial, tmp_path / "model", Watcher(), budget=-1.0)
    assert not (tmp_path / "model").exists()


def test_a_dial_that_a_sweep_kept_is_set_as_it_was_measured_there(tmp_path: Path) -> None:
    """Of two of its grid, on the data that each was trained on."""
    (tmp_path / "world").mkdir()
    both = small_world(
        tmp_path / "world",
        600,
        {"near": 0.1, "far": 0.8},
        train=Training(steps=4, batch_size=32, learning_rate=3e-3),
        dial=Dial(),
        grid=(Block("dial", values=(0.25, 1.0)),),
        keep_models=True,
        seeds=(0,),
    )
    points = sweep(both, tmp_path / "sweep", Watcher())
    for run in plan_of(both).runs:
        ends = tmp_path / "sweep/models" / run.name
        chosen = set_dial(ends, tmp_path / f"set-{run.name}", Watcher(), alpha=0.25)
        (measured,) = [point for point in points if point.spec == run.specs[0]]
        assert measured.proxy_loss is not None
        assert chosen.safety.now.value == pytest.approx(measured.proxy_loss.value, abs=1e-6)
        assert chosen.task.now.value == pytest.approx(measured.capability_loss.value, abs=1e-6)
        card = (tmp_path / f"set-{run.name}/README.md").read_text(encoding="utf-8")
        assert f"`trimtab sweep`, as `{run.name}`, trained the dial" in card
    with pytest.raises(UserError, match=r"sweep kept some: give .*models/dial--near"):
        set_dial(tmp_path / "sweep", tmp_path / "out", Watcher(), alpha=0.5)
    with pytest.raises(UserError, match="measures the settings that its grid names"):
        measure_curve(ends, 3, 0, Watcher())


def test_an_experiment_with_a_dial_alone_is_no_sweep(
    experiment: Experiment, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="trimtab dial train"):
        sweep(experiment, tmp_path, Watcher())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("dial curve nowhere", "nowhere holds no trained dial."),
        ("dial set nowhere --budget 0.1 --out m", "nowhere holds no trained dial."),
        ("dial set nowhere --out m", "Give one of the two."),
        ("dial set nowhere --alpha 2 --out m", "Give a number from 0 to 1"),
        (
            "dial train --model m --task t --safety s --out o --safest-penalty 0.001",
            "must fall",
        ),
    ],
)
def test_a_mistake_with_a_dial_is_one_line(
    command: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status_of(command, monkeypatch) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("trimtab: ")
    assert message in stderr
    assert stderr.count("\n") == 1


def test_commands_train_set_and_save_one_plain_adapter(
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = Path(experiment.data_root) / "data", tmp_path / "dial"
    command = f"dial train --model {experiment.model} --task {data}/task-shared.jsonl"
    command += f" --safety {data}/safety-near.jsonl --lora-rank 2 --steps 2 --out {out}"
    # These files repeat their prompts, as draws do; a file of each prompt once is made of them.
    for name in ("task-shared", "safety-near"):
        rows = {json.loads(line)["prompt"]: line for line in (data / f"{name}.jsonl").open()}
        (tmp_path / f"{name}.jsonl").write_text("".join(rows.values()))
    assert status_of(command.replace(str(data), str(tmp_path)), monkeypatch) == 0
    assert status_of(f"dial set {out} --alpha 0.5 --out {tmp_path / 'chosen'}", monkeypatch) == 0
    assert "in nats per token on held-out rows:" in capsys.readouterr().out
    adapter = json.loads((tmp_path / "chosen/adapter_config.json").read_text())
    assert adapter["r"] == 4
    assert status_of(f"dial set {out} --alpha 0.5 --out {tmp_path / 'chosen'}", monkeypatch) == 2
    assert "is there already" in capsys.readouterr().err


def status_of(command: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["trimtab", *command.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code
