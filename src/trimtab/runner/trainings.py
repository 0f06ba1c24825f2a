"""What each process has of an experiment, and the trainings that all of them take part in."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Protocol

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from trimtab.config.experiment import Experiment, Training
from trimtab.data.splits import Roles
from trimtab.errors import UserError, reason_of
from trimtab.evaluate.engines import LoadedEngine
from trimtab.measure.losses import HeldOutRows, response_nll
from trimtab.measure.sharded_weights import whole
from trimtab.measure.shared_weights import sharing_all
from trimtab.models import is_quantised, limits_of, load_model, to_device
from trimtab.results.files import full_disk_told
from trimtab.results.generations import AskedPrompt, Decoding
from trimtab.results.layout import ALIGNED_FOLDER
from trimtab.results.metrics import Metrics, MetricsFile, Role
from trimtab.results.under_way import UNFINISHED_FOLDER, Tracker
from trimtab.runner.evaluator import EncodedRoles, Trained
from trimtab.stats import Array
from trimtab.train.live import LiveMeasurement
from trimtab.train.objectives.base import Objective, held_bytes
from trimtab.train.objectives.dial import DialObjective
from trimtab.train.requirements import is_sharded
from trimtab.train.settings import (
    divide_among,
    is_to_be_sharded,
    leaves_base_alone,
    lora_config,
    set_rows,
    sft_config,
)
from trimtab.train.trainer import SafetyAwareSFTTrainer
from trimtab.watching import Watcher

Held = Literal["start", "last"]
"""A model that each process has in memory: θ_s, or what was trained last."""


class TrainingWatcher(Watcher, Protocol):
    """Someone who looks on while models are trained."""

    def training(self, name: str, steps: int) -> None:
        """A training of `steps` optimizer steps begins."""

    def logged(self, metrics: Metrics) -> None:
        """A line of the training's metrics was written."""


@dataclass(frozen=True)
class Job:
    """One training, said in words that mean the same to every process that takes part in it."""

    name: str
    task: str | None
    """Whose rows are trained on; None is the original data, on which θ_s itself is made."""
    training: Training
    seed: int
    proxy: str | None = None
    """Whose safety rows are read."""
    objective: Objective | None = None
    measured_proxy: str | None = None
    """Whose held-out safety rows are measured on while it goes on."""
    checkpoint: Path | None = None
    """Where an interrupted one goes on from."""


class Trainings:
    """θ_s and the rows as token ids, as each process has them, and the trainings from there.

    Args:
        watcher: who looks on; None in a process that follows another, and writes nothing.

    Raises:
        UserError: the model cannot be loaded, or a response has no token.
    """

    def __init__(
        self,
        experiment: Experiment,
        roles: Roles,
        folder: Path,
        watcher: TrainingWatcher | None = None,
    ) -> None:
        _spare_imports()
        self.experiment = experiment
        self.folder = folder
        self.onlooker = watcher
        self.aligned, self.tokenizer = self._loaded()
        self.last: Trained | None = None
        """What was trained last, where each process has all of it."""
        self.rows = EncodedRoles.of(
            roles, self.tokenizer, experiment.lengths, limits_of(self.aligned), self._warned
        )

    def load_again(self) -> None:
        """Read θ_s from where it was saved."""
        self.last = None
        del self.aligned  # before there is another in memory
        self.aligned = self._loaded()[0]

    def train(self, job: Job) -> Trained:
        """Train as a job says; every process calls it with the same."""
        self.last = None
        trained = self._run_trainer(job)
        if not is_to_be_sharded():
            self.last = trained
        gc.collect()  # a trainer is a cycle, and holds the optimizer's state
        return trained

    def turn(self, alpha: float) -> None:
        """Set the dial that was trained last to α."""
        assert self.last is not None
        assert isinstance(self.last.objective, DialObjective)
        self.last.objective.endpoints.set_alpha(alpha)

    def held(self, which: Held) -> Any:
        """A model that each process has in memory."""
        if which == "start":
            return self.aligned
        assert self.last is not None
        return self.last.model

    def nll_of_share(self, which: Held, dataset: str) -> tuple[Array, Array]:
        """−log P_θ(y|x) and the length of y, of this process's share of the held-out rows."""
        rows = self.rows.held_out(dataset).rows
        own = range(PartialState().process_index, len(rows), PartialState().num_processes)
        tokens_per_batch = self.experiment.measure.tokens_per_batch
        return response_nll(self.held(which), rows.select(own), tokens_per_batch)

    def answers_of_share(
        self, which: Held, prompts: Sequence[AskedPrompt], decoding: Decoding, first: int
    ) -> list[str]:
        """The answers to one batch: of those from `first` on, this process's."""
        begin = first + PartialState().process_index * decoding.batch_size
        answers: list[str] = []

        def finished(place: int, answer: str) -> None:
            answers.append(answer)

        engine = LoadedEngine(which, self.held(which), self.tokenizer)
        engine.answer(prompts[: begin + decoding.batch_size], decoding, begin, finished)
        return answers

    def _run_trainer(self, job: Job) -> Trained:
        unfinished, name, proxy = self._unfinished(job.name), job.name, job.proxy
        rows = self._rows_of(job.task)
        training = job.training.for_rows(len(rows))
        objective = job.objective
        args = sft_config(training, self.experiment.measure, unfinished, job.seed)
        args.safety_repeats = proxy is not None and self.experiment.safety[proxy].repeats
        set_rows(args, training, objective)
        divide_among(PartialState().num_processes, args, training, objective)
        started = perf_counter()
        watcher = self.onlooker
        progress = (
            _Progress(watcher, unfinished, MetricsFile(self.folder, name)) if watcher else None
        )
        try:
            trainer = SafetyAwareSFTTrainer(
                self.aligned
                if job.task is None and not is_to_be_sharded()
                else self._start_of(training),
                args=args,
                train_dataset=rows,
                safety_dataset=self.rows.safety[proxy].train if proxy else None,
                objective=objective,
                processing_class=self.tokenizer,
                peft_config=lora_config(training),
                callbacks=[_LastLog(), *([progress] if progress else [])],
            )
        except UserError as error:
            raise RefusedTrainingError(str(error)) from None
        except Exception as error:
            if not training.sft:
                raise
            raise RefusedTrainingError(
                f"TRL takes no training with sft: {training.sft} ({reason_of(error)}). Mend or "
                "remove what it names."
            ) from error
        trainer.remove_callback(PrinterCallback)

        def warned(warning: str) -> None:
            self._warned(f"{name}: {warning}")

        held_out = self._held_out(job.task, job.measured_proxy)
        trainer.add_callback(LiveMeasurement(trainer, held_out, self.experiment.measure, warned))
        if watcher:
            watcher.training(name, trainer.args.max_steps)
        checkpoint = job.checkpoint
        with full_disk_told(unfinished):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        model, learned = self._whole(trainer, training)
        return Trained(
            model,
            trainer.state.num_input_tokens_seen + (learned.extra_tokens if learned else 0),
            perf_counter() - started + (progress.seconds_before if progress else 0.0),
            extra_bytes=held_bytes(trainer.extra_state()),
            objective=learned,
        )

    def _whole(
        self, trainer: SafetyAwareSFTTrainer, training: Training
    ) -> tuple[Any, Objective | None]:
        """The model and what it learned, with all weights where they were divided among processes.

        It computes in the precision of its weights, not in that of its training: so do θ_s and
        every model read from disk. A process that only follows takes part in it, and gets no model.
        """
        trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        learned = trainer.objective
        if not is_sharded(trainer):
            return trained, learned
        model: Any = None
        if self.onlooker:
            model, adapter = self._start_of(training), lora_config(training)
            if learned is not None and learned.replaces_model:
                learned = copy(learned)
                model = learned.placed_on(model, adapter)
            elif adapter is not None:
                model = get_peft_model(model, adapter)
        moved, moved_here = _moved(trained, trainer.objective), _moved(model, learned)
        with torch.no_grad():
            for name, weight in moved.named_parameters():
                if weight.requires_grad:
                    values = whole(weight.detach())
                    if model is not None:
                        moved_here.get_parameter(name).copy_(values)
        return model, learned

    def _rows_of(self, task: str | None) -> Dataset:
        if task is not None:
            return self.rows.task[task].train
        assert self.rows.original is not None
        return self.rows.original.train

    def _held_out(self, task: str | None, proxy: str | None) -> dict[Role, HeldOutRows]:
        """What a training is measured on while it goes on; nothing while θ_s is made."""
        if task is None:
            return {}
        held_out: dict[Role, HeldOutRows] = {"task": self.rows.task[task].held_out}
        if proxy is not None:
            held_out["safety"] = self.rows.safety[proxy].held_out
        if self.rows.original is not None:
            held_out["original"] = self.rows.original.held_out
        return held_out

    def _start_of(self, training: Training) -> PreTrainedModel:
        """θ_s to train on: with an adapter that leaves it alone no weight of it is copied."""
        shares = leaves_base_alone(lora_config(training))
        return sharing_all(self.aligned) if shares else deepcopy(self.aligned)

    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        finished = self.folder / ALIGNED_FOLDER
        load = self.experiment.load
        if finished.exists():
            model, tokenizer = load_model(str(finished), replace(load, revision=None))
        else:
            model, tokenizer = load_model(self.experiment.model, load)
            self._require_what_can_be_trained(model)
        return to_device(model), tokenizer

    def _require_what_can_be_trained(self, model: PreTrainedModel) -> None:
        """As the experiment has it of what it asks for, of a folder that says it itself."""
        align = self.experiment.align
        if is_quantised(model) and align is not None:
            raise UserError(
                f"model {self.experiment.model!r} is quantised, and what align learns cannot be "
                "merged into it without loss. Align the whole model first, in bfloat16."
            )
        is_small = any(weight.dtype != torch.float32 for weight in model.parameters())
        trainings = (self.experiment.train, align)
        if is_small and any(training and training.lora_rank is None for training in trainings):
            raise UserError(
                f"model {self.experiment.model!r} has weights in fewer than 32 bits, and all "
                "weights are to be trained. Give lora_rank, or load: {dtype: float32}."
            )

    def _unfinished(self, name: str) -> Path:
        return self.folder / UNFINISHED_FOLDER / name

    def _warned(self, warning: str) -> None:
        if self.onlooker:
            self.onlooker.warned(warning)


class RefusedTrainingError(UserError):
    """The settings of a training do not go with its method; those of other methods may."""


def _moved(model: Any, objective: Objective | None) -> Any:
    """The module whose weights an optimizer moves."""
    own = objective.optimized() if objective else None
    return model if own is None else own


@cache
def _spare_imports() -> None:
    # Transformers collects garbage after every training; all that was imported is none.
    gc.collect()
    gc.freeze()


class _LastLog(TrainerCallback):
    """The last step is logged too; of all processes, as a log gathers the loss of each."""

    def on_step_end(self, args: Any, state: Any, control: Any, **handles: Any) -> None:
        control.should_log = control.should_log or state.global_step == state.max_steps


class _Progress(TrainerCallback):
    """What one process tells of a training: to a watcher, and in files."""

    def __init__(self, watcher: TrainingWatcher, folder: Path, metrics: MetricsFile) -> None:
        self.watcher = watcher
        self.folder = folder
        self.metrics = metrics
        self.seconds_before = 0.0
        """Those of the sittings that this one goes on from."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **handles: Any) -> None:
        self.tracker = Tracker(self.folder, state.max_steps)
        self.tracker.at(state.global_step)
        self.seconds_before = self.metrics.begin(state.global_step)
        self.begun = perf_counter() - self.seconds_before

    def on_step_end(self, args: Any, state: Any, control: Any, **handles: Any) -> None:
        self.tracker.at(state.global_step)
        self.watcher.stepped(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **handles: Any) -> None:
        logged = state.log_history[-1]
        if "loss" not in logged:  # the summary at the end
            return
        seconds = perf_counter() - self.begun
        metrics = Metrics.of_log(state.global_step, state.max_steps, seconds, logged)
        self.metrics.add(metrics)
        self.watcher.logged(metrics)
