"""What an audit has found out already, kept in its folder so that an interrupted one goes on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from trimtab.measure.hidden_states import Reading
from trimtab.results.checksums import digest_of
from trimtab.results.files import read_arrays, read_if_whole, write_arrays, write_atomically

T = TypeVar("T")

STAGES_FOLDER = "unfinished-audit"

_LONGEST = 100


class StageCache:
    """Results by name; each is made once, in this run or an earlier one of the same audit.

    What an audit of other data or settings left is discarded. Without a folder nothing is kept.
    """

    def __init__(self, folder: Path | None, identity: str) -> None:
        self.folder = None if folder is None else folder / STAGES_FOLDER
        if self.folder is None:
            return
        mark = self.folder / "identity"
        if mark.exists() and mark.read_text(encoding="utf-8") == identity:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        write_atomically(mark, identity)

    def result(self, name: str, make: Callable[[], Any]) -> Any:
        """A result that JSON can hold."""

        def read(path: Path) -> Any:
            return json.loads(path.read_bytes())

        def write(path: Path, result: Any) -> None:
            write_atomically(path, json.dumps(result))

        return self._cached(f"{_file_name(name)}.json", read, write, make)

    def reading(self, name: str, make: Callable[[], Reading]) -> Reading:
        """What a model made of a data set's rows."""

        def read(path: Path) -> Reading:
            return Reading(**read_arrays(path))

        def write(path: Path, reading: Reading) -> None:
            arrays = {field.name: getattr(reading, field.name) for field in fields(Reading)}
            write_arrays(path, arrays)

        return self._cached(f"{_file_name(name)}.npz", read, write, make)

    def _cached(
        self,
        file_name: str,
        read: Callable[[Path], T],
        write: Callable[[Path, T], None],
        make: Callable[[], T],
    ) -> T:
        if self.folder is None:
            return make()
        path = self.folder / file_name
        result = read_if_whole(path, read, "it is made again")
        if result is None:
            write(path, make())
            result = read(path)  # through the disk, so that an audit that goes on has the very same
        return result

    def finish(self) -> None:
        """Forget the stages: the audit is written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _file_name(name: str) -> str:
    """The name where it is fit for a file on any disk, else what of it is and a sum of the rest.

    >>> _file_name("landscape"), _file_name("task chat v1"), _file_name("task chat_v1")
    ('landscape', 'task_chat_v1+48ac9c8c', 'task_chat_v1+d386ebd6')
    """
    fit = re.sub(r"[^a-z0-9.-]", "_", name.lower())[:_LONGEST]
    return fit if fit == name else f"{fit}+{digest_of(name)[:8]}"
