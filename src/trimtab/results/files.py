"""How results are kept: written whole or not at all, by one process at a time, read if damaged."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import UserError

T = TypeVar("T")

log = logging.getLogger(__name__)

_LOCK = ".lock"

DAMAGE = (ValueError, TypeError, LookupError, AttributeError, EOFError, BadZipFile)
"""What reading a file raises that was cut short, filled with NULs or holds something else."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write so that `path` holds either its old or its new content, never a part."""
    # Two processes may write one report; each has a file of its own until it is renamed.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync(path.parent)
    for leftover in path.parent.glob(f".{escape(path.name)}.*.unfinished"):
        process = leftover.name.split(".")[-2]
        if process.isdigit() and not is_running(int(process)):
            leftover.unlink(missing_ok=True)


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as JSON Lines, as `write_atomically` does; characters beyond ASCII escaped."""
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name as one .npz file, as `write_atomically` does."""
    packed = BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    write_atomically(path, packed.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file by name. Raises one of DAMAGE where it is not one."""
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def read_if_whole(path: Path, read: Callable[[Path], T], cost: str) -> T | None:
    """What `read` makes of `path`; None where it is missing or, with a word, where it is damaged.

    Args:
        cost: what the results are without, a clause.
    """
    if not path.exists():
        return None
    try:
        return read(path)
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        log.warning("%s is damaged (%s): %s.", path, reason, cost)
        return None


def parsed_lines(path: Path, parse: Callable[[Any], T], what: str, mend: str) -> Iterator[T]:
    """What `parse` makes of each line of JSON, in order.

    A last line that was cut short, or that holds NULs, is left out with a word.

    Args:
        what: what a line is, with its article, for the error.
        mend: how to go on without the file, the error's last words.

    Raises:
        UserError: another line is none.
    """
    content = path.read_bytes()
    # No line of JSON holds a NUL; a disk that lost power leaves them where a line was to be.
    *lines, last = content.rstrip(b"\0").split(b"\n")
    if last:
        lines.append(last)
    elif content.endswith(b"\0"):
        log.warning("%s ends in NULs: they are left out.", path)
    for number, line in enumerate(lines, start=1):
        try:
            yield parse(json.loads(line))
        except DAMAGE as error:
            if number == len(lines) and (last or b"\0" in line):
                log.warning("%s line %d was cut short: it is left out.", path, number)
                return
            raise UserError(
                f"{path} line {number}: not {what} of this version of trimtab "
                f"({type(error).__name__}: {error}). Restore the file, or {mend}."
            ) from None


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes `folder` when all is written.

    What `folder` held before is removed; callers that must not lose it ask
    `require_nothing_there` first.
    """
    folder = folder.resolve()
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with full_disk_told(unfinished):
            yield unfinished
        for path in unfinished.rglob("*"):
            _sync(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    _sync(folder.parent)


@contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """Raise an OSError for a full disk where a library that writes to `folder` raises its own.

    safetensors tells the system's words; PyTorch only that it is not where it meant to be.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        full = os.strerror(errno.ENOSPC)
        if full not in str(error) and "unexpected pos" not in str(error):
            raise
        raise OSError(errno.ENOSPC, full, str(folder)) from error


def require_nothing_there(out: Path) -> None:
    """Refuse an `out` that holds something. Raises UserError."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already. Give another --out, or remove it.")


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` against a second process that writes into it; freed by the system on any exit.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        hold(lock.fileno(), folder)
        yield


def has_writer(folder: Path) -> bool:
    """Whether some process holds `folder` as its `only_writer`."""
    try:
        with (folder / _LOCK).open() as lock:
            fcntl.flock(lock.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def hold(file: int, path: Path) -> None:
    """Lock an open file until it is closed. Raises UserError: another process has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{path}: another trimtab is writing here. Wait for it, or give another --out."
        ) from None


def is_running(process: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _sync(path: Path) -> None:
    """Have the disk hold what was written: a file's content, or a folder's names."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
