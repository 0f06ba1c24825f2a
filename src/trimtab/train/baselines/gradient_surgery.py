"""Gradient surgery (SafeGrad, PCGrad): a task step that does not go against safety."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trimtab.config.ranges import From0
from trimtab.errors import UserError
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, Step, filled, gradients, trained

ROUNDING = 8.0
"""Measured at θ_s: 0.2 to 0.3 in float32, 0.4 to 0.6 in bfloat16."""


@dataclass
class GradientSurgery(Objective):
    """Step on g_u + ρ·g_a, g_u = ∇L_f less its component along g_a where ⟨g_u, g_a⟩ < 0.

    g_a is the gradient of KL(P_θ_s ‖ P_θ), the mean over the completion tokens of safety rows
    (SafeGrad), or of L_ŝ on them (PCGrad, but one-sided: PCGrad projects the safety gradient, too,
    where the two conflict). Both gradients are one vector over all trained
    weights. At θ_s itself the KL and its gradient are zero, so SafeGrad's first step is plain.
    What is computed there is rounding, whose direction says nothing of safety: a gradient of the
    KL shorter than `ROUNDING` units in the last place of g_u removes nothing from it.

    Args:
        strength: ρ ≥ 0, the authors' 1.
        towards: "reference" for the KL, "data" for L_ŝ.

    Source: Yi et al. 2025, "Gradient Surgery for Safe LLM Fine-Tuning", arXiv 2508.07172; Yu et al.
    2020, "Gradient Surgery for Multi-Task Learning", arXiv 2001.06782.
    """

    strength: From0 = 1.0
    towards: Literal["reference", "data"] = "reference"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.needs_safety = True
        self.safety_gradient: list[Tensor] | None = None

    @property
    def compares(self) -> Literal["safety"] | None:
        return "safety" if self.towards == "reference" else None

    def prepare(self, context: TrainingContext) -> None:
        if context.args.fp16:
            raise UserError(
                "gradient surgery takes the safety gradient without the scale that fp16 needs: "
                "set bf16=True for fp16."
            )
        checkpointing = context.args.gradient_checkpointing_kwargs or {}
        if context.args.gradient_checkpointing and checkpointing.get("use_reentrant"):
            raise UserError(
                "gradient surgery takes two gradients of a step, and reentrant checkpointing "
                "gives one: set gradient_checkpointing_kwargs={'use_reentrant': False}."
            )
        self.weights = trained(context.model)

    def begin_step(self, context: TrainingContext, safety_batches: range) -> None:
        self.safety_gradient = None  # a step that was broken off leaves a part of its own

    def loss(self, step: Step) -> Tensor:
        reference = self.towards == "reference"
        alignment = step.divergence_on_safety if reference else step.safety_loss
        parts = torch.autograd.grad(alignment, self.weights, retain_graph=True, allow_unused=True)
        gradient = filled(parts, self.weights)
        before = self.safety_gradient
        self.safety_gradient = (
            gradient if before is None else [a + b for a, b in zip(before, gradient, strict=True)]
        )
        return step.task_loss

    @torch.no_grad()
    def adjust_gradient(self, context: TrainingContext) -> None:
        assert self.safety_gradient is not None
        safety = [context.sum_over_processes(part) for part in self.safety_gradient]
        task = gradients(self.weights)
        least = ROUNDING * _unit_of_rounding(context) if self.towards == "reference" else 0.0
        for weight, part in zip(
            self.weights, operated(task, safety, self.strength, least), strict=True
        ):
            weight.grad = part
        self.safety_gradient = None

    def extra_state(self) -> tuple[Tensor, ...]:
        return tuple(weight.detach() for weight in self.weights)


def operated(
    task: list[Tensor], safety: list[Tensor], strength: float, least: float = 0.0
) -> list[Tensor]:
    """g_u − min(0, ⟨g_u, g_a⟩)/‖g_a‖² · g_a + ρ·g_a, over all tensors together.

    Where ‖g_a‖ ≤ `least`·‖g_u‖ nothing is removed.
    """
    inner = sum((float((u * a).sum()) for u, a in zip(task, safety, strict=True)), 0.0)
    squared = sum((float(a.square().sum()) for a in safety), 0.0)
    smallest = least**2 * sum((float(u.square().sum()) for u in task), 0.0)
    removed = min(0.0, inner) / squared if squared > smallest else 0.0
    return [u + (strength - removed) * a for u, a in zip(task, safety, strict=True)]


def _unit_of_rounding(context: TrainingContext) -> float:
    """The relative spacing of the numbers that the forward pass computes with."""
    kind = torch.bfloat16 if context.mixed_precision == "bf16" else context.model.dtype
    if kind == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        return 2.0**-10
    return torch.finfo(kind).eps
