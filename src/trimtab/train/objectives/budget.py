"""A budget for what a model may lose of its safety, kept while it is trained and at the end."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor

from trimtab.errors import UserError
from trimtab.measure.losses import PER_TOKEN, Array
from trimtab.results.result import OUT_OF_REACH
from trimtab.stats import Estimate, Verdict, verdict
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, Roles, Step
from trimtab.train.objectives.multiplier import Multiplier
from trimtab.train.objectives.paired_rows import PairedRows, distinct_rows, set_aside
from trimtab.train.objectives.proximal import project_onto_ball
from trimtab.train.objectives.scaling import scale_to_budget

_TRAVEL = 4.0
_FASTEST = 0.5
_ROOM = 1.1
_UNSPENT = 0.2


class ImpossibleBudgetError(Exception):
    """No model can keep to the budget."""


@dataclass
class RunningChange:
    """Exponential mean of the change that each step's batch shows, and its standard error."""

    smoothing: float = 0.9
    mean: float | None = None
    variance: float = 0.0
    """Of one step's change about the mean."""

    def observe(self, change: float) -> None:
        """Take in one step's change."""
        if self.mean is None:
            self.mean = change
        nll = change - self.mean
        self.mean += (1 - self.smoothing) * nll
        self.variance = self.smoothing * (self.variance + (1 - self.smoothing) * nll**2)

    @property
    def standard_error(self) -> float:
        """Of the mean, with the steps' noise taken as independent."""
        return math.sqrt(self.variance * (1 - self.smoothing) / (1 + self.smoothing))


@dataclass(frozen=True)
class BudgetOutcome:
    """What a run learned about its budget, on validation rows that it did not train on."""

    budget: float
    penalty: float | None
    """λ at the end, in Case I."""
    radius: float
    """‖θ − θ_s‖ at the end, which in Case II is the ε found."""
    scale: float
    """What θ − θ_s was multiplied by at the end."""
    change: Estimate
    rows_wanted: int | None
    """How many validation rows would let four fifths of the budget be spent; None where the model
    was not scaled back, so that rows are not what leaves it unspent."""

    @property
    def verdict(self) -> Verdict:
        """Whether the change keeps to the budget, by its interval."""
        return verdict(self.change, self.budget)

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the budget is not kept and no larger λ would help."""
        pushed = self.penalty is not None and self.penalty >= OUT_OF_REACH
        return pushed and self.verdict != "within"


def gain_at(share: float, steps: int) -> float:
    """κ of the controller at a `share` of a run of `steps`: it rises from 0 and falls to 0.

    Its sum over the run is 4, or less where no step may be faster.

    >>> [round(gain_at(share, 100), 3) for share in (0.005, 0.5, 0.995)]
    [0.001, 0.06, 0.001]
    """
    return min(_TRAVEL / steps, _FASTEST) * 6 * share * (1 - share)


class Budget(Objective):
    """Minimise L_f(θ) subject to L_ŝ(θ) ≤ L_ŝ(θ_s) + budget, in one run.

    **Before**, one forward pass of θ_s over the safety rows that the run will use.

    **During** training, every step compares L_ŝ of its own safety batch with what θ_s lost on the
    same rows. In a first pass over them these rows have not been trained on yet, so that the
    comparison holds for rows never seen. In Case I it moves the multiplier λ, in Case II the
    radius: ε is infinite until the running change first reaches the budget, is then the distance
    at which it did, and from there on moves as 1/λ. Three things keep batches from misleading it.
    The violation is in units of √(budget² + noise²). The gain, κ = 4 · 6s(1 − s)/T over the share s
    of T steps, rises from zero, because a model that has just left θ_s has lost more than it will
    have in the end, and falls to zero, so that noise averages out. And a budget above 0 is allowed
    to be exceeded by budget × (learning rate over its highest), which a learning rate that falls to
    zero gives back: a λ that is too large costs capability, where one that is too small is made
    good by the scaling that follows. In Case I a step takes (L_f + λL_ŝ)/(1 + λ), which has the
    same optimum: a large λ early on would else leave Adam a memory of large gradients, and with it
    short steps on the task for the rest of the run.

    **After** it, where the interval of the change on validation rows, which were kept from
    training, reaches beyond the budget, `scale_to_budget` brings it back by scaling θ − θ_s; for
    LoRA it scales B. The fewer the rows, the wider the interval, and the less of a budget is spent:
    half a width of a fifth of it asks for n = (1.96·σ/(0.2·budget))² rows. What is left of a budget
    is not spent by stretching the model.

    λ, the running change, ε and the tokens measured are kept with every checkpoint.

    Raises:
        ImpossibleBudgetError: from `begin`, the budget asks for a loss below zero.
    """

    needs_safety = True
    needs_whole_model = False

    def __init__(self, budget: float, first_penalty: float) -> None:
        self.budget = budget
        self.multiplier = Multiplier(first_penalty)
        self.running = RunningChange()
        self.first_radius = math.inf
        self.outcome: BudgetOutcome | None = None
        self.extra_tokens = 0
        self._validation_rows: Dataset | None = None
        self._validation: PairedRows | None = None
        self._aligned: Array = np.empty((2, 0))
        self._places: list[int] = []
        self._safety_loss = 0.0

    @property
    def needs_displacement(self) -> bool:
        return True

    @property
    def penalty(self) -> float | None:
        """λ as it is now; None where the radius is what is learned."""
        return self.multiplier.value

    def safety_rows(self, context: TrainingContext) -> Dataset:
        stream = context.safety
        assert stream is not None
        drawn = context.safety_batches * stream.rows_per_batch
        rows, self._validation_rows = set_aside(
            stream.rows, context.validation_rows, drawn, stream.seed, context.safety_repeats
        )
        return rows

    def begin(self, context: TrainingContext) -> None:
        if self._validation is not None:
            return
        stream = context.safety
        assert stream is not None
        assert self._validation_rows is not None
        batches = context.safety_batches
        drawn = stream.places(0, min(batches * stream.rows_per_batch, len(stream.rows)))
        distinct, which = distinct_rows(
            concatenate_datasets([stream.rows.select(drawn), self._validation_rows])
        )
        nll, tokens = self._measure(distinct, context)
        self._aligned = np.full((2, len(stream.rows)), np.nan)
        self._aligned[:, drawn] = nll[which[: len(drawn)]], tokens[which[: len(drawn)]]
        kept, counts = np.unique(which[len(drawn) :], return_counts=True)
        self._validation = PairedRows(
            distinct.select(kept), counts.astype(float), nll[kept], tokens[kept]
        )
        loss = self._validation.aligned_loss
        if self.budget < -loss:
            raise ImpossibleBudgetError(
                f"budget {self.budget:g} is impossible: the model's safety loss is {loss:.3g} nats "
                f"per token, and no loss is below 0. Give a budget above {-loss:.3g}."
            )

    def begin_step(self, context: TrainingContext, safety_batches: range) -> None:
        stream = context.safety
        assert stream is not None
        each = stream.rows_per_batch
        self._places = [
            place for number in safety_batches for place in stream.places(number * each, each)
        ]

    def observe(self, task_loss: float, safety_loss: float) -> None:
        self._safety_loss = safety_loss

    def after_optimizer_step(self, context: TrainingContext) -> None:
        nll, tokens = self._aligned[:, self._places].sum(axis=1)
        change = self._safety_loss - float(nll / tokens)
        self.running.observe(change)
        gain = gain_at((context.step - 0.5) / context.steps, context.steps)
        allowed = self.allowance(context)
        unit = math.hypot(self.budget, math.sqrt(self.running.variance))
        self._move((change - allowed) / unit if unit > 0 else 0.0, gain, context)

    def allowance(self, context: TrainingContext) -> float:
        return self.budget + max(self.budget, 0.0) * context.pace

    def end(self, context: TrainingContext) -> None:
        validation, displacement = self._validation, context.displacement
        assert validation is not None
        assert displacement is not None
        at = 1.0
        wanted: dict[float, int | None] = {}

        def move_to(scale: float) -> None:
            nonlocal at
            if scale != at:
                displacement.rescale_(torch.tensor(scale / at))
                at = scale

        def change_at(scale: float) -> Estimate:
            move_to(scale)
            change = validation.change(self._measure(validation.rows, context)[0])
            wanted[scale] = change.rows_for(_UNSPENT * self.budget) if self.budget > 0 else None
            return change.estimate(PER_TOKEN)

        scale, change = scale_to_budget(change_at, self.budget)
        move_to(scale)
        radius = displacement.norm().item()
        rows_wanted = None if scale == 1 else wanted[scale]
        self.outcome = BudgetOutcome(self.budget, self.penalty, radius, scale, change, rows_wanted)

    def logs(self, context: TrainingContext) -> dict[str, float]:
        """λ or ε, the running change of L_ŝ with its standard error, and whether it is feasible."""
        assert context.displacement is not None
        found = {"distance": context.displacement.norm().item(), **self._learned()}
        if self.running.mean is None:
            return found
        return {
            **found,
            "safety_change": self.running.mean,
            "safety_change_error": self.running.standard_error,
            "feasible": float(self.running.mean <= self.budget),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "multiplier": asdict(self.multiplier),
            "running": asdict(self.running),
            "first_radius": self.first_radius,
            "extra_tokens": self.extra_tokens,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state:
            raise UserError(
                "the checkpoint was written without a budget, so it holds no multiplier. Start the "
                "run anew."
            )
        self.multiplier = Multiplier(**state["multiplier"])
        self.running = RunningChange(**state["running"])
        self.first_radius = state["first_radius"]
        self.extra_tokens = state["extra_tokens"]

    def _measure(self, rows: Dataset, context: TrainingContext) -> tuple[Array, Array]:
        self.extra_tokens += sum(map(len, rows["input_ids"]))
        return context.row_nll(rows)

    @abstractmethod
    def _move(self, error: float, gain: float, context: TrainingContext) -> None:
        """Answer a step's violation."""

    @abstractmethod
    def _learned(self) -> dict[str, float]:
        """What is learned, by its name."""


class LossBudget(Budget):
    """A budget kept by the multiplier λ of Case I."""

    def loss(self, step: Step) -> Tensor:
        penalty = self.multiplier.value
        return (step.task_loss + penalty * step.safety_loss) / (1 + penalty)

    def _move(self, error: float, gain: float, context: TrainingContext) -> None:
        self.multiplier.update(error, gain)

    def _learned(self) -> dict[str, float]:
        return {"penalty": self.multiplier.value}


class RadiusBudget(Budget):
    """A budget kept by the radius ε of Case II."""

    def __init__(self, budget: float) -> None:
        super().__init__(budget, first_penalty=1.0)

    @property
    def penalty(self) -> None:
        return None

    @property
    def radius(self) -> float:
        """ε as it is now."""
        return self.first_radius / self.multiplier.value

    def batch_roles(self, step: int) -> Roles:
        return "task"

    def begin_step(self, context: TrainingContext, safety_batches: range) -> None:
        super().begin_step(context, safety_batches)
        assert context.safety is not None
        nll, tokens = self._measure(context.safety.rows.select(self._places), context)
        self.observe(0.0, float(nll.sum() / tokens.sum()))

    def _move(self, error: float, gain: float, context: TrainingContext) -> None:
        displacement = context.displacement
        assert displacement is not None
        distance = displacement.norm().item()
        if self.first_radius == math.inf:
            assert self.running.mean is not None
            if self.running.mean < self.budget:
                return
            self.first_radius = distance
        self.multiplier.update(error, gain)
        # A ball far larger than the distance reached would take long to close again.
        smallest = self.first_radius / (_ROOM * distance)
        self.multiplier.value = max(self.multiplier.value, smallest)
        project_onto_ball(displacement, self.radius)

    def _learned(self) -> dict[str, float]:
        return {"radius": self.radius}
