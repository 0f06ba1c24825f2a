"""The aligned model: what a name stands for, loaded, measured in size, and on its device."""

from trimtab.models.adapters import merged_model, without_adapter
from trimtab.models.device import computes_in_float32, device_name, is_quantised, to_device
from trimtab.models.loading import (
    are_same_weights,
    as_one_folder,
    kept_as,
    load_model,
    load_tokenizer,
    model_shape,
    model_size,
    with_adapter,
)
from trimtab.models.places import (
    ModelFiles,
    adapter_base,
    cache_folder,
    model_files,
    model_parts,
    name_base_as_here,
    name_base_portably,
    weights_sha256,
)
from trimtab.models.quiet import quiet_libraries
from trimtab.models.size import ModelSize, limits_of
from trimtab.models.tiny_llama import save_tiny_llama

__all__ = [
    "ModelFiles",
    "ModelSize",
    "adapter_base",
    "are_same_weights",
    "as_one_folder",
    "cache_folder",
    "computes_in_float32",
    "device_name",
    "is_quantised",
    "kept_as",
    "limits_of",
    "load_model",
    "load_tokenizer",
    "merged_model",
    "model_files",
    "model_parts",
    "model_shape",
    "model_size",
    "name_base_as_here",
    "name_base_portably",
    "quiet_libraries",
    "save_tiny_llama",
    "to_device",
    "weights_sha256",
    "with_adapter",
    "without_adapter",
]
