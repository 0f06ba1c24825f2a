"""What a training has changed so far, measured on held-out rows while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trimtab.config.experiment import Measuring
from trimtab.measure.losses import PER_TOKEN, HeldOutRows
from trimtab.results.metrics import Role, logged_change
from trimtab.stats import Array, Estimate, first_of_each, paired_difference, verdict
from trimtab.train.context import context_of
from trimtab.train.trainer import SafetyAwareSFTTrainer

FEWEST_ROWS = 10
"""Below it, an interval would say little of where a loss is."""

_QUARTERS = (0.25, 0.5, 0.75)
_MOST_OF_THE_COST = 0.05
_PASS_FORWARD = 0.5
"""Of what a step on a row costs; about a third where all weights are trained, so this is more."""


class LiveMeasurement(TrainerCallback):
    """Measures L(θ) − L(θ_s) of every role on fixed held-out rows, at some steps of a training.

    Both models answer for the same rows, in evaluation mode, without gradient and in the precision
    of the training, so that nothing of it changes: the weights are the same, bit for bit. What was
    found joins that step's log, by the names of `logged_change`, and with it every tracker that
    `report_to` names. A dial is measured at the setting it names (α = ½; with a
    budget α = 0, the safest): it is set there, and set back.

    Where the whole interval of the change is beyond the budget even there, `warned` is told once.

    Args:
        trainer: before its first step, or before what it resumes is loaded: its model is θ_s.
        held_out: the rows of each role; of a role with fewer than `FEWEST_ROWS` nothing is told.
        measuring: at which steps, and on how many rows: `Measuring.every` says it.
    """

    def __init__(
        self,
        trainer: SafetyAwareSFTTrainer,
        held_out: Mapping[Role, HeldOutRows],
        measuring: Measuring,
        warned: Callable[[str], None],
    ) -> None:
        self.trainer = trainer
        self.warned = warned
        self._has_warned = False
        roles: dict[Role, HeldOutRows] = {
            role: rows for role, rows in held_out.items() if len(rows.rows) >= FEWEST_ROWS
        }
        steps = trainer.args.max_steps
        self.steps, count = steps_and_rows(measuring, steps, self._rows_per_step, len(roles))
        self.rows = {role: fixed_rows(rows, count) for role, rows in roles.items() if self.steps}
        self.aligned = self._by_row()

    @property
    def _rows_per_step(self) -> int:
        stream, args = self.trainer.safety_stream, self.trainer.args
        beside = stream.rows_per_batch if stream else 0
        batches = args.gradient_accumulation_steps * self.trainer.accelerator.num_processes
        return int((args.per_device_train_batch_size + beside) * batches)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **handles: Any
    ) -> None:
        if state.global_step not in self.steps or not self.rows:
            return
        changes = {
            role: paired_difference(now, self.aligned[role]).estimate(PER_TOKEN)
            for role, now in self._by_row().items()
        }
        # What the trainer's next log takes in, as it does the losses of the roles.
        waiting = self.trainer._metrics["train"]
        for role, change in changes.items():
            for name, value in logged_change(role, change).items():
                waiting[name].append(value)
        control.should_log = True
        if "safety" in changes:
            self._compare(changes["safety"], state)

    def _by_row(self) -> dict[Role, Array]:
        """Nats and tokens of every row, shape (2, rows), under the model as it is."""
        objective = self.trainer.objective
        with objective.looked_at_rest() if objective else nullcontext():
            nll_of = context_of(self.trainer).row_nll
            return {role: np.stack(nll_of(rows)) for role, rows in self.rows.items()}

    def _compare(self, change: Estimate, state: TrainerState) -> None:
        objective = self.trainer.objective
        allowed = objective.allowance if objective else None
        if self._has_warned or allowed is None or verdict(change, allowed) != "beyond":
            return
        self.warned(
            f"the budget is at risk: after {state.global_step} of {state.max_steps} steps the "
            f"safety loss of the safest setting is {change.value:+.3f} [{change.low:+.3f}, "
            f"{change.high:+.3f}] nats per token over the start on {len(self.rows['safety'])} "
            f"held-out rows, and the budget is {allowed:g}. Should it stay so, no setting keeps to "
            "it: then lower the learning rate, or raise the budget."
        )
        self._has_warned = True


def steps_and_rows(
    measuring: Measuring, steps: int, rows_per_step: int, roles: int
) -> tuple[frozenset[int], int]:
    """The steps after which to measure, and on how many rows of each role; see `Measuring.every`.

    >>> steps, rows = steps_and_rows(Measuring(), steps=200, rows_per_step=16, roles=2)
    >>> sorted(steps), rows
    ([50, 100, 150], 32)
    >>> steps_and_rows(Measuring(), steps=20, rows_per_step=16, roles=2)
    (frozenset(), 0)
    """
    most = measuring.live_rows
    if not roles or measuring.every == 0:
        return frozenset(), 0
    if measuring.every is not None:
        return frozenset(range(measuring.every, steps + 1, measuring.every)), most
    passes = (len(_QUARTERS) + 1) * roles
    # What a pass may be as a multiple of a step's batch; a smaller one takes hardly less time.
    batches = _MOST_OF_THE_COST * steps / (_PASS_FORWARD * passes)
    affordable = int(batches * rows_per_step)
    if batches < 1 or affordable < FEWEST_ROWS:
        return frozenset(), 0
    return frozenset(round(share * steps) for share in _QUARTERS), min(most, affordable)


def fixed_rows(held_out: HeldOutRows, count: int) -> Dataset:
    """So many rows of as many prompts, the same each time; of a whole distribution, draws of it."""
    generator = np.random.default_rng(0)
    every = len(held_out.rows)
    if held_out.weights is None:
        places = generator.permutation(every)
        if held_out.prompts is not None:
            places = places[first_of_each(held_out.prompts[places])]
        places = places[:count]
    else:
        places = generator.choice(every, count, p=held_out.weights / held_out.weights.sum())
    return held_out.rows.select(np.sort(places))
