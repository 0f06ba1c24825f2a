"""Lazy safety alignment (Lisa): turns of safety and of task, each held near the other's end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.config.ranges import Count, From0
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import (
    Objective,
    Roles,
    Step,
    add_to_gradient,
    snapshot,
    trained,
)

WITHOUT_PULL = 0.1
"""The share of steps at the beginning that the authors take without the proximal term."""


@dataclass
class LazySafetyAlignment(Objective):
    """In turn K_A steps on L_ŝ + ρ/2‖w − w_F‖², then K_F steps on L_f + ρ/2‖w − w_A‖².

    w_A and w_F are the weights as either state was last left, both w₀ at first; the first tenth of
    the steps has no proximal term. The authors' text and trainer name opposite snapshots; this is
    the trainer's way. With LoRA the weights are those of A and B, as in theirs. A batch holds rows
    of one role, as many as a task batch. A safety step passes over a task batch, so that an epoch
    trains on K_F/(K_A + K_F) of the task rows.

    Args:
        proximity: ρ ≥ 0, the authors' 1.
        safety_steps, task_steps: K_A and K_F, theirs 100 and 900 of some thousands.

    Source: Huang et al. 2024, "Lazy Safety Alignment for Large Language Models against Harmful
    Fine-tuning" (Lisa; not the layerwise LISA), arXiv 2405.18641, github.com/git-disl/Lisa.
    """

    proximity: From0 = 1.0
    safety_steps: Count = 5
    task_steps: Count = 5
    needs_safety = True

    def batch_roles(self, step: int) -> Roles:
        in_safety = step % (self.safety_steps + self.task_steps) < self.safety_steps
        return "safety" if in_safety else "task"

    def safety_steps_before(self, step: int) -> int:
        turns, within = divmod(step, self.safety_steps + self.task_steps)
        return turns * self.safety_steps + min(within, self.safety_steps)

    def prepare(self, context: TrainingContext) -> None:
        self.left: dict[Roles, list[Tensor]] = {
            state: snapshot(context.model) for state in ("safety", "task")
        }
        self.state: Roles = "safety"

    def loss(self, step: Step) -> Tensor:
        return step.safety_loss if bool(step.is_safety.any()) else step.task_loss

    @torch.no_grad()
    def adjust_gradient(self, context: TrainingContext) -> None:
        step = context.step
        state = self.batch_roles(step)
        if state != self.state:
            self.left[self.state] = snapshot(context.model)
            self.state = state
        if step > WITHOUT_PULL * context.steps:
            anchor = self.left["task" if state == "safety" else "safety"]
            for weight, anchored in zip(trained(context.model), anchor, strict=True):
                add_to_gradient(weight, self.proximity * (weight - anchored.to(weight)))

    def state_dict(self) -> dict[str, Any]:
        return {"left": self.left, "state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.left, self.state = state["left"], state["state"]

    def extra_state(self) -> tuple[dict[Roles, list[Tensor]]]:
        return (self.left,)
