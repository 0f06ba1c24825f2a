"""What an objective may do in a training: one interface for the two cases and every baseline."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from peft import PeftConfig
from torch import Tensor, nn

from trimtab.config.ranges import check_ranges
from trimtab.errors import UserError
from trimtab.train.batches import Batch
from trimtab.train.context import TrainingContext
from trimtab.train.reference import AlignedReference

Array = NDArray[np.float64]

Target = Literal["response", "kl"]
"""What is asked of safety rows: their own responses, or θ_s's distribution there."""

Roles = Literal["task", "both", "safety"]
"""Whose rows a step reads: the task's, safety rows beside them, or safety rows alone."""


@dataclass(frozen=True)
class Step:
    """One forward pass: −log p of each next-token label, shape (rows, width − 1), else zero.

    Token counts are over the whole optimizer step, all batches and processes together, so that the
    parts add up to a mean.
    """

    inputs: dict[str, Tensor]
    loss_of_token: Tensor
    is_safety: Tensor
    """Which labels are of safety rows, of shape (rows, 1) or (rows, width − 1)."""
    task_tokens: Tensor
    safety_tokens: Tensor
    router_loss: Tensor | float = 0.0
    """A mixture of experts' weighted auxiliary loss; it joins L_f, or L_ŝ of safety rows alone."""
    divergence: Tensor | None = None
    """Σ KL(P_θs ‖ P_θ) over the completion tokens of the rows that the objective compares."""

    @property
    def task_loss(self) -> Tensor:
        """L_f, nats per token."""
        summed = (self.loss_of_token * ~self.is_safety).sum()
        loss: Tensor = summed / self.task_tokens.clamp(min=1)
        return loss + self.router_loss if self.task_tokens > 0 else loss

    @property
    def safety_loss(self) -> Tensor:
        """L_ŝ, nats per token."""
        summed = (self.loss_of_token * self.is_safety).sum()
        loss: Tensor = summed / self.safety_tokens.clamp(min=1)
        return loss if self.task_tokens > 0 else loss + self.router_loss

    @torch.no_grad()
    def role_means(self, compares: Literal["task", "safety"] | None) -> Tensor:
        """L_f, and L_ŝ or the KL on safety rows where that is compared, shape (2,)."""
        task = (self.loss_of_token * ~self.is_safety).sum()
        on_safety = self.divergence if compares == "safety" else None
        safety = (self.loss_of_token * self.is_safety).sum() if on_safety is None else on_safety
        tokens = torch.stack([self.task_tokens, self.safety_tokens])
        return torch.stack([task, safety]) / tokens.clamp(min=1)

    @property
    def divergence_on_safety(self) -> Tensor:
        """KL(P_θs ‖ P_θ), the mean over the completion tokens of safety rows, in nats."""
        assert self.divergence is not None
        return self.divergence / self.safety_tokens.clamp(min=1)

    @property
    def divergence_on_task(self) -> Tensor:
        """KL(P_θs ‖ P_θ), the mean over the completion tokens of task rows, in nats."""
        assert self.divergence is not None
        return self.divergence / self.task_tokens.clamp(min=1)


class Objective:
    """What a training minimises, and what it does besides: each hook is plain fine-tuning's.

    A training works on what `started` returns, so an objective can be given to several.
    """

    needs_safety: bool = False
    """Whether it cannot be trained without safety rows."""
    needs_padded_rows: bool = False
    """Whether it tells a batch's rows apart, so that none may follow another in one row."""
    needs_whole_model: bool = True
    """Whether every process needs all weights: of an objective not tested on shards, it does."""
    needs_counted_rows: bool = True
    """Whether task rows cannot be a stream: of an objective not tested on one, they cannot."""
    moves_copies: bool = False
    """Whether the optimizer moves copies of the trained weights, and not those of the model."""
    extra_tokens: int = 0
    """Tokens it passed through the model outside the optimizer's steps."""

    def __post_init__(self) -> None:
        """Hold the fields of an objective that is a dataclass to their ranges."""
        check_ranges(self)

    @property
    def is_plain(self) -> bool:
        """Whether it is plain fine-tuning, which is then trained bit for bit."""
        return False

    @property
    def is_over(self) -> bool:
        """Whether it has ended the training before the last step."""
        return False

    @property
    def compares(self) -> Literal["task", "safety"] | None:
        """Whose rows it asks the aligned model's distribution on, if any."""
        return None

    @property
    def needs_displacement(self) -> bool:
        """Whether it asks how far the weights have moved, and so needs them in float32."""
        return False

    @property
    def asks_of_saved_weights(self) -> bool:
        """Whether what it says holds of the weights it moves, which have to be those saved."""
        return self.needs_displacement or self.replaces_model

    @property
    def allowance(self) -> float | None:
        """What L_ŝ may rise by, nats per token; None where nothing limits it."""
        return None

    @property
    def safety_share(self) -> float | None:
        """The share of safety rows in a batch, where the objective asks for one of its own."""
        return None

    @property
    def has_own_loss(self) -> bool:
        """Whether the loss is another than the mean over the task's tokens."""
        return type(self).loss is not Objective.loss

    @property
    def chooses_rows(self) -> bool:
        """Whether it trains on other task rows than those given."""
        return type(self).task_rows is not Objective.task_rows

    @property
    def replaces_model(self) -> bool:
        """Whether it trains another model in the place of the one given."""
        return type(self).placed_on is not Objective.placed_on

    def started(self) -> Objective:
        """The objective of one training, with what it learns there."""
        return copy(self)

    def placed_on(self, model: Any, peft_config: PeftConfig | None) -> Any:
        """The model to train in place of a loaded `model`; None leaves it, and adapters, to TRL."""
        return None

    def optimized(self) -> nn.Module | None:
        """The module whose parameters the optimizer moves, where it is not the model."""
        return None

    def copies(self) -> list[tuple[nn.Parameter, ...]]:
        """Trained weights of the model, each with its copies; where it `moves_copies`."""
        return []

    def task_rows(self, context: TrainingContext) -> Dataset:
        """The rows to train on."""
        return context.task_rows

    def safety_rows(self, context: TrainingContext) -> Dataset:
        """The safety rows to train on."""
        assert context.safety is not None
        return context.safety.rows

    def prepare(self, context: TrainingContext) -> None:
        """Take what is needed from θ_s, when the trainer is made."""

    def begin(self, context: TrainingContext) -> None:
        """Measure what is needed of θ_s, before the first step and before a resumption."""

    def batch_roles(self, step: int) -> Roles:
        """Whose rows the batches of optimizer step number `step` hold."""
        return "both" if self.needs_safety else "task"

    def safety_steps_before(self, step: int) -> int:
        """How many of the optimizer steps before number `step` read safety rows."""
        return step

    def safety_share_at(self, step: int, seed: int) -> float | None:
        """The share of safety rows in a batch of optimizer step number `step`, of as many rows.

        None leaves a batch the rows that the settings give it.
        """
        return None

    def begin_step(self, context: TrainingContext, safety_batches: range) -> None:
        """A step begins, with safety batches of these numbers, all processes together."""

    def loss(self, step: Step) -> Tensor:
        """The loss of a batch."""
        return step.task_loss

    def divergence(
        self, reference: AlignedReference, logits: Tensor, trained: nn.Module, batch: Batch
    ) -> Tensor:
        """What it compares of task rows, summed over their completion tokens, in nats.

        Args:
            logits: θ's at the labelled places, of shape (places, vocabulary).
            trained: θ itself, unwrapped, whose adapter can be disabled.
        """
        return reference.divergence_of(logits, trained, batch)

    @property
    def adjusts_gradient(self) -> bool:
        """Whether a step's gradient is another than that of its losses."""
        return type(self).adjust_gradient is not Objective.adjust_gradient

    def adjust_gradient(self, context: TrainingContext) -> None:
        """Change the gradient, once the batches of the step are accumulated; then it is clipped."""

    def before_optimizer_step(self, context: TrainingContext) -> None:
        """Hand the gradient on to the weights that the optimizer moves, after it is clipped."""

    def after_optimizer_step(self, context: TrainingContext) -> None:
        """Change the weights, or end the training; `context.step` counts this step."""

    def looked_at_rest(self) -> AbstractContextManager[None]:
        """For as long as it is measured, in the middle of a training or after it."""
        return nullcontext()

    def end(self, context: TrainingContext) -> None:
        """Change the trained model, after the last step."""

    def logs(self, context: TrainingContext) -> dict[str, float]:
        """What joins the logged metrics."""
        return {}

    def extra_state(self) -> tuple[Any, ...]:
        """What it keeps in memory beyond plain fine-tuning."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as `torch.save` takes it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer moves."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def snapshot(model: nn.Module) -> list[Tensor]:
    """Copies of the trained parameters as they are."""
    return [parameter.detach().clone() for parameter in trained(model)]


def gradients(weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """∇ of each weight as it is accumulated, zero where none has reached it."""
    return filled([weight.grad for weight in weights], weights)


def require_objective(objective: object) -> None:
    """Raises UserError where what is given as objective is none."""
    if objective is None or isinstance(objective, Objective):
        return
    if isinstance(objective, type) and issubclass(objective, Objective):
        name = objective.__name__
        raise UserError(f"the objective is the class {name}. Give one of it: {name}(…).")
    raise UserError(
        f"the objective is a {type(objective).__name__}. Give an objective, as "
        "AlignmentLossConstraint(penalty=0.3)."
    )


def filled(parts: Sequence[Tensor | None], weights: Sequence[Tensor]) -> list[Tensor]:
    """A part for each weight, zero where there is none."""
    return [
        torch.zeros_like(weight) if part is None else part
        for weight, part in zip(weights, parts, strict=True)
    ]


@torch.no_grad()
def add_to_gradient(parameter: nn.Parameter, term: Tensor) -> None:
    """∇ ← ∇ + term, also where no gradient has reached the parameter."""
    parameter.grad = term.clone() if parameter.grad is None else parameter.grad.add_(term)


def held_bytes(value: Any) -> int:
    """The bytes of the tensors in tensors, modules, lists and mappings."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, nn.Module):
        return sum(held_bytes(weight) for weight in value.parameters())
    if isinstance(value, dict):
        return sum(map(held_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(held_bytes, value))
    return 0
