"""L2-SP: a pull towards the starting point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from trimtab.config.ranges import From0
from trimtab.measure.distance import DensePart, Displacement
from trimtab.train.baselines.method import Method, add_to_gradient

if TYPE_CHECKING:
    from trimtab.train.baselines.trainer import MethodTrainer


@dataclass
class L2SP(Method):
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

    def prepare(self, trainer: MethodTrainer) -> None:
        self.displacement = Displacement(trainer.model)

    @torch.no_grad()
    def before_optimizer_step(self, trainer: MethodTrainer) -> None:
        for part in self.displacement.parts:
            for weight, gradient in part.gradient():
                add_to_gradient(weight, self.penalty * gradient)

    def held(self) -> tuple[Any, ...]:
        return tuple(p.start for p in self.displacement.parts if isinstance(p, DensePart))
