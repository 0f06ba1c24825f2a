"""What an experiment says of a training, as the trainers take it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig
from trl import SFTConfig

from trimtab.config.experiment import MethodName, Training
from trimtab.results.result import PointKey
from trimtab.train.baselines import method_of
from trimtab.train.baselines.method import Method
from trimtab.train.baselines.post_hoc import PostHocMethod
from trimtab.train.library_settings import lora_settings, sft_settings
from trimtab.train.objectives.constraints import (
    AlignmentLossConstraint,
    AlignmentParameterConstraint,
    Constraint,
    Target,
)
from trimtab.train.safety_stream import safety_rows_per_batch


def rows_by_role(args: SFTConfig, training: Training, method: Method) -> Training:
    """Set the rows of a batch; the training with the share of safety rows that this makes."""
    if method.safety_share is not None:
        rows = training.batch_size
        rows += safety_rows_per_batch(rows, training.safety_share)
        safety = min(max(1, round(method.safety_share * rows)), rows - 1)
        args.per_device_train_batch_size = rows - safety
        return replace(training, safety_share=safety / rows)
    if method.reads(0) != "both":
        take_more_task_rows(args, training)
    return training


def take_more_task_rows(args: SFTConfig, training: Training) -> Training:
    """Where rows are to be equal, take as many more task rows as safety rows would ride along.

    In the training returned the share of safety rows is such that they are as many as before.
    """
    if not training.equal_rows:
        return training
    safety = safety_rows_per_batch(training.batch_size, training.safety_share)
    args.per_device_train_batch_size += safety
    share = safety / (args.per_device_train_batch_size + safety)
    return replace(training, safety_share=share)


def method_of_key(key: PointKey) -> Method | PostHocMethod:
    """The method that a point is planned with."""
    assert key.method is not None
    assert key.knob is not None
    return method_of(cast(MethodName, key.method), key.knob)


def constraint_of(training: PointKey, target: Target) -> Constraint | None:
    """The constraint that a point is planned with; None is plain fine-tuning, or a method."""
    if training.case == "method" or training.penalty == 0:
        return None
    if training.budget is not None:
        if training.case == "alignment-loss":
            return AlignmentLossConstraint(budget=training.budget)
        return AlignmentParameterConstraint(budget=training.budget)
    if training.case == "alignment-loss":
        assert training.penalty is not None
        return AlignmentLossConstraint(training.penalty, target)
    return AlignmentParameterConstraint(penalty=training.penalty, radius=training.radius)


def sft_config(training: Training, folder: Path, seed: int) -> SFTConfig:
    """The settings of TRL's trainer; checkpoints go to `folder`."""
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": training.steps,
        "per_device_train_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.accumulation,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.schedule,
        "warmup_steps": training.warmup,
        "weight_decay": 0.0,
        "max_grad_norm": training.max_grad_norm,
        "max_length": None,
        "bf16": training.precision == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),  # bfloat16 refuses a CPU that was not asked for
        "gradient_checkpointing": training.gradient_checkpointing,
        "include_num_input_tokens_seen": "non_padding",
        "save_strategy": "no" if training.checkpoint_every is None else "steps",
        "save_steps": training.checkpoint_every or 500,
        "save_total_limit": 1,
        "logging_steps": 10,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": True,
        "report_to": "none",
        "seed": seed,
    }
    return SFTConfig(**(given | sft_settings(training)))


def lora_config(training: Training) -> LoraConfig | None:
    """The adapter to train; None trains all weights."""
    if training.lora_rank is None:
        return None
    given: dict[str, Any] = {
        "r": training.lora_rank,
        "lora_alpha": training.lora_alpha or 2 * training.lora_rank,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    }
    return LoraConfig(**(given | lora_settings(training)))
