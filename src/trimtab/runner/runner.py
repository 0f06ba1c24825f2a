"""What every training of one experiment shares: the aligned model, the data, the settings."""

from __future__ import annotations

import ctypes
import gc
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from trimtab.config.experiment import Dial, Experiment, Training
from trimtab.config.grid import Run
from trimtab.config.run_spec import RunSpec
from trimtab.data.splits import Roles
from trimtab.errors import UserError
from trimtab.measure.losses import HeldOutRows, response_nll
from trimtab.measure.sharded_weights import whole
from trimtab.measure.shared_weights import sharing_all
from trimtab.models import is_quantised, limits_of, load_model, name_base_portably, to_device
from trimtab.results.checksums import write_checksums
from trimtab.results.files import full_disk_told, written_whole
from trimtab.results.metrics import Metrics, MetricsFile, Role
from trimtab.results.result import LocalGeometry, Point
from trimtab.results.under_way import UNFINISHED_FOLDER, Tracker
from trimtab.runner.evaluator import EncodedRoles, Evaluator, Trained
from trimtab.runner.processes import processes
from trimtab.train.baselines.post_hoc import PostHocMethod
from trimtab.train.checkpoints import newest_whole_checkpoint
from trimtab.train.live import LiveMeasurement
from trimtab.train.methods import made_from
from trimtab.train.objectives.base import Objective, Target, held_bytes
from trimtab.train.objectives.budget import Budget, ImpossibleBudgetError
from trimtab.train.objectives.dial import DialObjective
from trimtab.train.objectives.endpoints import Endpoints
from trimtab.train.reference import copy_apart
from trimtab.train.requirements import is_sharded
from trimtab.train.settings import (
    divide_among,
    is_to_be_sharded,
    leaves_base_alone,
    lora_config,
    objective_of,
    rows_by_role,
    sft_config,
)
from trimtab.train.step_losses import TrainingDivergedError
from trimtab.train.trainer import SafetyAwareSFTTrainer

ALIGNED_FOLDER = ALIGNED = "aligned"
DIAL_FOLDER = "dial"
MODELS_FOLDER = "models"

_ALIGNING = "aligning-on-the-original-data"

Made = tuple[Run, list[Point] | str]
"""A run, and its points or why it has none."""


class TrainingWatcher(Protocol):
    """Someone who looks on while a model is trained."""

    def warned(self, warning: str) -> None:
        """The data holds something the user should know, or a training does."""

    def doing(self, what: str, steps: int | None = None) -> None:
        """What takes time next, where it is not a training, and in how many steps."""

    def training(self, name: str, steps: int) -> None:
        """A training of `steps` optimizer steps begins."""

    def stepped(self, steps: int, loss: float | None) -> None:
        """`steps` are done; `loss` is the objective, in nats per token, where it was logged."""

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
        self.rows = EncodedRoles.of(
            roles, self.tokenizer, experiment.lengths, limits_of(self.aligned), self._warned
        )

    def load_again(self) -> None:
        """Read θ_s from where it was saved."""
        del self.aligned  # before there is another in memory
        self.aligned = self._loaded()[0]

    def train(self, job: Job) -> Trained:
        """Train as a job says; every process calls it with the same."""
        trained = self._left_by_trainer(job)
        gc.collect()  # a trainer is a cycle, and holds the optimizer's state
        return trained

    def _left_by_trainer(self, job: Job) -> Trained:
        unfinished, name, proxy = self._unfinished(job.name), job.name, job.proxy
        rows = self._rows_of(job.task)
        training = job.training.for_rows(len(rows))
        objective = job.objective
        args = sft_config(training, self.experiment.measure, unfinished, job.seed)
        args.safety_repeats = proxy is not None and self.experiment.safety[proxy].repeats
        rows_by_role(args, training, objective)
        divide_among(PartialState().num_processes, args, training, objective)
        started = perf_counter()
        watcher = self.onlooker
        progress = (
            _Progress(watcher, unfinished, MetricsFile(self.folder, name)) if watcher else None
        )
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
            perf_counter() - started,
            extra_bytes=held_bytes(trainer.extra_state()),
            objective=learned,
        )

    def _whole(
        self, trainer: SafetyAwareSFTTrainer, training: Training
    ) -> tuple[Any, Objective | None]:
        """The model and what it learned, with all weights where they were divided among processes.

        A process that only follows takes part in it, and gets no model.
        """
        trained, learned = trainer.accelerator.unwrap_model(trainer.model), trainer.objective
        if not is_sharded(trainer):
            return trained, learned
        found: Any = None
        if self.onlooker:
            found, adapter = self._start_of(training), lora_config(training)
            if learned is not None and learned.replaces_model:
                learned = copy(learned)
                found = learned.placed_on(found, adapter)
            elif adapter is not None:
                found = get_peft_model(found, adapter)
        moved, moved_here = _moved(trained, trainer.objective), _moved(found, learned)
        with torch.no_grad():
            for name, weight in moved.named_parameters():
                if weight.requires_grad:
                    values = whole(weight.detach())
                    if found is not None:
                        moved_here.get_parameter(name).copy_(values)
        return found, learned

    def _rows_of(self, task: str | None) -> Dataset:
        if task is not None:
            return self.rows.task[task].train
        assert self.rows.original is not None
        return self.rows.original.train

    def _held_out(self, task: str | None, proxy: str | None) -> dict[Role, HeldOutRows]:
        """What a training is measured on while it goes on; nothing while θ_s is made."""
        if task is None:
            return {}
        found: dict[Role, HeldOutRows] = {"task": self.rows.task[task].held_out}
        if proxy is not None:
            found["safety"] = self.rows.safety[proxy].held_out
        if self.rows.original is not None:
            found["original"] = self.rows.original.held_out
        return found

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
        every = (self.experiment.train, align)
        if is_small and any(one and one.lora_rank is None for one in every):
            raise UserError(
                f"model {self.experiment.model!r} has weights in fewer than 32 bits, and all "
                "weights are to be trained. Give lora_rank, or load: {dtype: float32}."
            )

    def _unfinished(self, name: str) -> Path:
        return self.folder / UNFINISHED_FOLDER / name

    def _warned(self, warning: str) -> None:
        if self.onlooker:
            self.onlooker.warned(warning)


class Runner(Trainings):
    """The aligned model θ_s, loaded or made once, and the runs that start from it.

    Where a launcher started several processes, all of them train, and this one does the rest.

    Raises:
        UserError: the model cannot be loaded, or a response has no token.
    """

    def __init__(
        self, experiment: Experiment, roles: Roles, folder: Path, watcher: TrainingWatcher
    ) -> None:
        self.watcher = watcher
        self.processes = processes()
        self.processes.make_together(
            Trainings,
            experiment,
            roles,
            folder.resolve(),
            own=lambda: super(Runner, self).__init__(experiment, roles, folder, watcher),
        )
        self._align()
        self.evaluator = Evaluator(
            experiment, self.rows, self.aligned, self.tokenizer, folder, watcher.doing
        )

    def measured_start(self, specs: tuple[RunSpec, ...]) -> list[Point]:
        """The starting model's own points."""
        return self.evaluator.points(ALIGNED, Trained(self.aligned, 0, 0.0), specs)

    def measured_landscape(self) -> dict[str, LocalGeometry]:
        """Slope and curvature at θ_s of every loss that Theorems 3 and 4 speak of."""
        kind = "slopes and curvatures at the aligned model"
        self.watcher.doing(kind, len(self.evaluator.in_landscape))
        return self.evaluator.landscape(lambda done: self.watcher.stepped(done, None))

    def all_made(self, runs: Iterable[Run]) -> Iterator[Made]:
        """Every run with its points, or with why it has none, one after the other."""
        for run in runs:
            yield run, self.tried(run)

    def tried(self, run: Run) -> list[Point] | str:
        """The points of a run, or why it has none: it diverged, is too big, or its budget is."""
        try:
            return self.made(run)
        except (TrainingDivergedError, ImpossibleBudgetError) as error:
            return str(error)
        except torch.OutOfMemoryError:
            return "out of memory. Lower batch_size, or set gradient_checkpointing: true."
        finally:
            gc.collect()  # a trained model is a cycle too, by what TRL and PEFT put on it
            _give_back_memory()

    def made(self, run: Run) -> list[Point]:
        """Train and measure one model, or a dial at each of its settings or set to each budget.

        Its checkpoints stay until `forget_checkpoints`, so that whoever is interrupted before the
        points are written trains nothing again.
        """
        method = run.training.method
        if method.one_training:
            return self._set_to_budgets(run) if method.keeps_each else self._settings_of_dial(run)
        trained = self._trained(
            Job(
                run.name,
                run.training.task,
                self.experiment.train,
                run.training.seed,
                run.training.proxy,
                objective_of(run.training, self.experiment.train.safety_target),
                run.specs[0].proxy,
            )
        )
        if self.experiment.keeps_models:
            self._save(trained.model, self.folder / MODELS_FOLDER / run.name)
        edited = [spec for spec in run.specs if spec.method.stage == "after training"]
        points = self.evaluator.points(
            run.name, trained, tuple(spec for spec in run.specs if spec not in edited)
        )
        for spec in edited:
            points += self._edited(spec, trained)
        return points

    def _edited(self, spec: RunSpec, trained: Trained) -> list[Point]:
        """What a method makes of the model of plain fine-tuning; nothing is trained."""
        method = made_from(spec.method, spec.value)
        assert isinstance(method, PostHocMethod)
        started = perf_counter()
        copy = copy_apart(trained.model, whole=method.merges)
        model = method.apply(copy, self.aligned, self._unaligned(method))
        seconds = trained.wall_seconds + perf_counter() - started
        return self.evaluator.points(
            spec.folder, replace(trained, model=model, wall_seconds=seconds), (spec,)
        )

    def _unaligned(self, method: PostHocMethod) -> PreTrainedModel | None:
        if not method.needs_unaligned or self.experiment.align is None:
            return None
        return load_model(self.experiment.model, self.experiment.load)[0]

    def _settings_of_dial(self, run: Run) -> list[Point]:
        dial = self.trained_dial(run.training)
        extra = dial.endpoints.extra_bytes()
        if self.experiment.keeps_models:
            with written_whole(self.folder / MODELS_FOLDER / run.name) as unfinished:
                dial.endpoints.save(unfinished, self.tokenizer)
                name_base_portably(unfinished)
        points = []
        for spec in run.specs:
            points += self.setting_measured(f"{run.name}-{spec.value:.6g}", dial, spec, extra)
        return points

    def _set_to_budgets(self, run: Run) -> list[Point]:
        """One dial for all budgets; each model is kept as a plain one."""
        loosest = max(spec.value or 0.0 for spec in run.specs)
        made = self._trained_ends(
            run.training, Budget(self._dial, self._target, loosest, keeps_ends=True)
        )
        budget, model = made.objective, made.model
        assert isinstance(budget, Budget)
        tokens_per_batch = self.experiment.measure.tokens_per_batch
        row_nll = partial(response_nll, model, tokens_per_batch=tokens_per_batch)
        points = []
        for spec in run.specs:
            assert spec.value is not None
            reached = budget.turned_to(spec.value, row_nll)
            trained = replace(
                made,
                train_tokens=made.train_tokens + reached.tokens,
                multiplier=reached.penalty,
                extra_bytes=budget.endpoints.extra_bytes(),
                validation_rows_wanted=reached.rows_wanted,
            )
            points += self.evaluator.points(spec.folder, trained, (spec,))
            if self.experiment.keeps_models:
                with written_whole(self.folder / MODELS_FOLDER / spec.folder) as unfinished:
                    budget.endpoints.save_at(reached.alpha, unfinished, merged=False)
                    self._complete(unfinished)
        return points

    def setting_measured(
        self, name: str, dial: TrainedDial, spec: RunSpec, extra_bytes: int | None = None
    ) -> list[Point]:
        """The point of one setting of a dial; `name` is that of its model."""
        assert spec.value is not None
        dial.endpoints.set_alpha(spec.value)
        trained = Trained(
            dial.endpoints.model,
            dial.train_tokens,
            dial.wall_seconds,
            self._dial.penalty_at(spec.value),
            extra_bytes,
        )
        return self.evaluator.points(name, trained, (spec,))

    def trained_dial(self, spec: RunSpec) -> TrainedDial:
        """Train both ends of the experiment's dial at once."""
        made = self._trained_ends(spec, DialObjective(self._dial, self._target))
        assert isinstance(made.objective, DialObjective)
        return TrainedDial(made.objective.endpoints, made.train_tokens, made.wall_seconds)

    def _trained_ends(self, spec: RunSpec, objective: DialObjective) -> Trained:
        training = self.experiment.train
        if self._dial.steps is not None:
            training = replace(training, steps=self._dial.steps, epochs=None)
        return self._trained(
            Job(spec.folder, spec.task, training, spec.seed, spec.proxy, objective, spec.proxy)
        )

    @property
    def _dial(self) -> Dial:
        return self.experiment.dial or Dial()

    @property
    def _target(self) -> Target:
        return self.experiment.train.safety_target

    def _align(self) -> None:
        finished = self.folder / ALIGNED_FOLDER
        if self.experiment.align is None or finished.exists():
            forget_checkpoints(self.folder, _ALIGNING)
            return
        job = Job(_ALIGNING, None, self.experiment.align, self.experiment.seeds[0])
        trained = self._trained(job)
        model = trained.model
        if self.experiment.align.lora_rank is not None:
            model = model.merge_and_unload()
        self._save(model, finished)
        forget_checkpoints(self.folder, _ALIGNING)
        del trained, model  # before there is another in memory
        # Back through the disk, so that a sweep that goes on starts from the very same model.
        self.processes.call_together("load_again", own=self.load_again)

    def _trained(self, job: Job) -> Trained:
        """What a training makes, of all processes together, from its newest whole checkpoint."""
        job = replace(job, checkpoint=newest_whole_checkpoint(self._unfinished(job.name)))
        return self.processes.call_together("train", job, own=lambda: self.train(job))

    def _save(self, model: Any, folder: Path) -> None:
        with written_whole(folder) as unfinished:
            model.save_pretrained(unfinished)
            self._complete(unfinished)

    def _complete(self, model: Path) -> None:
        """Lay beside a model's weights what makes them a model to load."""
        self.tokenizer.save_pretrained(model)
        name_base_portably(model)
        write_checksums(model)


def _moved(model: Any, objective: Objective | None) -> Any:
    """The module whose weights an optimizer moves."""
    own = objective.optimized() if objective else None
    return model if own is None else own


@cache
def _spare_imports() -> None:
    # Transformers collects garbage after every training; all that was imported is none.
    gc.collect()
    gc.freeze()


def _give_back_memory() -> None:
    # glibc keeps what was freed between what is in use: more after every run of a sweep.
    with suppress(OSError, AttributeError):  # another C library has no such function
        ctypes.CDLL(None).malloc_trim(0)


def forget_checkpoints(folder: Path, run_name: str) -> None:
    """Remove what a training would go on from, once what it made is kept elsewhere."""
    shutil.rmtree(folder / UNFINISHED_FOLDER / run_name, ignore_errors=True)
    with suppress(OSError):  # other trainings have theirs there, or there are none
        (folder / UNFINISHED_FOLDER).rmdir()


@dataclass(frozen=True)
class TrainedDial:
    """Both ends of a dial, and what they cost together."""

    endpoints: Endpoints
    train_tokens: int
    wall_seconds: float


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

    def on_train_begin(self, args: Any, state: Any, control: Any, **handles: Any) -> None:
        self.tracker = Tracker(self.folder, state.max_steps)
        self.tracker.at(state.global_step)
        self.begun = perf_counter() - self.metrics.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **handles: Any) -> None:
        self.tracker.at(state.global_step)
        self.watcher.stepped(state.global_step, None)

    def on_log(self, args: Any, state: Any, control: Any, **handles: Any) -> None:
        logged = state.log_history[-1]
        self.watcher.stepped(state.global_step, logged.get("loss"))
        if "loss" not in logged:  # the summary at the end
            return
        seconds = perf_counter() - self.begun
        metrics = Metrics.of_log(state.global_step, state.max_steps, seconds, logged)
        self.metrics.add(metrics)
        self.watcher.logged(metrics)
