"""Ways to learn λ or ε while training, which benchmarks/one_rule.py sets beside a dial.

The controller was this project's until a dial was found to come as close with one run for all
budgets: a PI controller on log λ (νPI) that compares each step's safety batch with what θ_s lost on
the same rows. The others are of other papers. None scales the model back at the end: the rule of
one_rule.py does that for all alike.

Sources: Sohrabi et al., "On PI Controllers for Updating Lagrange Multipliers in Constrained
Optimization", ICML 2024, arXiv 2406.04558; multipliers of Cooper, github.com/cooper-org/cooper;
L3Ms, Dhillon et al., ICLR 2025, arXiv 2410.21533.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor

from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, Roles, Step
from trimtab.train.objectives.paired_rows import distinct_rows, set_aside
from trimtab.train.objectives.proximal import project_onto_ball

_TRAVEL, _FASTEST = 4.0, 0.5
_PROPORTIONAL, _SMOOTHING = 5.0, 0.8
_CHANGE_SMOOTHING = 0.9
_LOWEST, _HIGHEST = 1e-4, 1e4
_ROOM = 1.1


class Controller(Objective):
    """λ of Case I, moved after each step by log λ ← log λ + κ(e + K(ξ − ξ₋₁)).

    The error e is the change of L_ŝ on the step's own safety rows less what is allowed by then, in
    units of √(budget² + noise²); ξ is its running mean. κ = 4 · 6s(1 − s)/T over the share s of T
    steps. While the learning rate is high, up to twice the budget is allowed. Some safety rows are
    kept from training, as the run of a user keeps them to be scaled back by.
    """

    needs_safety = True
    needs_whole_model = False

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.penalty = 1.0
        self.error: float | None = None
        self.change: float | None = None
        self.variance = 0.0
        self.before = np.empty((2, 0))
        self.validation: Dataset | None = None
        self.places: list[int] = []
        self.safety_loss = 0.0

    @property
    def needs_displacement(self) -> bool:
        return True

    def safety_rows(self, context: TrainingContext) -> Dataset:
        stream = context.safety
        assert stream is not None
        draws = context.safety_batches * stream.rows_per_batch
        rows, self.validation = set_aside(
            stream.rows, context.validation_rows, draws, stream.seed, context.safety_repeats
        )
        return rows

    def begin(self, context: TrainingContext) -> None:
        stream, validation = context.safety, self.validation
        assert stream is not None
        assert validation is not None
        draws = context.safety_batches * stream.rows_per_batch
        places = stream.places(0, min(draws, len(stream.rows)))
        rows, row_numbers = distinct_rows(
            concatenate_datasets([stream.rows.select(places), validation])
        )
        losses = np.stack(context.row_nll(rows))
        self.before = np.full((2, len(stream.rows)), np.nan)
        self.before[:, places] = losses[:, row_numbers[: len(places)]]
        self.extra_tokens += sum(map(len, rows["input_ids"]))

    def begin_step(self, context: TrainingContext, safety_batches: range) -> None:
        stream = context.safety
        assert stream is not None
        size = stream.rows_per_batch
        self.places = [
            place for number in safety_batches for place in stream.places(number * size, size)
        ]

    def loss(self, step: Step) -> Tensor:
        return (step.task_loss + self.penalty * step.safety_loss) / (1 + self.penalty)

    def observe(self, task_loss: float, safety_loss: float) -> None:
        self.safety_loss = safety_loss

    def after_optimizer_step(self, context: TrainingContext) -> None:
        nll, tokens = self.before[:, self.places].sum(axis=1)
        change = self.safety_loss - float(nll / tokens)
        if self.change is None:
            self.change = change
        deviation = change - self.change
        self.change += (1 - _CHANGE_SMOOTHING) * deviation
        self.variance = _CHANGE_SMOOTHING * (self.variance + (1 - _CHANGE_SMOOTHING) * deviation**2)
        share = (context.step - 0.5) / context.steps
        gain = min(_TRAVEL / context.steps, _FASTEST) * 6 * share * (1 - share)
        unit = math.hypot(self.budget, math.sqrt(self.variance))
        self.move((change - self.budget * (1 + pace(context))) / unit, gain, context)

    def move(self, error: float, gain: float, context: TrainingContext) -> None:
        """Answer a step's error."""
        before = error if self.error is None else self.error
        self.error = _SMOOTHING * before + (1 - _SMOOTHING) * error
        moved = error + _PROPORTIONAL * (self.error - before)
        self.penalty = min(max(self.penalty * math.exp(gain * moved), _LOWEST), _HIGHEST)


class RadiusController(Controller):
    """ε of Case II: infinite until the running change reaches the budget, then ε₀/λ."""

    def __init__(self, budget: float) -> None:
        super().__init__(budget)
        self.first_radius = math.inf

    def batch_roles(self, step: int) -> Roles:
        return "task"

    def begin_step(self, context: TrainingContext, safety_batches: range) -> None:
        super().begin_step(context, safety_batches)
        assert context.safety is not None
        rows = context.safety.rows.select(self.places)
        nll, tokens = context.row_nll(rows)
        self.extra_tokens += sum(map(len, rows["input_ids"]))
        self.safety_loss = float(nll.sum() / tokens.sum())

    def loss(self, step: Step) -> Tensor:
        return step.task_loss

    def observe(self, task_loss: float, safety_loss: float) -> None:
        """No safety row is trained on; `begin_step` has measured them."""

    def move(self, error: float, gain: float, context: TrainingContext) -> None:
        displacement = context.displacement
        assert displacement is not None
        assert self.change is not None
        distance = displacement.norm().item()
        if self.first_radius == math.inf:
            if self.change < self.budget:
                return
            self.first_radius = distance
        super().move(error, gain, context)
        # A ball far larger than the distance reached would take long to close again.
        self.penalty = max(self.penalty, self.first_radius / (_ROOM * distance))
        project_onto_ball(displacement, self.first_radius / self.penalty)


class DualAscent(Objective):
    """λ ← max(0, λ + η(L_ŝ − L_ŝ(θ_s) − b)), what a multiplier of Cooper's does with plain SGD.

    Args:
        limit: L_ŝ(θ_s) + b, nats per token.
        rate: η.
    """

    needs_safety = True
    needs_whole_model = False

    def __init__(self, limit: float, rate: float = 0.1) -> None:
        self.limit, self.rate = limit, rate
        self.penalty = 0.0

    def loss(self, step: Step) -> Tensor:
        return step.task_loss + self.penalty * step.safety_loss

    def observe(self, task_loss: float, safety_loss: float) -> None:
        self.penalty = max(0.0, self.penalty + self.rate * (safety_loss - self.limit))


class RelaxedBarrier(Objective):
    """L_f + B(L_ŝ − L_ŝ(θ_s) − b), with B(z) = −μ log(−z) up to −μ² and its tangent from there.

    μ falls from 1 to 0.01, by as many times at every step. `limit` is as for `DualAscent`.
    """

    needs_safety = True
    needs_whole_model = False
    first, last = 1.0, 0.01

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.mu = self.first

    def loss(self, step: Step) -> Tensor:
        beyond, switch = step.safety_loss - self.limit, self.mu**2
        inside = -self.mu * torch.log(torch.clamp(-beyond, min=switch))
        outside = self.mu / switch * (beyond + switch) - self.mu * math.log(switch)
        return step.task_loss + torch.where(beyond <= -switch, inside, outside)

    def after_optimizer_step(self, context: TrainingContext) -> None:
        self.mu = self.first * (self.last / self.first) ** (context.step / context.steps)


def pace(context: TrainingContext) -> float:
    """The learning rate of this step as a share of the highest."""
    assert context.optimizer is not None
    group = context.optimizer.param_groups[0]
    return float(group["lr"] / group["initial_lr"])
