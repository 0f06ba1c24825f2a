"""Orthogonal gradient projection (OGPSA): the task's step leaves the safety loss as it is."""

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
    """Step on g − ρ·Gᵀ(GGᵀ)⁺G g, G the gradients of L_ŝ on K batches of safety rows.

    At ρ = 1 the step is the task's gradient less all of it that lies in the span of the reference
    gradients: the steepest descent on the task that leaves the loss on each reference batch
    unchanged to first order. G is taken again every few steps, at the weights of that step.

    The authors align a model and take the reference gradients from general data, to keep what it
    can do; here the roles are exchanged: the task is learned, and safety is kept.

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
        for weight, gradient in zip(
            weights, projected(task, self.gradients, self.strength), strict=True
        ):
            weight.grad = gradient

    def state_dict(self) -> dict[str, Any]:
        return {"gradients": self.gradients}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gradients = state["gradients"]

    def extra_state(self) -> tuple[list[list[Tensor]]]:
        return (self.gradients,)


@torch.no_grad()
def projected(task: list[Tensor], references: list[list[Tensor]], strength: float) -> list[Tensor]:
    """g − ρ·Gᵀ(GGᵀ)⁺G g, over all tensors together."""

    def inner(first: list[Tensor], second: list[Tensor]) -> float:
        return sum(
            float((a.double() * b.double()).sum()) for a, b in zip(first, second, strict=True)
        )

    gram = torch.tensor(
        [[inner(first, second) for second in references] for first in references],
        dtype=torch.float64,
    )
    along = torch.tensor([inner(reference, task) for reference in references], dtype=torch.float64)
    shares = (strength * torch.linalg.pinv(gram, hermitian=True) @ along).tolist()
    result = [part.clone() for part in task]
    for share, reference in zip(shares, references, strict=True):
        for part, direction in zip(result, reference, strict=True):
            part.sub_(share * direction)
    return result
