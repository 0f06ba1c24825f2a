"""Facts about the memory that a plan is said to take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from trimtab import AlignmentLossConstraint
from trimtab.config.data_source import DataSource
from trimtab.config.experiment import Block, Dial, Experiment, Measuring, Training
from trimtab.config.grid import plan_of
from trimtab.config.loading import Loading
from trimtab.models import ModelSize
from trimtab.runner.cost import TrainingAhead
from trimtab.runner.peak_memory import BatchSize, peak_memory, weight_bytes
from trimtab.stats import Array
from trimtab.train.baselines.case_one_by_share import CaseOneByShare
from trimtab.train.baselines.ewc import EWC
from trimtab.train.objectives.base import Objective
from trimtab.train.settings import lora_config

GIB = 2**30
QLORA = Loading("bfloat16", "nf4")
BATCH = BatchSize(tokens=8 * 1024, labelled=8 * 512)
"""Four task rows of 1,024 tokens, and as many safety rows beside them; a half is response."""


@pytest.fixture(scope="module")
def llama_2_7b() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def experiment(load: Loading, **training: Any) -> Experiment:
    return Experiment(
        model="meta-llama/Llama-2-7b-hf",
        task={"task": DataSource("t.jsonl")},
        safety={"safety": DataSource("s.jsonl")},
        grid=(Block("alignment-loss", (1.0,)),),
        load=load,
        train=Training(batch_size=4, **training),
    )


def memory(
    setup: Experiment,
    model: LlamaForCausalLM,
    batch: BatchSize = BATCH,
    device: str = "cuda",
) -> int:
    return peak_memory(setup, plan_of(setup), ModelSize.of(model), setup.load, batch, device)


def test_llama_2_7b_in_4_bits_takes_what_people_use(llama_2_7b: LlamaForCausalLM) -> None:
    """The figures of docs/large-models.md and of the recipe."""
    for load, gibibytes in ((QLORA, 8.1), (Loading("bfloat16"), 17.0), (Loading(), 31.9)):
        setup = experiment(load, lora_rank=16, gradient_checkpointing=True, precision="bfloat16")
        assert memory(setup, llama_2_7b) / GIB == pytest.approx(gibibytes, abs=0.05)


def test_an_adapter_on_a_whole_base_takes_its_weights_once(llama_2_7b: LlamaForCausalLM) -> None:
    parameters = ModelSize.of(llama_2_7b).parameters
    for load, size in ((Loading(), 4), (Loading("bfloat16"), 2)):
        setup = experiment(load, lora_rank=16, gradient_checkpointing=True)
        assert size * parameters < memory(setup, llama_2_7b) < size * parameters + 10 * GIB


def test_four_bits_are_half_a_byte_and_its_scales(llama_2_7b: LlamaForCausalLM) -> None:
    size = ModelSize.of(llama_2_7b)
    beside = 2 * (size.parameters - size.linear)
    for doubled, bytes_per_weight in ((True, 0.516), (False, 0.5625)):
        weights = weight_bytes(size, replace(QLORA, double_quantization=doubled))
        assert (weights - beside) / size.linear == pytest.approx(bytes_per_weight, abs=1e-3)
    assert beside == 2 * (2 * 32000 * 4096 + 65 * 4096)


def test_an_adapter_has_a_row_and_a_column_of_each_layer_for_each_rank(
    llama_2_7b: LlamaForCausalLM,
) -> None:
    adapter = lora_config(Training(lora_rank=16))
    assert adapter is not None
    sides = ModelSize.of(llama_2_7b).linear_sides
    adapted = get_peft_model(llama_2_7b, adapter)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    adapted.unload()
    assert trained == 16 * sides


def test_checkpointing_costs_less_and_the_reference_and_a_dial_more(
    llama_2_7b: LlamaForCausalLM,
) -> None:
    plain = experiment(QLORA, lora_rank=16, gradient_checkpointing=True)
    usual = memory(plain, llama_2_7b)
    assert memory(experiment(QLORA, lora_rank=16), llama_2_7b) > 3 * usual
    kl = replace(plain, train=replace(plain.train, safety_target="kl"))
    everything = BatchSize(tokens=8 * 1024, labelled=8 * 1024)
    mixed, mixed_kl = (
        replace(setup, train=replace(setup.train, precision="bfloat16")) for setup in (plain, kl)
    )
    assert memory(mixed_kl, llama_2_7b, everything) > memory(mixed, llama_2_7b, everything)
    dial = replace(plain, dial=Dial(), grid=(Block("dial", values=(0.5,)),))
    assert memory(dial, llama_2_7b) > usual


def test_all_weights_take_a_copy_of_the_start_and_four_of_what_is_trained(
    llama_2_7b: LlamaForCausalLM,
) -> None:
    setup = experiment(Loading(), gradient_checkpointing=True)
    weights = 4 * ModelSize.of(llama_2_7b).parameters
    assert 5 * weights < memory(setup, llama_2_7b) < 5 * weights + 10 * GIB
    penalised = replace(setup, grid=(Block("alignment-parameter", (0.1,)),))
    assert memory(penalised, llama_2_7b) - memory(setup, llama_2_7b) == weights


def test_gradients_that_a_pass_leaves_stand_beside_the_next_one(
    llama_2_7b: LlamaForCausalLM,
) -> None:
    once, twice = (
        memory(experiment(Loading(), accumulation=passes), llama_2_7b) for passes in (1, 2)
    )
    weights = 4 * ModelSize.of(llama_2_7b).parameters
    assert once < twice <= once + weights
    adapter = {"lora_rank": 16, "gradient_checkpointing": True}
    assert memory(experiment(QLORA, **adapter), llama_2_7b) == memory(
        experiment(QLORA, accumulation=2, **adapter), llama_2_7b
    )


def test_triton_forms_no_float32_logits_and_pytorch_seven_tensors_of_them(
    llama_2_7b: LlamaForCausalLM,
) -> None:
    setup = experiment(Loading(), lora_rank=16)
    few = BatchSize(tokens=64, labelled=64)
    more = replace(few, labelled=128)
    for device, bytes_per_label in (("cuda", 4 * 32_768), ("cpu", 4 * 32_768 + 7 * 4 * 32_000)):
        setup = replace(setup, measure=Measuring(tokens_per_batch=1))
        grown = memory(setup, llama_2_7b, more, device) - memory(setup, llama_2_7b, few, device)
        assert grown == pytest.approx(64 * bytes_per_label, abs=64 * 4096 * 200)


def test_the_batch_counted_is_the_largest_that_a_training_draws() -> None:
    training = Training(batch_size=2)
    case_one = AlignmentLossConstraint(1.0)
    task = np.array([[10.0, 4.0], [100.0, 40.0]])
    safety = np.array([[50.0, 5.0]])

    def largest(
        settings: Training,
        objective: Objective | None,
        task: Array = task,
        is_padded: bool = False,
        steps: int = 100,
    ) -> BatchSize:
        ahead = TrainingAhead(settings, objective, steps, task, safety if objective else None)
        return ahead.largest_batch(is_padded)

    assert largest(training, None) == BatchSize(200, 80)
    assert largest(training, case_one) == BatchSize(300, 90)
    assert largest(training, case_one, is_padded=True) == BatchSize(400, 90)
    assert largest(training, case_one, task[:1], is_padded=True) == BatchSize(200, 18)
    equal = replace(training, equal_rows=True)
    assert largest(equal, None, steps=1000) == BatchSize(400, 160)
    # EWC reads its safety rows once, before the first step: none ride along.
    assert largest(training, EWC(1.0)) == BatchSize(200, 80)
    by_share = CaseOneByShare(1 / 3)
    assert largest(training, by_share, task[1:]) == BatchSize(350, 125)
    packed = replace(training, packing=100)
    assert largest(packed, None, task[1:], is_padded=True) == BatchSize(200, 80)


def test_the_formula_is_within_its_factor_of_what_was_measured() -> None:
    """`make bench` measures: see benchmarks/memory.py."""
    file = Path(__file__).parents[2] / "benchmarks" / "results" / "memory.json"
    for line in json.loads(file.read_text()):
        assert 0.8 < line["predicted"] / line["measured"] < 1.25, line
