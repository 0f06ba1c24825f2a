"""Early stopping: plain fine-tuning until the safety loss has risen by a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from datasets import Dataset
from torch import Tensor

from trimtab.config.ranges import Count, Range
from trimtab.measure.losses import response_nll
from trimtab.train.baselines.method import Method, Reads, snapshot, trained

if TYPE_CHECKING:
    from trimtab.train.baselines.trainer import MethodTrainer


@dataclass
class EarlyStopping(Method):
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
    needs_safety: ClassVar[bool] = True
    keeps_state: ClassVar[bool] = True

    def reads(self, step: int) -> Reads:
        return "task"

    def prepare(self, trainer: MethodTrainer) -> None:
        assert trainer.rows_beside is not None
        stream = trainer.rows_beside
        count = min(self.watched_rows, len(stream.rows))
        generator = torch.Generator().manual_seed(stream.seed)
        places = torch.randperm(len(stream.rows), generator=generator)[:count].tolist()
        self.watched: Dataset = stream.rows.select(places)
        self.highest = self._safety_loss(trainer) + self.budget
        self.kept = snapshot(trainer.model)

    @torch.no_grad()
    def after_optimizer_step(self, trainer: MethodTrainer) -> None:
        step = trainer.state.global_step
        if step % self.every and step != trainer.state.max_steps:
            return
        if self._safety_loss(trainer) <= self.highest:
            self.kept = snapshot(trainer.model)
            return
        for weight, kept in zip(trained(trainer.model), self.kept, strict=True):
            weight.copy_(kept)
        trainer.control.should_training_stop = True

    def held(self) -> tuple[list[Tensor]]:
        return (self.kept,)

    def _safety_loss(self, trainer: MethodTrainer) -> float:
        nll, tokens = response_nll(trainer.model, self.watched, trainer.measured_tokens_per_batch)
        return float(nll.sum() / tokens.sum())
