"""trl.SFTTrainer under a safety constraint."""

from __future__ import annotations

import atexit
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate.utils import DistributedType
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    DataCollator,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import TrainOutput
from trl import SFTConfig, SFTTrainer

from trimtab.config.experiment import Measuring
from trimtab.errors import UserError
from trimtab.measure.distance import Displacement
from trimtab.measure.losses import Array, response_nll
from trimtab.train.length_bucketing import BucketedModel
from trimtab.train.objectives.budget import BudgetKeeper
from trimtab.train.objectives.constraints import (
    AlignmentLossConstraint,
    AlignmentParameterConstraint,
    Constraint,
)
from trimtab.train.objectives.paired_rows import set_aside
from trimtab.train.reference import AlignedReference
from trimtab.train.role_rows import RowForm, labelled
from trimtab.train.safety_stream import ROLE, Batch, SafetyStream, join, safety_rows_per_batch, take


class TrainingDivergedError(Exception):
    """The loss of a step is no longer a finite number."""


class SafetyAwareSFTTrainer(SFTTrainer):
    """`trl.SFTTrainer` that minimises L_f under an alignment loss or parameter constraint.

    The auxiliary loss of a mixture of experts' router joins L_f, over the tokens of both roles.

    In Case I every batch holds the task rows that `SFTTrainer` would have given it, in its order,
    and safety rows beside them, in one forward and backward pass:

        loss = Σ_task −log p / N_task + λ · Σ_safety −log p / N_safety,

    N counting the completion tokens of a role over the whole optimizer step, all accumulation
    steps and processes together. An epoch is one pass over the task rows, so the schedule of
    learning rates is that of plain fine-tuning. Without a constraint, or with λ = 0 or ε = ∞, the
    weights are those of `SFTTrainer` itself.

    `task_loss`, `safety_loss` and `distance` (‖θ − θ_s‖) join the logged metrics, and with a budget
    what it has learned; how that ends is `budget_keeper.outcome`.

    Args:
        safety_dataset: proxy safety data D_ŝ, in any form `train_dataset` may have.
        constraint: Case I or Case II; None is plain fine-tuning.
        safety_share: safety rows as a share of a batch. `per_device_train_batch_size` counts task
            rows, so that at 0.5 a batch of 8 becomes 16 rows. It changes the noise of L_ŝ and the
            cost of a step, and not what λ means.
        validation_rows: with a budget, how many different safety rows at most are kept from
            training to bring the final model to it: a fifth of the rows, or those that the run
            would not come to, all rows of a prompt together.
        safety_repeats: safety rows are draws that may come again, as in `DataSource.repeats`, so
            that rows of a prompt need not stay together.
        measured_tokens_per_batch: tokens in a forward pass that measures L_ŝ for a budget.
        length_bucketing: compute a batch in pieces of like length, and unlabelled positions not
            through the LM head (`BucketedModel`): the same loss to rounding, from less work. Off,
            a step is bit for bit that of `SFTTrainer`.

    All other arguments are those of `SFTTrainer`.

    Raises:
        UserError: Case I without safety data; Case II with sharded or half-precision weights; an
            option of TRL whose loss is not a mean over tokens.
        TrainingDivergedError: from `train`, when a loss is not finite.
    """

    completion_only_loss: bool

    _tag_names: ClassVar[list[str]] = ["trl", "sft", "trimtab"]

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: SFTConfig | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        quantization_config: Any = None,
        peft_config: PeftConfig | None = None,
        formatting_func: Callable[[dict[str, Any]], str] | None = None,
        safety_dataset: Dataset | None = None,
        constraint: Constraint | None = None,
        safety_share: float = 0.5,
        validation_rows: int = 256,
        safety_repeats: bool = False,
        length_bucketing: bool = False,
        measured_tokens_per_batch: int = Measuring.tokens_per_batch,
    ) -> None:
        if not 0 < safety_share < 1:
            raise UserError(f"safety_share {safety_share} must lie between 0 and 1, both excluded.")
        super().__init__(
            model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            quantization_config=quantization_config,
            peft_config=peft_config,
            formatting_func=formatting_func,
        )
        self.measured_tokens_per_batch = measured_tokens_per_batch
        if self.accelerator.num_processes > 1:
            # Left to the end of the interpreter, a group of processes aborts it.
            atexit.register(_leave_process_group)
        self.constraint = None if constraint is None or constraint.is_plain else constraint
        self.length_bucketing = length_bucketing
        if length_bucketing:
            self._require_what_can_be_bucketed()
        self._router_loss: Tensor | float = 0.0
        self.safety_stream: SafetyStream | None = None
        self.displacement: Displacement | None = None
        self.reference: AlignedReference | None = None
        self.budget_keeper: BudgetKeeper | None = None
        if isinstance(self.constraint, AlignmentLossConstraint):
            self._require_mean_losses_of_padded_batches()
            self.safety_stream = self._open_safety_stream(safety_dataset, safety_share)
            if self.constraint.target == "kl":
                self._require_whole_model_for_reference()
                self.reference = AlignedReference(self.model)
            # The loss below is over the tokens of the whole step, whatever the model's own does.
            self.model_accepts_loss_kwargs = True
        elif isinstance(self.constraint, AlignmentParameterConstraint):
            self._require_whole_float32_weights()
            self.displacement = Displacement(self.model)
            if self.constraint.budget is None:
                self.add_callback(_AfterOptimizerStep(self.constraint, self.displacement))
        if self.constraint is not None and self.constraint.budget is not None:
            stream = self.safety_stream or self._open_safety_stream(safety_dataset, safety_share)
            drawn = self._most_batches() * stream.rows_per_batch
            rows, kept = set_aside(stream.rows, validation_rows, drawn, stream.seed, safety_repeats)
            self._keep_budget(self.constraint, replace(stream, rows=rows), kept)
        self._require_that_it_evaluates_what_it_trains(self.optimizer)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        keeper = self.budget_keeper
        if keeper is not None:  # the weights are still those of θ_s, also before a resumption
            keeper.prepare(self._most_batches())
        output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        if keeper is not None:
            keeper.finish()
        return output

    def _run_epoch(self, *args: Any, **settings: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # resumed from the last checkpoint
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **settings)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        optimizer = super().create_optimizer(model)
        self._require_that_it_evaluates_what_it_trains(optimizer)
        return optimizer

    def current_penalty(self) -> float | Tensor:
        """λ of Case I in this optimizer step: the constraint's, or with a budget the learned."""
        assert isinstance(self.constraint, AlignmentLossConstraint)
        if self.budget_keeper is not None:
            return self.budget_keeper.multiplier.value
        return self.constraint.penalty

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        batches, task_tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.budget_keeper is not None and batches:
            first = self._first_batch_number()
            count = len(batches) * self.accelerator.num_processes
            self.budget_keeper.begin_step(range(first, first + count))
        if self.safety_stream is None or not batches:
            return batches, task_tokens
        numbers = [self._batch_number(place) for place in range(len(batches))]
        safety = [self.safety_stream.batch(number) for number in numbers]
        safety_tokens = self._get_num_items_in_batch(safety, device)
        pad_token_id = self._tokenizer.pad_token_id
        joined = [join(*pair, pad_token_id) for pair in zip(batches, safety, strict=True)]
        return joined, torch.stack([torch.as_tensor(task_tokens), torch.as_tensor(safety_tokens)])

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        is_safety = inputs.pop(ROLE, None)
        if is_safety is None:
            called = self._bucketed(model)
            result = super().compute_loss(called, inputs, return_outputs, num_items_in_batch)
            if self.model.training:
                self._refuse_divergence(result)
            return result
        assert isinstance(num_items_in_batch, Tensor)
        if self.reference is None:
            of_token = -self._log_probs(model, inputs, num_items_in_batch.sum())
            sums = torch.stack([(of_token * ~is_safety).sum(), (of_token * is_safety).sum()])
        else:
            task, safety = (take(inputs, kept[:, 0]) for kept in (~is_safety, is_safety))
            of_token = -self._log_probs(model, task, num_items_in_batch[0])
            trained = self.accelerator.unwrap_model(self.model)
            divergence = self.reference.divergence(model, trained, safety)
            sums = torch.stack([of_token.sum(), divergence])
        means = sums / num_items_in_batch.to(sums.device).clamp(min=1)
        loss = means[0] + self.current_penalty() * means[1]
        self._log_roles(means)
        if self.args.average_tokens_across_devices:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        loss = loss + self._router_loss
        if self.budget_keeper is not None:
            loss = loss / (1 + self.current_penalty())
        self._refuse_divergence(loss)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.displacement is not None and self.model.training:
            logs["distance"] = self.displacement.norm().item()
            if self.budget_keeper is not None:
                logs.update(self.budget_keeper.logs())
        super().log(logs, start_time)

    def _log_probs(self, model: nn.Module, batch: Batch, tokens: Tensor) -> Tensor:
        """log P_θ of each labelled token, 0 elsewhere, shape (rows, width − 1).

        `SFTTrainer` runs the model and takes its metrics; its own loss, over `tokens`, is unused.
        """
        scored = _Remembered(self._bucketed(model))
        super().compute_loss(scored, batch, num_items_in_batch=tokens)
        self._router_loss = self._part_of_router_loss(scored.outputs)
        log_probs: Tensor = scored.outputs.log_probs
        return log_probs

    def _part_of_router_loss(self, outputs: Any) -> Tensor | float:
        """A batch's part of the weighted auxiliary loss of a mixture of experts' router."""
        if not self.aux_loss_enabled:
            return 0.0
        loss: Tensor = self.router_aux_loss_coef * outputs.aux_loss
        return loss / self.current_gradient_accumulation_steps

    def _bucketed(self, model: nn.Module) -> nn.Module | BucketedModel:
        if not self.length_bucketing or not self.model.training:
            return model
        return BucketedModel(model, self.accelerator.unwrap_model(self.model))

    def _require_mean_losses_of_padded_batches(self) -> None:
        if self.args.loss_type != "nll" or self.args.label_smoothing_factor > 0:
            raise UserError(
                "an alignment loss constraint takes mean losses over tokens: set loss_type='nll' "
                "and label_smoothing_factor=0."
            )
        if self.padding_free:
            raise UserError(
                "an alignment loss constraint joins padded batches: set padding_free=False and "
                "packing=False."
            )
        if self.compute_loss_func is not None:
            raise UserError(
                "an alignment loss constraint has a loss of its own. Leave compute_loss_func out."
            )
        if self._is_vision_dataset:
            raise UserError(
                "an alignment loss constraint trains on text, and the rows have images."
            )

    def _open_safety_stream(self, safety_dataset: Dataset | None, share: float) -> SafetyStream:
        if safety_dataset is None:
            raise UserError(
                "an alignment loss constraint and a budget need safety rows. Give safety_dataset, "
                "or penalty=0."
            )
        form = RowForm.of(safety_dataset, self.args, self._formatting_func)
        prepared = self._prepared(safety_dataset, form)
        rows = labelled(prepared)
        if not len(rows):
            raise UserError(
                f"none of the {len(safety_dataset)} safety rows has a token to learn: every label "
                "is masked. Give completions that max_length does not cut off."
            )
        if len(rows) < len(safety_dataset):
            warnings.warn(
                f"{len(safety_dataset) - len(rows)} of {len(safety_dataset)} safety rows are left "
                "out: they have no token to learn.",
                stacklevel=3,
            )
        return SafetyStream(
            rows.select_columns(["input_ids", "labels"]),
            self.data_collator,
            safety_rows_per_batch(self.args.per_device_train_batch_size, share),
            self.args.data_seed if self.args.data_seed is not None else self.args.seed,
        )

    def _prepared(self, rows: Dataset, form: RowForm) -> Dataset:
        """Rows as token ids and labels, as `SFTTrainer` prepares task rows of this form."""
        of_task = self.completion_only_loss
        self.completion_only_loss = form.completion_only_loss
        try:
            return self._prepare_dataset(
                rows,
                self.processing_class,
                form.settings(self.args),
                False,
                form.formatting_func,
                "safety",
            )
        finally:
            self.completion_only_loss = of_task

    def _keep_budget(
        self, constraint: Constraint, stream: SafetyStream, validation: Dataset
    ) -> None:
        self._require_whole_float32_weights()
        self.displacement = self.displacement or Displacement(self.model)
        penalty = None
        if isinstance(constraint, AlignmentLossConstraint):
            self.safety_stream, penalty = stream, constraint.penalty
        assert constraint.budget is not None
        self.budget_keeper = BudgetKeeper(
            constraint.budget, penalty, self.displacement, stream, validation, self._nll
        )
        self.add_callback(self.budget_keeper)

    def _nll(self, rows: Dataset) -> tuple[Array, Array]:
        """−log P_θ(y|x) in nats and the tokens of y, by row, measured by all processes together."""
        here, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = range(here, len(rows), processes)
        found = torch.zeros(2, len(rows), dtype=torch.float64)
        if len(mine):
            tokens_per_batch = self.measured_tokens_per_batch
            with self.accelerator.autocast():
                nll = response_nll(self.model, rows.select(mine), tokens_per_batch)
            found[:, mine] = torch.from_numpy(np.stack(nll))
        if processes > 1:
            found = self.accelerator.reduce(found.to(self.args.device)).cpu()
        nll, tokens = found.numpy()
        return nll, tokens

    def _most_batches(self) -> int:
        """Safety batches of the whole run, all processes together; never fewer than will be."""
        rows = self.args.per_device_train_batch_size * self.accelerator.num_processes
        if self.args.max_steps > 0:
            steps = self.args.max_steps * self.args.gradient_accumulation_steps
        else:
            per_epoch = math.ceil(len(self.train_dataset) / rows)
            per_epoch += self.args.gradient_accumulation_steps  # an epoch may end within a step
            steps = math.ceil(self.args.num_train_epochs) * per_epoch
        return steps * self.accelerator.num_processes

    def _require_what_can_be_bucketed(self) -> None:
        if self.padding_free or self._is_vision_dataset:
            raise UserError(
                "length_bucketing takes padded batches of text. Set length_bucketing=False."
            )
        if self.args.label_smoothing_factor > 0:
            raise UserError(
                "length_bucketing has no logits to smooth labels with: set "
                "label_smoothing_factor=0, or length_bucketing=False."
            )
        if isinstance(self.model, PeftModel) and self.model.active_peft_config.is_prompt_learning:
            raise UserError("length_bucketing knows no prompt tokens. Set length_bucketing=False.")
        if self.is_fsdp_enabled or self.accelerator.distributed_type is DistributedType.DEEPSPEED:
            raise UserError(
                "length_bucketing calls the model a different number of times on every process, "
                "which sharded weights do not allow. Set length_bucketing=False."
            )

    def _require_whole_float32_weights(self) -> None:
        if self.is_fsdp_enabled or self.accelerator.distributed_type is DistributedType.DEEPSPEED:
            raise UserError(
                "an alignment parameter constraint or a budget needs whole weights on every "
                "process: launch with plain data parallelism, or use an alignment loss constraint "
                "with a penalty."
            )
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        if any(weight.dtype != torch.float32 for weight in trained):
            raise UserError(
                "an alignment parameter constraint or a budget is kept to float32 rounding, and "
                "the trained weights are in half precision. Load them in float32; bf16=True in the "
                "config still computes in bfloat16."
            )

    def _require_whole_model_for_reference(self) -> None:
        if self.is_fsdp_enabled or self.accelerator.distributed_type is DistributedType.DEEPSPEED:
            raise UserError(
                "the target 'kl' needs the whole aligned model on every process: launch with plain "
                "data parallelism, or use target='response'."
            )

    def _require_that_it_evaluates_what_it_trains(self, optimizer: Optimizer | None) -> None:
        if self.displacement is None:
            return
        name = type(optimizer).__name__
        asked = str(getattr(self.args.optim, "value", self.args.optim))
        if optimizer is None and asked.startswith("schedule_free"):
            name = asked
        elif not callable(getattr(optimizer, "eval", None)):
            return
        raise UserError(
            f"{name} saves and evaluates other weights than those it trains, so that a radius, a "
            "penalty on the distance or a budget would not hold of them. Set optim='adamw_torch'."
        )

    def _batch_number(self, place: int) -> int:
        """The number of this process's `place`-th batch in the coming optimizer step."""
        own = place * self.accelerator.num_processes + self.accelerator.process_index
        return self._first_batch_number() + own

    def _first_batch_number(self) -> int:
        """The number of the first batch of the coming optimizer step, of all processes."""
        batches_per_step = self.args.gradient_accumulation_steps * self.accelerator.num_processes
        return self.state.global_step * batches_per_step

    def _log_roles(self, means: Tensor) -> None:
        # Each mean is this batch's part of a mean over the step, so the parts add up; SFTTrainer
        # averages what is appended here over the batches of the steps it logs.
        parts = self.accelerator.gather(means.detach()[None]).sum(dim=0)
        if self.budget_keeper is not None:
            self.budget_keeper.add_safety_loss(parts[1].item())
        total = parts * self.current_gradient_accumulation_steps
        for name, value in zip(("task_loss", "safety_loss"), total.tolist(), strict=True):
            self._metrics["train"][name].append(value)

    def _refuse_divergence(self, loss: Tensor) -> None:
        if not math.isfinite(loss.item()):
            raise TrainingDivergedError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}. "
                "Lower the learning rate or the penalty."
            )


def _leave_process_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class _Remembered:
    """A model that keeps what its last call returned."""

    def __init__(self, model: nn.Module | BucketedModel) -> None:
        self.model = model
        self.outputs: Any = None

    def __call__(self, **inputs: Any) -> Any:
        self.outputs = self.model(**inputs)
        return self.outputs


class _AfterOptimizerStep(TrainerCallback):
    def __init__(
        self, constraint: AlignmentParameterConstraint, displacement: Displacement
    ) -> None:
        self.constraint = constraint
        self.displacement = displacement

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **handles: Any,
    ) -> None:
        self.constraint.apply(self.displacement, handles["optimizer"])
