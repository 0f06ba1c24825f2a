"""An adapter and the model that it changes: whether it fits, and the two as one."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from copy import copy
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, load_peft_weights
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from trimtab.errors import UserError

log = logging.getLogger(__name__)

_LITTLE = 0.1
"""What a sum may lose of a change without a word."""


def without_adapter(model: Any) -> Any:
    """The model that an adapter lies on; one without an adapter as it is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def merged_model(model: PeftModel, safe_merge: bool = False) -> PreTrainedModel:
    """The plain model that an adapter makes of its base, whose weights it is added to.

    A weight that an adapted layer shares with another, as an embedding does with the head, belongs
    to that layer alone from then on: the adapter acts on one of the two. What weights of 16 bits
    cannot hold of a small change is lost in the sum; where that is much, it is told.
    """
    lost = _rounded_away(model)
    if lost > _LITTLE:
        log.warning(
            "Merging an adapter into weights of 16 bits rounds away %.0f %% of what it changes, so "
            "that the model is not the one trained. Load weights in float32 (--dtype float32).",
            100 * lost,
        )
    adapted: dict[int, nn.Module] = {}
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            adapted[id(_adapted_weight(layer))] = layer.get_base_layer()
    for part in model.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None and adapted.get(id(weight), part) is not part:
                setattr(part, name, nn.Parameter(weight.detach().clone(), weight.requires_grad))
                model.get_base_model().config.get_text_config().tie_word_embeddings = False
                model.get_base_model().config.tie_word_embeddings = False
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=safe_merge)
    return merged


def _adapted_weight(layer: BaseTunerLayer) -> Any:
    """What a layer of an adapter adds to: of fused experts one of several weights."""
    return getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight"))


@torch.no_grad()
def _rounded_away(model: PeftModel) -> float:
    """‖round(W + Δ) − W − Δ‖/‖Δ‖ over the layers of a LoRA adapter on weights of 16 bits."""
    lost = moved = 0.0
    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        weight = _adapted_weight(layer)
        if weight.dtype not in (torch.bfloat16, torch.float16):
            continue
        for adapter in layer.active_adapters:
            if adapter in layer.scaling and hasattr(layer, "get_delta_weight"):
                delta = layer.get_delta_weight(adapter).float()
                change = (weight.float() + delta).to(weight.dtype).float() - weight.float()
                lost += float((change - delta).square().sum())
                moved += float(delta.square().sum())
    return math.sqrt(lost / moved) if moved else 0.0


def require_whole_adapter(
    name: str,
    source: str,
    adapter: PeftConfig,
    shape: PreTrainedModel,
    revision: str | None = None,
) -> None:
    """Its weights are all that its configuration asks for on a model of this shape, else UserError.

    `source` is where the adapter `name` lies.
    """
    config = copy(adapter)
    config.base_model_name_or_path = None  # PEFT warns of every base that goes by another name here
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = False
    expected = get_peft_model_state_dict(get_peft_model(shape, config))
    saved = load_peft_weights(source, device="cpu", revision=revision)
    shared = expected.keys() & saved.keys()
    require_all_weights(
        name,
        expected.keys() - saved.keys(),
        saved.keys() - expected.keys(),
        {key for key in shared if expected[key].shape != saved[key].shape},
    )


def require_all_weights(
    name: str, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[str]
) -> None:
    """Weights that a file lacks would be filled at random, and those nobody reads be lost."""
    wrong = [
        f"{what} {len(names)} (such as {names[0]})"
        for what, names in (
            ("lack", sorted(missing)),
            ("have another shape for", sorted(mismatched)),
            ("hold besides", sorted(unexpected)),
        )
        if names
    ]
    if wrong:
        raise UserError(
            f"model {name!r}: its weights are not those of its configuration: they "
            f"{', and '.join(wrong)}. Save the model again with save_pretrained, unwrapped and "
            "whole."
        )
