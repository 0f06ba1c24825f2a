"""trl.SFTTrainer under an objective."""

from __future__ import annotations

import atexit
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import DistributedType
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
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
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, set_seed
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import create_model_from_path

from trimtab.errors import UserError
from trimtab.measure.distance import DensePart, Displacement
from trimtab.models import load_tokenizer
from trimtab.results.checksums import CARD_FILE
from trimtab.results.files import write_atomically
from trimtab.train.batches import Batch
from trimtab.train.card import training_card
from trimtab.train.config import own_setting
from trimtab.train.context import context_of
from trimtab.train.length_bucketing import BucketedModel, require_what_can_be_bucketed
from trimtab.train.objectives.base import Objective, require_objective
from trimtab.train.reference import AlignedReference
from trimtab.train.requirements import (
    is_sharded,
    require_batches_of_one_size,
    require_float32_weights,
    require_loss_kernel,
    require_mean_losses_of_text,
    require_no_new_tokens,
    require_no_sampling_of_rows,
    require_own_optimizer,
    require_rows_read_alone,
    require_rows_that_it_can_read,
    require_shards_that_are_tensors,
    require_that_what_is_trained_is_evaluated,
    require_whole_model,
)
from trimtab.train.role_batches import RoleBatches, step_tokens
from trimtab.train.role_rows import open_safety_stream
from trimtab.train.safety_stream import SafetyStream
from trimtab.train.scoring import Scorer
from trimtab.train.step_losses import StepLosses

_A_MODEL_IN_EACH_PROCESS = (DistributedType.MULTI_GPU, DistributedType.DEEPSPEED)
"""Where `SFTTrainer` does not spread a model that it loads over the devices."""
STATE_FILE = "objective.pt"
"""In a checkpoint: what the objective has learned."""
_EXTRA_TOKENS = "extra_tokens"
"""There, beside what the objective itself keeps."""


class SafetyAwareSFTTrainer(SFTTrainer):
    """`trl.SFTTrainer` that minimises an objective over task and safety rows.

    Where an objective reads both, every batch holds the task rows that `SFTTrainer` would have
    given it, in its order, and safety rows beside them; a dial, and a budget with it, shares out
    each batch anew and draws the rows of both roles itself. The loss of a role is a mean over its
    completion tokens in the whole optimizer step, all accumulation steps and processes together:
    in Case I, in one forward and backward pass,

        loss = Σ_task −log p / N_task + λ · Σ_safety −log p / N_safety.

    An epoch is one pass over the task rows, so the schedule of learning rates is that of plain
    fine-tuning. Without an objective, or with one that is plain, as λ = 0 or ε = ∞ are, the weights
    are those of `SFTTrainer` itself, but for an adapter on quantised weights: it is trained in
    float32 here, and in bfloat16 there. The auxiliary loss of a mixture of experts' router joins
    L_f, over the tokens of both roles.

    `task_loss`, `safety_loss` and what the objective logs join the logged metrics; what it has
    learned is in `objective`.

    Args:
        args: an `SFTConfig`, or `SafetyAwareSFTConfig` to set the share of safety rows and more.
        safety_dataset: proxy safety data D_ŝ, in any form that a `Dataset` may have as
            `train_dataset`; no stream.
        objective: Case I, Case II, a dial or a published method; None is plain fine-tuning.

    All other arguments are those of `SFTTrainer`.

    Raises:
        UserError: the objective needs safety data, or a θ_s to compare with, and there is none; it
            needs whole weights and they are sharded or in half precision; an option of TRL whose
            loss is not a mean over tokens.
        TrainingDivergedError: from `train`, when a loss is not finite.
        LossNotFiniteError: from `train`, when that of a held-out row is not.
    """

    completion_only_loss: bool
    model: Any

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
        objective: Objective | None = None,
    ) -> None:
        require_objective(objective)
        plain = objective is None or objective.is_plain
        self.objective = None if plain or objective is None else objective.started()
        placed = None
        if self.objective is not None and self.objective.replaces_model:
            # As SFTTrainer does: a new adapter's weights are drawn before its __init__ ends.
            if args is None and isinstance(model, str):
                args = SFTConfig(f"{Path(model).name}-SFT")
            require_no_new_tokens(self.objective, args)
            set_seed((SFTConfig if args is None else args).seed)
            if isinstance(model, str):
                assert args is not None
                if processing_class is None:
                    processing_class = _tokenizer_of(model, args)
                model = _model_of(model, args, quantization_config)
                args = copy(args)  # the model is made: SFTTrainer has nothing left to make it with
                args.model_init_kwargs = quantization_config = None
            placed = self.objective.placed_on(model, peft_config)
        routes = _routes(model if placed is None else placed)
        super().__init__(
            model if placed is None else placed,
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
            peft_config=peft_config if placed is None else None,
            formatting_func=formatting_func,
        )
        _keep_adapters_whole(self.model)
        _keep_routing(self.model, routes)
        if self.accelerator.num_processes > 1:
            # Left to the end of the interpreter, a group of processes aborts it.
            atexit.register(_leave_process_group)
        self.length_bucketing: bool = own_setting(self.args, "length_bucketing")
        self.safety_stream: SafetyStream | None = None
        self.displacement: Displacement | None = None
        self.reference: AlignedReference | None = None
        self._begun_on_shards = False
        self._seen = StepLosses()
        self._tokens: Tensor
        require_loss_kernel(self)
        if not is_sharded(self):
            require_rows_read_alone(self)
        if self.length_bucketing:
            require_what_can_be_bucketed(self)
        self.add_callback(_Hooks(self))
        if self.objective is not None:
            self._take_up(self.objective, safety_dataset)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """As Transformers does; processes look for unused weights only where there can be some."""
        args = self.args
        if args.ddp_find_unused_parameters is None and not _may_leave_weights_out(self.model):
            args.ddp_find_unused_parameters = False
        built: dict[str, Any] = super()._build_accelerator_args(**kwargs)
        return built

    def extra_state(self) -> tuple[Any, ...]:
        """What is kept in memory beyond plain fine-tuning."""
        parts = self.displacement.parts if self.displacement else []
        starts = [part.start for part in parts if isinstance(part, DensePart)]
        reference = self.reference.extra_state() if self.reference else ()
        return starts, reference, self.objective.extra_state() if self.objective else ()

    def _take_up(self, objective: Objective, safety_dataset: Dataset | None) -> None:
        require_own_optimizer(self, objective)
        require_batches_of_one_size(self, objective)
        require_rows_that_it_can_read(self, objective)
        require_no_sampling_of_rows(self, objective)
        if objective.has_own_loss:
            require_mean_losses_of_text(self)
            # The loss is over the tokens of the whole step, whatever the model's own does.
            self.model_accepts_loss_kwargs = True
        if objective.needs_whole_model:
            require_whole_model(self)
        if objective.compares or objective.needs_displacement or objective.moves_copies:
            require_shards_that_are_tensors(self)
        if objective.needs_displacement:
            require_float32_weights(self)
            # Of shards, θ_s is taken once they are there; an adapter shows its faults already now.
            if not is_sharded(self) or isinstance(self.model, PeftModel):
                self.displacement = Displacement(self.model)
        if objective.compares is not None:
            self.reference = AlignedReference(self.model, self.accelerator.autocast)
            if is_sharded(self):
                self.reference.require_none_beside_adapter()
        if objective.needs_safety:
            self.safety_stream = open_safety_stream(self, safety_dataset)
            rows = objective.safety_rows(context_of(self))
            self.safety_stream = replace(self.safety_stream, rows=rows)
        self.train_dataset = objective.task_rows(context_of(self))
        with self.accelerator.autocast():  # the model is not prepared yet, which has its own
            objective.prepare(context_of(self))
        if objective.asks_of_saved_weights:
            require_that_what_is_trained_is_evaluated(self, self.optimizer)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        if self.objective is not None and not is_sharded(self):  # the weights are those of θ_s
            self.objective.begin(context_of(self))
        self._metrics["train"].clear()  # of a training that was broken off nothing is logged
        output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        if self.objective is not None:
            self.objective.end(context_of(self))
        return output

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader[Any], resume_from_checkpoint: str | None
    ) -> tuple[nn.Module, DataLoader[Any]]:
        """As Transformers does; between sharding and a checkpoint's weights θ_s is looked at."""
        if self.objective is None or not is_sharded(self):
            return super()._prepare_for_training(
                max_steps, train_dataloader, resume_from_checkpoint
            )
        if self._begun_on_shards:
            self._optimize(copies=False)  # Accelerate knows the model's weights alone
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self._optimize(copies=True)
        if not self._begun_on_shards:
            if self.objective.needs_displacement:
                self.displacement = Displacement(self.model)
            if self.reference is not None:
                self.reference.shard(self.accelerator)
            self._begun_on_shards = True
        self.objective.begin(context_of(self))
        if resume_from_checkpoint is not None:
            with self._copies_as_model() as saved:
                self._load_from_checkpoint(resume_from_checkpoint, saved)
                self._load_optimizer_and_scheduler(resume_from_checkpoint)
            self._load_scaler(resume_from_checkpoint)
        return prepared

    def _optimize(self, copies: bool) -> None:
        """Hand the optimizer of shards the copies that the objective moves, or take them back."""
        assert self.objective is not None
        if not self.objective.moves_copies:
            return
        instead: dict[Tensor, list[nn.Parameter]] = {}
        for weight, *copied in self.objective.copies():
            if copies:
                instead[weight] = copied
            else:
                instead |= {copy: [] for copy in copied}
                instead[copied[0]] = [weight]
        for group in self.optimizer.param_groups:
            group["params"] = [
                moved for weight in group["params"] for moved in instead.get(weight, [weight])
            ]

    @contextmanager
    def _copies_as_model(self) -> Iterator[nn.Module]:
        """Of shards, a checkpoint holds what the optimizer moves in the place of the model."""
        if not self._begun_on_shards or self.objective is None or not self.objective.moves_copies:
            yield self.model_wrapped
            return
        model, self.model = self.model, self.objective.optimized()
        try:
            yield self.model
        finally:
            self.model = model

    def _run_epoch(self, *args: Any, **settings: Any) -> None:
        is_over = self.objective is not None and self.objective.is_over
        if is_over or self.state.global_step >= self.state.max_steps:  # resumed from its end
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **settings)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        own = self.objective.optimized() if self.objective and not is_sharded(self) else None
        optimizer = super().create_optimizer(model if own is None else own)
        if self.objective is not None and self.objective.asks_of_saved_weights:
            require_that_what_is_trained_is_evaluated(self, optimizer)
        return optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        self._seen = StepLosses()  # of a step that was broken off nothing is taken over
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        objective = self.objective
        if objective is None or not batches:
            return batches, tokens
        first = self.state.global_step * self._batches_per_step
        numbers = range(first, first + len(batches) * self.accelerator.num_processes)
        objective.begin_step(context_of(self), numbers)
        if not objective.has_own_loss:
            return batches, tokens
        if objective.batch_roles(self.state.global_step) == "task":
            return batches, step_tokens(tokens, 0, device)
        return self._role_batches.of_step(self.state.global_step, batches, tokens)

    @cached_property
    def _role_batches(self) -> RoleBatches:
        assert self.objective is not None
        assert self.safety_stream is not None
        return RoleBatches(
            self.objective,
            self.safety_stream,
            self.train_dataset,
            self.args.per_device_train_batch_size,
            self._batches_per_step,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            self.args.seed,
            self._tokenizer.pad_token_id,
            self.args.device,
            partial(self._get_num_items_in_batch, device=self.args.device),
        )

    @property
    def _batches_per_step(self) -> int:
        """Batches of an optimizer step, all processes together."""
        return self.args.gradient_accumulation_steps * self.accelerator.num_processes

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        objective = self.objective
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if objective is None or not objective.has_own_loss:
            called = self._bucketed(model)
            loss = super().compute_loss(called, inputs, return_outputs, num_items_in_batch)
        else:
            assert isinstance(num_items_in_batch, Tensor)
            step = self._scorer.step(objective, model, inputs, num_items_in_batch)
            loss = objective.loss(step)
            self._seen.roles.append(step.role_means(objective.compares))
            self._tokens = num_items_in_batch
            if self.args.average_tokens_across_devices:
                loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        self._seen.losses.append(loss.detach())
        return loss

    @property
    def _scorer(self) -> Scorer:
        copies = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        batches = self.current_gradient_accumulation_steps * copies
        return Scorer(
            self._fused,
            self.accelerator.unwrap_model(self.model),
            self.reference,
            self.router_aux_loss_coef / batches if self.aux_loss_enabled else None,
        )

    def _fused(self, model: nn.Module, batch: Batch, tokens: Tensor) -> Any:
        """What the model gives; `SFTTrainer` calls it and takes its metrics, its loss is unused."""
        called = _Remembered(self._bucketed(model))
        super().compute_loss(called, batch, num_items_in_batch=tokens)
        return called.outputs

    def _bucketed(self, model: nn.Module) -> nn.Module | BucketedModel:
        if not self.length_bucketing:
            return model
        return BucketedModel(model, self.accelerator.unwrap_model(self.model))

    def end_accumulation(self) -> None:
        """Look at the losses of a step's batches, once for all, before the optimizer moves."""
        self._seen.require_finite(self.state.global_step + 1, self.accelerator.gather)
        if not self._seen.roles:
            return
        assert self.objective is not None
        means = self._seen.of_roles(self.accelerator.gather)
        for name, mean, tokens in zip(
            ("task_loss", "safety_loss"), means, self._tokens.tolist(), strict=True
        ):
            if tokens > 0:
                self._metrics["train"][name].append(mean)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.objective is not None and self.model.training:
            logs.update(self.objective.logs(context_of(self)))
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        state = self.objective.state_dict() if self.objective else {}
        if self.objective and self.objective.extra_tokens:
            state = state | {_EXTRA_TOKENS: self.objective.extra_tokens}
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)  # shards are not written yet
            write_atomically(folder / CARD_FILE, training_card(self))
            if state:
                torch.save(state, folder / STATE_FILE)

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """Write the card into the output folder, as every saved model has it.

        The arguments are TRL's, and are not used: the card tells what was trained.
        """
        if self.is_world_process_zero():
            write_atomically(Path(self.args.output_dir) / CARD_FILE, training_card(self))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.objective is not None:
            tokens = self._load_objective(self.objective, resume_from_checkpoint)
            if tokens:  # else what was read before the first step stands
                self.objective.extra_tokens = tokens

    def _load_objective(self, objective: Objective, checkpoint: str) -> int:
        """Take up what an objective had learned by a checkpoint. Returns the tokens it had read."""
        file = Path(checkpoint) / STATE_FILE
        if not file.exists() and objective.state_dict():
            raise UserError(
                f"{checkpoint} holds no {STATE_FILE}, where {type(objective).__name__} keeps what "
                "it has learned: it is another training's. Give a checkpoint of this one, or train "
                "from the start."
            )
        state = torch.load(file, "cpu", weights_only=True) if file.exists() else {}
        tokens: int = state.pop(_EXTRA_TOKENS, 0)
        objective.load_state_dict(state)
        return tokens

    def evaluation_loop(self, *args: Any, **settings: Any) -> EvalLoopOutput:
        """As Transformers does; a dial at the setting that it is looked at."""
        with self.objective.looked_at_rest() if self.objective else nullcontext():
            return super().evaluation_loop(*args, **settings)

    def adjust_gradient(self) -> None:
        """Have the objective change the gradient, without the scale that fp16 puts on it."""
        assert self.objective is not None
        self.accelerator.unscale_gradients()
        self.objective.adjust_gradient(context_of(self))

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip what the objective makes of the gradient, and not what it makes that from."""
        if self.objective is None or not self.objective.adjusts_gradient:
            norm: Tensor = super()._clip_grad_norm(model)
            return norm
        return self._adjusted_norm(model, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm of what was clipped, or without clipping of what the objective makes of it."""
        if grad_norm is None and self.objective is not None and self.objective.adjusts_gradient:
            grad_norm = self._adjusted_norm(model, math.inf)
        return super()._get_grad_norm(model, grad_norm)

    def _adjusted_norm(self, model: nn.Module, most: float) -> Tensor:
        """Have the objective change the gradient, clip it, and tell its norm before that."""
        self.adjust_gradient()
        return torch.nn.utils.clip_grad_norm_(model.parameters(), most)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        with self._copies_as_model():
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_best_model(self) -> None:
        objective, best = self.objective, self.state.best_model_checkpoint
        if objective is None or best is None or is_sharded(self):
            with self._copies_as_model():
                super()._load_best_model()
            return
        if objective.replaces_model:  # of two adapters Transformers would look for one
            super()._load_from_checkpoint(best)
        else:
            super()._load_best_model()
        self._load_objective(objective, best)


def _model_of(name: str, args: SFTConfig, quantization_config: Any) -> PreTrainedModel:
    """As `SFTTrainer` loads a model by its name."""
    settings = dict(getattr(args, "model_init_kwargs", None) or {})
    if quantization_config is not None:
        if "quantization_config" in settings:
            raise UserError(
                "quantization_config is given to the trainer and in model_init_kwargs. Give it to "
                "the trainer alone."
            )
        settings["quantization_config"] = quantization_config
    if args.distributed_state.distributed_type in _A_MODEL_IN_EACH_PROCESS:
        settings["device_map"] = None
    settings.setdefault("trust_remote_code", getattr(args, "trust_remote_code", False))
    return create_model_from_path(name, **settings)


def _tokenizer_of(name: str, args: SFTConfig) -> PreTrainedTokenizerBase | None:
    """Of the revision that the model is loaded in; None leaves it to `SFTTrainer`."""
    revision = (getattr(args, "model_init_kwargs", None) or {}).get("revision")
    return None if revision is None else load_tokenizer(name, revision)


def _keep_adapters_whole(model: nn.Module) -> None:
    # TRL casts them where the base is quantised, and a step of Adam is then often below rounding.
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()


def _routes(model: Any) -> bool:
    """Whether a model of experts gives their routing unasked."""
    config = getattr(model, "config", None)
    return config is not None and getattr(config.get_text_config(), "output_router_logits", False)


def _keep_routing(model: Any, routes: bool) -> None:
    # SFTTrainer asks for it in the configuration too, where it would stay, and `generate` fails.
    config = model.config.get_text_config()
    if not routes and getattr(config, "output_router_logits", False):
        config.output_router_logits = False


def _may_leave_weights_out(model: nn.Module) -> bool:
    """Whether a batch may pass by some weights: experts it chose none of, a tower for images."""
    config: Any = getattr(model, "config", None)
    if config is None:
        return True
    has_experts = any("expert" in name for name in config.get_text_config().to_dict())
    return has_experts or config.get_text_config() is not config


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


class _Hooks(TrainerCallback):
    """The moments of a training that Transformers tells callbacks of."""

    def __init__(self, trainer: SafetyAwareSFTTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **handles: Any
    ) -> None:
        self.trainer.end_accumulation()
        objective = self.trainer.objective
        if objective is not None:
            objective.before_optimizer_step(context_of(self.trainer))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **handles: Any
    ) -> None:
        if self.trainer.objective is not None:
            self.trainer.objective.after_optimizer_step(context_of(self.trainer, finished=1))
