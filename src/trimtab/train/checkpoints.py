"""The checkpoint that an interrupted training goes on from: the newest that is whole."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path
from pickle import UnpicklingError
from zipfile import ZipFile

from safetensors import SafetensorError, safe_open

from trimtab.errors import UserError
from trimtab.results.files import DAMAGE
from trimtab.train.settings import is_to_be_sharded

log = logging.getLogger(__name__)

_STATE = "trainer_state.json"
_SCHEDULER = "scheduler.pt"
_INDEX = ".metadata"
"""Of a folder that several processes write into: where in which file each tensor lies."""


@dataclass(frozen=True)
class _Layout:
    """By what names Transformers' Trainer keeps weights and the optimizer's state."""

    weights: str
    optimizer: str
    of_fsdp: str | None = None
    """Accelerate's fsdp_state_dict_type; None where no weights are divided."""


_LAYOUTS = (
    _Layout("**/*.safetensors", "optimizer.pt"),
    _Layout("pytorch_model_fsdp.bin", "optimizer.bin", "FULL_STATE_DICT"),
    _Layout(f"pytorch_model_fsdp_0/{_INDEX}", f"optimizer_0/{_INDEX}", "SHARDED_STATE_DICT"),
)


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is whole; None where there is none.

    Those that are not are removed with a word, so that none of their files is mistaken for one of
    the checkpoint that is written in their place. What was written to its end and is of no known
    layout, such as DeepSpeed's, is moved aside instead.
    """
    checkpoints = [(step, path) for path in folder.glob("checkpoint-*") if (step := _step(path))]
    for _, path in sorted(checkpoints, reverse=True):
        if is_whole(path):
            return path
        if _layout_of(path) is None and _is_ended(path):
            aside = _move_aside(path)
            log.warning("%s is of no layout that can be gone on from: it is in %s.", path, aside)
        else:
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
    if _layout_of(checkpoint) is None or not _is_ended(checkpoint):
        return False
    try:
        return all(_is_whole_file(path) for path in checkpoint.rglob("*") if path.is_file())
    except (*DAMAGE, SafetensorError, UnpicklingError, FileNotFoundError):
        return False


def require_same_launch(checkpoint: Path) -> None:
    """Raises UserError where a checkpoint is of another way to divide weights than this launch's.

    The Trainer reads none but its own.
    """
    layout = _layout_of(checkpoint)
    written = layout.of_fsdp if layout else None
    asked = os.environ.get("FSDP_STATE_DICT_TYPE", written) if is_to_be_sharded() else None
    if is_to_be_sharded() == (written is not None) and asked == written:
        return
    was = f"under FSDP with fsdp_state_dict_type: {written}" if written else "without FSDP"
    raise UserError(
        f"{checkpoint} was written {was}, and this launch cannot go on from it. Launch as before, "
        f"or remove {checkpoint.parent} to train this model from its start."
    )


def _layout_of(checkpoint: Path) -> _Layout | None:
    for layout in _LAYOUTS:
        has_weights = any(path.is_file() for path in checkpoint.glob(layout.weights))
        named = (checkpoint / layout.optimizer, checkpoint / _SCHEDULER)
        if has_weights and all(path.is_file() for path in named):
            return layout
    return None


def _is_ended(checkpoint: Path) -> bool:
    """Whether the Trainer's state, its last file, is there and says that it is of this step."""
    try:
        state = json.loads((checkpoint / _STATE).read_bytes())
        return bool(state["global_step"] == _step(checkpoint))
    except (*DAMAGE, FileNotFoundError):
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
    elif path.name == _INDEX:
        return _are_whole_parts(path.parent)
    return True


def _are_whole_parts(folder: Path) -> bool:
    """Whether all that processes wrote into a folder is there: each tensor is a file by itself."""
    # Not where no weights are divided.
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    for part in FileSystemReader(folder).read_metadata().storage_data.values():
        with (folder / part.relative_path).open("rb") as file:
            file.seek(part.offset)
            with ZipFile(BytesIO(file.read(part.length))) as archive:
                if archive.testzip() is not None:
                    return False
    return True


def _move_aside(checkpoint: Path) -> Path:
    # The Trainer removes what has "checkpoint" in its name as it makes newer ones.
    numbered = (checkpoint.with_name(f"unread-{_step(checkpoint)}-{n}") for n in count(1))
    aside = next(path for path in numbered if not path.exists())
    checkpoint.rename(aside)
    return aside


def _step(checkpoint: Path) -> int | None:
    number = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(number[1]) if number else None
