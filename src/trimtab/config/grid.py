"""The grid of an experiment as trainings, and the specs of the models each makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Protocol, TypeVar

from trimtab.config.experiment import Block, Experiment
from trimtab.config.methods import ALIGNED, CASE_1, CASE_1_BUDGET, CASE_2, CASE_2_RADIUS, DIAL
from trimtab.config.run_spec import RunSpec
from trimtab.errors import UserError


class _OfSpec(Protocol):
    @property
    def spec(self) -> RunSpec: ...


T = TypeVar("T", bound=_OfSpec)


@dataclass(frozen=True)
class Run:
    """One training, and the specs that its one model is measured as.

    Where a constraint does not bind (λ = 0, ε = ∞) the model is that of plain fine-tuning, so one
    training makes such a result for every block, whatever the method and the proxy.
    """

    training: RunSpec
    specs: tuple[RunSpec, ...]

    @property
    def name(self) -> str:
        """A name for people and for folders, which no other training of a plan has."""
        return self.training.folder

    @property
    def by_model(self) -> tuple[tuple[RunSpec, ...], ...]:
        """The specs of each model that is measured: of a dial or a post-hoc method one for each."""
        is_dial = self.training.method.one_training
        apart = [spec for spec in self.specs if is_dial or spec.method.is_post_hoc]
        together = tuple(spec for spec in self.specs if spec not in apart)
        return (*([together] if together else []), *((spec,) for spec in apart))

    @property
    def models(self) -> tuple[str, ...]:
        """The names of what it keeps: a model, the two ends of a dial, or a model for each spec."""
        if self.training.method.keeps_each:
            return tuple(spec.folder for spec in self.specs)
        return (self.name,)


@dataclass(frozen=True)
class Plan:
    """Every result of an experiment, each once."""

    aligned: tuple[RunSpec, ...]
    """The starting model itself, measured for every proxy and task of the grid."""
    runs: tuple[Run, ...]
    """Trainings in the order they are made: seed by seed, so that early results span the grid."""
    failed: tuple[RunSpec, ...] = ()
    """What is left out of this plan because it failed before and is not tried again."""

    @property
    def specs(self) -> tuple[RunSpec, ...]:
        return (*self.aligned, *(spec for run in self.runs for spec in run.specs))

    def in_order(self, results: Iterable[T]) -> list[T]:
        """Results in the order of the plan, whatever order they were made in; others last."""
        return sorted(results, key=lambda result: self._places.get(result.spec, len(self._places)))

    @cached_property
    def _places(self) -> dict[RunSpec, int]:
        return {spec: place for place, spec in enumerate(self.specs)}

    def without(self, finished: set[RunSpec], failed: Iterable[RunSpec] = ()) -> Plan:
        """What is left to do once the results `finished` exist and `failed` are given up."""
        failures = tuple(spec for spec in failed if spec not in finished)
        left_out = finished.union(failures)
        runs = [
            replace(run, specs=tuple(spec for spec in run.specs if spec not in left_out))
            for run in self.runs
        ]
        return Plan(
            tuple(spec for spec in self.aligned if spec not in left_out),
            tuple(run for run in runs if run.specs),
            tuple(spec for spec in self.specs if spec in failures),
        )


def plan_of(experiment: Experiment) -> Plan:
    """The plan of an experiment: methods × hyperparameters × proxies × tasks × seeds."""
    trainings: dict[RunSpec, list[RunSpec]] = {}
    for spec in dict.fromkeys(_grid(experiment)):
        trainings.setdefault(spec.training, []).append(spec)
    pairs = dict.fromkeys((spec.proxy, spec.task) for specs in trainings.values() for spec in specs)
    return Plan(
        aligned=tuple(RunSpec(ALIGNED, None, proxy, task, 0) for proxy, task in pairs),
        runs=tuple(Run(training, tuple(specs)) for training, specs in trainings.items()),
    )


def only_model(experiment: Experiment, model: str) -> Experiment:
    """The experiment that makes one of its models alone, by its name, and keeps it.

    Raises:
        UserError: no training of the grid makes a model of that name, or only after an alignment
            that another seed gives.
    """
    runs = plan_of(experiment).runs
    run = next((run for run in runs if model in run.models), None)
    if run is None:
        names = [name for run in runs for name in run.models]
        nearest = get_close_matches(model, names, n=1, cutoff=0.0)
        raise UserError(
            f"the grid makes no model {model!r}."
            + (f" The nearest name is {nearest[0]}." if nearest else "")
        )
    if experiment.align and run.training.seed != experiment.seeds[0]:
        raise UserError(
            f"{model} starts from what seed {experiment.seeds[0]} aligns, and alone it would from "
            "its own. Give the model of that seed."
        )
    if run.training.method.keeps_each:
        specs = tuple(spec for spec in run.specs if spec.folder == model)
    else:
        # A dial is trained for all of its settings; plain fine-tuning is of every block.
        specs = run.specs if run.training.method.one_training else run.specs[:1]
    grid = tuple(map(_block_of, specs))
    return replace(experiment, grid=grid, seeds=(run.training.seed,), keep_models=True)


def is_more_of(after: Experiment, before: Experiment) -> bool:
    """Whether the grid and the seeds of `after` make all that those of `before` do, as it did.

    The first seed is that of the alignment; one training of a dial or of budgets knows all that it
    is to be set to; the landscape is measured once, for the tasks of Case II that there are.
    """
    old, new = plan_of(before), plan_of(after)
    settings_of = {run.training: run.specs for run in new.runs}
    return (
        before.seeds[0] == after.seeds[0]
        and set(old.specs) <= set(new.specs)
        and all(
            settings_of[run.training] == run.specs
            for run in old.runs
            if run.training.method.one_training
        )
        and (not before.measure.landscape_rows or before.tasks_in_case_2 == after.tasks_in_case_2)
    )


def _grid(experiment: Experiment) -> Iterator[RunSpec]:
    for seed in experiment.seeds:
        for block in experiment.grid:
            for task in block.tasks or experiment.task:
                for proxy in _proxies(block, experiment):
                    for method, value in block.settings:
                        yield RunSpec(method, value, proxy, task, seed)


def _block_of(spec: RunSpec) -> Block:
    """The block of the grid that makes this alone."""
    assert spec.value is not None
    at = (spec.value,)
    if spec.method is CASE_1_BUDGET:
        block = Block("alignment-loss", budgets=at)
    elif spec.method is CASE_2_RADIUS:
        block = Block("alignment-parameter", radii=at)
    elif spec.method is DIAL:
        block = Block("dial", values=at)
    elif spec.method in (CASE_1, CASE_2):
        is_case_1 = spec.method is CASE_1
        block = Block("alignment-loss" if is_case_1 else "alignment-parameter", penalties=at)
    else:
        block = Block("method", method=spec.method.name, values=at)
    proxies = None if spec.proxy is None else (spec.proxy,)
    return replace(block, proxies=proxies, tasks=(spec.task,))


def _proxies(block: Block, experiment: Experiment) -> tuple[str, ...]:
    if block.proxies:
        return block.proxies
    names = tuple(experiment.safety)
    return names[:1] if block.case == "alignment-parameter" else names
