"""What an experiment says of a training, as the trainers take it."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from transformers import PreTrainedModel

from trimtab.config.experiment import Experiment, Measuring, Training
from trimtab.config.methods import PLAIN
from trimtab.config.run_spec import RunSpec
from trimtab.errors import UserError
from trimtab.models import load_model
from trimtab.train.config import SafetyAwareSFTConfig
from trimtab.train.library_settings import lora_settings, sft_settings
from trimtab.train.methods import method_at
from trimtab.train.objectives.base import Objective
from trimtab.train.safety_stream import safety_rows_per_batch


def rows_by_role(training: Training, objective: Objective | None) -> tuple[int, int]:
    """How many rows of the task, and of the safety data where it is read, a batch holds.

    Where rows are to be equal, a step that reads no safety rows takes as many more task rows as
    safety rows would ride along, and safety rows elsewhere are as many as before.
    """
    safety = safety_rows_per_batch(training.batch_size, training.safety_share)
    rows = training.batch_size
    if objective is not None and objective.safety_share is not None:
        whole = rows + safety
        safety = min(max(1, round(objective.safety_share * whole)), whole - 1)
        rows = whole - safety
    elif training.equal_rows and (objective is None or objective.batch_roles(0) != "both"):
        rows += safety
    return rows, safety


def set_rows(args: SafetyAwareSFTConfig, training: Training, objective: Objective | None) -> None:
    """Give the trainer as many rows of each role a batch as `rows_by_role` says."""
    rows, safety = rows_by_role(training, objective)
    args.per_device_train_batch_size = rows
    args.safety_share = safety / (rows + safety)


def divide_among(
    processes: int, args: SafetyAwareSFTConfig, training: Training, objective: Objective | None
) -> None:
    """Give each of so many processes its part of a step, which stays that of one process.

    They take the step's batches in turn, and divide each where there are fewer.

    Raises:
        UserError: a batch has not as many rows of each role for every process that shares it.
    """
    in_turn = math.gcd(args.gradient_accumulation_steps, processes)
    sharing = processes // in_turn
    rows = args.per_device_train_batch_size
    safety = safety_rows_per_batch(rows, args.safety_share)
    reads_safety = (
        objective is not None and not objective.is_plain and objective.batch_roles(0) != "task"
    )
    if rows % sharing or (reads_safety and safety % sharing):
        beside = f" and {safety} of the safety data" if reads_safety else ""
        raise UserError(
            f"{processes} processes cannot share a step of {training.accumulation} batches of "
            f"{rows} rows of the task{beside}: give a batch_size or an accumulation that "
            f"{processes} divides, or start another number of processes."
        )
    args.gradient_accumulation_steps //= in_turn
    args.per_device_train_batch_size = rows // sharing


def objective_of(spec: RunSpec, experiment: Experiment) -> Objective | None:
    """The objective that a model is trained with; None is plain fine-tuning."""
    if spec.method is PLAIN or spec.is_plain:
        return None
    settings: dict[str, Any] = {}
    if spec.method.takes_target:
        settings["target"] = experiment.train.safety_target
    if spec.method.needs_unaligned:
        settings["unaligned"] = partial(unaligned_model, experiment)
    objective = method_at(spec.method, spec.value, **settings)
    assert isinstance(objective, Objective)
    return objective


def unaligned_model(experiment: Experiment) -> PreTrainedModel:
    """The model that an experiment aligns, as it is before."""
    return load_model(experiment.model, experiment.load)[0]


def sft_config(
    training: Training, measure: Measuring, folder: Path, seed: int
) -> SafetyAwareSFTConfig:
    """The settings of the trainer; checkpoints go to `folder`."""
    fields: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": training.steps,
        "per_device_train_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.accumulation,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.schedule,
        "warmup_steps": training.warmup,
        "weight_decay": 0.0,
        "max_grad_norm": training.max_grad_norm,
        "packing": training.packing is not None,
        "max_length": training.packing,
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
        "safety_share": training.safety_share,
        "validation_rows": training.validation_rows,
        "measured_tokens_per_batch": measure.tokens_per_batch,
    }
    fields |= sft_settings(training)
    is_padded = not (fields["packing"] or fields.get("padding_free"))
    fields["length_bucketing"] = training.length_bucketing and is_padded and not is_to_be_sharded()
    args = SafetyAwareSFTConfig(**fields)
    if not (args.bf16 or args.fp16):
        args.mixed_precision = "no"  # which a launcher's configuration would else decide
    if args.n_gpu > 1:  # and no launcher has begun a process for each: TRL refuses DataParallel
        args._n_gpu = 1
    return args


def is_to_be_sharded() -> bool:
    """Whether Accelerate was launched to divide weights among processes by FSDP."""
    return _is_set("ACCELERATE_USE_FSDP")


def require_whole_loading() -> None:
    """Raises UserError where a launcher has every process but the first load no weights.

    θ_s lies beside what is trained, and each process divides a copy that it loaded itself.
    """
    if is_to_be_sharded() and _is_set("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise UserError(
            "accelerate's configuration has fsdp_cpu_ram_efficient_loading: true, by which only "
            "the first process has weights to start from. Set it to false."
        )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


def lora_config(training: Training) -> LoraConfig | None:
    """The adapter to train; None trains all weights."""
    passed_on = lora_settings(training)
    if training.lora_rank is None:
        return None
    fields: dict[str, Any] = {
        "r": training.lora_rank,
        "lora_alpha": training.lora_alpha or 2 * training.lora_rank,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    }
    return LoraConfig(**(fields | passed_on))


def leaves_base_alone(config: PeftConfig | None) -> bool:
    """Whether an adapter writes nothing into the weights below it: biases it may train there."""
    return config is not None and getattr(config, "bias", "none") == "none"
