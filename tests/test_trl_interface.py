"""The parts of other libraries that trimtab uses without a promise: an upgrade fails here first.

Their versions are bounded in pyproject.toml. When one of these fails, read what the library does
now where the part is used (`grep -r NAME src`), and move the bound.
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from transformers import Trainer
from trl import SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from tests.train import tiny
from trimtab import AlignmentLossConstraint

METHODS = {
    SFTTrainer: {
        "_prepare_dataset": (
            "dataset",
            "processing_class",
            "args",
            "packing",
            "formatting_func",
            "dataset_name",
        ),
        "compute_loss": ("model", "inputs", "return_outputs", "num_items_in_batch"),
        "log": ("logs", "start_time"),
    },
    Trainer: {
        "get_batch_samples": ("epoch_iterator", "num_batches", "device"),
        "_get_num_items_in_batch": ("batch_samples", "device"),
        "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
        "_save": ("output_dir", "state_dict"),
        "create_optimizer": ("model",),
        "get_tp_size": (),
        "_run_epoch": None,
    },
}


@pytest.mark.parametrize(
    ("owner", "name"), [(owner, name) for owner, names in METHODS.items() for name in names]
)
def test_a_method_that_is_used_or_replaced_takes_what_it_took(owner: type, name: str) -> None:
    expected = METHODS[owner][name]
    parameters = tuple(inspect.signature(getattr(owner, name)).parameters)[1:]
    assert expected is None or parameters == expected


def test_the_trainer_has_what_the_objectives_read_of_it(tmp_path: Path) -> None:
    arguments = tiny.config(tmp_path, logging_steps=1)
    trainer = tiny.trained(AlignmentLossConstraint(1.0), arguments, tmp_path)
    for name in (
        "completion_only_loss",
        "aux_loss_enabled",
        "router_aux_loss_coef",
        "padding_free",
        "_is_vision_dataset",
        "_formatting_func",
        "_tokenizer",
        "compute_loss_func",
        "current_gradient_accumulation_steps",
        "model_accepts_loss_kwargs",
    ):
        assert hasattr(trainer, name), name
    assert {"train", "eval"} <= set(trainer._metrics)
    assert {"task_loss", "safety_loss", "entropy"} <= set(trainer.state.log_history[-2])


def test_the_fused_head_gives_log_probabilities_by_token() -> None:
    names = {field.name for field in fields(FusedCausalLMOutput)}
    assert {"log_probs", "entropy", "is_top1", "label_mask", "aux_loss"} <= names
    assert "outputs" in inspect.signature(add_fused_lm_head).parameters


def test_adapters_are_held_where_they_are_looked_for() -> None:
    assert issubclass(LoraLayer, BaseTunerLayer)
    assert issubclass(ParamWrapper, LoraLayer)
    assert issubclass(MultiheadAttention, LoraLayer)
    assert issubclass(TrainableTokensLayer, BaseTunerLayer)
    source = inspect.getsource(LoraLayer.__init__) + inspect.getsource(ParamWrapper)
    for name in ("lora_A", "lora_B", "lora_embedding_A", "scaling", "lora_variant", "num_experts"):
        assert f"self.{name}" in source, name
    assert "modules_to_save" in inspect.getsource(ModulesToSaveWrapper)
