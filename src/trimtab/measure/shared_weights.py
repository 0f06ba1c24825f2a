"""A model once more without its weights once more: modules of its own over the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trimtab.measure.adapters import weights_beside_adapters
from trimtab.models import without_adapter

Model = TypeVar("Model", bound=nn.Module)


def sharing_all(model: Model) -> Model:
    """θ_s as modules of their own whose weights lie in the memory of `model`'s.

    An adapter put on the copy, its hooks, flags, configuration and gradients are the copy's alone,
    and nothing has to be taken off again: not even a training that is interrupted leaves a mark on
    `model`. Only who writes into a weight itself, as a merge does, needs a `deepcopy`.
    """
    weights = list(model.parameters())
    return _copied(model, ((weight, _sharing_memory(weight)) for weight in weights))


def sharing_frozen(model: Model) -> Model:
    """A copy of a trained model with a life of its own; weights that are not trained are shared.

    Of an adapter on a frozen base the adapter alone is copied, of a model whose weights are all
    trained everything is.
    """
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    return _copied(model, ((weight, weight) for weight in frozen))


def sharing_start(model: Model, start: nn.Module) -> Model:
    """A copy of a model to write into: what it shares are weights that are as `start`'s are.

    An adapter is always the copy's own, and so is every weight that the model differs from its
    start in, whether or not it is marked as trained: one that was read from a file is not.
    """
    starts = weights_beside_adapters(start, every_name=True)
    base = without_adapter(model)
    below = weights_beside_adapters(base, every_name=True)
    own = {
        id(weight)
        for name, weight in below.items()
        if weight.requires_grad or name not in starts or not _is_same(weight, starts[name])
    }
    return _copied(model, ((same, same) for same in below.values() if id(same) not in own))


def without_weights(model: Model) -> Model:
    """A copy of a model that takes no memory for weights until `fill` gives it some."""
    return _copied(model, ((weight, _without_values(weight)) for weight in model.parameters()))


def fill(
    copy: nn.Module, model: nn.Module, values_of: Callable[[Tensor], Tensor] = torch.clone
) -> None:
    """Give a copy weights and buffers of its own, with the values, places and shards of `model`'s.

    Weights that are tied in the model are tied in the copy. `values_of` makes the copy's weight of
    the model's.
    """
    copied_weights: dict[int, nn.Parameter] = {}
    for name, _ in list(copy.named_parameters(remove_duplicate=False)):
        weight = model.get_parameter(name)
        if id(weight) not in copied_weights:
            values = values_of(weight.detach())
            copied_weights[id(weight)] = nn.Parameter(values, requires_grad=weight.requires_grad)
        module, _, last = name.rpartition(".")
        setattr(copy.get_submodule(module), last, copied_weights[id(weight)])
    for name, _ in list(copy.named_buffers(remove_duplicate=False)):
        module, _, last = name.rpartition(".")
        setattr(copy.get_submodule(module), last, model.get_buffer(name).clone())


def _without_values(weight: nn.Parameter) -> nn.Parameter:
    empty = torch.empty_like(weight, device="meta")
    return nn.Parameter(empty, requires_grad=weight.requires_grad)


def _sharing_memory(weight: nn.Parameter) -> nn.Parameter:
    # A quantised weight is frozen, and its modules keep what they know of it on the weight itself.
    if type(weight) is not nn.Parameter:
        return weight
    return nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)


def _is_same(weight: nn.Parameter, start: nn.Parameter) -> bool:
    if (weight.shape, weight.dtype, weight.device) != (start.shape, start.dtype, start.device):
        return False
    return weight.data_ptr() == start.data_ptr() or torch.equal(weight.detach(), start.detach())


def _copied(model: Model, shared: Iterable[tuple[nn.Parameter, nn.Parameter]]) -> Model:
    memo: dict[int, Any] = {id(weight): copied_weight for weight, copied_weight in shared}
    for part in model.modules():
        for state in _quantisation_states(part):
            memo[id(state)] = state
    return deepcopy(model, memo)


def _quantisation_states(layer: nn.Module) -> Iterator[Any]:
    """What bitsandbytes needs beside a quantised weight: scales (4 bit), scales and codes (8)."""
    weight = getattr(layer, "weight", None)
    if isinstance(weight, nn.Parameter) and type(weight) is not nn.Parameter:
        for state in (getattr(layer, "quant_state", None), getattr(layer, "state", None)):
            if state is not None:
                yield state


def whole_weights(model: nn.Module) -> Iterator[Tensor]:
    """Every weight once, in the order of `parameters()`; a quantised one as what it stands for."""
    seen: set[int] = set()
    for layer in model.modules():
        for weight in layer.parameters(recurse=False):
            if id(weight) not in seen:
                seen.add(id(weight))
                yield _whole(layer, weight)


def _whole(layer: nn.Module, weight: nn.Parameter) -> Tensor:
    values = weight.detach()
    four_bit = getattr(weight, "quant_state", None)
    if four_bit is not None:
        from bitsandbytes.functional import dequantize_4bit  # not where nothing is quantised

        return dequantize_4bit(values, four_bit)
    if values.dtype != torch.int8:
        return values
    state: Any = getattr(layer, "state", None)
    quantised: Any = weight if state is None or state.SCB is None else state
    scales: Tensor = quantised.SCB
    return values.float() * (scales.to(values.device).float() / 127)[:, None]
