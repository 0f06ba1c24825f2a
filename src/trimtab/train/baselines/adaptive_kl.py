"""Adaptive regularisation: a row whose prompt looks like safety's is held nearer to θ_s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from datasets import Dataset
from torch import Tensor, nn

from trimtab.config.ranges import From0To1
from trimtab.data.encoding import IGNORED
from trimtab.errors import UserError
from trimtab.measure.hidden_states import read_through
from trimtab.measure.losses import tokens_read
from trimtab.measure.overlap import task_posterior
from trimtab.train.baselines.constrained_sft import ROWS_AT_ONCE, row_names
from trimtab.train.batches import Batch
from trimtab.train.config import own_setting
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, Roles, Step
from trimtab.train.reference import AlignedReference


@dataclass
class AdaptiveKL(Objective):
    """Minimise the mean over task completions of (1 − β)·(−log P_θ(y|x)) + β·KL(P_θ_s ‖ P_θ).

    β = β_min + (β_max − β_min)·s(x), row by row, s(x) in [0, 1] the risk of its prompt: the
    calibrated posterior that it is one of the safety data's, by a classifier of θ_s's hidden states
    that has learned from the other half of both data sets. It is told once, before the training;
    safety rows are not trained on.

    The authors' critic learns from prompts labelled harmful or not, and says one or the other;
    their batches are of one row. With a judge in its place they score each batch as they go.

    Args:
        highest: β_max, the authors' 0.9.
        lowest: β_min, theirs 0.1.

    Raises:
        UserError: β_min is above β_max, or there are too few prompts to learn from.

    Source: Goel, Maji and Mazumder 2026, "Learning to Stay Safe: Adaptive Regularization Against
    Safety Degradation during Fine-Tuning", arXiv 2602.17546,
    github.com/gjyotin305/adaptive-ai-safety-align.
    """

    highest: From0To1 = 0.9
    lowest: From0To1 = 0.1
    needs_padded_rows = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lowest > self.highest:
            raise UserError(
                f"lowest is {self.lowest} and highest {self.highest}. Give a highest β above it."
            )
        self.needs_safety = True

    @property
    def compares(self) -> Literal["task"]:
        return "task"

    def batch_roles(self, step: int) -> Roles:
        return "task"

    def prepare(self, context: TrainingContext) -> None:
        tokens_per_batch = own_setting(context.args, "measured_tokens_per_batch")
        rows = (context.task_rows, self.safety_rows(context))
        task, safety = (
            (_prompts(of_role), read_through(context.model, of_role, tokens_per_batch).prompts)
            for of_role in rows
        )
        self.extra_tokens += sum(map(tokens_read, rows))
        states = task[1], safety[1]
        risk = task_posterior(task[0], safety[0], states, context.args.seed, context.safety_repeats)
        weights = self.lowest + (self.highest - self.lowest) * torch.from_numpy(risk).float()
        self.weights: dict[tuple[int, ...], Tensor] = {}
        columns = context.task_rows.select_columns(["input_ids", "labels"])
        for first in range(0, len(columns), ROWS_AT_ONCE):
            places = range(first, min(first + ROWS_AT_ONCE, len(columns)))
            names = row_names(context.collate([columns[place] for place in places]))
            self.weights.update(zip(names, weights[places.start : places.stop], strict=True))

    def divergence(
        self, reference: AlignedReference, logits: Tensor, trained: nn.Module, batch: Batch
    ) -> Tensor:
        return reference.divergence_of(logits, trained, batch, self._weights_of(batch))

    def loss(self, step: Step) -> Tensor:
        nll = ((1 - self._weights_of(step.inputs))[:, None] * step.loss_of_token).sum()
        loss: Tensor = nll / step.task_tokens.clamp(min=1) + step.divergence_on_task
        return loss + step.router_loss

    def extra_state(self) -> tuple[dict[tuple[int, ...], Tensor]]:
        return (self.weights,)

    def _weights_of(self, batch: Batch) -> Tensor:
        """β of each row, shape (rows,)."""
        weights = torch.stack([self.weights[name] for name in row_names(batch)])
        return weights.to(batch["labels"].device)


def _prompts(rows: Dataset) -> list[str]:
    """The tokens before each response, as text that tells prompts apart."""
    return [
        " ".join(str(token) for token, label in zip(ids, labels, strict=True) if label == IGNORED)
        for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True)
    ]
