"""The runs of one experiment, each from the aligned model to its points."""

from __future__ import annotations

import ctypes
import gc
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.experiment import Dial, Experiment
from trimtab.config.grid import Run
from trimtab.config.methods import ALIGNED, CASE_1, PLAIN
from trimtab.config.run_spec import RunSpec
from trimtab.data.splits import Roles
from trimtab.errors import UserError
from trimtab.evaluate.engines import AnswerEngine, DividedEngine, LoadedEngine
from trimtab.measure.losses import LossNotFiniteError, response_nll
from trimtab.models import merged_model
from trimtab.results.generations import AskedPrompt, Decoding
from trimtab.results.layout import ALIGNED_FOLDER, model_folder, setting_name
from trimtab.results.result import LocalGeometry, Point
from trimtab.results.store import Failure, PointsFile
from trimtab.results.under_way import UNFINISHED_FOLDER
from trimtab.runner.answering import answering_of
from trimtab.runner.evaluator import Evaluator, Trained
from trimtab.runner.processes import processes
from trimtab.runner.saved_models import adapter_on, is_adapter, load_whole, start_of, written_model
from trimtab.runner.trainings import (
    Held,
    Job,
    RefusedTrainingError,
    Trainings,
    TrainingWatcher,
)
from trimtab.stats import Array
from trimtab.train.baselines.post_hoc import PostHocMethod
from trimtab.train.checkpoints import newest_whole_checkpoint, require_same_launch
from trimtab.train.methods import method_at
from trimtab.train.objectives.base import Target
from trimtab.train.objectives.budget import Budget, ImpossibleBudgetError
from trimtab.train.objectives.dial import DialObjective
from trimtab.train.objectives.endpoints import Endpoints
from trimtab.train.reference import copy_to_edit
from trimtab.train.settings import objective_of, unaligned_model
from trimtab.train.step_losses import TrainingDivergedError

_ALIGNING = "aligning-on-the-original-data"

RunResult = tuple[Run, list[Point], list[Failure]]
"""A run, its points, and which of its specs have none, and why."""


class Runner(Trainings):
    """The aligned model θ_s, loaded or made once, and the runs that start from it.

    Where a launcher started several processes, all of them train and measure, and this
    one does the rest.

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
            experiment,
            self.rows,
            self.aligned,
            self.tokenizer,
            folder,
            self._row_nll,
            answering_of(experiment, roles, self.aligned, self.tokenizer, folder, self._engine_of),
            watcher.doing,
        )

    def measured_start(self, specs: tuple[RunSpec, ...]) -> list[Point]:
        """The starting model's own points."""
        return self.evaluator.points(ALIGNED.name, Trained(self.aligned, 0, 0.0), specs)

    def measured_landscape(self) -> dict[str, LocalGeometry]:
        """Slope and curvature at θ_s of every loss that Theorems 3 and 4 speak of."""
        kind = "slopes and curvatures at the aligned model"
        self.watcher.doing(kind, len(self.evaluator.in_landscape))
        return self.evaluator.landscape(self.watcher.stepped)

    def run_results(self, runs: Iterable[Run]) -> Iterator[RunResult]:
        """Every run with its points and its failures, one after the other."""
        for run in runs:
            yield run, *self.tried(run)

    def tried(self, run: Run) -> tuple[list[Point], list[Failure]]:
        """The points of a run, and which of its specs have none, and why.

        It diverged, is too big, or its budget is; or its method does not go with the settings.

        Raises:
            UserError: not even plain fine-tuning or Case I goes with the settings.
        """
        failures: list[Failure] = []
        try:
            return self.points_of(run, failures.append), failures
        except RefusedTrainingError as error:
            if run.training.method in (PLAIN, CASE_1):
                raise
            reason = str(error)
        except (TrainingDivergedError, LossNotFiniteError, ImpossibleBudgetError) as error:
            reason = str(error)
        except torch.OutOfMemoryError:
            reason = "out of memory. Lower batch_size, or set gradient_checkpointing: true."
        finally:
            self.last = None
            gc.collect()  # a trained model is a cycle too, by what TRL and PEFT put on it
            _give_back_memory()
        return [], [Failure(spec, reason) for spec in run.specs]

    def points_of(
        self, run: Run, failed: Callable[[Failure], None] = lambda failure: None
    ) -> list[Point]:
        """Train and measure one model, or a dial at each of its settings or set to each budget.

        `failed` hears which model a method could not edit. The run's checkpoints stay until
        `forget_checkpoints`, so that whoever is interrupted before the points are written trains
        nothing again.
        """
        method = run.training.method
        if method.one_training:
            return self._set_to_budgets(run) if method.keeps_each else self._settings_of_dial(run)
        kept = self._kept(run.name)
        trained = kept or self._trained(
            Job(
                run.name,
                run.training.task,
                self.experiment.train,
                run.training.seed,
                run.training.proxy,
                objective_of(run.training, self.experiment),
                run.specs[0].proxy,
            )
        )
        post_hoc = [spec for spec in run.specs if spec.method.is_post_hoc]
        points = self.evaluator.points(
            run.name, trained, tuple(spec for spec in run.specs if spec not in post_hoc)
        )
        if self.experiment.keeps_models and kept is None:  # once it has losses at all
            self._save(trained.model, model_folder(self.folder, run.name))
        for spec in post_hoc:
            try:
                points += self._changed_after(spec, trained)
            except UserError as error:
                failed(Failure(spec, str(error)))
        return points

    def _kept(self, name: str) -> Trained | None:
        """A model that has points already, as where a grid grew: it is not trained again."""
        folder = model_folder(self.folder, name)
        points = PointsFile(self.folder, {}).points if folder.is_dir() else []
        point = next((point for point in points if point.model == name), None)
        if point is None:
            return None
        model: Any = (
            adapter_on(self.aligned, start_of(self.experiment, self.folder), folder)
            if is_adapter(folder)
            else load_whole(folder, self.experiment.load)
        )
        return Trained(model, point.train_tokens, point.wall_seconds, extra_bytes=point.extra_bytes)

    def _changed_after(self, spec: RunSpec, trained: Trained) -> list[Point]:
        """What a method makes of the model of plain fine-tuning; nothing is trained."""
        drawn = {"seed": spec.seed} if spec.method.takes_seed else {}
        method = method_at(spec.method, spec.value, **drawn)
        assert isinstance(method, PostHocMethod)
        started = perf_counter()
        copy = copy_to_edit(trained.model, self.aligned, whole=method.merges)
        model = method.apply(copy, self.aligned, self._unaligned(method))
        seconds = trained.wall_seconds + perf_counter() - started
        return self.evaluator.points(
            spec.folder, replace(trained, model=model, wall_seconds=seconds), (spec,)
        )

    def _unaligned(self, method: PostHocMethod) -> PreTrainedModel | None:
        if not method.needs_unaligned or self.experiment.align is None:
            return None
        return unaligned_model(self.experiment)

    def _settings_of_dial(self, run: Run) -> list[Point]:
        dial = self.trained_dial(run.training)
        extra = dial.endpoints.extra_bytes()
        points = []
        for spec in run.specs:
            assert spec.value is not None
            name = setting_name(run.name, spec.value)
            points += self.setting_measured(name, dial, spec, extra)
        if self.experiment.keeps_models:  # once all of them have losses
            with written_model(model_folder(self.folder, run.name)) as unfinished:
                dial.endpoints.save(unfinished, self.tokenizer)
        return points

    def _set_to_budgets(self, run: Run) -> list[Point]:
        """One dial for all budgets; each model is kept as a plain one."""
        loosest = max(spec.value or 0.0 for spec in run.specs)
        ends = self._trained_ends(
            run.training, Budget(self._dial, self._target, loosest, keeps_ends=True)
        )
        budget, model = ends.objective, ends.model
        assert isinstance(budget, Budget)

        def row_nll(rows: Dataset) -> tuple[Array, Array]:
            with self._in_training():  # where the validation rows' losses at θ_s were taken
                return response_nll(model, rows, self.experiment.measure.tokens_per_batch)

        points = []
        for spec in run.specs:
            assert spec.value is not None
            reached = budget.turned_to(spec.value, row_nll)
            self._turn(budget.endpoints, reached.alpha)
            trained = replace(
                ends,
                train_tokens=ends.train_tokens + reached.tokens,
                multiplier=reached.penalty,
                extra_bytes=budget.endpoints.extra_bytes(),
                validation_rows_wanted=reached.rows_wanted,
            )
            points += self.evaluator.points(spec.folder, trained, (spec,))
            if self.experiment.keeps_models:
                model_path = model_folder(self.folder, spec.folder)
                with written_model(model_path, self.tokenizer) as unfinished:
                    budget.endpoints.save_at(reached.alpha, unfinished, merged=False)
        return points

    def _in_training(self) -> AbstractContextManager[Any]:
        """The precision that a training computes in."""
        precision = self.experiment.train.precision
        if precision == "float32":
            return nullcontext()
        return torch.autocast(self.aligned.device.type, getattr(torch, precision))

    def setting_measured(
        self, name: str, dial: TrainedDial, spec: RunSpec, extra_bytes: int | None = None
    ) -> list[Point]:
        """The point of one setting of a dial; `name` is that of its model."""
        assert spec.value is not None
        self._turn(dial.endpoints, spec.value)
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
        ends = self._trained_ends(spec, DialObjective(self._dial, self._target))
        assert isinstance(ends.objective, DialObjective)
        return TrainedDial(ends.objective.endpoints, ends.train_tokens, ends.wall_seconds)

    def _trained_ends(self, spec: RunSpec, objective: DialObjective) -> Trained:
        training = self.experiment.train
        if self._dial.steps is not None:
            training = replace(training, steps=self._dial.steps, epochs=None)
        return self._trained(
            Job(spec.folder, spec.task, training, spec.seed, spec.proxy, objective, spec.proxy)
        )

    def _turn(self, endpoints: Endpoints, alpha: float) -> None:
        """Set a dial, which all processes have if it was trained last."""
        learned = self.last.objective if self.last else None
        if isinstance(learned, DialObjective) and learned.endpoints is endpoints:
            self.processes.call_together("turn", alpha, own=lambda: self.turn(alpha))
        else:
            endpoints.set_alpha(alpha)

    def _held_by_all(self, model: Any) -> Held | None:
        """Which of the models that each process has it is; None of one that is here alone."""
        if model is self.aligned:
            return "start"
        return "last" if self.last is not None and model is self.last.model else None

    def _row_nll(self, model: Any, dataset: str) -> tuple[Array, Array]:
        which, rows = self._held_by_all(model), self.rows.held_out(dataset).rows
        if which is None:
            return response_nll(model, rows, self.experiment.measure.tokens_per_batch)
        shares = self.processes.gather(
            "nll_of_share", which, dataset, own=lambda: self.nll_of_share(which, dataset)
        )
        nll_and_tokens = np.empty((2, len(rows)))
        for place, share in enumerate(shares):
            nll_and_tokens[:, place :: len(shares)] = share
        return nll_and_tokens[0], nll_and_tokens[1]

    def _engine_of(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> AnswerEngine:
        which = self._held_by_all(model)
        if which is None:
            return LoadedEngine(name, model, tokenizer)

        def answers_from(
            prompts: Sequence[AskedPrompt], decoding: Decoding, first: int
        ) -> list[str]:
            arguments = which, prompts, decoding, first
            shares = self.processes.gather(
                "answers_of_share", *arguments, own=lambda: self.answers_of_share(*arguments)
            )
            return [answer for share in shares for answer in share]

        return DividedEngine(name, model, tokenizer, answers_from)

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
            model = merged_model(model)
        self._save(model, finished)
        forget_checkpoints(self.folder, _ALIGNING)
        del trained, model  # before there is another in memory
        # Back through the disk, so that a sweep that goes on starts from the very same model.
        self.processes.call_together("load_again", own=self.load_again)

    def _trained(self, job: Job) -> Trained:
        """What a training makes, of all processes together, from its newest whole checkpoint."""
        job = replace(job, checkpoint=newest_whole_checkpoint(self._unfinished(job.name)))
        if job.checkpoint is not None:
            require_same_launch(job.checkpoint)
        return self.processes.call_together("train", job, own=lambda: self.train(job))

    def _save(self, model: Any, folder: Path) -> None:
        with written_model(folder, self.tokenizer) as unfinished:
            model.save_pretrained(unfinished)


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
