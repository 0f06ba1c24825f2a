"""What every training of one experiment shares: the aligned model, the data, the settings."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from trimtab.data.encoding import encode
from trimtab.data.rows import Row
from trimtab.data.splits import Roles, Split
from trimtab.experiment import AFTER_TRAINING, Experiment, Training
from trimtab.measure.distance import DensePart, distance, norm
from trimtab.measure.landscape import curvature, slope
from trimtab.measure.losses import HeldOutRows, Loss, held_out_loss
from trimtab.measure.overlap import prompt_overlap
from trimtab.measure.token_loss import TokenLoss, all_weights, low_rank_subspace
from trimtab.models import load_model
from trimtab.plan import Run
from trimtab.points import Estimate, Point, PointKey, Terrain
from trimtab.row_losses import RowLosses
from trimtab.train.constraints import (
    AlignmentLossConstraint,
    Constraint,
)
from trimtab.train.dial import DialTrainer
from trimtab.train.ends import Ends
from trimtab.train.methods.method import Method, held_bytes
from trimtab.train.methods.repair import Repair
from trimtab.train.methods.trainer import MethodTrainer
from trimtab.train.reference import copy_apart
from trimtab.train.settings import (
    constraint_of,
    lora_config,
    method_of_key,
    rows_by_role,
    sft_config,
    take_more_task_rows,
)
from trimtab.train.trainer import SafetyAwareSFTTrainer

ALIGNED_FOLDER = ALIGNED = "aligned"
DIAL_FOLDER = "dial"
MODELS_FOLDER = "models"
UNFINISHED_FOLDER = "unfinished"


class TrainingWatcher(Protocol):
    """Someone who looks on while a model is trained."""

    def training(self, name: str, steps: int) -> None:
        """A training of `steps` optimizer steps begins."""

    def stepped(self, steps: int, loss: float | None) -> None:
        """`steps` are done; `loss` is the objective, in nats per token, where it was logged."""


@dataclass(frozen=True)
class EncodedSplit:
    """One data set of one role as token ids, and the prompts that its overlap is taken on."""

    train: Dataset
    held_out: HeldOutRows
    train_prompts: tuple[str, ...]
    held_out_prompts: tuple[str, ...]


class Workshop:
    """The aligned model θ_s, loaded or made once, and the rows as token ids.

    Raises:
        UserError: the model cannot be loaded, or a response has no token.
    """

    def __init__(
        self, experiment: Experiment, roles: Roles, folder: Path, watcher: TrainingWatcher
    ) -> None:
        self.experiment = experiment
        self.folder = folder
        self.watcher = watcher
        base, self.tokenizer = self._loaded()
        self.original = self._encoded(roles.original) if roles.original else None
        self.safety = {name: self._encoded(split) for name, split in roles.safety.items()}
        self.task = {name: self._encoded(split) for name, split in roles.task.items()}
        self.aligned = self._aligned(base)
        self.row_losses = RowLosses(folder)
        self._overlaps: dict[tuple[str, str], Estimate] = {}

    def measured_start(self, keys: tuple[PointKey, ...]) -> list[Point]:
        """The starting model's own points."""
        return self._points(ALIGNED, _Trained(self.aligned, 0, 0.0), keys)

    def measured_landscape(self) -> dict[str, Terrain]:
        """Slope and curvature at θ_s of every loss that Theorems 3 and 4 speak of."""
        wanted = {f"task:{name}": self.task[name] for name in self.experiment.tasks_in_case_2}
        if self.original:
            wanted["original"] = self.original
        else:
            wanted |= {f"safety:{name}": split for name, split in self.safety.items()}
        rows, rank = self.experiment.measure.landscape_rows, self.experiment.train.lora_rank
        self.watcher.training("slopes and curvatures at the aligned model", len(wanted))
        terrains = {}
        space = all_weights if rank is None else partial(low_rank_subspace, rank=rank)
        with space(self.aligned) as (model, weights):
            for number, (name, split) in enumerate(wanted.items()):
                sample = split.train.shuffle(seed=0).select(range(min(rows, len(split.train))))
                tokens = self.experiment.measure.tokens_per_batch
                loss = TokenLoss.over(model, weights, sample, tokens)
                terrains[name] = Terrain(slope(loss)[0].norm, curvature(loss))
                self.watcher.stepped(number + 1, None)
        return terrains

    def made(self, run: Run) -> list[Point]:
        """Train and measure one model."""
        safety = self.safety[run.training.proxy].train if run.training.proxy else None
        trained = self._trained(
            run.name,
            deepcopy(self.aligned),
            self.task[run.training.task].train,
            self.experiment.train,
            run.training.seed,
            safety,
            constraint_of(run.training, self.experiment.train.safety_target),
            method_of_key(run.training) if run.training.method else None,
        )
        if self.experiment.keep_models:
            _save(trained.model, self.tokenizer, self.folder / MODELS_FOLDER / run.name)
        asis = tuple(key for key in run.points if key.method not in AFTER_TRAINING)
        points = self._points(run.name, trained, asis)
        for key in run.points:
            if key.method in AFTER_TRAINING:
                points += self._repaired(key, trained)
        return points

    def _repaired(self, key: PointKey, trained: _Trained) -> list[Point]:
        """What a method makes of the model of plain fine-tuning; nothing is trained."""
        method = method_of_key(key)
        assert isinstance(method, Repair)
        started = perf_counter()
        model = method.applied(copy_apart(trained.model), self.aligned, self._unaligned(method))
        seconds = trained.wall_seconds + perf_counter() - started
        return self._points(
            Run(key, (key,)).name, replace(trained, model=model, wall_seconds=seconds), (key,)
        )

    def _unaligned(self, method: Repair) -> PreTrainedModel | None:
        if not method.needs_unaligned or self.experiment.align is None:
            return None
        return load_model(self.experiment.model)[0]

    def trained_dial(self, key: PointKey) -> TrainedDial:
        """Train both ends of the experiment's dial at once."""
        training, dial = self.experiment.train, self.experiment.dial
        assert dial is not None
        unfinished = self.folder / UNFINISHED_FOLDER / "dial"
        trainer = DialTrainer(
            deepcopy(self.aligned),
            dial,
            args=sft_config(training, unfinished, key.seed),
            train_dataset=self.task[key.task].train,
            safety_dataset=self.safety[str(key.proxy)].train,
            safety_share=training.safety_share,
            trim_padding=training.trim_padding,
            processing_class=self.tokenizer,
            peft_config=lora_config(training),
            callbacks=[_Progress(self.watcher)],
        )
        trained = self._run(trainer, "dial", unfinished)
        return TrainedDial(trainer.ends, trained.train_tokens, trained.wall_seconds)

    def measured(
        self, name: str, model: nn.Module, key: PointKey, train_tokens: int, wall_seconds: float
    ) -> Point:
        """The point of a model trained elsewhere; `name` is what its points share."""
        return self._points(name, _Trained(model, train_tokens, wall_seconds), (key,))[0]

    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        finished = self.folder / ALIGNED_FOLDER
        model, tokenizer = load_model(str(finished) if finished.exists() else self.experiment.model)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return model.to(device), tokenizer

    def _aligned(self, base: PreTrainedModel) -> PreTrainedModel:
        finished = self.folder / ALIGNED_FOLDER
        if self.experiment.align is None or finished.exists():
            return base
        assert self.original is not None
        trained = self._trained(
            "aligning on the original data",
            base,
            self.original.train,
            self.experiment.align,
            self.experiment.seeds[0],
        )
        model = trained.model
        if self.experiment.align.lora_rank is not None:
            model = model.merge_and_unload()
        _save(model, self.tokenizer, finished)
        # Back through the disk, so that a sweep that goes on starts from the very same model.
        return self._loaded()[0]

    def _trained(
        self,
        name: str,
        model: PreTrainedModel,
        rows: Dataset,
        training: Training,
        seed: int,
        safety: Dataset | None = None,
        constraint: Constraint | None = None,
        method: Method | Repair | None = None,
    ) -> _Trained:
        unfinished = self.folder / UNFINISHED_FOLDER / name.replace(" ", "-")
        args = sft_config(training, unfinished, seed)
        started = perf_counter()
        if isinstance(method, Method):
            training = rows_by_role(args, training, method)
            trainer: SafetyAwareSFTTrainer = MethodTrainer(
                model,
                method,
                args=args,
                train_dataset=rows,
                safety_dataset=safety,
                safety_share=training.safety_share,
                processing_class=self.tokenizer,
                peft_config=lora_config(training),
                callbacks=[_Progress(self.watcher)],
            )
            prepared = perf_counter() - started
            trained = self._run(trainer, name, unfinished)
            held = (*method.held(), trainer.reference.copy if trainer.reference else None)
            return replace(
                trained,
                train_tokens=trained.train_tokens + method.extra_tokens,
                wall_seconds=trained.wall_seconds + prepared,
                extra_bytes=held_bytes(held),
            )
        if not isinstance(constraint, AlignmentLossConstraint):
            take_more_task_rows(args, training)
        trainer = SafetyAwareSFTTrainer(
            model,
            args=args,
            train_dataset=rows,
            safety_dataset=safety,
            constraint=constraint,
            safety_share=training.safety_share,
            validation_rows=training.validation_rows,
            trim_padding=training.trim_padding,
            processing_class=self.tokenizer,
            peft_config=lora_config(training),
            callbacks=[_Progress(self.watcher)],
        )
        trained = self._run(trainer, name, unfinished)
        parts = trainer.displacement.parts if trainer.displacement else []
        starts = [part.start for part in parts if isinstance(part, DensePart)]
        reference = trainer.reference.copy if trainer.reference else None
        return replace(trained, extra_bytes=held_bytes((starts, reference)))

    def _run(self, trainer: SafetyAwareSFTTrainer, name: str, unfinished: Path) -> _Trained:
        self.watcher.training(name, trainer.args.max_steps)
        trainer.remove_callback(PrinterCallback)
        checkpoint = get_last_checkpoint(str(unfinished)) if unfinished.exists() else None
        started = perf_counter()
        trainer.train(resume_from_checkpoint=checkpoint)
        seconds = perf_counter() - started
        shutil.rmtree(unfinished, ignore_errors=True)
        tokens, keeper = trainer.state.num_input_tokens_seen, trainer.budget_keeper
        trained = trainer.accelerator.unwrap_model(trainer.model)
        if keeper is None or keeper.outcome is None:
            return _Trained(trained, tokens, seconds)
        return _Trained(trained, tokens + keeper.tokens_measured, seconds, keeper.outcome.penalty)

    def _points(
        self,
        name: str,
        trained: _Trained,
        keys: tuple[PointKey, ...],
    ) -> list[Point]:
        if not keys:
            return []
        model = trained.model
        far = 0.0 if model is self.aligned else distance(model, self.aligned)
        original = self._loss(model, self.original) if self.original else None
        tasks = {key.task: self._loss(model, self.task[key.task]) for key in keys}
        proxies: dict[str | None, Loss] = {
            key.proxy: self._loss(model, self.safety[str(key.proxy)]) for key in keys
        }
        measured = {
            "original": original,
            **{f"safety:{proxy}": loss for proxy, loss in proxies.items()},
            **{f"task:{task}": loss for task, loss in tasks.items()},
        }
        self.row_losses.save(
            name,
            {
                dataset: loss.by_row
                for dataset, loss in measured.items()
                if loss is not None and loss.by_row is not None
            },
        )
        return [
            Point(
                **key._asdict(),
                alignment_loss=original.per_token if original else None,
                alignment_loss_per_response=original.per_response if original else None,
                proxy_loss=proxies[key.proxy].per_token,
                proxy_loss_per_response=proxies[key.proxy].per_response,
                capability_loss=tasks[key.task].per_token,
                capability_loss_per_response=tasks[key.task].per_response,
                context_overlap=self._overlap(key.task, str(key.proxy)),
                distance=far,
                relative_distance=far / self._aligned_norm,
                train_tokens=trained.train_tokens,
                wall_seconds=trained.wall_seconds,
                model=name,
                multiplier=trained.multiplier,
                extra_bytes=trained.extra_bytes,
            )
            for key in keys
        ]

    def _loss(self, model: nn.Module, split: EncodedSplit) -> Loss:
        return held_out_loss(model, split.held_out, self.experiment.measure)

    @cached_property
    def _aligned_norm(self) -> float:
        return norm(self.aligned)

    def _overlap(self, task: str, proxy: str) -> Estimate:
        known = self.experiment.task[task].context_overlap
        if known is not None:
            return Estimate(known, known, known, "share of task prompts", "exact")
        if (task, proxy) not in self._overlaps:
            self._overlaps[task, proxy] = prompt_overlap(
                self.task[task].train_prompts,
                self.safety[proxy].train_prompts,
                self.safety[proxy].held_out_prompts,
            )
        return self._overlaps[task, proxy]

    def _encoded(self, split: Split) -> EncodedSplit:
        def encoded(rows: tuple[Row, ...]) -> Dataset:
            return encode(rows, self.tokenizer, self.experiment.lengths)

        return EncodedSplit(
            encoded(split.train),
            HeldOutRows(encoded(split.held_out), row_weights(split.held_out)),
            tuple(row.prompt[-1].content for row in split.train),
            tuple(row.prompt[-1].content for row in split.held_out),
        )


@dataclass(frozen=True)
class TrainedDial:
    """Both ends of a dial, and what they cost together."""

    ends: Ends
    train_tokens: int
    wall_seconds: float


@dataclass(frozen=True)
class _Trained:
    model: Any
    train_tokens: int
    wall_seconds: float
    multiplier: float | None = None
    extra_bytes: int | None = None


class _Progress(TrainerCallback):
    def __init__(self, watcher: TrainingWatcher) -> None:
        self.watcher = watcher

    def on_step_end(self, args: Any, state: Any, control: Any, **handles: Any) -> None:
        self.watcher.stepped(state.global_step, None)

    def on_log(self, args: Any, state: Any, control: Any, **handles: Any) -> None:
        self.watcher.stepped(state.global_step, state.log_history[-1].get("loss"))


def _save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def row_weights(rows: tuple[Row, ...]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """The probabilities of rows that enumerate a distribution; None of rows drawn from one."""
    weights = np.array([row.weight for row in rows])
    return None if (weights == 1).all() else weights
