"""What an audit has found out already, kept in its folder so that an interrupted one goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.measure.reading import Reading
from trimtab.records import write_atomically

STAGES_FOLDER = "unfinished"


class Stages:
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
        if self.folder is None:
            return make()
        path = self.folder / f"{_file_name(name)}.json"
        if not path.exists():
            write_atomically(path, json.dumps(make()))
        return json.loads(path.read_text(encoding="utf-8"))

    def reading(self, name: str, make: Callable[[], Reading]) -> Reading:
        """What a model made of a data set's rows."""
        if self.folder is None:
            return make()
        path = self.folder / f"{_file_name(name)}.npz"
        if not path.exists():
            reading = make()
            unfinished = path.with_suffix(".tmp.npz")
            np.savez(
                unfinished,
                **{field.name: getattr(reading, field.name) for field in fields(Reading)},
            )
            unfinished.replace(path)
        with np.load(path) as arrays:
            return Reading(**{field.name: arrays[field.name] for field in fields(Reading)})

    def finish(self) -> None:
        """Forget the stages: the audit is written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)
