"""Case I of Chen et al. 2025: constrain the alignment loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trimtab.config.ranges import From0, check_ranges
from trimtab.train.objectives.base import Objective, Step, Target


@dataclass(frozen=True)
class AlignmentLossConstraint(Objective):
    """Case I: minimise L_f(θ) + λ·L_ŝ(θ).

    L_f and L_ŝ are each a mean over the completion tokens of their own rows in an optimizer step,
    so neither the share of safety rows in a batch nor the lengths of responses change what λ means.

    With target "kl" the second term is λ·KL(P_θs ‖ P_θ), over the whole vocabulary at every
    completion token of the safety rows: the model is held to the aligned model's own distribution
    there, whoever wrote the rows. It costs a forward pass of θ_s on them. On rows that θ_s wrote
    itself (`trimtab proxy`) its expectation and that of "response" differ by a constant, the
    entropy of θ_s, and "kl" has the smaller variance.

    Args:
        penalty: λ ≥ 0. 0 is plain fine-tuning: safety rows are then not even read.
        target: what safety rows ask for, their "response" or the aligned model's "kl".

    Raises:
        UserError: the penalty is negative or not finite, or the target is another word.

    Source: alignment loss constraint, Chen et al. 2025, arXiv 2503.20807; a response-free target
    by KL to the aligned model, as in SafeGrad, arXiv 2508.07172.
    """

    penalty: From0 = 1.0
    target: Target = "response"
    needs_safety = True
    needs_whole_model = False
    needs_counted_rows = False

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def is_plain(self) -> bool:
        return self.penalty == 0

    @property
    def compares(self) -> Literal["safety"] | None:
        return "safety" if self.target == "kl" else None

    def loss(self, step: Step) -> Tensor:
        safety = step.safety_loss if self.target == "response" else step.divergence_on_safety
        return step.task_loss + self.penalty * safety
