"""A budget for what a model may lose of its safety, kept while it is trained and at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from trimtab.errors import UserError
from trimtab.measure.distance import Displacement
from trimtab.measure.losses import Array
from trimtab.results.result import BUDGET_TOLERANCE, OUT_OF_REACH
from trimtab.stats import Estimate
from trimtab.train.objectives.constraints import project_onto_ball
from trimtab.train.objectives.multiplier import Multiplier
from trimtab.train.objectives.paired_rows import PairedRows, distinct_rows
from trimtab.train.objectives.scaling import scale_to_budget
from trimtab.train.safety_stream import SafetyStream

RowNLL = Callable[[Dataset], tuple[Array, Array]]
"""−log P_θ(y|x) in nats of every row under the model as it is now, and the tokens of each y."""

_TRAVEL = 4.0
_FASTEST = 0.5
_ROOM = 1.1


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

    @property
    def verdict(self) -> Literal["met", "missed", "out of reach"]:
        """Within 5 % of the budget, or not; out of reach where no larger λ would help."""
        if self.change.value <= self.budget + BUDGET_TOLERANCE * abs(self.budget):
            return "met"
        if self.penalty is not None and self.penalty >= OUT_OF_REACH:
            return "out of reach"
        return "missed"


def gain_at(share: float, steps: int) -> float:
    """κ of the controller at a `share` of a run of `steps`: it rises from 0 and falls to 0.

    Its sum over the run is 4, or less where no step may be faster.

    >>> [round(gain_at(share, 100), 3) for share in (0.005, 0.5, 0.995)]
    [0.001, 0.06, 0.001]
    """
    return min(_TRAVEL / steps, _FASTEST) * 6 * share * (1 - share)


class BudgetKeeper(TrainerCallback, ExportableState):
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

    **After** it, where the model is beyond the budget on validation rows, which were kept from
    training, `scale_to_budget` brings it back by scaling θ − θ_s; for LoRA it scales B. What is
    left of a budget is not spent by stretching the model.

    λ, the running change, ε and the tokens measured go into `trainer_state.json` with every
    checkpoint.
    """

    def __init__(
        self,
        budget: float,
        first_penalty: float | None,
        displacement: Displacement,
        stream: SafetyStream,
        validation: Dataset,
        nll: RowNLL,
    ) -> None:
        self.budget = budget
        self.is_loss_constraint = first_penalty is not None
        self.multiplier = Multiplier(1.0 if first_penalty is None else first_penalty)
        self.running = RunningChange()
        self.first_radius = math.inf
        self.outcome: BudgetOutcome | None = None
        self.tokens_measured = 0
        """Tokens in forward passes that serve the budget alone."""
        self._displacement = displacement
        self._stream = stream
        self._validation_rows = validation
        self._nll = nll
        self._validation: PairedRows | None = None
        self._aligned: Array = np.empty((2, 0))
        self._places: list[int] = []
        self._safety_loss = 0.0

    @property
    def radius(self) -> float:
        """ε now, in Case II."""
        return self.first_radius / self.multiplier.value

    def prepare(self, batches: int) -> None:
        """Measure θ_s, the model as it is now, on validation rows and the rows of `batches`.

        Raises:
            ImpossibleBudgetError: the budget asks for a loss below zero.
        """
        if self._validation is not None:
            return
        stream = self._stream
        drawn = stream.places(0, min(batches * stream.rows_per_batch, len(stream.rows)))
        distinct, which = distinct_rows(
            concatenate_datasets([stream.rows.select(drawn), self._validation_rows])
        )
        nll, tokens = self._measure(distinct)
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

    def begin_step(self, batch_numbers: Sequence[int]) -> None:
        """The coming optimizer step has these safety batches, of all processes together."""
        each = self._stream.rows_per_batch
        self._places = [
            place for number in batch_numbers for place in self._stream.places(number * each, each)
        ]
        self._safety_loss = 0.0
        if not self.is_loss_constraint:
            nll, tokens = self._measure(self._stream.rows.select(self._places))
            self._safety_loss = float(nll.sum() / tokens.sum())

    def add_safety_loss(self, part: float) -> None:
        """A part of L_ŝ over the step's safety rows, from the step's own forward passes."""
        self._safety_loss += part

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **handles: Any
    ) -> None:
        stored = state.stateful_callbacks.get(type(self).__name__)
        if stored is None:
            raise UserError(
                "the checkpoint was written without a budget, so it holds no multiplier. Start the "
                "run anew."
            )
        learned = stored["attributes"]
        self.multiplier = Multiplier(**learned["multiplier"])
        self.running = RunningChange(**learned["running"])
        self.first_radius = float(learned["first_radius"])
        self.tokens_measured = learned["tokens_measured"]

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **handles: Any
    ) -> None:
        nll, tokens = self._aligned[:, self._places].sum(axis=1)
        assert tokens > 0, "rows without a label are left out when a stream is opened"
        change = self._safety_loss - float(nll / tokens)
        self.running.observe(change)
        share = (state.global_step + 0.5) / state.max_steps
        gain = gain_at(share, state.max_steps)
        highest = handles["optimizer"].param_groups[0].get("initial_lr", args.learning_rate)
        pace = handles["lr_scheduler"].get_last_lr()[0] / highest if highest else 0.0
        allowed = self.budget + max(self.budget, 0.0) * pace
        unit = math.hypot(self.budget, math.sqrt(self.running.variance))
        error = (change - allowed) / unit if unit > 0 else 0.0
        if self.is_loss_constraint:
            self.multiplier.update(error, gain)
        else:
            self._move_radius(error, gain)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; JSON has no infinity, so ε is a text."""
        learned = {
            "multiplier": asdict(self.multiplier),
            "running": asdict(self.running),
            "first_radius": str(self.first_radius),
            "tokens_measured": self.tokens_measured,
        }
        return {"args": {}, "attributes": learned}

    def logs(self) -> dict[str, float]:
        """λ or ε, the running change of L_ŝ with its standard error, and whether it is feasible."""
        penalty = {"penalty": self.multiplier.value}
        knob = penalty if self.is_loss_constraint else {"radius": self.radius}
        if self.running.mean is None:
            return knob
        return {
            **knob,
            "safety_change": self.running.mean,
            "safety_change_error": self.running.standard_error,
            "feasible": float(self.running.mean <= self.budget),
        }

    def finish(self) -> None:
        """Bring the trained model to its budget on the validation rows, and keep the outcome."""
        validation = self._validation
        assert validation is not None
        at = 1.0

        def move_to(scale: float) -> None:
            nonlocal at
            if scale != at:
                self._displacement.rescale_(torch.tensor(scale / at))
                at = scale

        def change_at(scale: float) -> Estimate:
            move_to(scale)
            return validation.change(self._measure(validation.rows)[0])

        scale, change = scale_to_budget(change_at, self.budget)
        move_to(scale)
        penalty = self.multiplier.value if self.is_loss_constraint else None
        radius = self._displacement.norm().item()
        self.outcome = BudgetOutcome(self.budget, penalty, radius, scale, change)

    def _measure(self, rows: Dataset) -> tuple[Array, Array]:
        self.tokens_measured += sum(map(len, rows["input_ids"]))
        return self._nll(rows)

    def _move_radius(self, error: float, gain: float) -> None:
        distance = self._displacement.norm().item()
        if self.first_radius == math.inf:
            assert self.running.mean is not None
            if self.running.mean < self.budget:
                return
            self.first_radius = distance
        self.multiplier.update(error, gain)
        # A ball far larger than the distance reached would take long to close again.
        smallest = self.first_radius / (_ROOM * distance)
        self.multiplier.value = max(self.multiplier.value, smallest)
        project_onto_ball(self._displacement, self.radius)
