"""Early stopping: plain fine-tuning until the safety loss has risen by a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from datasets import Dataset
from torch import Tensor

from trimtab.config.ranges import Count, Range
from trimtab.errors import UserError
from trimtab.measure.losses import tokens_read
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, Roles, snapshot, trained


@dataclass
class EarlyStopping(Objective):
    """Minimise L_f until L_ŝ(θ) > L_ŝ(θ_s) + budget, then go back to the weights last found within.

    Args:
        budget: nats per token by which the loss on the watched safety rows may rise.
        every: optimizer steps from one look to the next.
        watched_rows: how many safety rows are looked at, all the same ones.

    Source: Qi et al. 2024, "Fine-tuning Aligned Language Models Compromises Safety", arXiv
    2310.03693, on how safety falls with steps and with the learning rate.
    """

    budget: Annotated[float, Range(at_least=0, infinity=True)] = 0.1
    every: Count = 1
    watched_rows: Count = 256
    needs_safety = True

    @property
    def is_over(self) -> bool:
        return self.stopped

    def batch_roles(self, step: int) -> Roles:
        return "task"

    @property
    def asks_of_saved_weights(self) -> bool:
        return True

    def begin(self, context: TrainingContext) -> None:
        if self.stopped:
            raise UserError(
                "early stopping has ended this training. Make a new trainer to train again."
            )

    def prepare(self, context: TrainingContext) -> None:
        assert context.safety is not None
        if context.args.load_best_model_at_end and self.every > 1:
            raise UserError(
                f"early stopping looks at every {self.every}th step, and load_best_model_at_end "
                "may load weights that it has not looked at. Set every=1, or "
                "load_best_model_at_end=False."
            )
        stream = context.safety
        count = min(self.watched_rows, len(stream.rows))
        generator = torch.Generator().manual_seed(stream.seed)
        places = torch.randperm(len(stream.rows), generator=generator)[:count].tolist()
        self.watched: Dataset = stream.rows.select(places)
        self.watched_tokens = tokens_read(self.watched)
        self.highest = self._safety_loss(context) + self.budget
        self.kept = snapshot(context.model)
        self.stopped = False

    @torch.no_grad()
    def after_optimizer_step(self, context: TrainingContext) -> None:
        step = context.step
        if step % self.every and step != context.steps:
            return
        if self._safety_loss(context) <= self.highest:
            self.kept = snapshot(context.model)
            return
        for weight, saved in zip(trained(context.model), self.kept, strict=True):
            weight.copy_(saved)
        self.stopped = True
        context.stop()

    def extra_state(self) -> tuple[list[Tensor]]:
        return (self.kept,)

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept, "stopped": self.stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stopped = state["stopped"]
        self.kept = [
            saved.to(weight) for saved, weight in zip(state["kept"], self.kept, strict=True)
        ]

    def _safety_loss(self, context: TrainingContext) -> float:
        nll, tokens = context.row_nll(self.watched)
        self.extra_tokens += self.watched_tokens
        return float(nll.sum() / tokens.sum())
