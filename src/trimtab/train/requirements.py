"""What an objective asks of a trainer before it begins, each with the way to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from datasets import Dataset
from torch.optim import Optimizer
from transformers.utils import is_liger_kernel_available

from trimtab.errors import UserError

if TYPE_CHECKING:
    from trl import SFTConfig

    from trimtab.train.objectives.base import Objective
    from trimtab.train.trainer import SafetyAwareSFTTrainer


def require_no_new_tokens(objective: Objective, args: SFTConfig | None) -> None:
    """Raises UserError where TRL is to add tokens to a model that was copied before."""
    template = getattr(args, "chat_template_path", None)
    if template is not None and not Path(template).is_file():
        raise UserError(
            f"{type(objective).__name__} copies the model before TRL adds the tokens of "
            f"chat_template_path={str(template)!r} to it. Give a template's .jinja file, or a "
            "model and a tokenizer that have them: trl.clone_chat_template makes both."
        )


def require_loss_kernel(trainer: SafetyAwareSFTTrainer) -> None:
    """Raises UserError where Liger's fused loss is asked for and cannot be had."""
    if not trainer.args.use_liger_kernel:
        return
    if trainer.length_bucketing:
        raise UserError(
            "use_liger_kernel gives a loss for a whole batch, and length_bucketing adds up losses "
            "by token. Set length_bucketing=False, or leave use_liger_kernel out."
        )
    if trainer.objective is not None and trainer.objective.has_own_loss:
        raise UserError(
            "use_liger_kernel gives a loss for a whole batch, and the objective weighs the tokens "
            "of task and safety rows apart. Leave use_liger_kernel out."
        )
    if not is_liger_kernel_available():
        raise UserError(
            "use_liger_kernel needs the package liger-kernel. Install it with pip install "
            "liger-kernel, or leave use_liger_kernel out."
        )


def require_mean_losses_of_text(trainer: SafetyAwareSFTTrainer) -> None:
    """Raises UserError where a loss is not a mean over the tokens of text."""
    if trainer.args.loss_type != "nll" or trainer.args.label_smoothing_factor > 0:
        raise UserError(
            "the objective takes mean losses over tokens: set loss_type='nll' and "
            "label_smoothing_factor=0."
        )
    if trainer.accelerator.num_processes > 1 and not trainer.args.average_tokens_across_devices:
        raise UserError(
            "the objective takes means over the tokens of all processes: set "
            "average_tokens_across_devices=True."
        )
    if trainer.compute_loss_func is not None:
        raise UserError("the objective has a loss of its own. Leave compute_loss_func out.")
    if trainer._is_vision_dataset:
        raise UserError("the objective is for text, and the task rows have images.")


def require_own_optimizer(trainer: SafetyAwareSFTTrainer, objective: Objective) -> None:
    """Raises UserError where an optimizer was made over other weights than those to be moved."""
    if trainer.optimizer is not None and objective.replaces_model:
        raise UserError(
            f"{type(objective).__name__} trains two ends in place of the model, which the "
            "optimizer given does not hold. Leave optimizers out; give optim in the config, or "
            "optimizer_cls_and_kwargs."
        )


def require_batches_of_one_size(trainer: SafetyAwareSFTTrainer, objective: Objective) -> None:
    """Raises UserError where batches may shrink, and the objective counts on their rows."""
    if trainer.args.auto_find_batch_size and objective.needs_safety:
        raise UserError(
            f"{type(objective).__name__} puts safety rows beside a set number of task rows, which "
            "auto_find_batch_size changes. Leave it out, and set per_device_train_batch_size and "
            "gradient_accumulation_steps."
        )


def require_rows_that_it_can_read(trainer: SafetyAwareSFTTrainer, objective: Objective) -> None:
    """Raises UserError where rows are streamed or packed, and the objective counts them."""
    name = type(objective).__name__
    if not isinstance(trainer.train_dataset, Dataset) and objective.needs_counted_rows:
        raise UserError(
            f"{name} counts the task rows or draws them itself, which a stream does not allow. "
            "Give a Dataset: Dataset.from_list(list(rows))."
        )
    if not isinstance(trainer.train_dataset, Dataset) and trainer.args.packing:
        raise UserError(
            f"{name} reads as many safety rows as a pack of task rows holds, which a stream does "
            "not tell. Set packing=False, or give a Dataset: Dataset.from_list(list(rows))."
        )
    if trainer.padding_free and objective.needs_padded_rows:
        raise UserError(
            f"{name} tells the rows of a batch apart: set padding_free=False and packing=False."
        )
    if trainer.args.packing and objective.chooses_rows:
        raise UserError(
            f"{name} chooses the rows to train on, and they are packed already: set packing=False."
        )
    if trainer.args.packing and objective.has_own_loss and not trainer.padding_free:
        raise UserError(
            "packing_strategy='wrapped' lets a sequence see the one before it. Set "
            "packing_strategy='bfd'."
        )


def require_no_sampling_of_rows(trainer: SafetyAwareSFTTrainer, objective: Objective) -> None:
    """Raises UserError where rows are to be sampled in a way, and the objective draws them."""
    strategy = trainer.args.train_sampling_strategy
    if strategy != "random" and objective.safety_share_at(0, trainer.args.seed) is not None:
        raise UserError(
            f"{type(objective).__name__} draws its rows itself, as many of either role as each "
            f"step's setting asks for. Leave train_sampling_strategy={strategy!r} out."
        )


def require_whole_model(trainer: SafetyAwareSFTTrainer) -> None:
    """Raises UserError where the weights are sharded over processes."""
    if is_sharded(trainer):
        name = type(trainer.objective).__name__
        raise UserError(
            f"{name} needs the whole model on every process: launch with plain data parallelism. "
            "FSDP2 shards alignment loss and parameter constraints, and dials."
        )


def require_shards_that_are_tensors(trainer: SafetyAwareSFTTrainer) -> None:
    """Raises UserError where weights are sharded otherwise than FSDP2 does, each by its rows."""
    if trainer.accelerator.distributed_type is DistributedType.DEEPSPEED:
        raise UserError(
            "DeepSpeed keeps weights in buffers of its own, where they cannot be compared with the "
            "aligned model's or copied: shard with FSDP2 (fsdp_version: 2), or launch with plain "
            "data parallelism."
        )
    if is_sharded(trainer) and not trainer.accelerator.is_fsdp2:
        raise UserError(
            "FSDP 1 flattens weights, so that they cannot be compared with the aligned model's or "
            "copied: set fsdp_version: 2."
        )


def require_float32_weights(trainer: SafetyAwareSFTTrainer) -> None:
    """Raises UserError where trained weights are in half precision."""
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    if any(weight.dtype != torch.float32 for weight in trained):
        raise UserError(
            "an alignment parameter constraint is kept to float32 rounding, and the trained "
            "weights are in half precision. Load them in float32; bf16=True in the config "
            "still computes in bfloat16."
        )


def require_that_what_is_trained_is_evaluated(
    trainer: SafetyAwareSFTTrainer, optimizer: Optimizer | None
) -> None:
    """Raises UserError where an optimizer trains other weights than those that are saved."""
    if isinstance(optimizer, AcceleratedOptimizer):  # once it has trained; it has an `eval` always
        optimizer = optimizer.optimizer
    name = type(optimizer).__name__
    optim = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    if optimizer is None and optim.startswith("schedule_free"):
        name = optim
    elif not callable(getattr(optimizer, "eval", None)):
        return
    raise UserError(
        f"{name} saves and evaluates other weights than those it trains, so that a radius, a "
        "penalty on the distance, a dial or a budget would not hold of them. Set "
        "optim='adamw_torch'."
    )


def is_sharded(trainer: SafetyAwareSFTTrainer) -> bool:
    """Whether no process has all weights."""
    sharded = trainer.accelerator.distributed_type is DistributedType.DEEPSPEED
    return bool(trainer.is_fsdp_enabled or sharded)
