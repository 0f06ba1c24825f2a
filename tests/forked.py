"""Processes as `torchrun` starts them, forked from one that has imported what they need.

A process that imports Transformers, TRL and PEFT anew spends ten seconds of a core on it, more
than most tests do on what they show.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.multiprocessing import (
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from trimtab import cli

multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["tests.train.tiny", "trimtab.cli.commands", "trimtab.runner.sweep"]
)


LONGEST = 300.0
"""Seconds that processes may take."""


def run(
    *command: object, main: Callable[[], None] = cli.main, processes: int = 2
) -> subprocess.CompletedProcess[str]:
    """What `torchrun --nproc_per_node=PROCESSES` does with a module that has this main function.

    Where one process fails, the others are ended. What all of them print is returned.

    Raises:
        TimeoutExpired: they have not ended after `LONGEST`.
    """
    arguments = [main.__module__, *map(str, command)]
    status, raised = 0, ""
    with tempfile.TemporaryDirectory() as folder:
        process_arguments = (processes, _free_port(), main, arguments, Path(folder))
        started = start_processes(
            _as_launched, process_arguments, processes, join=False, start_method="forkserver"
        )
        end = time.monotonic() + LONGEST
        try:
            while not started.join(max(0.0, end - time.monotonic())):
                if time.monotonic() > end:
                    raise subprocess.TimeoutExpired(arguments, LONGEST)
        except (ProcessExitedException, ProcessRaisedException) as ended:
            status, raised = getattr(ended, "exit_code", 1), str(ended)
        finally:
            for process in started.processes:
                process.kill()
        out, err = (
            "".join(file.read_text() for file in sorted(Path(folder).glob(f"*.{stream}")))
            for stream in ("out", "err")
        )
    return subprocess.CompletedProcess(arguments, status, out, err + raised)


@contextmanager
def that_can_be_interrupted() -> Iterator[None]:
    """While a process is started, where a job in the background and its children ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _as_launched(
    rank: int,
    processes: int,
    port: int,
    main: Callable[[], None],
    arguments: list[str],
    folder: Path,
) -> None:
    """One of the processes."""
    for descriptor, stream in ((1, "out"), (2, "err")):
        with (folder / f"{rank}.{stream}").open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    sys.argv = arguments
    if processes > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
        }
    gc.freeze()  # what was imported: Transformers collects garbage after every training
    main()
