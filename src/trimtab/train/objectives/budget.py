"""A budget for what a model may lose of its safety: a dial, turned to where it keeps to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from trimtab.config.ranges import FiniteOrInfinity
from trimtab.errors import UserError
from trimtab.measure.losses import PER_TOKEN, tokens_read
from trimtab.stats import Estimate, LimitVerdict, Statistic, verdict
from trimtab.train.batches import sequences_per_row
from trimtab.train.budget_search import largest_within
from trimtab.train.context import RowNLL, TrainingContext
from trimtab.train.objectives.dial import DialObjective
from trimtab.train.objectives.paired_rows import (
    PairedRows,
    distinct_rows,
    prompt_numbers,
    set_aside,
)

_UNSPENT = 0.2


class ImpossibleBudgetError(Exception):
    """No model can keep to the budget."""


@dataclass(frozen=True)
class BudgetOutcome:
    """The setting that a budget came to, by validation rows that were not trained on."""

    budget: float
    alpha: float
    penalty: float
    """λ(α), at which the dial was trained there."""
    change: Estimate
    """L_ŝ(θ(α)) − L_ŝ(θ_s) on validation rows, nats per token."""
    rows_wanted: int | None
    """How many validation rows would let four fifths of the budget be spent; None where rows are
    not what leaves it unspent: the most capable setting is within, or the budget is not above 0."""
    tokens: int
    """Passed through the model to find the setting."""

    @property
    def verdict(self) -> LimitVerdict:
        """Whether the change keeps to the budget, by its interval."""
        return verdict(self.change, self.budget)


@dataclass
class Budget(DialObjective):
    """Minimise L_f(θ) subject to L_ŝ(θ) ≤ L_ŝ(θ_s) + budget, in one run.

    A dial is trained, on other safety rows than those it is validated on. At the end it is turned
    to the largest α at which the 95 % interval of L_ŝ(θ(α)) − L_ŝ(θ_s) on validation rows, paired
    by row, ends within the budget. Were the change itself brought to the budget, the model would be
    beyond it as often as not. The fewer the rows, the wider the interval, and the less of a budget
    is spent: half a width of a fifth of it asks for n = (1.96·σ/(0.2·budget))² rows.

    What is left is the model at that setting and nothing of a dial: with LoRA one plain adapter of
    twice the rank. Or, with `keeps_ends`, a dial that `turned_to` sets to one budget after another.

    A λ learned along the way costs a run for each budget and comes no closer over all of them; a
    radius learned so comes less close: benchmarks/one_rule.py.

    Args:
        budget: what L_ŝ may rise by, in nats per token. Below 0 safety has to improve; infinity is
            plain fine-tuning.
        keeps_ends: whether the dial stays one at the end.
        dial, target: as for `DialObjective`.

    Raises:
        UserError: the budget is not a number, or there are too few safety rows to keep some.
        ImpossibleBudgetError: from `begin`, the budget asks for a loss below zero.
    """

    budget: FiniteOrInfinity = math.inf
    keeps_ends: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.outcome: BudgetOutcome | None = None
        self._validation_rows: Dataset | None = None
        self._validation: PairedRows | None = None

    @property
    def is_plain(self) -> bool:
        return self.budget == math.inf

    @property
    def allowance(self) -> float:
        return self.budget

    @property
    def looked_at(self) -> float:
        return 0.0  # where not even the safest setting is within, the budget is at risk

    def safety_rows(self, context: TrainingContext) -> Dataset:
        stream = context.safety
        assert stream is not None
        # All of a batch, at most: a dial's settings ask for more safety rows or for fewer.
        packs = context.args.per_device_train_batch_size
        batch = round(packs * sequences_per_row(context.task_rows)) + stream.rows_per_batch
        rows, self._validation_rows = set_aside(
            stream.rows,
            context.validation_rows,
            context.safety_batches * batch,
            stream.seed,
            context.safety_repeats,
        )
        return rows

    def begin(self, context: TrainingContext) -> None:
        if self.outcome is not None:
            raise UserError(
                "the budget's dial was settled when its training ended. Make a new trainer to "
                "train again, or give Budget(keeps_ends=True)."
            )
        if self._validation is not None:
            return
        assert self._validation_rows is not None
        distinct, numbers = distinct_rows(self._validation_rows)
        nll, tokens = context.row_nll(distinct)
        self.extra_tokens += tokens_read(distinct)
        counts = np.bincount(numbers, minlength=len(distinct)).astype(float)
        prompts = None if context.safety_repeats else prompt_numbers(distinct)
        self._validation = PairedRows(distinct, counts, nll, tokens, prompts)
        loss = self._validation.aligned_loss
        if self.budget < -loss:
            raise ImpossibleBudgetError(
                f"budget {self.budget:g} is impossible: the model's safety loss is {loss:.3g} nats "
                f"per token, and no loss is below 0. Give a budget above {-loss:.3g}."
            )

    def end(self, context: TrainingContext) -> None:
        super().end(context)
        if self.keeps_ends:
            return
        self.outcome = self.turned_to(self.budget, context.row_nll)
        self.extra_tokens += self.outcome.tokens
        self.endpoints.settle(self.outcome.alpha)

    def turned_to(self, budget: float, row_nll: RowNLL) -> BudgetOutcome:
        """Turn the model to the most capable setting within a budget; to α = 0 where none is."""
        validation = self._validation
        assert validation is not None
        changes: dict[float, Statistic] = {}

        def rise_at(alpha: float) -> Estimate:
            self.endpoints.set_alpha(alpha)
            changes[alpha] = validation.change(row_nll(validation.rows)[0])
            return changes[alpha].estimate(PER_TOKEN)

        alpha, change = largest_within(rise_at, budget)
        self.endpoints.set_alpha(alpha)
        rows_wanted = None
        if alpha < 1 and budget > 0:
            rows_wanted = validation.rows_for(changes[alpha], _UNSPENT * budget)
        tokens = len(changes) * tokens_read(validation.rows)
        penalty = self.dial.penalty_at(alpha)
        return BudgetOutcome(budget, alpha, penalty, change, rows_wanted, tokens)
