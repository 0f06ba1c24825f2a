"""What an objective asks of a trainer before it begins, each with the way to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.optim import Optimizer
from transformers.utils import is_liger_kernel_available

from trimtab.errors import UserError, reason_of
from trimtab.measure.losses import evaluating
from trimtab.measure.reading import are_alike, few_tokens, next_log_probs
from trimtab.models import computes_in_float32, without_adapter
from trimtab.train.batches import model_inputs

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


def require_rows_read_alone(trainer: SafetyAwareSFTTrainer) -> None:
    """Raises UserError where what is trained on is not what the model says of each row alone.

    TRL's loss takes the model for a backbone and one linear head, and rows without padding for kept
    apart by their positions; both are asked of the model itself, on a few tokens.
    """
    model = trainer.model
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return
    kind = type(without_adapter(model))
    is_float32 = computes_in_float32(model) and not (trainer.args.bf16 or trainer.args.fp16)
    rows = [few_tokens(model, count, seed=count) for count in (7, 9)]
    device = next(model.parameters()).device
    alone = [torch.tensor([row], device=device) for row in rows]
    with torch.no_grad(), evaluating(model), trainer.accelerator.autocast():
        expected = [next_log_probs(model, {"input_ids": ids}) for ids in alone]
        first = alone[0]
        own = expected[0][:, :-1].gather(2, first[:, 1:, None])[..., 0]
        try:
            fused = model(input_ids=first, labels=first, fused_lm_head=True).log_probs
        except AttributeError as error:
            raise UserError(_untrainable(kind, reason_of(error))) from None
        if not are_alike(fused, own, is_float32):
            raise UserError(_untrainable(kind, "its head is more than one linear layer"))
        if trainer.padding_free and not _are_kept_apart(trainer, rows, expected[1], is_float32):
            raise UserError(
                f"{kind.__name__} lets sequences of a batch without padding see each other. Set "
                "packing=False and padding_free=False."
            )


def _are_kept_apart(
    trainer: SafetyAwareSFTTrainer, rows: list[list[int]], second: Tensor, is_float32: bool
) -> bool:
    """Whether the second of two rows is read in one batch without padding as it is read alone."""
    batch = trainer.data_collator([{"input_ids": row, "labels": row} for row in rows])
    device = second.device
    inputs = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in model_inputs(batch).items()
    }
    try:
        together = next_log_probs(trainer.model, {**inputs, "use_cache": False})  # as in training
    except Exception:  # as each model that cannot has its own
        return False
    return are_alike(together[:, -second.shape[1] :], second, is_float32)


def _untrainable(kind: type, reason: str) -> str:
    return (
        f"{kind.__name__} cannot be trained: TRL's loss is not the model's own ({reason}). Give "
        "another model."
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
