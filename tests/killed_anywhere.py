"""Kill a command at its n-th file operation, or fill its disk there; go on; compare.

`python tests/killed_anywhere.py` walks every operation of every command; `--full-disk` fills the
disk in place of the kill. A command is whole where what it leaves is bitwise what an undisturbed
run leaves.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

Fault = Literal["kill", "full disk"]

REMOVALS = ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
WRITES = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Ended:
    """How a run of a command ended, and the file operations that it came to."""

    status: int
    killed: bool
    told: str
    operations: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """What is run into a folder, and what of that folder must be the same afterwards."""

    name: str
    act: Callable[[Path], None]
    kept: Callable[[Path], Any]
    before: Path | None = None
    """What the folder holds before the command."""
    is_file: bool = False
    """Whether it writes one file, line by line, so that it is killed at a byte of that file."""


class Quiet:
    """A watcher who says nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


def run(command: Command, out: Path, at: int | None = None, fault: Fault = "kill") -> Ended:
    """Run `command` into `out` in a process of its own, with `fault` before operation `at`."""
    log, output = out.with_name(f"{out.name}.operations"), out.with_name(f"{out.name}.told")
    log.write_text("")
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = output.open("w", buffering=1)  # type: ignore[assignment]
        status = 1
        try:
            if command.is_file and at is not None and fault == "kill":
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (at, resource.RLIM_INFINITY))
            else:
                sys.addaudithook(_hook(out, log, at, fault))
            command.act(out)
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else bool(ended.code)
            print(ended.code if isinstance(ended.code, str) else "")
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, wait_status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(wait_status)
    operations = tuple(log.read_text().splitlines())
    return Ended(
        0 if killed else os.WEXITSTATUS(wait_status), killed, output.read_text(), operations
    )


def _hook(out: Path, log: Path, at: int | None, fault: Fault) -> Callable[[str, Any], None]:
    seen = 0
    # Below `out`, and beside it what is renamed to it.
    places = (str(out), str(out.with_name(f".{out.name}")))
    writer = os.open(log, os.O_WRONLY | os.O_APPEND)

    def hook(event: str, details: Any) -> None:
        nonlocal seen
        writes = event == "os.mkdir"
        if event == "open":
            mode, flags = details[1:]
            writes = (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or (
                isinstance(flags, int) and bool(flags & WRITES)
            )
        if not writes and (event not in REMOVALS or fault == "full disk"):
            return
        path = str(details[0])
        if not path.startswith(places) or path in (str(log), f"{out}.told"):
            return
        seen += 1
        os.write(writer, f"{event} {path.replace(str(out), '')}\n".encode())
        if at is None or seen < at:
            return
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    return hook


def disturbed(command: Command, out: Path, at: int, fault: Fault, whole: Any) -> str:
    """What becomes of a command that is disturbed before operation `at` and then run again."""
    _fresh(command, out)
    first = run(command, out, at, fault)
    if not first.killed and first.status == 0:
        return "not disturbed"
    complaint = ""
    if fault == "full disk":
        last = (first.told.strip().splitlines() or [""])[-1]
        if os.strerror(errno.ENOSPC) not in last:
            complaint = f", says {last[:100]!r}"
        elif "Traceback" in first.told:
            complaint = ", with a traceback"
    again = run(command, out)
    if again.status or again.killed:
        return f"stuck: {(again.told.strip().splitlines() or [''])[-1][:200]}"
    result = command.kept(out)
    return ("bitwise the same" if result == whole else f"differs: {_difference(result, whole)}") + (
        complaint
    )


def walk(command: Command, work: Path, fault: Fault, most: int | None = None) -> Counter[str]:
    """Disturb `command` at every operation, or at `most` of them evenly spread."""
    out = work / "out"
    _fresh(command, out)
    ended = run(command, out, fault=fault)
    assert ended.status == 0, ended.told
    assert not ended.killed
    whole, operations = command.kept(out), ended.operations
    if command.is_file and fault == "kill":
        operations = tuple(f"byte {byte}" for byte in range(out.stat().st_size))
    places = range(1, len(operations) + 1)
    if most is not None and most < len(places):
        places = [places[int((number + 0.5) * len(places) / most)] for number in range(most)]
    verdicts: Counter[str] = Counter()
    for at in places:
        verdict = disturbed(command, out, at, fault, whole)
        verdicts[verdict] += 1
        if verdict != "bitwise the same":
            print(f"{command.name} {at} {operations[at - 1]}: {verdict}", flush=True)
    print(f"{command.name}, {fault}, of {len(operations)} places: {dict(verdicts)}", flush=True)
    return verdicts


def _fresh(command: Command, out: Path) -> None:
    for path in (out, out.with_name(f".{out.name}.unfinished")):
        if path.is_file():
            path.unlink()
        shutil.rmtree(path, ignore_errors=True)
    if command.before is not None:
        shutil.copytree(command.before, out)


def _difference(result: Any, whole: Any) -> str:
    if isinstance(result, dict) and isinstance(whole, dict):
        names = [name for name in {*result, *whole} if result.get(name) != whole.get(name)]
        within = (f"{name} ({_difference(result.get(name), whole.get(name))})" for name in names)
        return ", ".join(sorted(within))[:300]
    return f"{result!s:.40} for {whole!s:.40}"


def points_and_files(folder: Path) -> dict[str, Any]:
    """The points but for their seconds, and every other result that is kept beside them."""
    lines = (folder / "points.jsonl").read_text().splitlines()
    points = {f"point {place}": json.loads(line) for place, line in enumerate(lines)}
    for point in points.values():
        del point["wall_seconds"]
    return points | files_of(folder, "models", "aligned", "row-losses", "dial")


def files_of(folder: Path, *names: str) -> dict[str, Any]:
    """The content of files and folders of `folder`, without what says how long a training took."""
    chosen = [folder / name for name in names]
    every = [*chosen, *(path for root in chosen for path in root.rglob("*"))]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in every
        if path.is_file() and path.name != "training.json"
    }


def commands(work: Path) -> dict[str, Command]:
    """Very small runs of every command that takes long enough to be interrupted."""
    from trimtab.cli import main
    from trimtab.config.data_source import DataSource
    from trimtab.config.experiment import Block, Experiment, Measuring, Training
    from trimtab.data.synthetic import CONTEXTS, RESPONSES, make_world, write_data
    from trimtab.models import quiet_libraries, save_tiny_llama
    from trimtab.runner.sweep import sweep

    quiet_libraries()
    world = make_world({"near": 0.1}, {"shared": 1.0})
    write_data(world, work, rows=120)
    save_tiny_llama([*CONTEXTS, *RESPONSES], work / "base", seed=0)
    training = Training(steps=2, batch_size=4, learning_rate=2e-3, checkpoint_every=1)

    def source(name: str) -> DataSource:
        return DataSource(f"data/{name}.jsonl", held_out_rows=8, repeats=True)

    experiment = Experiment(
        model=str(work / "base"),
        original=source("original"),
        safety={"near": source("safety-near")},
        task={"shared": source("task-shared")},
        align=training,
        train=replace(training, lora_rank=2),
        grid=(
            Block("alignment-loss", (1.0,)),
            Block("alignment-loss", budgets=(0.05,)),
            Block("alignment-parameter", radii=(0.5,)),
        ),
        measure=Measuring(resamples=50, landscape_rows=4),
        data_root=str(work),
    )

    def command_line(line: str) -> Callable[[Path], None]:
        def act(out: Path) -> None:
            sys.argv = ["trimtab", *line.split(), "--out", str(out)]
            main()

        return act

    def make_sweep(out: Path) -> None:
        try:
            sweep(experiment, out, Quiet())  # type: ignore[arg-type]
        except OSError as error:  # whoever calls the function sees this; the command line a line
            sys.exit(str(error))

    def report(out: Path) -> None:
        sys.argv = ["trimtab", "report", str(out)]
        main()

    data = f"--model {work}/base --task {work}/data/task-shared.jsonl "
    data += f"--safety {work}/data/safety-near.jsonl --max-prompt 8 --max-response 8 "
    few = "--steps 2 --batch-size 4 --checkpoint-every 1 --held-out-rows 8"
    rows = "--rows 40 --landscape-rows 4"
    proxy = f"proxy --model {work}/base --prompts {work}/data/safety-near.jsonl --max-prompt 8 "
    proxy += "--max-response 3 --batch-size 4"
    runs = [
        Command("sweep", make_sweep, points_and_files),
        Command("train", command_line(f"train {data}{few} --penalty 1"), points_and_files),
        Command(
            "dial train",
            command_line(f"dial train {data}{few}"),
            lambda out: files_of(out, "dial"),
        ),
        Command(
            "audit",
            command_line(f"audit {data}{rows}"),
            lambda out: files_of(out, "audit.json", "kept-task-shared.jsonl"),
        ),
        Command("proxy", command_line(proxy), lambda out: out.read_bytes(), is_file=True),
    ]
    finished = work / "finished"
    sweep(experiment, finished, Quiet())  # type: ignore[arg-type]
    shutil.copy(work / "world.npz", finished)
    runs.append(
        Command(
            "report",
            report,
            lambda out: files_of(out, "report.html", "figures", "points.jsonl"),
            finished,
        )
    )
    return {command.name: command for command in runs}


def main() -> None:
    """Walk the commands that are named, or all, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="sweep, train, 'dial train', audit, proxy, report")
    parser.add_argument("--full-disk", action="store_true", help="a full disk in place of the kill")
    parser.add_argument("--most", type=int, help="so many operations of each, evenly spread")
    arguments = parser.parse_args()
    fault: Fault = "full disk" if arguments.full_disk else "kill"
    with tempfile.TemporaryDirectory() as folder:
        every = commands(Path(folder))
        verdicts = [
            walk(every[name], Path(folder), fault, arguments.most)
            for name in arguments.names or every
        ]
    if any(set(counts) != {"bitwise the same"} for counts in verdicts):
        sys.exit(1)


if __name__ == "__main__":
    main()
