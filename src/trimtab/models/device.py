"""Where a model is: on the GPU where there is one, quantised or not."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def device_name() -> str:
    """Where models are trained and measured: the GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def is_quantised(model: PreTrainedModel) -> bool:
    """Whether some weights are in fewer than 16 bits."""
    return getattr(model, "hf_quantizer", None) is not None


def computes_in_float32(model: PreTrainedModel) -> bool:
    """Whether no weight is in 16 bits, and no quantised layer computes in them.

    LLM.int8() rounds what enters a layer to 8 bits, and so does not either.
    """
    in_memory = {weight.dtype for weight in model.parameters()}
    computed = {getattr(layer, "compute_dtype", None) for layer in model.modules()}
    return (in_memory | computed).isdisjoint({torch.bfloat16, torch.float16, torch.int8})


def to_device(model: PreTrainedModel) -> PreTrainedModel:
    """The model on the GPU where there is one; where loading has placed it already, it stays."""
    placed = is_quantised(model) or getattr(model, "hf_device_map", None)
    return model if placed else model.to(device_name())
