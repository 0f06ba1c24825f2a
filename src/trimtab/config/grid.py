"""The grid of an experiment as trainings, and the points each makes once measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256

from trimtab.config.experiment import Block, Experiment
from trimtab.config.methods import AFTER_TRAINING
from trimtab.results.result import PointKey


@dataclass(frozen=True)
class Run:
    """One training, and the points its one model is measured as.

    Where a constraint does not bind (λ = 0, ε = ∞) the model is that of plain fine-tuning, so one
    training makes such points of every block, whatever the case and the proxy.
    """

    training: PointKey
    points: tuple[PointKey, ...]

    @property
    def name(self) -> str:
        """A name for people and for folders, which no other training of a plan has.

        >>> Run(PointKey("alignment-loss", 0.5, None, "near", "code", 0), ()).name
        'alignment-loss-penalty-0.5--near--code--seed-0'
        """
        training = self.training
        knobs = ("penalty", "radius", "budget", "knob")
        named = {name: getattr(training, name) for name in knobs}
        given = (f"-{name}-{_exact(value)}" for name, value in named.items() if value is not None)
        kind = (training.method or training.case) + next(given, "")  # a dial holds every setting
        data = [_for_folders(name) for name in (training.proxy, training.task) if name is not None]
        return "--".join([kind, *data, f"seed-{training.seed}"])


def _exact(value: float) -> str:
    short = f"{value:.12g}"
    return short if float(short) == value else repr(value)


def _for_folders(name: str) -> str:
    """The name where it is fit for a folder, else what of it is and a sum of the rest.

    >>> _for_folders("small-code"), _for_folders("a b"), _for_folders("a--b")
    ('small-code', 'a-b+c8687a08', 'a-b+90827a2e')
    """
    fit = re.sub(r"[^\w.]+", "-", name).strip("-")
    return fit if fit == name else f"{fit}+{sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Plan:
    """Every point of an experiment, each once."""

    aligned: tuple[PointKey, ...]
    """The starting model itself, measured for every proxy and task of the grid."""
    runs: tuple[Run, ...]
    """Trainings in the order they are made: seed by seed, so that early results span the grid."""

    @property
    def points(self) -> tuple[PointKey, ...]:
        return (*self.aligned, *(point for run in self.runs for point in run.points))

    def without(self, made: set[PointKey]) -> Plan:
        """What is left to do once the points `made` exist."""
        left = [
            replace(run, points=tuple(point for point in run.points if point not in made))
            for run in self.runs
        ]
        return Plan(
            tuple(point for point in self.aligned if point not in made),
            tuple(run for run in left if run.points),
        )


def plan_of(experiment: Experiment) -> Plan:
    """The plan of an experiment: cases × knobs × proxies × tasks × seeds."""
    points: dict[PointKey, list[PointKey]] = {}
    for key in dict.fromkeys(_grid(experiment)):
        points.setdefault(_training(key), []).append(key)
    pairs = dict.fromkeys((key.proxy, key.task) for keys in points.values() for key in keys)
    return Plan(
        aligned=tuple(PointKey("aligned", None, None, proxy, task, 0) for proxy, task in pairs),
        runs=tuple(Run(training, tuple(keys)) for training, keys in points.items()),
    )


def _grid(experiment: Experiment) -> Iterator[PointKey]:
    for seed in experiment.seeds:
        for block in experiment.grid:
            for task in block.tasks or experiment.task:
                for proxy in _proxies(block, experiment):
                    for penalty in block.penalties:
                        yield PointKey(block.case, penalty, None, proxy, task, seed)
                    for radius in block.radii:
                        yield PointKey(block.case, None, radius, proxy, task, seed)
                    for budget in block.budgets:
                        yield PointKey(block.case, None, None, proxy, task, seed, budget)
                    for knob in block.knobs:
                        key = PointKey(block.case, None, None, proxy, task, seed)
                        if experiment.dial is not None and block.case == "dial":
                            yield key._replace(penalty=experiment.dial.penalty_at(knob), alpha=knob)
                        else:
                            yield key._replace(method=block.method, knob=knob)


def _proxies(block: Block, experiment: Experiment) -> tuple[str, ...]:
    if block.proxies:
        return block.proxies
    known = tuple(experiment.safety)
    return known[:1] if block.case == "alignment-parameter" else known


def _training(key: PointKey) -> PointKey:
    if key.case == "dial":
        return key._replace(penalty=None, alpha=None)
    off = key.penalty == 0 or math.inf in (key.radius, key.budget)
    if off or key.method in AFTER_TRAINING:
        return PointKey("alignment-loss", 0.0, None, None, key.task, key.seed)
    reads_safety = key.case != "alignment-parameter" or key.budget is not None
    return key if reads_safety else key._replace(proxy=None)
