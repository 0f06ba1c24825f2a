"""Facts about loading: every weight of a model comes from its files, an adapter's too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from trimtab.errors import UserError
from trimtab.models import (
    load_model,
    load_tokenizer,
    merged_model,
    model_parts,
    model_size,
    save_tiny_llama,
)

WORDS = ["one", "two", "three"]
Weights = dict[str, Tensor]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_tiny_llama(WORDS, tmp_path / "base", seed=0)
    return tmp_path / "base"


def prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: weight for name, weight in weights.items()}


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: weight for name, weight in weights.items() if part not in name}


CHANGES: dict[str, Callable[[Weights], Weights]] = {
    "compiled": prefixed("_orig_mod."),
    "data parallel": prefixed("module."),
    "peft": prefixed("base_model.model."),
    "a layer lost": without("layers.1."),
    "embeddings lost": without("embed_tokens"),
    "norm lost": without("model.norm"),
    "one more": lambda weights: {**weights, "v_head.weight": torch.zeros(3)},
    "another shape": lambda weights: {
        name: weight[:-1].clone() if "up_proj" in name else weight
        for name, weight in weights.items()
    },
}


def refused(folder: Path) -> list[str]:
    """What loading and, without a weight read, planning say."""
    messages = []
    for look in (load_model, model_size):
        with pytest.raises(UserError) as caught:
            look(str(folder))
        messages.append(str(caught.value))
    assert all("\n" not in line for line in messages)
    return messages


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_do_not_fit_their_configuration_are_refused(base: Path, change: str) -> None:
    file = base / "model.safetensors"
    changed = CHANGES[change](load_file(file))
    save_file(
        {name: weight.clone() for name, weight in changed.items()}, file, metadata={"format": "pt"}
    )
    assert all(
        "its weights are not those of its configuration" in message for message in refused(base)
    )


@pytest.mark.parametrize(
    ("key", "value"), [("num_hidden_layers", 1), ("num_hidden_layers", 3), ("hidden_size", 48)]
)
def test_a_configuration_of_another_model_is_refused(base: Path, key: str, value: int) -> None:
    file = base / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    refused(base)


def test_torn_weights_are_one_line(base: Path) -> None:
    file = base / "model.safetensors"
    whole = file.read_bytes()
    for torn in (whole[:9999], b"version https://git-lfs.github.com/spec/v1\n", b""):
        file.write_bytes(torn)
        assert all("cannot be loaded" in line for line in refused(base))


def adapter(base: Path, config: PeftConfig, folder: Path) -> Tensor:
    """An adapter with weights of its own in `folder`; returns the logits of what it makes."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder)
    model.eval()
    logits: Tensor = model(torch.arange(5)[None]).logits.detach()
    return logits


ADAPTERS: dict[str, PeftConfig] = {
    "lora": LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
    "rslora": LoraConfig(r=2, use_rslora=True, task_type="CAUSAL_LM"),
    "dora": LoraConfig(r=2, use_dora=True, task_type="CAUSAL_LM"),
    "bias": LoraConfig(r=2, target_modules=["q_proj"], bias="lora_only", task_type="CAUSAL_LM"),
    "saved modules": LoraConfig(r=2, modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
    "ia3": IA3Config(task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_is_merged_into_the_model_it_names(
    base: Path, tmp_path: Path, kind: str
) -> None:
    logits = adapter(base, ADAPTERS[kind], tmp_path / "adapter")
    model, tokenizer = load_model(str(tmp_path / "adapter"))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert all(weight.requires_grad for weight in model.parameters())
    torch.testing.assert_close(model.eval()(torch.arange(5)[None]).logits, logits)
    assert tokenizer.get_vocab() == load_tokenizer(str(base)).get_vocab()
    assert model_size(str(tmp_path / "adapter")).layers == 2


def test_an_adapter_of_an_adapter_starts_from_both(base: Path, tmp_path: Path) -> None:
    adapter(base, ADAPTERS["lora"], tmp_path / "first")
    start, _ = load_model(str(tmp_path / "first"))
    tuned = get_peft_model(start, ADAPTERS["rslora"])
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    tuned.save_pretrained(tmp_path / "second")
    whole = tuned.eval()(torch.arange(5)[None]).logits
    again, _ = load_model(str(tmp_path / "second"))
    torch.testing.assert_close(again.eval()(torch.arange(5)[None]).logits, whole)


def test_an_adapter_that_lacks_weights_or_a_model_is_refused(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    adapter(base, ADAPTERS["lora"], folder)
    file = folder / "adapter_model.safetensors"
    whole = load_file(file)
    for change in (without("layers.1."), without("lora_B"), prefixed("module.")):
        save_file(change(whole), file)
        assert all("its weights are not those" in line for line in refused(folder))
    save_file(whole, file)
    shutil.move(base, tmp_path / "elsewhere")
    refused(folder)


def test_a_learned_prompt_is_refused(base: Path, tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    adapter(base, config, tmp_path / "adapter")
    assert all("is a learned prompt" in line for line in refused(tmp_path / "adapter"))


def test_a_padding_token_without_an_embedding_is_not_used(base: Path) -> None:
    _, tokenizer = load_model(str(base))
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    tokenizer.save_pretrained(base)
    assert load_model(str(base))[1].pad_token == "<eos>"


def test_a_tokenizer_without_an_end_is_one_line(base: Path) -> None:
    file = base / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "eos_token": None, "pad_token": None}))
    with pytest.raises(UserError, match="neither a padding nor an end-of-sequence token"):
        load_tokenizer(str(base))


def test_what_a_merge_into_16_bits_rounds_away_is_told(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def merged(dtype: torch.dtype, size: float) -> str:
        caplog.clear()
        model = load_model(str(base))[0].to(dtype)
        adapter: Any = get_peft_model(
            model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        )
        torch.manual_seed(0)
        for name, weight in adapter.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=size)
        merged_model(adapter)
        return caplog.text

    assert "rounds away" in merged(torch.bfloat16, 1e-4)
    assert merged(torch.bfloat16, 1.0) == ""
    assert merged(torch.float32, 1e-4) == ""


def test_a_model_is_another_by_its_weights_its_configuration_or_its_tokenizer(base: Path) -> None:
    before = model_parts(str(base))
    assert before.keys() == {"weights", "files"}

    def changed(name: str, content: str) -> set[str]:
        file = base / name
        original = file.read_text() if file.exists() else None
        file.write_text(content)
        now = model_parts(str(base))
        file.unlink()
        if original is not None:
            file.write_text(original)
        assert model_parts(str(base)) == before
        return {part for part in now if now[part] != before[part]}

    config = json.loads((base / "config.json").read_text())
    again = {"transformers_version": "9", **dict(reversed(config.items())), "_name_or_path": "x"}
    assert changed("config.json", json.dumps({**config, "rms_norm_eps": 1e-3})) == {"files"}
    assert changed("config.json", json.dumps({**again, "transformers_version": "9"})) == set()
    assert changed("generation_config.json", "{}") == set()
    assert changed("README.md", "a model") == set()
    for name in ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json"):
        assert changed(name, "{}") == {"files"}
    for name in ("merges.txt", "special_tokens_map.json", "chat_template.jinja"):
        assert changed(name, "") == {"files"}


def test_an_adapter_is_another_where_what_it_is_on_is(base: Path, tmp_path: Path) -> None:
    adapter(base, ADAPTERS["lora"], tmp_path / "adapter")
    before = model_parts(str(tmp_path / "adapter"))
    save_tiny_llama(WORDS, base, seed=1)
    after = model_parts(str(tmp_path / "adapter"))
    assert {part for part in before if after[part] != before[part]} == {"base weights"}
    config = tmp_path / "adapter/adapter_config.json"
    record = json.loads(config.read_text())
    config.write_text(json.dumps({**record, "base_model_name_or_path": "org/model"}))
    elsewhere = model_parts(str(tmp_path / "adapter"))
    assert (after["base name"], elsewhere["base name"]) == ("a folder", "org/model")
    config.write_text(json.dumps({**record, "lora_alpha": 99}))
    assert model_parts(str(tmp_path / "adapter"))["files"] != after["files"]
