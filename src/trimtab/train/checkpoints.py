"""The checkpoint that an interrupted training goes on from: the newest that is whole."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from zipfile import ZipFile

from safetensors import SafetensorError, safe_open

from trimtab.results.files import DAMAGE

log = logging.getLogger(__name__)

_STATE = "trainer_state.json"
_NEEDED = (_STATE, "optimizer.pt", "scheduler.pt")


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is whole; None where there is none.

    Those that are not are removed with a word, so that none of their files is mistaken for one of
    the checkpoint that is written in their place.
    """
    checkpoints = [(step, path) for path in folder.glob("checkpoint-*") if (step := _step(path))]
    for _, path in sorted(checkpoints, reverse=True):
        if is_whole(path):
            return path
        log.warning("%s was not written to its end: going on from before it.", path)
        shutil.rmtree(path)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint of Transformers' Trainer is there and can be read.

    The Trainer writes into the checkpoint's own folder and its state last, so that after a kill or
    on a full disk a readable state says that all before it was written, and while an old checkpoint
    is being removed a file is missing. It asks the disk for nothing, so that after a loss of power
    any file may be short or hold NULs: each is read, by its checksums where it has them.
    """
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    has_weights = any(name.endswith(".safetensors") for name in names)
    if not has_weights or not names.issuperset(_NEEDED):
        return False
    try:
        state = json.loads((checkpoint / _STATE).read_bytes())
        return state["global_step"] == _step(checkpoint) and all(map(_is_whole_file, files))
    except (*DAMAGE, SafetensorError):
        return False


def _is_whole_file(path: Path) -> bool:
    if path.suffix == ".json":
        json.loads(path.read_bytes())
    elif path.suffix == ".safetensors":
        with safe_open(path, "np"):  # it compares the header with the file's size
            return True
    elif path.suffix in (".pt", ".pth", ".bin"):
        with ZipFile(path) as archive:
            return archive.testzip() is None
    return True


def _step(checkpoint: Path) -> int | None:
    number = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(number[1]) if number else None
