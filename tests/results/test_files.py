"""Facts about files on disk: whole or not at all, and when damaged they cost what they hold."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.analysis.results import read_results
from trimtab.config.methods import CASE_1
from trimtab.config.run_spec import RunSpec
from trimtab.data.synthetic import load_world, make_world, write_data
from trimtab.errors import UserError
from trimtab.results.data_summary import DataSummary
from trimtab.results.files import (
    full_disk_told,
    only_writer,
    require_nothing_there,
    write_atomically,
    written_whole,
)
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Estimate, LocalGeometry, Point
from trimtab.results.samples import Answer, Sample, read_samples, write_samples
from trimtab.results.store import (
    Failure,
    PointsFile,
    read_failures,
    read_landscape,
    read_points,
    write_failures,
    write_landscape,
)

LOSS = Estimate(1.0, 0.9, 1.1, "nats per token", "estimate")


def point(seed: int) -> Point:
    return Point(
        spec=RunSpec(CASE_1, 1.0, "ünë", "code", seed),
        capability_loss=LOSS,
        distance=0.0,
        relative_distance=0.0,
        train_tokens=1,
        wall_seconds=0.0,
    )


def write_points(folder: Path, count: int) -> bytes:
    PointsFile(folder, {}).add(point(seed) for seed in range(count))
    return (folder / "points.jsonl").read_bytes()


LAST_LINES: dict[str, Callable[[bytes, bytes], tuple[bytes, int]]] = {
    "one byte of it": lambda before, last: (before + last[:1], 2),
    "half of it": lambda before, last: (before + last[: len(last) // 2], 2),
    "all but its brace": lambda before, last: (before + last[:-2], 2),
    "half of it, then NULs": lambda before, last: (before + last[: len(last) // 2] + b"\0" * 9, 2),
    "NULs with a line end": lambda before, last: (before + last[:9] + b"\0" * 9 + b"\n", 2),
    "NULs instead of it": lambda before, last: (before + b"\0" * len(last), 2),
    "NULs after it": lambda before, last: (before + last + b"\0" * 4096, 3),
    "a broken letter": lambda before, last: (before + last[:20] + "ü".encode()[:1], 2),
}


@pytest.mark.parametrize("damage", LAST_LINES)
def test_a_last_line_cut_short_is_left_out_with_a_word(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    *before, last = write_points(tmp_path, 3).splitlines(keepends=True)
    content, count = LAST_LINES[damage](b"".join(before), last)
    (tmp_path / "points.jsonl").write_bytes(content)
    assert [model.seed for model in read_points(tmp_path)] == [*range(count)]
    assert "points.jsonl" in caplog.text
    PointsFile(tmp_path, {}).add(point(seed) for seed in range(count, 3))
    assert (tmp_path / "points.jsonl").read_bytes() == b"".join([*before, last])


def test_a_last_line_without_its_end_is_a_point(tmp_path: Path) -> None:
    (tmp_path / "points.jsonl").write_bytes(write_points(tmp_path, 2)[:-1])
    assert len(read_points(tmp_path)) == 2


@pytest.mark.parametrize("line", [0, 1])
@pytest.mark.parametrize("damage", [b"{", b"\0\0\0", b"null", b"[]", b'{"case": 1}'])
def test_a_damaged_line_before_the_last_is_a_mistake(
    damage: bytes, line: int, tmp_path: Path
) -> None:
    lines = write_points(tmp_path, 3).splitlines()
    lines[line] = damage
    (tmp_path / "points.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UserError, match=rf"points.jsonl line {line + 1}: not a point"):
        read_points(tmp_path)


SPEC = RunSpec(CASE_1, 1.0, "near", "code", 0)
TERRAIN = LocalGeometry(LOSS, LOSS)
SAMPLE = Sample(True, "a prompt", (Answer(0.0, "an answer", ""),))


def data_of(folder: Path) -> object:
    write_points(folder, 1)
    return read_results(folder).data


def write_data_summary(folder: Path) -> None:
    summary = DataSummary("task", "code", "p", 1, 1, [])
    (folder / "data.json").write_text(json.dumps([asdict(summary)]))


def write_world(folder: Path) -> None:
    write_data(make_world({"near": 0.1}, {"shared": 1.0}), folder, rows=4)


def write_row_losses(folder: Path) -> None:
    RowLosses(folder).save("model", {"task:code": np.ones((2, 3))})


SIDE_FILES: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], object]] = {
    "failures.jsonl": (lambda f: write_failures(f, [Failure(SPEC, "out")]), read_failures, []),
    "landscape.json": (lambda f: write_landscape(f, {"original": TERRAIN}), read_landscape, {}),
    "samples.json": (lambda f: write_samples(f, [SAMPLE]), read_samples, ()),
    "data.json": (write_data_summary, data_of, ()),
    "world.npz": (write_world, load_world, None),
    "row-losses/model.npz": (
        write_row_losses,
        lambda folder: RowLosses(folder).of("task:code", "model"),
        None,
    ),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "all but the last bytes": lambda content: content[:-3],
    "NULs": lambda content: b"\0" * len(content),
    "another kind of file": lambda content: b"\x93NUMPY\x01\x00",
    "other JSON": lambda content: b'[{"one": [null]}, 3]',
    "a number": lambda content: b"7",
    "null": lambda content: b"null",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", SIDE_FILES)
def test_a_damaged_side_file_costs_what_it_holds(
    name: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write, read, nothing = SIDE_FILES[name]
    write(tmp_path)
    assert str(read(tmp_path)) != str(nothing)
    path = tmp_path / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert read(tmp_path) == nothing
    if path.read_bytes() or name != "failures.jsonl":
        (word,) = caplog.messages
        assert path.name in word
        assert "damaged" in word


def test_one_damaged_failure_costs_no_other(tmp_path: Path) -> None:
    write_failures(tmp_path, [Failure(replace(SPEC, seed=seed), "out") for seed in range(3)])
    path = tmp_path / "failures.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert [failure.spec.seed for failure in read_failures(tmp_path)] == [0, 1]


def test_a_damaged_world_is_written_again(tmp_path: Path) -> None:
    write_world(tmp_path)
    whole = (tmp_path / "world.npz").read_bytes()
    (tmp_path / "world.npz").write_bytes(whole[:50])
    write_world(tmp_path)
    assert load_world(tmp_path) is not None


@pytest.mark.parametrize("name", ["data/original.jsonl", "base/config.json"])
def test_a_world_is_not_written_over_the_files_of_others(name: str, tmp_path: Path) -> None:
    mine = tmp_path / name
    mine.parent.mkdir()
    mine.write_text("mine")
    for anyway in (False, True):
        with pytest.raises(UserError, match="Give another --out"):
            write_data(make_world({"near": 0.1}, {"shared": 1.0}), tmp_path, 4, replace=anyway)
    assert mine.read_text() == "mine"


def test_what_cannot_be_written_whole_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "after \ud800")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "before"


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    killed = subprocess.Popen(["true"])
    killed.wait()
    (tmp_path / f".file.{killed.pid}.unfinished").touch()
    living = tmp_path / f".file.{os.getppid()}.unfinished"
    living.touch()
    write_atomically(tmp_path / "file", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"file", living.name}


def test_a_folder_is_there_once_it_is_whole(tmp_path: Path) -> None:
    def write_half(folder: Path) -> None:
        with written_whole(folder) as unfinished:
            (unfinished / "weights").write_text("half")
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011  # whatever it is
        write_half(tmp_path / "model")
    assert not any(tmp_path.iterdir())
    with written_whole(tmp_path / "model") as unfinished:
        (unfinished / "weights").write_text("all")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model/weights").read_text() == "all"


@pytest.mark.parametrize("neighbour", ["model.tmp", "model.old", "model.1", "unfinished"])
def test_writing_a_folder_leaves_its_neighbours(neighbour: str, tmp_path: Path) -> None:
    (tmp_path / neighbour).mkdir()
    (tmp_path / neighbour / "mine").touch()
    with written_whole(tmp_path / "model"):
        pass
    assert (tmp_path / neighbour / "mine").exists()


def test_a_full_disk_is_an_oserror_whichever_library_meets_it(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="No space left on device") as raised,
        full_disk_told(tmp_path),
    ):
        torch.save({"weights": torch.zeros(1000)}, "/dev/full")
    assert raised.value.errno == errno.ENOSPC
    with pytest.raises(RuntimeError, match="another"), full_disk_told(tmp_path):
        raise RuntimeError("another")


def test_what_is_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for free in (tmp_path / "empty", tmp_path / "none"):
        require_nothing_there(free)
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="is there already"):
            require_nothing_there(taken)


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    with (
        only_writer(tmp_path),
        pytest.raises(UserError, match="another trimtab is writing"),
        only_writer(tmp_path),
    ):
        pass
    with only_writer(tmp_path):
        pass
