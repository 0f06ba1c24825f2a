"""KL anchor: the aligned model's own distribution is held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trimtab.config.ranges import From0
from trimtab.train.objectives.base import Objective, Step


@dataclass
class KLAnchor(Objective):
    """Minimise L_f(θ) + λ·KL(P_θ_s ‖ P_θ), a mean over completion tokens, not prompts.

    Args:
        penalty: λ ≥ 0, commonly 0.1.
        on: whose rows the KL is taken on: "safety" reads safety rows beside the task's, whose
            responses serve as contexts only; "task" reads none.

    Source: the KL term of Ouyang et al. 2022, arXiv 2203.02155, taken forward, against θ_s.
    """

    penalty: From0 = 0.1
    on: Literal["safety", "task"] = "safety"
    needs_whole_model = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.needs_safety = self.on == "safety"

    @property
    def compares(self) -> Literal["task", "safety"]:
        return self.on

    def loss(self, step: Step) -> Tensor:
        on_safety = self.on == "safety"
        divergence = step.divergence_on_safety if on_safety else step.divergence_on_task
        return step.task_loss + self.penalty * divergence
