"""What a model is called elsewhere: on the Hub, or by its folder's name alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trimtab.config.data_names import free_name
from trimtab.config.experiment import SMOLLM2

SMOLLM2_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What `smollm2` is a 4-bit copy of, so that its weights are near these and not the same."""


def hub_id(model: str) -> str | None:
    """The Hub id of a model as an experiment names it; None of a folder or a file.

    >>> hub_id("smollm2"), hub_id("org/model"), hub_id("/models/mine"), hub_id("mine.gguf")
    ('HuggingFaceTB/SmolLM2-135M-Instruct', 'org/model', None, None)
    """
    if model == SMOLLM2:
        return SMOLLM2_ON_HUB
    is_local = model.startswith(("/", ".", "~")) or model.endswith(".gguf") or Path(model).exists()
    return None if is_local else model


def public_name(model: str) -> str:
    """What a model may be called where others read it: its Hub id, or a name of no machine.

    >>> public_name("smollm2"), public_name("/models/mine")
    ('HuggingFaceTB/SmolLM2-135M-Instruct', 'mine')
    """
    return hub_id(model) or portable_name(model)


def is_missing_folder(model: str) -> bool:
    """Whether a name is a path by its form, and nothing is there.

    >>> is_missing_folder("./nowhere"), is_missing_folder("runs/models/none")
    (True, True)
    >>> is_missing_folder("org/model"), is_missing_folder("."), is_missing_folder("smollm2")
    (False, False, False)
    """
    is_path = model.startswith(("/", ".", "~")) or model.count("/") > 1
    return is_path and not Path(model).exists()


def judge_name(judge: str) -> str:
    """What a judge's judgements go by, where a model or an address may be given for it.

    >>> judge_name("phrases"), judge_name("qwen3guard=/models/guard")
    ('phrases', 'qwen3guard')
    """
    return judge.partition("=")[0]


def portable_names(paths: Iterable[str]) -> dict[str, str]:
    """A name of no machine for each path, numbered where another path has it already.

    >>> list(portable_names(["/home/me/task/train.jsonl", "/home/me/train.jsonl"]).values())
    ['train.jsonl', 'train-2.jsonl']
    """
    distinct = list(dict.fromkeys(paths))
    names = {path: path for path in distinct if portable_name(path) == path}
    for path in (path for path in distinct if path not in names):
        stem, dot, rest = portable_name(path).partition(".")
        suffix = dot + rest
        taken = [name.removesuffix(suffix) for name in names.values() if name.endswith(suffix)]
        names[path] = free_name(stem, taken) + suffix
    return names


def portable_name(path: str) -> str:
    """A name that tells nothing of this machine: of a path from its root, the last part.

    >>> portable_name("/home/me/task.jsonl"), portable_name("data/task.jsonl")
    ('task.jsonl', 'data/task.jsonl')
    """
    return Path(path).name if path.startswith(("/", "~", "..")) else path
