"""The losses of an optimizer step's batches, looked at once for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trimtab.errors import UserError


class TrainingDivergedError(UserError):
    """The loss of a step is no longer a finite number."""


@dataclass
class StepLosses:
    """What the batches of a step add up to, on this process.

    A device is waited for once a step: until then nothing is read from it.
    """

    losses: list[Tensor] = field(default_factory=list)
    roles: list[Tensor] = field(default_factory=list)
    """L_f and L_ŝ of each batch, its parts of the step's means, shape (2,)."""

    def require_finite(self, step: int, gather: Callable[[Tensor], Tensor]) -> None:
        """Raises TrainingDivergedError: the loss of step number `step` is no finite number.

        It is that of all processes, so that all of them end or none.
        """
        loss = sum(gather(torch.stack(self.losses)).tolist())
        self.losses.clear()
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss of step {step} is {loss}. Lower the learning rate or the penalty."
            )

    def of_roles(self, gather: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """L_f and L_ŝ of the step, of all batches and processes."""
        parts = gather(torch.stack(self.roles)[None]).sum(dim=0).tolist()
        self.roles.clear()
        task, safety = map(sum, zip(*parts, strict=True))
        return task, safety
