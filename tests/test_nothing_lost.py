"""Facts about folders: what trimtab did not make it leaves, and what it made it does not throw."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.small_worlds import small_world
from tests.watchers import Watcher
from trimtab.audit.own_proxy import write_own_proxy
from trimtab.audit.stage_cache import StageCache
from trimtab.cli import main
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.experiment import Block, Dial, Experiment, Training
from trimtab.config.grid import plan_of
from trimtab.config.methods import ALIGNED
from trimtab.config.yaml_io import read_experiment, to_yaml
from trimtab.data.synthetic import CONTEXTS
from trimtab.errors import UserError
from trimtab.measure.hidden_states import Reading
from trimtab.models import load_model
from trimtab.results.result import Point
from trimtab.results.store import PointsFile, read_points
from trimtab.runner.post_hoc import repair_saved
from trimtab.runner.sweep import sweep

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return small_world(
        tmp_path_factory.mktemp("world"),
        60,
        train=Training(steps=2, batch_size=4, learning_rate=2e-3, lora_rank=2),
        grid=(Block("alignment-loss", (1.0,)),),
    )


MADE = (
    "points.jsonl",
    "failures.jsonl",
    "data.json",
    "start.json",
    "landscape.json",
    "samples.json",
    "aligned/mine",
    "dial/mine",
    "unfinished/mine",
    "row-losses/mine",
    "experiment.yaml",
)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", MADE)
def test_what_trimtab_did_not_make_is_refused_and_left(
    name: str, restart: bool, experiment: Experiment, tmp_path: Path
) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    top = name.split("/")[0]
    with pytest.raises(UserError, match=rf"{top} is there, and trimtab has no record"):
        sweep(experiment, tmp_path, Watcher(), restart=restart)
    assert mine.read_text() == "mine"


def test_the_users_own_experiment_file_is_left(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = "# my notes\n" + to_yaml(experiment)
    (tmp_path / "experiment.yaml").write_text(mine)
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--restart"]):
        monkeypatch.setattr(
            sys, "argv", ["trimtab", "sweep", "experiment.yaml", "--out", ".", *more]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert Path("experiment.yaml").read_text() == mine


def test_restart_moves_aside_what_trimtab_made_and_nothing_else(
    experiment: Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for mine in ("models/mine", "data/mine", "notes.txt", "unfinished-audit/mine", "figures/mine"):
        (tmp_path / mine).parent.mkdir(exist_ok=True)
        (tmp_path / mine).write_text("mine")
    sweep(experiment, tmp_path, Watcher())
    (model,) = (path.name for path in (tmp_path / "models").iterdir() if path.is_dir())
    before = (tmp_path / "points.jsonl").read_bytes()
    asked = "asked/prompts/generations/aligned.jsonl"  # as 'dial set' leaves beside a dial
    (tmp_path / asked).parent.mkdir(parents=True)
    (tmp_path / asked).write_text("of the model that was")
    sweep(replace(experiment, seeds=(1,)), tmp_path, Watcher(), restart=True)
    for mine in ("models/mine", "data/mine", "notes.txt", "unfinished-audit/mine", "figures/mine"):
        assert (tmp_path / mine).read_text() == "mine"
    aside = tmp_path / "before-restart-1"
    assert (aside / "points.jsonl").read_bytes() == before
    assert (aside / asked).exists()
    assert not (tmp_path / asked).exists()
    assert (aside / "models" / model / "adapter_model.safetensors").exists()
    assert read_experiment(aside / "experiment.yaml").seeds == (0,)
    assert str(aside) in caplog.text
    assert [point.seed for point in read_points(tmp_path) if point.method is not ALIGNED] == [1]
    sweep(experiment, tmp_path, Watcher(), restart=True)
    assert (tmp_path / "before-restart-2/points.jsonl").exists()


@pytest.mark.parametrize(
    "broken",
    [
        {"model": "no-such-model"},
        {"data_root": "/nowhere"},
        {"task": {"shared": DataSource("none.jsonl")}},
    ],
)
def test_restart_reads_before_it_moves(
    broken: dict[str, object], experiment: Experiment, tmp_path: Path
) -> None:
    sweep(experiment, tmp_path, Watcher())
    before = (tmp_path / "points.jsonl").read_bytes()
    with pytest.raises(UserError):
        sweep(replace(experiment, **broken), tmp_path, Watcher(), restart=True)  # type: ignore[arg-type]
    assert (tmp_path / "points.jsonl").read_bytes() == before
    assert not (tmp_path / "before-restart-1").exists()


def test_restart_does_not_move_the_model_it_is_given(
    experiment: Experiment, tmp_path: Path
) -> None:
    aligned = replace(experiment, align=replace(experiment.train, lora_rank=None))
    sweep(aligned, tmp_path, Watcher())
    with pytest.raises(UserError, match="lies in what --restart moves aside"):
        sweep(replace(experiment, model=str(tmp_path / "aligned")), tmp_path, Watcher(), True)
    assert (tmp_path / "points.jsonl").exists()


def test_checkpoints_of_another_experiment_are_not_thrown_away(
    experiment: Experiment, tmp_path: Path
) -> None:
    slow = replace(experiment, train=replace(experiment.train, checkpoint_every=1))
    sweep(slow, tmp_path, Watcher())
    for name in ("points.jsonl", "failures.jsonl"):
        (tmp_path / name).unlink()
    (tmp_path / "unfinished/run/checkpoint-1").mkdir(parents=True)
    with pytest.raises(UserError, match="another experiment"):
        sweep(replace(slow, seeds=(1,)), tmp_path, Watcher())
    assert (tmp_path / "unfinished/run/checkpoint-1").exists()


@pytest.mark.parametrize("stage", ["aligning", "training", "dial"])
def test_a_stage_interrupted_before_its_end_goes_on_from_its_checkpoint(
    stage: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab.runner.dial import train_dial

    slow = replace(experiment.train, steps=4, checkpoint_every=2, lora_rank=None)
    changes = {
        "aligning": {"align": slow},
        "training": {"train": slow},
        "dial": {"train": slow, "dial": Dial(), "grid": ()},
    }
    variant = replace(experiment, **changes[stage])  # type: ignore[arg-type]

    def make(watcher: Watcher) -> None:
        if stage == "dial":
            train_dial(variant, tmp_path, watcher, restart=False)
        else:
            sweep(variant, tmp_path, watcher)

    class Stopped(Watcher):
        def stepped(self, steps: int) -> None:
            if steps == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(Stopped())
    again = Watcher()
    make(again)
    assert again.steps[0] == 3
    assert not any((tmp_path / "unfinished").rglob("checkpoint-*"))


def test_checkpoints_live_until_the_points_are_written(
    experiment: Experiment, tmp_path: Path
) -> None:
    class Stopped(Watcher):
        def measured(self, points: list[Point]) -> None:
            assert not any((tmp_path / "unfinished").rglob("checkpoint-*"))
            raise KeyboardInterrupt

    class Kept(PointsFile):
        def add(self, points: Iterable[Point]) -> None:
            points = list(points)
            if points and points[-1].method is not ALIGNED:
                raise KeyboardInterrupt
            super().add(points)

    slow = replace(experiment, train=replace(experiment.train, steps=4, checkpoint_every=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trimtab.runner.sweep.PointsFile", Kept)
        with pytest.raises(KeyboardInterrupt):
            sweep(slow, tmp_path, Watcher())
    assert list((tmp_path / "unfinished").rglob("checkpoint-4"))
    with pytest.raises(KeyboardInterrupt):
        sweep(slow, tmp_path, Stopped())
    assert len(read_points(tmp_path)) == 2


def test_checkpoints_of_points_that_are_written_go(experiment: Experiment, tmp_path: Path) -> None:
    sweep(experiment, tmp_path, Watcher())
    (run,) = plan_of(experiment).runs
    for name in (run.name, "another"):
        (tmp_path / "unfinished" / name / "checkpoint-2").mkdir(parents=True)
    sweep(experiment, tmp_path, Watcher())
    assert [path.name for path in (tmp_path / "unfinished").iterdir()] == ["another"]


@pytest.mark.parametrize(
    ("rank", "keep", "kept"),
    [(2, None, True), (2, False, False), (None, None, False), (None, True, True)],
)
def test_adapters_are_kept_unless_they_are_not_wanted(
    rank: int | None, keep: bool | None, kept: bool, experiment: Experiment, tmp_path: Path
) -> None:
    variant = replace(experiment, train=replace(experiment.train, lora_rank=rank), keep_models=keep)
    sweep(variant, tmp_path, Watcher())
    assert variant.keeps_models is kept
    assert (tmp_path / "models").exists() is kept


def test_the_last_lines_name_the_folder_of_the_model(
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = experiment.data_root
    command = f"trimtab train --model {experiment.model} --task {root}/data/task-shared.jsonl "
    command += f"--safety {root}/data/safety-near.jsonl --steps 1 --batch-size 2 --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    output = capsys.readouterr().out
    (answer,) = (line for line in output.splitlines() if "; the model is in " in line)
    load_model(answer.split("; the model is in ")[1].removesuffix("."))


@pytest.mark.parametrize("taken", ["a folder", "a file", "the model itself"])
def test_repair_writes_over_nothing(taken: str, experiment: Experiment, tmp_path: Path) -> None:
    model = Path(shutil.copytree(experiment.model, tmp_path / "model"))
    out = {"a folder": tmp_path / "other", "a file": tmp_path / "file"}.get(taken, model)
    if taken == "a folder":
        shutil.copytree(model, out)
    elif taken == "a file":
        out.write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="Give another --out"):
        repair_saved("wise-ft", 0.5, model, experiment.model, None, out)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def reading(rows: int) -> Reading:
    ones = np.ones(rows)
    return Reading(ones, ones, np.ones((rows, 2), np.float32), np.ones((rows, 4), np.float32))


@pytest.mark.parametrize("damage", [b"", b"{", b"PK\x03\x04", b"\0" * 40])
def test_a_damaged_stage_of_an_audit_is_made_again(damage: bytes, tmp_path: Path) -> None:
    for name, count in (("loss.json", 2), ("rows.npz", 2)):
        calls: list[int] = []

        def make(calls: list[int] = calls) -> int:
            calls.append(1)
            return len(calls)

        stages = StageCache(tmp_path, "one")
        kind = stages.result if name == "loss.json" else stages.reading
        produce = make if name == "loss.json" else lambda make=make: reading(make())
        kind(name[:4], produce)
        kind(name[:4], produce)
        (tmp_path / "unfinished-audit" / name).write_bytes(damage)
        kind(name[:4], produce)
        assert len(calls) == count


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("reading task chat v1", "reading task chat_v1"),
        ("similarity Near", "similarity near"),
        ("similarity près", "similarity prés"),
        ("x" * 300 + "a", "x" * 300 + "b"),
    ],
)
def test_stages_of_names_that_are_alike_are_kept_apart(
    first: str, second: str, tmp_path: Path
) -> None:
    stages = StageCache(tmp_path, "one")
    assert [stages.result(name, lambda name=name: name) for name in (first, second)] == [
        first,
        second,
    ]
    assert stages.result(first, lambda: "made again") == first
    files = [path.name.lower() for path in stages.folder.iterdir()]  # type: ignore[union-attr]
    assert len(set(files)) == 3  # with the mark, on a disk that is blind to case too


def test_an_audit_leaves_the_checkpoints_of_a_sweep(tmp_path: Path) -> None:
    checkpoint = tmp_path / "unfinished/run/checkpoint-2"
    checkpoint.mkdir(parents=True)
    stages = StageCache(tmp_path, "one")
    stages.result("loss", lambda: 1)
    StageCache(tmp_path, "another").finish()
    assert checkpoint.exists()


LENGTHS = Lengths(prompt=8, response=3)


@pytest.fixture(scope="module")
def answers(
    experiment: Experiment, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Callable[..., int], bytes]:
    """Answers of the model to nine prompts, and how they are written four at a time."""
    folder = tmp_path_factory.mktemp("proxy")
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in CONTEXTS[:9]))

    def write(out: Path, seed: int = 0, restart: bool = False) -> int:
        source = DataSource(str(prompts))
        return write_own_proxy(experiment.model, source, out, LENGTHS, 4, seed, Watcher(), restart)

    write(folder / "whole.jsonl")
    return write, (folder / "whole.jsonl").read_bytes()


def _lines(content: bytes, count: int) -> bytes:
    return b"".join(content.splitlines(keepends=True)[:count])


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda whole: b"",
    "one byte": lambda whole: whole[:1],
    "a batch": lambda whole: _lines(whole, 4),
    "a batch and a line": lambda whole: _lines(whole, 5),
    "a line cut short": lambda whole: _lines(whole, 6) + whole[len(_lines(whole, 6)) :][:30],
    "a line without its end": lambda whole: _lines(whole, 6)[:-1],
    "NULs after a line": lambda whole: _lines(whole, 3) + b"\0" * 50,
    "NULs after part of a line": lambda whole: _lines(whole, 3)[:-9] + b"\0" * 50,
    "NULs alone": lambda whole: b"\0" * 50,
    "all but the last line's end": lambda whole: whole[:-1],
    "all, and NULs": lambda whole: whole + b"\0" * 50,
    "all": lambda whole: whole,
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_proxy_that_was_cut_short_is_gone_on_with(
    cut: str, answers: tuple[Callable[..., int], bytes], tmp_path: Path
) -> None:
    write, whole = answers
    (tmp_path / "out.jsonl").write_bytes(CUTS[cut](whole))
    assert write(tmp_path / "out.jsonl") == 9
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def _own(count: int, end: str = "\n") -> bytes:
    """The user's own answers to the very same prompts."""
    records = [json.dumps({"prompt": text, "response": "mine"}) for text in CONTEXTS[:count]]
    return ("\n".join(records) + end).encode()


OTHERS: dict[str, bytes] = {
    "text": b"mine",
    "text and a line end": b"mine\n",
    "white space": b" ",
    "one row": _own(1),
    "one row without a line end": _own(1, ""),
    "a batch": _own(4),
    "more than a batch": _own(6),
    "all but one": _own(8),
    "all without a line end": _own(9, ""),
    "answers to other prompts": b'{"prompt": "x", "response": "y"}\n',
    "more rows than prompts": _own(9) + b'{"prompt": "x", "response": "y"}\n',
    "more rows without a line end": _own(9) + b"{",
    "bytes": b"\xff\xfe\x00m",
}


@pytest.mark.parametrize("content", OTHERS)
def test_a_proxy_changes_no_file_of_others(
    content: str, answers: tuple[Callable[..., int], bytes], tmp_path: Path
) -> None:
    write, whole = answers
    out = tmp_path / "out.jsonl"
    out.write_bytes(OTHERS[content])
    with pytest.raises(UserError, match=r"out.jsonl line \d"):
        write(out)
    assert out.read_bytes() == OTHERS[content]
    write(out, restart=True)
    assert out.read_bytes() == whole
    assert (tmp_path / "out.before-restart-1.jsonl").read_bytes() == OTHERS[content]


def test_a_proxy_does_not_go_on_under_other_settings(
    answers: tuple[Callable[..., int], bytes], tmp_path: Path
) -> None:
    write, whole = answers
    out = tmp_path / "out.jsonl"
    out.write_bytes(_lines(whole, 5))
    with pytest.raises(UserError, match="not what this model answers"):
        write(out, seed=1)
    assert out.read_bytes() == _lines(whole, 5)


def test_two_proxies_do_not_share_a_file(
    answers: tuple[Callable[..., int], bytes], tmp_path: Path
) -> None:
    import fcntl

    write, whole = answers
    out = tmp_path / "out.jsonl"
    out.write_bytes(_lines(whole, 3))
    with out.open("ab") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another trimtab is writing"):
            write(out)
    assert out.read_bytes() == _lines(whole, 3)
    write(out)
    assert out.read_bytes() == whole
