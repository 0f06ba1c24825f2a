"""Facts about how weights are held: what is small is frozen, and what is trained is float32."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.small_worlds import small_world
from tests.watchers import Watcher
from trimtab.config.experiment import Block, Dial, Experiment, Training
from trimtab.config.grid import plan_of
from trimtab.config.loading import Loading
from trimtab.config.yaml_io import parse_experiment, to_yaml
from trimtab.data.splits import read_roles
from trimtab.errors import UserError
from trimtab.measure.distance import norm
from trimtab.models import kept_as, load_model, loading, model_size, places
from trimtab.runner.runner import Runner
from trimtab.runner.sweep import sweep

pytestmark = pytest.mark.usefixtures("quiet")

LORA = Training(steps=2, batch_size=8, learning_rate=2e-3, lora_rank=4)
NF4 = Loading(quantization="nf4")
HALF = Loading(dtype="bfloat16")
EVERY = (HALF, NF4, Loading("bfloat16", "nf4"), Loading("bfloat16", "int8"))

needs_bitsandbytes = pytest.mark.skipif(
    loading.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return small_world(
        tmp_path_factory.mktemp("world"),
        200,
        train=LORA,
        dial=Dial(),
        grid=(Block("alignment-loss", (1.0,)),),
    )


def test_loading_is_read_from_yaml_and_written_back(experiment: Experiment) -> None:
    text = to_yaml(replace(experiment, load=Loading("bfloat16", "nf4", revision="v1")))
    assert "quantization: nf4" in text
    assert parse_experiment(text, "e.yaml").load == Loading("bfloat16", "nf4", revision="v1")
    with pytest.raises(UserError, match=r"load\.quantization is 'nf5'"):
        parse_experiment(text.replace("nf4", "nf5"), "e.yaml")


@pytest.mark.parametrize("load", [HALF, NF4, Loading(quantization="int8")])
def test_weights_that_are_small_are_not_trained(experiment: Experiment, load: Loading) -> None:
    with pytest.raises(UserError, match=r"train\.lora_rank"):
        replace(experiment, load=load, train=replace(LORA, lora_rank=None))
    with pytest.raises(UserError, match=r"align\.lora_rank|cannot be merged"):
        replace(experiment, load=load, align=replace(LORA, lora_rank=None))


def test_nothing_is_aligned_in_four_bits(experiment: Experiment) -> None:
    with pytest.raises(UserError, match=r"cannot be merged into nf4 weights.*dtype: bfloat16"):
        replace(experiment, load=NF4, align=LORA)


def test_a_missing_bitsandbytes_is_one_line(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install bitsandbytes"):
        load_model(experiment.model, NF4)


def test_a_half_precision_model_is_half_as_large(experiment: Experiment) -> None:
    whole, half = (load_model(experiment.model, loading)[0] for loading in (Loading(), HALF))
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    assert 2 * half.get_memory_footprint() == pytest.approx(whole.get_memory_footprint(), rel=0.01)


def test_auto_is_what_the_folder_was_saved_in(experiment: Experiment, tmp_path: Path) -> None:
    model, tokenizer = load_model(experiment.model, HALF)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_model(str(tmp_path), Loading("auto"))[0].dtype == torch.bfloat16
    assert kept_as(str(tmp_path), Loading("auto")).dtype == "bfloat16"
    variant = replace(
        experiment, model=str(tmp_path), load=Loading("auto"), train=replace(LORA, lora_rank=None)
    )
    with pytest.raises(UserError, match="in fewer than 32 bits"):
        Runner(variant, read_roles(variant), tmp_path / "out", Watcher())


@needs_bitsandbytes
@pytest.mark.parametrize("load", EVERY, ids=str)
@pytest.mark.parametrize(
    "block",
    [
        Block("alignment-loss", (1.0,)),
        Block("alignment-parameter", radii=(0.2,)),
        Block("dial", values=(0.0, 1.0)),
        Block("method", method="wise-ft", values=(0.5,)),
    ],
    ids=lambda block: block.method or block.case,
)
def test_an_adapter_is_trained_in_float32_on_small_weights_that_stay(
    experiment: Experiment, tmp_path: Path, load: Loading, block: Block
) -> None:
    def weights(model: nn.Module) -> str:
        digest = hashlib.sha256()
        for weight in model.parameters():
            digest.update(weight.detach().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    variant = replace(experiment, load=load, grid=(block,))
    runner = Runner(variant, read_roles(variant), tmp_path, Watcher())
    results: list[Any] = []
    train = runner._trained
    runner._trained = lambda *args: results.append(train(*args)) or results[-1]  # type: ignore[method-assign,func-returns-value]
    before = weights(runner.aligned)
    (run,) = plan_of(variant).runs
    points = runner.points_of(run)
    assert weights(runner.aligned) == before
    assert all(0 < point.distance < 10 for point in points)
    model = results[0].model
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in trained} == {torch.float32}
    base = {id(weight) for weight in trained}
    frozen = {weight.dtype for weight in model.parameters() if id(weight) not in base}
    plain = getattr(torch, load.dtype)
    small = {"none": set(), "nf4": {torch.uint8}, "int8": {torch.int8}}[load.quantization]
    assert frozen == {plain} | small


@needs_bitsandbytes
def test_a_folder_that_is_quantised_already_is_loaded_as_it_is(
    experiment: Experiment, tmp_path: Path
) -> None:
    model, tokenizer = load_model(experiment.model, Loading("bfloat16", "nf4"))
    model.save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    folder = str(tmp_path / "small")
    again, _ = load_model(folder, Loading("bfloat16"))
    assert again.is_loaded_in_4bit
    assert kept_as(folder, Loading("bfloat16")).quantization == "nf4"
    assert model_size(folder) == model_size(experiment.model)
    assert norm(again) == pytest.approx(norm(load_model(experiment.model)[0]), rel=0.03)
    variant = replace(experiment, model=folder, train=replace(LORA, lora_rank=None))
    with pytest.raises(UserError, match="in fewer than 32 bits"):
        Runner(variant, read_roles(variant), tmp_path / "out", Watcher())
    (start, point) = sweep(replace(experiment, model=folder), tmp_path / "points", Watcher())
    assert start.distance == 0 < point.distance


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_norm_of_quantised_weights_is_that_of_what_they_stand_for(
    experiment: Experiment, quantization: Any
) -> None:
    whole, small = (
        load_model(experiment.model, Loading(quantization=name))[0]
        for name in ("none", quantization)
    )
    assert norm(small) == pytest.approx(norm(whole), rel=0.03)


@needs_bitsandbytes
def test_an_adapter_is_not_merged_into_quantised_weights(
    experiment: Experiment, tmp_path: Path
) -> None:
    sweep(experiment, tmp_path, Watcher())
    (adapter,) = (tmp_path / "models").iterdir()
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 4
    with pytest.raises(UserError, match="cannot be merged into quantised weights"):
        load_model(str(adapter), NF4)


def written_gguf(path: Path, blocks: int) -> Path:
    """A Llama of two layers, of which `blocks` are in the file."""
    gguf = pytest.importorskip("gguf")
    file = gguf.GGUFWriter(path, "llama")
    file.add_block_count(2)
    file.add_context_length(64)
    file.add_embedding_length(32)
    file.add_feed_forward_length(64)
    file.add_head_count(2)
    file.add_head_count_kv(2)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(8)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (8, 32), "output": (8, 32), "output_norm": (32,)
    }  # fmt: skip
    for block in range(blocks):
        attention = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (32, 32))
        inner = {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
        norms = dict.fromkeys(("attn_norm", "ffn_norm"), (32,))
        parts: dict[str, tuple[int, ...]] = {**attention, **inner, **norms}
        shapes |= {f"blk.{block}.{name}": shape for name, shape in parts.items()}
    for name, shape in shapes.items():
        file.add_tensor(f"{name}.weight", np.ones(shape, dtype=np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def test_a_gguf_file_that_lacks_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "cache_folder", lambda: tmp_path / "cache")
    part = written_gguf(tmp_path / "part.gguf", blocks=1)
    with pytest.raises(UserError, match=r"lacks 9 weights of its model.*Give the whole file"):
        load_model(str(part))
    whole = written_gguf(tmp_path / "whole.gguf", blocks=2)
    with pytest.raises(UserError, match="tokenizer"):  # all its weights are there; it has no words
        load_model(str(whole))
    assert not list(tmp_path.glob("cache/*"))
