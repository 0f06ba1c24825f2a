"""L2-SP: a pull towards the starting point."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.config.ranges import From0
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, add_to_gradient


@dataclass
class L2SP(Objective):
    """Minimise L_f(w) + λ‖w − w₀‖², w₀ the aligned weights, LoRA by its product w − w₀ = s·BA.

    Its gradient 2λ(w − w₀) joins the task's, as published, and so passes through Adam: that is the
    objective of Case II by another road (see `AlignmentParameterConstraint`), and what sets the two
    apart in a comparison is the road alone. For LoRA ∂/∂B = 2λs²·B(AAᵀ), ∂/∂A = 2λs²·(BᵀB)A.

    Args:
        penalty: λ ≥ 0.

    Source: Li, Grandvalet and Davoine 2018, "Explicit Inductive Bias for Transfer Learning with
    Convolutional Networks", arXiv 1802.01483.
    """

    penalty: From0 = 0.1
    needs_whole_model = False

    @property
    def needs_displacement(self) -> bool:
        return True

    @torch.no_grad()
    def adjust_gradient(self, context: TrainingContext) -> None:
        assert context.displacement is not None
        for part in context.displacement.parts:
            for weight, gradient in part.gradient():
                add_to_gradient(weight, self.penalty * gradient)
