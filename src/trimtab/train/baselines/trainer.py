"""trl.SFTTrainer under a published method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig

from trimtab.config.experiment import Measuring
from trimtab.errors import UserError
from trimtab.train.baselines.method import Method, Step
from trimtab.train.baselines.scoring import label_log_probs
from trimtab.train.reference import AlignedReference
from trimtab.train.safety_stream import ROLE, Batch, SafetyStream, join
from trimtab.train.trainer import SafetyAwareSFTTrainer


class MethodTrainer(SafetyAwareSFTTrainer):
    """`trl.SFTTrainer` with the hooks of a `Method`; with `Method()` itself it is plain.

    Batches, token counts and safety rows are those of `SafetyAwareSFTTrainer`.

    Args:
        method: what to train by.
        safety_dataset: proxy safety data D_ŝ.

    Raises:
        UserError: the method lacks the safety rows it needs, or a θ_s to compare with (an adapter
            that already holds an update); it keeps state and is to be checkpointed; or there are
            several processes.
    """

    train_dataset: Dataset

    def __init__(
        self,
        model: PreTrainedModel,
        method: Method,
        args: SFTConfig,
        train_dataset: Dataset,
        safety_dataset: Dataset | None = None,
        safety_share: float = 0.5,
        length_bucketing: bool = False,
        measured_tokens_per_batch: int = Measuring.tokens_per_batch,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        name = type(method).__name__
        if method.needs_safety and safety_dataset is None:
            raise UserError(f"{name} needs safety rows. Give safety_dataset.")
        if method.keeps_state and args.save_strategy != "no":
            raise UserError(
                f"{name} learns what a checkpoint does not hold, so a run cannot go on from one. "
                "Leave checkpoint_every out, or set save_strategy='no'."
            )
        super().__init__(
            model,
            args=args,
            train_dataset=train_dataset,
            safety_share=safety_share,
            length_bucketing=length_bucketing,
            measured_tokens_per_batch=measured_tokens_per_batch,
            processing_class=processing_class,
            peft_config=peft_config,
            callbacks=callbacks,
        )
        if self.accelerator.num_processes > 1:
            raise UserError("published methods train in one process. Launch without torchrun.")
        self._require_mean_losses_of_padded_batches()
        self.method = method
        self.model_accepts_loss_kwargs = True
        if method.needs_reference:
            self.reference = AlignedReference(self.model)
        self.rows_beside: SafetyStream | None = None
        if safety_dataset is not None:
            self.rows_beside = self._open_safety_stream(safety_dataset, safety_share)
        safety = self.rows_beside.rows if self.rows_beside else None
        self.train_dataset = method.rows(self, self.train_dataset, safety)
        method.prepare(self)
        self.add_callback(_Hooks(self))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, tokens
        none = torch.tensor(0)
        reads = self.method.reads(self.state.global_step)
        if reads == "task":
            return batches, torch.stack([torch.as_tensor(tokens).cpu(), none])
        safety = [
            self._safety_batch(place, len(one["labels"]), reads == "safety")
            for place, one in enumerate(batches)
        ]
        safety_tokens = torch.as_tensor(self._get_num_items_in_batch(safety, device)).cpu()
        if reads == "safety":
            for batch in safety:
                batch[ROLE] = torch.ones(len(batch["labels"]), 1, dtype=torch.bool)
            return safety, torch.stack([none, safety_tokens])
        pad_token_id = self._tokenizer.pad_token_id
        joined = [join(*pair, pad_token_id) for pair in zip(batches, safety, strict=True)]
        return joined, torch.stack([torch.as_tensor(tokens).cpu(), safety_tokens])

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        assert isinstance(num_items_in_batch, Tensor)
        labels = inputs["labels"]
        task_tokens, safety_tokens = num_items_in_batch.to(labels.device)
        is_safety = inputs.pop(ROLE, None)
        if is_safety is None:
            is_safety = torch.zeros(len(labels), 1, dtype=torch.bool, device=labels.device)
        logits = None
        if self.method.needs_logits:
            read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            routing = {"output_router_logits": True} if self.aux_loss_enabled else {}
            outputs = model(**read, use_cache=False, **routing)
            logits = outputs.logits
            router_loss = self._part_of_router_loss(outputs)
            log_probs = label_log_probs(logits, labels)
        else:
            log_probs = self._log_probs(model, inputs, num_items_in_batch.sum())
            router_loss = self._router_loss
        step = Step(model, inputs, -log_probs, is_safety, task_tokens, safety_tokens, logits)
        loss = self.method.loss(step) + router_loss
        self._refuse_divergence(loss)
        return loss

    def _safety_batch(self, place: int, task_rows: int, alone: bool) -> Batch:
        assert self.rows_beside is not None
        stream = self.rows_beside
        if alone:
            stream = SafetyStream(stream.rows, stream.collate, task_rows, stream.seed)
        return stream.batch(self._batch_number(place))


class _Hooks(TrainerCallback):
    def __init__(self, trainer: MethodTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **handles: Any,
    ) -> None:
        self.trainer.method.before_optimizer_step(self.trainer)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **handles: Any,
    ) -> None:
        self.trainer.method.after_optimizer_step(self.trainer)
