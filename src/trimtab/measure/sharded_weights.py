"""Weights that FSDP2 divides among processes (DTensors), and arithmetic on each process's own part.

Every function takes plain tensors too, which are their own only part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether the tensor's values are divided among processes."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor  # not where PyTorch is built without processes

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All values, of the same shape, on every process."""
    if not is_sharded(tensor):
        return tensor
    gathered: Tensor = tensor.full_tensor()
    return gathered


def shard_of(tensor: Tensor) -> Tensor:
    """What a process has of a tensor, however it is divided; a view."""
    if not is_sharded(tensor):
        return tensor
    shard: Tensor = tensor.to_local()
    return shard


def own_part(tensor: Tensor, dim: int) -> Tensor:
    """What a process has of a tensor that is divided along `dim`; a view where it is already."""
    if not is_sharded(tensor):
        return tensor
    part: Tensor = tensor.redistribute(placements=_along(dim, tensor)).to_local()
    return part


def of_own_parts(part: Tensor, dim: int, like: Tensor) -> Tensor:
    """The tensor whose `own_part` along `dim` is `part`, divided as `like` is, of its shape."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    divided = DTensor.from_local(
        part.contiguous(),
        like.device_mesh,
        _along(dim, like),
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
    return divided.redistribute(placements=like.placements)


def summed_over_parts(summand: Tensor, like: Tensor) -> Tensor:
    """Σ over the parts of `like` of what each contributes."""
    if not is_sharded(like):
        return summand
    from torch.distributed.tensor import DTensor, Partial, Replicate

    kinds = [Partial() if place.is_shard() else Replicate() for place in like.placements]
    return whole(DTensor.from_local(summand, like.device_mesh, kinds, run_check=False))


def reshard(model: nn.Module) -> None:
    """Drop gathered weights that a pass without a backward one leaves behind.

    Weights that change before the next pass would else be read as they were in the last.
    """
    if not torch.distributed.is_available():
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _along(dim: int, like: DTensor) -> list[Any]:
    from torch.distributed.tensor import Shard

    return [Shard(dim) if place.is_shard() else place for place in like.placements]
