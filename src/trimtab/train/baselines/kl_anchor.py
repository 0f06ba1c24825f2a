"""KL anchor: the aligned model's own distribution is held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from trimtab.config.ranges import From0
from trimtab.errors import UserError
from trimtab.train.baselines.gradient_surgery import divergence_on_safety
from trimtab.train.baselines.method import Method, Reads, Step

if TYPE_CHECKING:
    from trimtab.train.baselines.trainer import MethodTrainer


@dataclass
class KLAnchor(Method):
    """Minimise L_f(θ) + λ·KL(P_θ_s ‖ P_θ), a mean over completion tokens, not prompts.

    Args:
        penalty: λ ≥ 0, commonly 0.1.
        on: whose rows the KL is taken on: "safety" reads safety rows beside the task's, whose
            responses serve as contexts only; "task" reads none.

    Source: the KL term of Ouyang et al. 2022, arXiv 2203.02155, taken forward, against θ_s.
    """

    penalty: From0 = 0.1
    on: Literal["safety", "task"] = "safety"
    needs_logits: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    def prepare(self, trainer: MethodTrainer) -> None:
        if self.on == "safety" and trainer.rows_beside is None:
            raise UserError("a KL anchor on safety rows needs them. Give safety_dataset.")
        self.trainer = trainer

    def reads(self, step: int) -> Reads:
        return "both" if self.on == "safety" else "task"

    def loss(self, step: Step) -> Tensor:
        if self.on == "safety":
            return step.task_loss + self.penalty * divergence_on_safety(self.trainer, step)
        assert self.trainer.reference is not None
        assert step.logits is not None
        summed = self.trainer.reference.divergence_of(step.logits, self.trainer.model, step.inputs)
        return step.task_loss + self.penalty * summed / step.task_tokens.clamp(min=1)
