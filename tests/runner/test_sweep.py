"""Facts about sweeps: what is made is kept, what is missing is made, mistakes are one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner, Result

from tests.forked import that_can_be_interrupted
from tests.small_worlds import small_world
from tests.watchers import Watcher
from trimtab.analysis.labels import budget_in_words
from trimtab.cli import app
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Block, Dial, Experiment, Training
from trimtab.config.grid import plan_of
from trimtab.config.methods import ALIGNED, CASE_1, DIAL
from trimtab.config.run_spec import RunSpec
from trimtab.config.yaml_io import read_experiment, to_yaml
from trimtab.data.rows import Message, Row
from trimtab.data.splits import Roles, Split
from trimtab.errors import UserError
from trimtab.models import load_model, places, weights_sha256
from trimtab.report.model_card import has_card
from trimtab.results.checksums import changed_files
from trimtab.results.layout import ALIGNED_FOLDER
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.store import read_failures, read_points
from trimtab.runner.dial import measure_curve, train_dial
from trimtab.runner.folder import claim, record_data, record_inputs
from trimtab.runner.status import copy_if_whole
from trimtab.runner.sweep import left_of, sweep
from trimtab.runner.verify import verify
from trimtab.stats import verdict

pytestmark = pytest.mark.usefixtures("quiet")

MEASURED = ("alignment_loss", "proxy_loss", "capability_loss", "distance", "train_tokens")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return small_world(
        tmp_path_factory.mktemp("world"),
        200,
        {"near": 0.1, "far": 0.6},
        align=Training(steps=4, batch_size=16, learning_rate=2e-3),
        train=Training(steps=4, batch_size=16, learning_rate=2e-3),
        grid=(
            Block("alignment-loss", (0.0, 1.0)),
            Block("alignment-parameter", radii=(0.5,)),
        ),
    )


@pytest.fixture(scope="module")
def finished(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    sweep(experiment, folder, Watcher())
    return folder


def run(*arguments: str, folder: Path | None = None) -> Result:
    with chdir(folder or Path.cwd()):
        return CliRunner().invoke(app, arguments)


def measured(folder: Path) -> dict[object, list[object]]:
    points = read_points(folder)
    assert len({point.spec for point in points}) == len(points)
    return {point.spec: [getattr(point, name) for name in MEASURED] for point in points}


def test_every_planned_point_is_made_with_its_fields(
    experiment: Experiment, finished: Path
) -> None:
    assert set(measured(finished)) == set(plan_of(experiment).specs)
    record = json.loads((finished / "points.jsonl").read_text().splitlines()[-1])
    needed = "method hyperparameter value proxy task seed alignment_loss proxy_loss capability_loss"
    needed += " alignment_gap capability_gap distance train_tokens wall_seconds"
    assert set(needed.split()) <= set(record)
    assert (record["hyperparameter"], record["value"]) == ("radius", 0.5)
    assert record["distance"] <= 0.5 * (1 + 1e-5)


def test_one_model_of_a_grid_is_made_by_its_name_and_kept(
    experiment: Experiment, finished: Path, tmp_path: Path
) -> None:
    name = "alignment-loss-penalty-1--far--shared--seed-0"
    file = str(finished / "experiment.yaml")
    result = run("sweep", file, "--only", name, "--out", str(tmp_path / "chosen"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "chosen/models" / name / "model.safetensors").exists()
    made, whole = measured(tmp_path / "chosen"), measured(finished)
    assert len(made) == 2  # θ_s and the model
    assert made.items() <= whole.items()


def test_a_second_run_makes_nothing(experiment: Experiment, finished: Path) -> None:
    before = (finished / "points.jsonl").read_bytes()
    watcher = Watcher()
    sweep(experiment, finished, watcher)
    assert watcher.trainings == []
    assert (finished / "points.jsonl").read_bytes() == before


def test_a_killed_sweep_goes_on_to_the_same_points(
    experiment: Experiment, finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "e.yaml").write_text(to_yaml(experiment))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "trimtab.cli", "sweep", str(tmp_path / "e.yaml")]
    killed = 0
    for _ in range(2):
        process = subprocess.Popen(
            [*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        points = out / "points.jsonl"
        size = points.stat().st_size if points.exists() else 0
        while process.poll() is None and not (points.exists() and points.stat().st_size > size):
            time.sleep(0.01)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed > 0
    assert 0 < len(read_points(out)) < len(plan_of(experiment).specs)
    last = run("sweep", str(tmp_path / "e.yaml"), "--out", str(out))
    assert last.exit_code == 0, last.stderr
    assert "Going on" in last.stderr
    assert measured(out) == measured(finished)
    assert (out / "report.html").exists()


def test_an_interruption_is_one_line(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(to_yaml(replace(experiment, seeds=tuple(range(50)))))
    command = [sys.executable, "-m", "trimtab.cli", "sweep", str(tmp_path / "e.yaml")]
    with that_can_be_interrupted():
        process = subprocess.Popen(
            [*command, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
    while not (tmp_path / "points.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.splitlines()[-1].startswith("trimtab: interrupted. What is finished is kept")
    assert "Traceback" not in stderr


@pytest.mark.parametrize("command", [sweep, train_dial])
def test_a_sweep_in_each_of_several_processes_is_refused(
    command: Callable[..., object],
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="a launcher started 2"):
        command(experiment, tmp_path / "out", Watcher(), restart=False)
    assert not (tmp_path / "out").exists()


def test_a_changed_experiment_is_refused_with_the_difference(
    experiment: Experiment, finished: Path
) -> None:
    changed = replace(experiment, grid=(Block("alignment-loss", (0.0, 2.0)),))
    with pytest.raises(UserError, match=r"another experiment.*penalties.* → .*2\.0.*--restart"):
        sweep(changed, finished, Watcher())


def test_a_sweep_may_grow_and_keeps_what_is_there(experiment: Experiment, tmp_path: Path) -> None:
    small = replace(
        experiment, grid=(Block("alignment-loss", (0.0, 1.0), proxies=("near",)),), align=None
    )
    sweep(small, tmp_path / "grown", Watcher())
    before = measured(tmp_path / "grown")
    blocks = (Block("alignment-parameter", radii=(0.5,)), *small.grid)
    large = replace(small, seeds=(0, 1), grid=blocks)
    watcher = Watcher()
    sweep(large, tmp_path / "grown", watcher)
    after = measured(tmp_path / "grown")
    assert {spec: after[spec] for spec in before} == before
    assert len(watcher.trainings) == 4
    sweep(large, tmp_path / "whole", Watcher())
    assert after == measured(tmp_path / "whole")
    specs = [point.spec for point in read_points(tmp_path / "grown")]
    assert specs == [point.spec for point in read_points(tmp_path / "whole")]
    with pytest.raises(UserError, match="another experiment"):
        sweep(small, tmp_path / "grown", Watcher())
    with pytest.raises(UserError, match="another experiment"):
        sweep(replace(large, seeds=(2, 0, 1)), tmp_path / "grown", Watcher())


@pytest.mark.parametrize("kept", ["generations", "judgements", "asked", "row-losses"])
def test_what_the_start_gave_before_its_points_is_not_another_start_s(
    kept: str, experiment: Experiment, tmp_path: Path
) -> None:
    claim(experiment, tmp_path, restart=False)
    (tmp_path / kept).mkdir()
    other = replace(experiment, model=f"{experiment.model}-2")
    with pytest.raises(UserError, match=r"holds results of another experiment.*--restart"):
        claim(other, tmp_path, restart=False)
    claim(experiment, tmp_path, restart=False)  # what was stopped goes on
    assert (tmp_path / kept).is_dir()


def kept_files(folder: Path) -> dict[Path, bytes]:
    """All but the card, which tells what the folder's points say now."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"]
    return {path: path.read_bytes() for path in files}


def test_what_a_grid_grows_by_is_made_from_the_models_that_are_kept(
    experiment: Experiment, tmp_path: Path
) -> None:
    """Another proxy, and a method after training, of one plain model that is there."""
    plain = replace(
        experiment,
        grid=(Block("alignment-loss", (0.0,), proxies=("near",)),),
        align=None,
        keep_models=True,
    )
    sweep(plain, tmp_path, Watcher())
    (point,) = [point for point in read_points(tmp_path) if point.method is not ALIGNED]
    before = kept_files(tmp_path / "models" / str(point.model))
    mended = Block("method", method="wise-ft", values=(0.5,), proxies=("near",))
    grown = replace(plain, grid=(Block("alignment-loss", (0.0,)), mended))
    watcher = Watcher()
    sweep(grown, tmp_path, watcher)
    assert watcher.trainings == []
    assert before.items() <= kept_files(tmp_path / "models" / str(point.model)).items()
    sweep(grown, tmp_path / "whole", Watcher())
    assert measured(tmp_path) == measured(tmp_path / "whole")
    extra = [point.extra_bytes for point in read_points(tmp_path)]
    assert extra == [point.extra_bytes for point in read_points(tmp_path / "whole")]
    losses, whole = RowLosses(tmp_path), RowLosses(tmp_path / "whole")
    for model in ("aligned", str(point.model)):
        for data in ("safety:near", "safety:far", "task:shared"):
            kept, expected = losses.of(data, model), whole.of(data, model)
            assert (kept is None) == (expected is None)
            if kept is not None and expected is not None:
                np.testing.assert_allclose(kept, expected, rtol=1e-5)


@pytest.mark.parametrize("lora", [{}, {"modules_to_save": ["lm_head"]}], ids=["plain", "head"])
def test_each_method_after_training_starts_from_the_adapter_that_was_kept(
    experiment: Experiment, tmp_path: Path, lora: dict[str, Any]
) -> None:
    """And not from what the one before it made: in whatever order, all have the same points."""
    training = Training(steps=4, batch_size=16, learning_rate=1e-2, lora_rank=4, lora=lora)
    sft = Block("alignment-loss", (0.0,), proxies=("near",))
    plain = replace(experiment, grid=(sft,), train=training, keep_models=True)
    safe_lora, halfway, nearer = (
        Block("method", method=method, values=(value,), proxies=("near",))
        for method, value in (("safe-lora", 1.0), ("wise-ft", 0.5), ("wise-ft", 0.75))
    )

    def numbers(folder: Path, *blocks: Block) -> dict[RunSpec, tuple[object, ...]]:
        points = sweep(replace(plain, grid=(sft, *blocks)), folder, Watcher())
        return {point.spec: tuple(getattr(point, name) for name in MEASURED) for point in points}

    whole = numbers(tmp_path / "whole", safe_lora, halfway, nearer)
    for name, blocks in (
        ("there", (safe_lora, halfway, nearer)),
        ("back", (nearer, halfway, safe_lora)),
    ):
        numbers(tmp_path / name)
        assert numbers(tmp_path / name, *blocks) == whole


def test_data_that_changed_since_are_refused(experiment: Experiment, tmp_path: Path) -> None:
    data = Path(shutil.copytree(experiment.data_root, tmp_path / "data"))
    moved = replace(experiment, data_root=str(data), align=None)
    half = replace(moved, grid=(Block("alignment-loss", (0.0,), proxies=("near",)),))
    sweep(half, tmp_path / "out", Watcher())
    recorded = (tmp_path / "out/data.json").read_bytes()
    file = data / experiment.task["shared"].path
    original = file.read_bytes()
    file.write_bytes(b"\n".join(reversed(original.splitlines())) + b"\n")
    with pytest.raises(UserError, match=rf"{file} has changed since .* --restart"):
        sweep(moved, tmp_path / "out", Watcher())
    assert (tmp_path / "out/data.json").read_bytes() == recorded
    sweep(half, tmp_path / "out", Watcher())  # what was added to the grid was not taken up
    file.write_bytes(original)
    sweep(moved, tmp_path / "out", Watcher())


def test_a_start_that_changed_since_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    start = Path(shutil.copytree(experiment.model, tmp_path / "start"))
    moved = replace(experiment, model=str(start), align=None)
    half = replace(moved, grid=(Block("alignment-loss", (0.0,), proxies=("near",)),))
    sweep(half, tmp_path / "out", Watcher())
    weights = start / "model.safetensors"
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"{start}.* weights have changed since .* --restart"):
        sweep(moved, tmp_path / "out", Watcher())
    weights.write_bytes(original)
    sweep(moved, tmp_path / "out", Watcher())


def begin(experiment: Experiment, folder: Path) -> None:
    """As a sweep does that is killed after its first point."""
    folder.mkdir()
    claim(experiment, folder, restart=False)
    record_start(experiment, folder)
    (folder / "points.jsonl").touch()


def record_start(experiment: Experiment, folder: Path) -> None:
    record_inputs(Roles(None, {}, {}, ()), experiment, folder)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("start/chat_template.jinja", "its configuration, tokenizer or chat template has"),
        ("start/tokenizer.json", "its configuration, tokenizer or chat template has"),
        ("start/adapter_config.json", "its configuration, tokenizer or chat template has"),
        ("base/model.safetensors", "what it is an adapter on has"),
        ("base/config.json", "what it is an adapter on has"),
    ],
)
def test_a_start_of_which_a_part_changed_since_is_refused(
    experiment: Experiment, tmp_path: Path, name: str, what: str
) -> None:
    base, start = tmp_path / "base", tmp_path / "start"
    shutil.copytree(experiment.model, base)
    model, tokenizer = load_model(str(base))
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(start)
    tokenizer.save_pretrained(start)
    (start / "chat_template.jinja").write_text("{{ messages }}")
    moved = replace(experiment, model=str(start), align=None)
    begin(moved, tmp_path / "out")
    record_start(moved, tmp_path / "out")
    file = tmp_path / name
    original = file.read_bytes()
    if name.endswith(".json"):
        file.write_text(json.dumps({**json.loads(original), "lora_alpha": 99}))
    else:
        file.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"{start}.*: {what} changed since .* --restart"):
        record_start(moved, tmp_path / "out")
    file.write_bytes(original)
    record_start(moved, tmp_path / "out")


def test_the_model_from_before_alignment_is_the_one_it_was_while_a_method_reads_it(
    experiment: Experiment, tmp_path: Path
) -> None:
    base, out = Path(shutil.copytree(experiment.model, tmp_path / "base")), tmp_path / "out"
    resta = Block("method", method="resta", values=(0.2,))
    aligned = replace(experiment, model=str(base), align=experiment.train)
    methods = (replace(aligned, grid=(*aligned.grid, resta)), aligned)
    (weights,) = base.glob("*.safetensors")
    original = weights.read_bytes()
    for each, is_read in zip(methods, (True, False), strict=True):
        folder = out / str(is_read)
        folder.mkdir(parents=True)
        claim(each, folder, restart=False)
        record_start(each, folder)
        (folder / ALIGNED_FOLDER).mkdir()
        weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        if is_read:
            with pytest.raises(UserError, match="its weights have changed since"):
                record_start(each, folder)
        else:
            record_start(each, folder)
        weights.write_bytes(original)
        record_start(each, folder)


def test_a_start_that_an_earlier_version_recorded_is_known_by_its_weights(
    experiment: Experiment, tmp_path: Path
) -> None:
    start = Path(shutil.copytree(experiment.model, tmp_path / "start"))
    moved = replace(experiment, model=str(start), align=None)
    begin(moved, tmp_path / "out")
    before = json.dumps({"weights": weights_sha256(str(start))})
    (tmp_path / "out/start.json").write_text(before + "\n")
    record_start(moved, tmp_path / "out")
    assert json.loads((tmp_path / "out/start.json").read_text()).keys() == {"weights", "files"}
    (tmp_path / "out/start.json").write_text(json.dumps({"weights": "others"}))
    with pytest.raises(UserError, match="weights have changed since"):
        record_start(moved, tmp_path / "out")


def test_another_commit_on_the_hub_is_refused_and_the_one_before_can_be_named(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = "1" * 40, "2" * 40
    monkeypatch.setattr(places, "HF_HUB_CACHE", str(tmp_path / "cache"))
    seen = tmp_path / "cache/models--org--model/refs/main"
    moved, out = replace(experiment, model="org/model", align=None), tmp_path / "out"
    begin(moved, out)  # this machine has not looked for it yet
    for commit in (first, first):
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.write_text(commit)
        record_start(moved, out)
    seen.write_text(second)
    with pytest.raises(UserError, match=rf"commit on the Hub has .*{{revision: {first}}}"):
        record_start(moved, out)
    for revision, is_same in ((second, False), (first, True)):
        named = replace(moved, load=replace(moved.load, revision=revision))
        if is_same:
            claim(named, out, restart=False)
            record_start(named, out)
        else:
            with pytest.raises(UserError, match="another experiment"):
                claim(named, out, restart=False)


def test_an_aligned_start_is_the_folders_own(experiment: Experiment, tmp_path: Path) -> None:
    base = Path(shutil.copytree(experiment.model, tmp_path / "base"))
    once = Training(steps=2, batch_size=4, lora_rank=2)
    whole = replace(experiment, model=str(base), align=once)
    half = replace(whole, grid=(Block("alignment-loss", (0.0,), proxies=("near",)),))
    sweep(half, tmp_path / "out", Watcher())
    (base / "model.safetensors").write_bytes(b"trained anew")
    sweep(whole, tmp_path / "out", Watcher())


def test_a_dial_goes_on_with_its_own_data_alone(experiment: Experiment, tmp_path: Path) -> None:
    data = Path(shutil.copytree(experiment.data_root, tmp_path / "data"))
    near = {"near": experiment.safety["near"]}
    dial = replace(experiment, data_root=str(data), align=None, grid=(), dial=Dial(), safety=near)
    train_dial(dial, tmp_path / "dial", Watcher(), restart=False)
    file = data / experiment.task["shared"].path
    file.write_bytes(file.read_bytes() + file.read_bytes())
    with pytest.raises(UserError, match="has changed since"):
        measure_curve(tmp_path / "dial", 2, 0, Watcher())


def test_an_alignment_that_diverges_is_one_line(experiment: Experiment, tmp_path: Path) -> None:
    assert experiment.align is not None
    hot = replace(experiment, align=replace(experiment.align, steps=30, learning_rate=1e30))
    path = tmp_path / "hot.yaml"
    path.write_text(to_yaml(hot))
    result = run("sweep", str(path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 2, result.output
    assert re.search(r"^trimtab: the loss of step \d+ is (nan|inf)\. Lower", result.output, re.M)


def test_dry_run_plans_what_the_command_would_make(
    experiment: Experiment, finished: Path, tmp_path: Path
) -> None:
    file = tmp_path / "same.yaml"
    file.write_text(to_yaml(experiment))
    again = run("sweep", str(file), "--out", str(finished), "--dry-run")
    assert "7, all of them made" in again.output
    assert left_of(experiment, finished)[1].specs == ()
    assert left_of(experiment, finished, restart=True)[1] == plan_of(experiment)
    hotter = replace(experiment, train=replace(experiment.train, learning_rate=1e-3))
    file.write_text(to_yaml(hotter))
    refused = run("sweep", str(file), "--out", str(finished), "--dry-run")
    assert refused.exit_code == 2
    assert "another experiment" in refused.output


def test_restart_discards_what_was_there(experiment: Experiment, tmp_path: Path) -> None:
    plain = replace(
        experiment, grid=(Block("alignment-loss", (0.0,), proxies=("near",)),), align=None
    )
    sweep(plain, tmp_path, Watcher())
    reseeded = replace(plain, seeds=(1,))
    sweep(reseeded, tmp_path, Watcher(), restart=True)
    assert [point.seed for point in read_points(tmp_path) if point.method is not ALIGNED] == [1]


def test_a_diverged_run_is_a_failure_and_the_sweep_goes_on(
    experiment: Experiment, tmp_path: Path
) -> None:
    diverging = replace(
        experiment,
        align=None,
        grid=(Block("alignment-loss", (1e38, 1.0), proxies=("near",)),),
    )
    watcher = Watcher()
    sweep(diverging, tmp_path, watcher)
    assert len(watcher.failures) == 1
    assert [failure.spec.value for failure in read_failures(tmp_path)] == [1e38]
    assert left_of(diverging, tmp_path)[1].specs == ()
    assert [spec.value for spec in left_of(diverging, tmp_path)[1].failed] == [1e38]
    assert [spec.value for spec in left_of(diverging, tmp_path, retry=True)[1].specs] == [1e38]
    copy_if_whole(tmp_path, tmp_path / "copied")
    assert not (tmp_path / "copied").exists()
    assert [point.spec.value for point in read_points(tmp_path)] == [None, 1.0]
    again = Watcher()
    sweep(diverging, tmp_path, again)
    assert again.trainings == []
    sweep(diverging, tmp_path, again, retry=True)
    assert len(again.trainings) == 1


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("has_weights", [True, False])
def test_weights_that_the_last_update_broke_are_a_failure_and_no_point(
    every: int, has_weights: bool, experiment: Experiment, tmp_path: Path
) -> None:
    """The step's own loss was finite: it is the measuring that meets them."""
    near = experiment.safety["near"]
    drawn = near if has_weights else replace(near, held_out=0.2, lowest_loss=None)
    broken = replace(
        experiment,
        align=None,
        original=experiment.original if has_weights else None,
        safety={"near": drawn},
        train=replace(experiment.train, steps=1, learning_rate=1e30),
        grid=(Block("alignment-loss", (0.0,), proxies=("near",)),),
        measure=replace(experiment.measure, every=every),
        keep_models=True,
    )
    watcher = Watcher()
    sweep(broken, tmp_path, watcher)
    assert {point.method for point in read_points(tmp_path)} == {ALIGNED}
    (failure,) = {failure.reason for failure in watcher.failures}
    assert "held-out rows is not a finite number" in failure
    assert not list((tmp_path / "models").glob("*"))
    assert "Lower the learning rate" in failure


def test_a_point_does_not_depend_on_the_points_before_it(
    experiment: Experiment, finished: Path, tmp_path: Path
) -> None:
    alone = replace(experiment, grid=(Block("alignment-parameter", radii=(0.5,)),))
    sweep(alone, tmp_path, Watcher())
    whole = measured(finished)
    assert all(whole[key] == values for key, values in measured(tmp_path).items())


def test_dry_run_prints_the_plan_and_trains_nothing(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(to_yaml(experiment))
    result = run("sweep", str(tmp_path / "e.yaml"), "--out", str(tmp_path / "out"), "--dry-run")
    assert result.exit_code == 0, result.stderr
    for word in ("points", "tokens", "memory", "time"):
        assert word in result.stdout
    assert not (tmp_path / "out").exists()


def test_budgets_are_points_that_say_whether_they_were_met(
    experiment: Experiment, tmp_path: Path
) -> None:
    grid = (Block("alignment-loss", budgets=(0.05, -9.0, float("inf")), proxies=("near",)),)
    watcher = Watcher()
    budgeted = replace(experiment, align=None, grid=grid, keep_models=True)
    points = sweep(budgeted, tmp_path, watcher)
    by_budget = {point.budget: point for point in points if point.method is not ALIGNED}
    first, never, plain = by_budget[0.05], by_budget[-9.0], by_budget[float("inf")]
    assert len(watcher.trainings) == 2  # one dial for all budgets, and plain fine-tuning
    assert first.multiplier is not None
    assert never.multiplier == 100.0
    assert plain.multiplier is None
    assert never.budget_verdict == "beyond"
    assert "out of reach" in budget_in_words(never)
    (aligned,) = (point for point in points if point.method is ALIGNED)
    for point in (first, never, plain):
        assert point.safety_change is not None
        assert point.proxy_loss is not None
        assert aligned.proxy_loss is not None
        risen = point.proxy_loss.value - aligned.proxy_loss.value
        assert point.safety_change.value == pytest.approx(risen)
        assert point.budget_verdict == verdict(point.safety_change, float(str(point.budget)))
    # Forward passes for the budget are counted too, and an infinite budget is plain fine-tuning.
    assert min(first.train_tokens, never.train_tokens) > plain.train_tokens
    # Each is kept as a plain model, which is the one that was measured.
    folder = tmp_path / "models" / str(first.model)
    assert has_card(folder)
    assert changed_files(folder) == []
    again = Watcher()
    assert sweep(budgeted, tmp_path, again) == points
    assert again.trainings == []
    assert all(check.passed is not False for check in verify(tmp_path))


def test_train_with_a_budget_says_how_it_ended(experiment: Experiment, tmp_path: Path) -> None:
    root = Path(experiment.data_root)
    command = ["train", "--model", experiment.model, "--out", str(tmp_path), "--budget", "0.3"]
    command += ["--task", str(root / "data/task-shared.jsonl"), "--steps", "2"]
    command += ["--safety", str(root / "data/safety-near.jsonl")]
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    assert "the model is in " in result.stdout
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("budget 0.3: "))
    assert "held-out change of the safety loss" in line
    assert "nats per token, an estimate: within the budget" in line


def test_train_with_an_impossible_budget_fails_in_one_line(
    experiment: Experiment, tmp_path: Path
) -> None:
    root = Path(experiment.data_root)
    command = ["train", "--model", experiment.model, "--out", str(tmp_path), "--budget", "-9"]
    command += ["--task", str(root / "data/task-shared.jsonl"), "--steps", "2"]
    command += ["--safety", str(root / "data/safety-near.jsonl")]
    for _ in range(2):
        result = run(*command)
        assert result.exit_code == 1
        last = result.stderr.splitlines()[-1]
        assert last.startswith("trimtab: 1 point failed (budget -9 is impossible")
        assert "The model is in" not in result.stdout


def test_points_without_what_was_added_later_are_read(finished: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (finished / "points.jsonl").read_text().splitlines()]
    later = ("multiplier", "safety_change", "validation_rows_wanted", "extra_bytes")
    for record in lines:
        for name in later:
            del record[name]
    (tmp_path / "points.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    without = [replace(point, **dict.fromkeys(later)) for point in read_points(finished)]  # type: ignore[arg-type]
    assert read_points(tmp_path) == without


def test_train_saves_a_model_that_loads(experiment: Experiment, tmp_path: Path) -> None:
    root = Path(experiment.data_root)
    command = ["train", "--model", experiment.model, "--out", str(tmp_path), "--radius", "0.4"]
    command += ["--task", str(root / "data/task-shared.jsonl"), "--steps", "2"]
    command += ["--safety", str(root / "data/safety-near.jsonl")]
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    (folder,) = (tmp_path / "models").iterdir()
    load_model(str(folder))
    assert {point.spec.value for point in read_points(tmp_path)} == {None, 0.4}
    again = run(*command)
    assert again.exit_code == 0, again.stderr


TRAIN = "train --model m --task t --safety s --out o"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sweep none.yaml --out o", "none.yaml: No such file or directory."),
        ("report nowhere", "nowhere/points.jsonl: no such file."),
        (
            "train --model ./m --task t.jsonl --safety s.jsonl --out o",
            "not there: --model ./m; --task t.jsonl; --safety s.jsonl. Check the names",
        ),
        ("train --model ./m --task t --safety s --out o", "--model ./m: no such folder."),
        ("train --model m --task t --safety s.jsonl --out o", "--safety s.jsonl: no such file."),
        ("sweep smollm2 --out o --dry-run", "--data-root"),
        (f"{TRAIN} --safety-where harmful", "'harmful' is no condition."),
        (f"{TRAIN} --penalty -1", "--penalty is -1.0. Give a number from 0 up"),
        (f"{TRAIN} --penalty 1 --budget 0.1", "Give one of --penalty, --radius, --budget."),
        (
            f"{TRAIN} --case alignment-parameter --budget 0.1",
            "--budget is for --case",
        ),
        (f"{TRAIN} --case alignment-loss --radius 1", "--radius is for --case alignment-param"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(command: str, message: str, tmp_path: Path) -> None:
    result = run(*command.split(), folder=tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith("trimtab: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_experiment_reads_back_from_its_record(experiment: Experiment, finished: Path) -> None:
    record = read_experiment(finished / "experiment.yaml")
    assert plan_of(record) == plan_of(experiment)
    assert yaml.safe_load((finished / "experiment.yaml").read_text())["train"]["steps"] == 4


def test_a_dial_in_the_grid_is_trained_once_and_measured_at_every_setting(
    experiment: Experiment, tmp_path: Path
) -> None:
    dialled = replace(
        experiment,
        dial=Dial(steps=6),
        grid=(Block("dial", values=(0.0, 0.5, 1.0), proxies=("near",)),),
        keep_models=True,
    )
    counter = Watcher()
    points = [point for point in sweep(dialled, tmp_path, counter) if point.method is DIAL]
    assert [point.spec.value for point in points] == [0.0, 0.5, 1.0]
    assert [point.multiplier for point in points] == pytest.approx([100.0, 1.0, 0.01])
    assert len({point.capability_loss.value for point in points}) == 3
    assert len({point.train_tokens for point in points}) == 1
    assert counter.trainings[1:] == ["dial--near--shared--seed-0"]
    again = Watcher()
    assert len(sweep(dialled, tmp_path, again)) == len(points) + 1
    assert again.trainings == []


def test_packed_rows_are_swept_as_others_are(experiment: Experiment, tmp_path: Path) -> None:
    packed = replace(
        experiment,
        lengths=Lengths(prompt=16, response=16),
        train=replace(experiment.train, packing=64, batch_size=2, steps=2),
        dial=Dial(),
        grid=(Block("alignment-loss", (0.0, 1.0), proxies=("near",)), Block("dial", values=(0.5,))),
    )
    points = sweep(packed, tmp_path, Watcher())
    assert {point.spec for point in points} == set(plan_of(packed).specs)
    plain, penalised = (
        next(p for p in points if p.spec.method is CASE_1 and p.spec.value == penalty)
        for penalty in (0.0, 1.0)
    )
    assert plain.train_tokens == pytest.approx(2 * 2 * 64, rel=0.1)
    assert penalised.train_tokens == pytest.approx(2 * plain.train_tokens, rel=0.1)


def test_few_held_out_rows_are_noted_and_a_whole_distribution_is_not(tmp_path: Path) -> None:
    few = tuple(Row((Message("user", str(number)),), "yes") for number in range(12))
    whole = tuple(replace(row, weight=1 / 12) for row in few)
    many = few * 5
    experiment = Experiment(
        model="m",
        original=DataSource("o.jsonl"),
        safety={"s": DataSource("s.jsonl")},
        task={"t": DataSource("t.jsonl")},
        grid=[Block(case="alignment-loss", penalties=[0])],
    )
    roles = Roles(
        Split("original", few, whole),
        {"s": Split("safety s", few, many)},  # as many draws as prompts
        {"t": Split("task t", few, many, repeats=True)},
        (),
    )
    record_data(roles, experiment, tmp_path)
    recorded = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))
    noted = {record["role"]: record["warnings"] for record in recorded}
    assert noted == {
        "original": [],
        "safety": ["12 rows: intervals are approximate (held out)"],
        "task": [],
    }


@pytest.mark.parametrize("rank", [None, 4])
def test_models_trained_in_16_bits_are_measured_as_the_start_is(
    rank: int | None, tmp_path: Path
) -> None:
    training = Training(
        steps=3, batch_size=4, lora_rank=rank, learning_rate=1e-9, precision="bfloat16"
    )
    hardly_trained = small_world(
        tmp_path / "world",
        80,
        {"near": 0.1},
        train=training,
        grid=(
            Block("alignment-loss", (0.0, 1.0)),
            Block("alignment-loss", budgets=(0.05,)),
            Block("alignment-parameter", radii=(1e-3,)),
            Block("dial", values=(0.5,)),
            Block("method", method="wise-ft", values=(0.5,)),
        ),
        dial=Dial(),
        keep_models=True,
    )
    sweep(hardly_trained, tmp_path / "run", Watcher())
    losses = [
        (point.capability_loss.value, point.proxy_loss.value)
        for point in read_points(tmp_path / "run")
        if point.proxy_loss is not None
    ]
    assert len(losses) >= 6
    np.testing.assert_allclose(losses, [losses[0]] * len(losses), atol=1e-5)
    assert all(check.passed is not False for check in verify(tmp_path / "run"))


def test_a_method_that_does_not_go_with_the_settings_is_a_failure_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = small_world(
        tmp_path / "world",
        80,
        {"near": 0.1},
        train=Training(steps=2, batch_size=4, lora_rank=2, lora={"use_dora": True}),
        grid=(
            Block("alignment-loss", (0.0,)),
            Block("method", method="wise-ft", values=(0.5,)),
            Block("method", method="osf", values=(0.5,)),
            Block("alignment-parameter", radii=(0.5,)),
            Block("alignment-loss", (1.0,)),
        ),
    )
    watcher = Watcher()
    points = sweep(adapted, tmp_path / "run", watcher)
    assert [point.spec.label for point in points[1:]] == ["λ = 0", "λ = 1"]
    reasons = {f.spec.method.name: f.reason for f in read_failures(tmp_path / "run")}
    assert set(reasons) == {"wise-ft", "osf", "alignment-parameter-radius"}
    assert "Leave lora_rank out" in reasons["osf"]
    assert sweep(adapted, tmp_path / "run", Watcher()) == points

    def refuses(*arguments: object, **named: object) -> None:
        raise UserError("no method goes with this")

    monkeypatch.setattr("trimtab.runner.trainings.SafetyAwareSFTTrainer", refuses)
    with pytest.raises(UserError, match="no method goes"):
        sweep(adapted, tmp_path / "none", Watcher())
