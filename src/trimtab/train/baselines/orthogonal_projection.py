"""Orthogonal gradient projection (OGPSA): a gradient of the task without what safety's span."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.config.ranges import Count, From0To1
from trimtab.train.baselines.safety_gradient import safety_gradient
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, Roles, gradients, trained


@dataclass
class OrthogonalProjection(Objective):
    """Step on g − ρ·Gᵀ(GGᵀ)⁺G g, weight by weight, G the gradients of L_ŝ on K batches of rows.

    At ρ = 1 nothing of the task's gradient is left in the span of each weight's reference
    gradients: along it the loss on each reference batch is unchanged to first order. An optimizer
    that scales the gradient entry by entry, as Adam does, leaves the complement again by a little.
    G is taken anew every few steps, at the weights of that step.

    The authors align a model and take the reference gradients from general data, to keep what it
    can do; here the roles are exchanged: the task is learned, and safety is kept. They take one or
    two gradients, of up to 200 rows, and take them again after 30 steps.

    Args:
        strength: ρ from 0, plain fine-tuning, to the authors' 1.
        references: K, how many reference gradients span the subspace.
        rows: safety rows behind each of them.
        every: optimizer steps after which G is taken again.

    Source: Sun et al. 2026, "Safety Alignment as Continual Learning: Mitigating the Alignment Tax
    via Orthogonal Gradient Projection", arXiv 2602.07892.
    """

    strength: From0To1 = 1.0
    needs_padded_rows = True
    references: Count = 4
    rows: Count = 8
    every: Count = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.needs_safety = True
        self.gradients: list[list[Tensor]] = []

    def batch_roles(self, step: int) -> Roles:
        return "task"

    def adjust_gradient(self, context: TrainingContext) -> None:
        weights = trained(context.model)
        if context.step % self.every == 0 or not self.gradients:
            first = context.step // self.every * self.references
            measured = [
                safety_gradient(context, weights, self.rows, first + number)
                for number in range(self.references)
            ]
            self.gradients = [gradient for gradient, _ in measured]
            self.extra_tokens += sum(tokens for _, tokens in measured)
        else:  # those of a checkpoint are on the CPU
            self.gradients = [
                [part.to(weight.device) for part, weight in zip(reference, weights, strict=True)]
                for reference in self.gradients
            ]
        task = gradients(weights)
        for weight, gradient, *references in zip(weights, task, *self.gradients, strict=True):
            weight.grad = projected(gradient, references, self.strength)

    def state_dict(self) -> dict[str, Any]:
        return {"gradients": self.gradients}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gradients = state["gradients"]

    def extra_state(self) -> tuple[list[list[Tensor]]]:
        return (self.gradients,)


@torch.no_grad()
def projected(gradient: Tensor, references: list[Tensor], strength: float) -> Tensor:
    """g − ρ·Gᵀ(GGᵀ)⁺G g of one weight."""
    flat = torch.stack([reference.flatten() for reference in references]).double()
    gram, along = flat @ flat.T, flat @ gradient.flatten().double()
    shares = strength * torch.linalg.pinv(gram, hermitian=True) @ along
    return gradient - (shares @ flat).view_as(gradient).to(gradient.dtype)
