"""What a PEFT adapter changes of the model it stands on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from trimtab.errors import UserError

B_IS_ZERO_AT_FIRST = (True, "gaussian", "eva")
"""The values of `init_lora_weights` at which a new adapter leaves the model exactly as it is."""

_WRAPPED = re.compile(r"\.(base_layer|original_module|token_adapter)(?=\.|$)")


@dataclass(frozen=True)
class LowRankAdapter:
    """The change s·BA of one weight of the base; for the shapes see `LowRankPart`."""

    weight_name: str
    """The changed weight's name in the model without the adapter."""
    a: nn.Parameter
    b: nn.Parameter
    scaling: float
    experts: int = 1
    bias: nn.Parameter | None = None
    """b of `lora_bias`: s·b is added to the layer's bias."""


def low_rank_adapters(model: PeftModel) -> list[LowRankAdapter]:
    """Every LoRA module of the active adapters.

    Raises:
        UserError: an adapter changes the weights otherwise than by adding s·BA, or is merged.
    """
    require_weights(model)
    return [
        adapter
        for name, layers in layers_by_name(model.get_base_model()).items()
        for adapter in low_rank_adapters_of(
            name,
            # The rows that single tokens train are weights by themselves.
            [layer for layer in layers if not isinstance(layer, TrainableTokensLayer)],
        )
    ]


def low_rank_adapters_of(name: str, layers: list[BaseTunerLayer]) -> list[LowRankAdapter]:
    """The LoRA modules that act in one layer, and in those that it wraps.

    Raises:
        UserError: as `low_rank_adapters` does.
    """
    if any(layer.merged for layer in layers):
        raise UserError(
            "the adapter is merged into its base, which is then no longer the model it started "
            "from. Take it out again: model.unmerge_adapter()."
        )
    adapters = [
        low_rank_adapter(name, layer, adapter)
        for layer in layers
        for adapter in active_adapters(layer)
    ]
    if len(adapters) > 1 and any(part.bias is not None for part in adapters):
        raise UserError(
            f"{name}: several adapters with lora_bias are active at once, whose biases add up. "
            "Leave one active: model.set_adapter(name)."
        )
    return adapters


def low_rank_adapter(name: str, layer: BaseTunerLayer, adapter: str) -> LowRankAdapter:
    """One LoRA module. Raises UserError where the layer's change is no product s·BA."""
    if not isinstance(layer, LoraLayer):
        raise _no_product(name, _kind_of(layer))
    if adapter in layer.lora_variant:
        raise _no_product(name, type(layer.lora_variant[adapter]).__name__)
    scaling = layer.scaling[adapter]
    if adapter in layer.lora_embedding_A:
        a, b = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
        return LowRankAdapter(f"{name}.weight", a, b, scaling)
    a, b = layer.lora_A[adapter], layer.lora_B[adapter]
    are_linear = isinstance(a, nn.Linear) and isinstance(b, nn.Linear)
    if not are_linear or isinstance(layer, MultiheadAttention):
        raise _no_product(name, _kind_of(layer))
    if isinstance(layer, ParamWrapper):
        return LowRankAdapter(
            f"{name}.{layer.parameter_name}", a.weight, b.weight, scaling, layer.num_experts
        )
    return LowRankAdapter(f"{name}.weight", a.weight, b.weight, scaling, bias=b.bias)


def active_adapters(layer: BaseTunerLayer) -> list[str]:
    """The adapters that act in a layer."""
    if layer.disable_adapters:
        return []
    containers = [getattr(layer, name, None) for name in layer.adapter_layer_names]
    modules = [
        module for module in containers if isinstance(module, nn.ModuleDict | nn.ParameterDict)
    ]
    return [
        adapter for adapter in layer.active_adapters if any(adapter in module for module in modules)
    ]


def layers_by_name(base: nn.Module) -> dict[str, list[BaseTunerLayer]]:
    """Adapted layers by their plain name; wrappers that stand in one another, outermost first."""
    layers: dict[str, list[BaseTunerLayer]] = {}
    for name, layer in base.named_modules():
        if isinstance(layer, BaseTunerLayer):
            layers.setdefault(plain_name(name), []).append(layer)
    return layers


def plain_name(name: str) -> str:
    """A parameter's or module's name in the model without the adapter.

    >>> plain_name("model.layers.0.q_proj.base_layer.weight")
    'model.layers.0.q_proj.weight'
    """
    return _WRAPPED.sub("", f".{name}")[1:]


def weights_beside_adapters(base: nn.Module, every_name: bool = False) -> dict[str, nn.Parameter]:
    """The weights that act when the adapter is switched off, by their plain name.

    One that two modules share goes by its first name, or by both with `every_name`.
    """
    owned = {id(weight) for weight in _adapter_weights(base)}
    return {
        plain_name(name): weight
        for name, weight in base.named_parameters(remove_duplicate=not every_name)
        if id(weight) not in owned
    }


def weights_in_place(base: nn.Module) -> dict[str, nn.Parameter]:
    """The weights beside the adapters, with the active copies of whole modules in their places."""
    present = weights_beside_adapters(base)
    for name, wrapper in base.named_modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            for adapter in wrapper.active_adapters:
                if adapter in wrapper.modules_to_save:
                    module = wrapper.modules_to_save[adapter]
                    present |= dict(module.named_parameters(prefix=plain_name(name)))
    return present


def merged_weights(name: str, layer: BaseTunerLayer) -> dict[str, nn.Parameter]:
    """A layer's weights with its active adapters merged in, in float64, by their plain name.

    Raises:
        UserError: PEFT cannot merge an adapter of this kind.
    """
    try:
        copy = deepcopy(layer).double()
        wrappers = [part for part in copy.modules() if isinstance(part, BaseTunerLayer)]
        for wrapper in reversed(wrappers):
            if not wrapper.merged:
                wrapper.merge(adapter_names=active_adapters(wrapper))
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"{name}: the adapter cannot be merged, so that its distance is not known ({error}). "
            "Use plain LoRA, or train all weights."
        ) from error
    return {f"{name}.{inner}": weight for inner, weight in weights_beside_adapters(copy).items()}


def not_at_its_base(model: PeftModel) -> str:
    """What to say of an adapter that changes the model at its start, and how to mend it."""
    init = getattr(model.active_peft_config, "init_lora_weights", True)
    if init in B_IS_ZERO_AT_FIRST:
        return (
            "the adapter already holds an update, so that its base is not the model that training "
            "starts from. Merge it first: model = model.merge_and_unload()."
        )
    if init == "orthogonal":
        return (
            "with init_lora_weights='orthogonal' both factors are far from zero at the start, and "
            "their product is zero to rounding only. Set init_lora_weights=True."
        )
    return (
        f"an adapter with init_lora_weights={init!r} does not start at its base, which is then not "
        "the model that training starts from. Load the model anew and set init_lora_weights=True."
    )


def require_weights(model: PeftModel) -> None:
    """Raises UserError where the adapter changes no weights."""
    config = model.active_peft_config
    if config.is_prompt_learning:
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        raise UserError(
            f"an adapter of kind {kind} changes no weights, so that it has no distance from the "
            "model it starts from. Use LoRA, or train all weights."
        )


def require_no_single_tokens(base: nn.Module) -> None:
    """Raises UserError where rows of an embedding are trained by themselves."""
    if any(isinstance(layer, TrainableTokensLayer) for layer in base.modules()):
        raise UserError(
            "rows of single tokens were trained (trainable_token_indices), which can be measured, "
            "and neither scaled nor added up. Merge them first: model = model.merge_and_unload()."
        )


def _adapter_weights(base: nn.Module) -> Iterator[nn.Parameter]:
    for layer in base.modules():
        if isinstance(layer, ModulesToSaveWrapper):
            yield from layer.modules_to_save.parameters()
        elif isinstance(layer, BaseTunerLayer):
            for name, weight in layer.named_parameters():
                if not name.startswith("base_layer."):
                    yield weight


def _kind_of(layer: BaseTunerLayer) -> str:
    tuner = type(layer).__module__.split(".")[2]
    return f"LoRA on {type(layer).__name__}" if tuner == "lora" else tuner


def _no_product(name: str, kind: str) -> UserError:
    return UserError(
        f"{name}: an adapter of kind {kind} does not change the weights by a product s·BA, so that "
        "trimtab can neither constrain nor scale its distance. Use plain LoRA, train all weights, "
        "or take an alignment loss constraint with a penalty."
    )
