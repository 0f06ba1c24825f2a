"""Case I with rows to match its penalty."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trimtab.config.ranges import Above0
from trimtab.train.objectives.base import Objective, Step


@dataclass
class CaseOneByShare(Objective):
    """Minimise L_f + λ·L_ŝ with λ/(1 + λ) of the rows from the safety data.

    Case I's objective, whatever the share. But the noise of the step is that of g_f + λ·g_ŝ, each a
    mean over its own rows; for rows of one length and one variance it is least where each role has
    rows in proportion to its weight, 1 to λ. Half safety rows at λ = 0.03 leave the task half of
    what it could have. Mixing has these shares by its nature, on average; here they are exact to
    a row of a batch, and no role has less than one.

    Args:
        penalty: λ > 0.

    Source: Neyman's allocation, applied here to Case I of Chen et al. 2025, arXiv 2503.20807.
    """

    penalty: Above0 = 1.0
    needs_safety = True

    @property
    def safety_share(self) -> float:
        return self.penalty / (1 + self.penalty)

    def loss(self, step: Step) -> Tensor:
        return step.task_loss + self.penalty * step.safety_loss
