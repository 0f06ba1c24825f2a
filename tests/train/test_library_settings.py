"""Facts about what an experiment passes on to TRL and PEFT: all of it arrives, or is refused."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import TrainingArguments
from trl import SFTConfig

from trimtab.config.experiment import Measuring, Training
from trimtab.errors import UserError
from trimtab.train.library_settings import lora_settings, sft_settings
from trimtab.train.settings import lora_config, sft_config


def test_settings_of_trl_and_peft_arrive_in_their_types(tmp_path: Path) -> None:
    training = Training(
        sft={"weight_decay": "1e-2", "optim": "adamw_torch", "logging-steps": 1, "adam_beta2": 0.9},
        lora={"target_modules": "q_proj,v_proj", "r": 8, "lora_dropout": 0.1, "use_rslora": True},
    )
    args, adapter = sft_config(training, Measuring(), tmp_path, 0), lora_config(training)
    assert (args.weight_decay, args.adam_beta2, args.logging_steps) == (0.01, 0.9, 1)
    assert args.optim == "adamw_torch"
    assert adapter is not None
    assert adapter.target_modules == {"q_proj", "v_proj"}
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (8, 16, 0.1)
    assert adapter.use_rslora is True


def test_without_them_the_arguments_are_those_of_before(tmp_path: Path) -> None:
    args, adapter = (
        sft_config(Training(), Measuring(), tmp_path, 3),
        lora_config(Training(lora_rank=4)),
    )
    assert (args.weight_decay, args.report_to, args.max_steps, args.seed) == (0.0, [], 200, 3)
    assert adapter is not None
    assert (adapter.r, adapter.lora_alpha, adapter.target_modules) == (4, 8, "all-linear")


def test_a_librarys_name_for_a_setting_of_ours_is_that_setting() -> None:
    training = Training(sft={"num_train_epochs": 2}, lora={"r": 8, "lora_alpha": 32})
    assert (training.epochs, training.lora_rank, training.lora_alpha) == (2, 8, 32)
    assert (training.sft, training.lora) == ({}, {})


def test_epochs_count_the_steps_as_trl_does() -> None:
    assert Training(batch_size=4, epochs=2).for_rows(10).steps == 6
    assert Training(batch_size=4, epochs=2, accumulation=2).for_rows(10).steps == 4
    assert Training(batch_size=4).for_rows(10).steps == 200


@pytest.mark.parametrize(
    ("sft", "message"),
    [
        (
            {"wieght_decay": 0.1},
            "sft.wieght_decay is no field of trl.SFTConfig. Did you mean sft.we",
        ),
        ({"nonsense_xyz": 1}, "sft.nonsense_xyz is no field of trl.SFTConfig. Remove it."),
        ({"weight_decay": "heavy"}, "sft.weight_decay is 'heavy'. Give a value of type float."),
        ({"weight_decay": float("nan")}, "sft.weight_decay is nan. Give a finite number."),
        ({"weight_decay": 10**400}, "Give a value of type float."),
        ({"weight_decay": True}, "sft.weight_decay is True. Give a value of type float."),
        ({"adam_beta1": [0.9]}, "Give a value of type float."),
        ({"learning_rate": 0.1}, "sft.learning_rate is the setting learning_rate (--"),
        ({"max_steps": 3}, "sft.max_steps is the setting steps (--"),
        ({"output_dir": "x"}, "sft.output_dir cannot be set: trimtab places"),
        ({"max_length": 4}, "sft.max_length cannot be set: prompts and responses are cut"),
        ({"seed": 1}, "sft.seed cannot be set: it follows from the experiment's seeds."),
        ({"packing": True}, "sft.packing is the setting packing (--"),
        ({"packing_strategy": "wrapped"}, "sft.packing_strategy cannot be set: a pack holds whole"),
        ({"trust_remote_code": True}, "no code that comes with one is run"),
    ],
    ids=str,
)
def test_a_wrong_setting_of_trl_is_one_line(
    sft: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        sft_config(Training(sft=sft), Measuring(), tmp_path, 0)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"target_module": "q_proj"}, "Did you mean lora.target_modules?"),
        ({"bias": "some"}, "lora.bias is 'some'."),
        ({"lora_dropout": "much"}, "lora.lora_dropout is 'much'. Give a value of type float."),
        ({"task_type": "SEQ_CLS"}, "lora.task_type cannot be set"),
        ({"init_lora_weights": "pissa"}, "does not start at the aligned model"),
        ({"init_lora_weights": False}, "does not start at the aligned model"),
    ],
    ids=str,
)
def test_a_wrong_setting_of_peft_is_one_line(lora: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        lora_config(Training(lora_rank=4, lora=lora))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"target_modules": "q_proj"}, "no rank of the adapter. Give lora_rank (--lora-rank)."),
        ({"r2": 1}, "lora.r2 is no field of peft.LoraConfig. Did you mean r, the setting lora_ra"),
    ],
    ids=str,
)
def test_a_name_that_peft_does_not_know_is_told_before_a_rank_that_lacks(
    lora: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        lora_config(Training(lora=lora))


def test_the_nearest_field_may_be_a_setting_of_trimtab_itself() -> None:
    with pytest.raises(
        UserError, match=r"Did you mean the setting learning_rate \(--learning-rate"
    ):
        sft_settings(Training(sft={"learning_rat": 1}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lora": {"r": 8}, "lora_rank": 4}, "lora.r and lora_rank are one setting"),
        ({"lora": {"r": "eight"}}, "lora.r is 'eight'. Give a number."),
        ({"lora": {"r": 0}}, "lora_rank is 0. Give a whole number from 1"),
        ({"steps": 3, "epochs": 1}, "each says how long to train. Give one"),
        ({"sft": {"num_train_epochs": 1}, "steps": 3}, "Give one of them."),
    ],
    ids=str,
)
def test_what_is_said_twice_or_by_half_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        Training(**given)
    assert message in str(raised.value)


def test_every_field_is_passed_on_or_refused_with_a_reason(tmp_path: Path) -> None:
    """No name of either library is unknown to the check, whatever its type."""
    for field in fields(SFTConfig):
        if field.name == "num_train_epochs":
            continue  # is epochs
        with pytest.raises(UserError, match=rf"^sft\.{field.name} (?!is no field)"):
            sft_config(Training(sft={field.name: object()}), Measuring(), tmp_path, 0)
    for field in fields(LoraConfig):
        if field.name in ("r", "lora_alpha"):
            continue
        with pytest.raises(UserError, match=rf"^lora\.{field.name} (?!is no field)"):
            lora_config(Training(lora_rank=1, lora={field.name: object()}))


def test_names_and_numbers_of_lora_are_lists_where_peft_has_lists() -> None:
    def settings(**lora: Any) -> dict[str, Any]:
        return lora_settings(Training(lora_rank=4, lora=lora))

    assert settings(exclude_modules="q_proj") == {"exclude_modules": ["q_proj"]}
    assert settings(target_modules="all-linear") == {"target_modules": "all-linear"}
    assert settings(target_modules=".*q_proj") == {"target_modules": ".*q_proj"}
    assert settings(modules_to_save="lm_head") == {"modules_to_save": ["lm_head"]}
    assert settings(trainable_token_indices="3,4") == {"trainable_token_indices": [3, 4]}
    assert settings(trainable_token_indices=5) == {"trainable_token_indices": [5]}
    assert settings(layers_to_transform=1) == {"layers_to_transform": 1}
    with pytest.raises(UserError, match="it makes another model than the aligned one"):
        settings(layer_replication=[[0, 2], [0, 2]])


def test_of_several_gpus_without_a_launcher_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = property(lambda args: vars(args).get("_n_gpu", 2))
    monkeypatch.setattr(TrainingArguments, "n_gpu", counted)
    monkeypatch.setattr(TrainingArguments, "_setup_devices", torch.device("cpu"))
    assert sft_config(Training(), Measuring(), tmp_path, 0).n_gpu == 1
