"""How many bytes the tensors that are alive hold."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def live_bytes(collected: bool = True) -> int:
    """The bytes of all tensors alive, each storage once; not `collected`, with what is garbage."""
    if collected:
        gc.collect()
    storages = {}
    for candidate in gc.get_objects():
        if isinstance(candidate, torch.Tensor) and candidate.device.type == "cpu":
            storage = candidate.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@contextmanager
def before_each_forward(model: nn.Module) -> Iterator[list[int]]:
    """The live bytes whenever the model begins to compute."""
    seen: list[int] = []

    def look(*args: object) -> None:
        seen.append(live_bytes())

    hook = model.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        hook.remove()
