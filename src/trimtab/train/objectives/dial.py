"""One training that holds the whole frontier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import DistributedType
from datasets import Dataset
from peft import PeftConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig

from trimtab.config.experiment import Dial
from trimtab.errors import UserError
from trimtab.train.objectives.constraints import AlignmentLossConstraint, Target
from trimtab.train.objectives.endpoints import new_endpoints
from trimtab.train.safety_stream import Batch
from trimtab.train.trainer import SafetyAwareSFTTrainer


class DialTrainer(SafetyAwareSFTTrainer):
    """Trains θ(α) = θ_s + α·Δ_task + (1 − α)·Δ_safe for every α in [0, 1] at once.

    Each optimizer step draws a setting α and takes a step of Case I at its penalty λ(α),

        loss = (L_f(θ(α)) + λ(α)·L_ŝ(θ(α))) / (1 + λ(α)),

    whose gradient g at θ(α) moves Δ_task by α·g and Δ_safe by (1 − α)·g. Dividing by 1 + λ leaves
    each step's optimum where it is and keeps the steps of a large λ from drowning the others. The
    setting is `Dial.setting_of_step`, a function of the seed and the number of the step alone: all
    batches and processes of a step share it, and a resumed run meets the same ones.

    With a `peft_config` each displacement is a LoRA adapter of its rank, otherwise a copy of all
    weights: training then keeps three copies of the model and the optimizer's state of two.
    `ends` holds the result.

    Args:
        model: θ_s, where both displacements start from zero.
        dial: the penalties at the ends of the dial and how settings are drawn.
        safety_target: what is asked of safety rows, as `AlignmentLossConstraint.target` says.
        args, train_dataset, safety_dataset, safety_share, length_bucketing, processing_class,
            callbacks, peft_config: as for `SafetyAwareSFTTrainer`.

    Raises:
        UserError: an adapter other than plain LoRA; all weights, where they are sharded over
            processes or the gradient is in float16.

    Source: Dimitriadis, Frossard and Fleuret, "Pareto Low-Rank Adapters: Efficient Multi-Task
    Learning with Preferences", ICLR 2025, arXiv 2407.08056; learning a line of models, Wortsman et
    al., "Learning Neural Network Subspaces", ICML 2021, arXiv 2102.10472. The penalty along the
    dial, the normalisation and the sequence of settings are this project's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        dial: Dial,
        args: SFTConfig | None = None,
        train_dataset: Dataset | None = None,
        safety_dataset: Dataset | None = None,
        safety_share: float = 0.5,
        safety_target: Target = "response",
        length_bucketing: bool = False,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        peft_config: PeftConfig | None = None,
    ) -> None:
        self.dial = dial
        self.alpha = 0.0
        self.endpoints = new_endpoints(model, peft_config)
        super().__init__(
            self.endpoints.model,
            args=args,
            train_dataset=train_dataset,
            safety_dataset=safety_dataset,
            constraint=AlignmentLossConstraint(dial.safest_penalty, target=safety_target),
            safety_share=safety_share,
            length_bucketing=length_bucketing,
            processing_class=processing_class,
            callbacks=callbacks,
        )
        if peft_config is None:
            self._require_whole_weights()
        self.endpoints.to(self.args.device)
        self.add_callback(_EveryStep(self))

    def set_alpha_of_step(self, step: int) -> None:
        """Set the model to the setting of optimizer step `step`."""
        self.alpha = self.dial.setting_of_step(self.args.seed, step)
        self.endpoints.set_alpha(self.alpha)

    def current_penalty(self) -> float:
        return self.dial.penalty_at(self.alpha)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return loss / (1 + self.current_penalty()) if self.model.training else loss

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        return super().create_optimizer(self.endpoints.trained())

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.endpoints.checkpoint(Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.endpoints.resume(Path(resume_from_checkpoint))

    def _require_whole_weights(self) -> None:
        if self.is_fsdp_enabled or self.accelerator.distributed_type is DistributedType.DEEPSPEED:
            raise UserError(
                "a dial over all weights needs them whole on every process: launch with plain data "
                "parallelism, or give a LoRA configuration."
            )
        if self.args.fp16:
            raise UserError(
                "a dial over all weights shares its gradient unscaled: set bf16=True for fp16, or "
                "give a LoRA configuration."
            )


class _EveryStep(TrainerCallback):
    def __init__(self, trainer: DialTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **handles: Any,
    ) -> None:
        self.trainer.set_alpha_of_step(state.global_step)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **handles: Any,
    ) -> None:
        self.trainer.endpoints.share_gradient(self.trainer.alpha)
