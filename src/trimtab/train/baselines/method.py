"""What a published method may touch while a model is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from datasets import Dataset
from torch import Tensor, nn

from trimtab.config.ranges import check_ranges
from trimtab.train.safety_stream import Batch

if TYPE_CHECKING:
    from trimtab.train.baselines.trainer import MethodTrainer

Reads = Literal["task", "both", "safety"]
"""Whose rows a step reads: the task's, safety rows beside them, or safety rows alone."""


@dataclass(frozen=True)
class Step:
    """One forward pass: −log p of each next-token label, shape (rows, width − 1), else zero.

    Token counts are over the whole optimizer step, so that the parts of accumulated batches add up
    to a mean. `logits` are there for a method that `needs_logits`.
    """

    model: nn.Module
    inputs: Batch
    loss_of_token: Tensor
    is_safety: Tensor
    task_tokens: Tensor
    safety_tokens: Tensor
    logits: Tensor | None = None

    @property
    def task_loss(self) -> Tensor:
        """L_f, nats per token."""
        return (self.loss_of_token * ~self.is_safety).sum() / self.task_tokens.clamp(min=1)

    @property
    def safety_loss(self) -> Tensor:
        """L_ŝ, nats per token."""
        return (self.loss_of_token * self.is_safety).sum() / self.safety_tokens.clamp(min=1)


class Method:
    """A way to fine-tune that a user would try instead: each hook is plain fine-tuning's."""

    needs_safety: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    """Whether it compares with θ_s while it trains: a copy of the model, or the adapter off."""
    keeps_state: ClassVar[bool] = False
    """Whether it learns what a checkpoint does not hold, so that a run cannot go on from one."""
    extra_tokens: int = 0
    """Tokens it passed forward and backward outside the optimizer's steps."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def rows(self, trainer: MethodTrainer, task: Dataset, safety: Dataset | None) -> Dataset:
        """The rows to train on."""
        return task

    def prepare(self, trainer: MethodTrainer) -> None:
        """Take what is needed from θ_s, before the first step."""

    def reads(self, step: int) -> Reads:
        """Whose rows optimizer step number `step` reads."""
        return "both" if self.needs_safety else "task"

    def loss(self, step: Step) -> Tensor:
        """The loss of a batch."""
        return step.task_loss

    def before_optimizer_step(self, trainer: MethodTrainer) -> None:
        """Change the gradient, once the batches of the step are accumulated."""

    def after_optimizer_step(self, trainer: MethodTrainer) -> None:
        """Change the weights, or end the training."""

    @property
    def safety_share(self) -> float | None:
        """The share of safety rows in a batch, where the method asks for one of its own."""
        return None

    def held(self) -> tuple[Any, ...]:
        """What it keeps in memory beyond plain fine-tuning."""
        return ()


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer moves."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def snapshot(model: nn.Module) -> list[Tensor]:
    """Copies of the trained parameters as they are."""
    return [parameter.detach().clone() for parameter in trained(model)]


@torch.no_grad()
def add_to_gradient(parameter: nn.Parameter, term: Tensor) -> None:
    """∇ ← ∇ + term, also where no gradient has reached the parameter."""
    parameter.grad = term.clone() if parameter.grad is None else parameter.grad.add_(term)


def held_bytes(held: Any) -> int:
    """The bytes of the tensors in tensors, modules, lists and mappings."""
    if isinstance(held, Tensor):
        return held.numel() * held.element_size()
    if isinstance(held, nn.Module):
        return sum(held_bytes(weight) for weight in held.parameters())
    if isinstance(held, dict):
        return sum(map(held_bytes, held.values()))
    if isinstance(held, list | tuple):
        return sum(map(held_bytes, held))
    return 0
