"""Lazy safety alignment (Lisa): turns of safety and of task, each held near the other's end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from trimtab.config.ranges import Count, From0
from trimtab.train.baselines.method import (
    Method,
    Reads,
    Step,
    add_to_gradient,
    snapshot,
    trained,
)

if TYPE_CHECKING:
    from trimtab.train.baselines.trainer import MethodTrainer

WITHOUT_PULL = 0.1
"""The share of steps at the beginning that the authors take without the proximal term."""


@dataclass
class LazySafetyAlignment(Method):
    """In turn K_A steps on L_ŝ + ρ/2‖w − w_F‖², then K_F steps on L_f + ρ/2‖w − w_A‖².

    w_A and w_F are the weights as either state was last left, both w₀ at first; the first tenth of
    the steps has no proximal term. The authors' text and trainer name opposite snapshots; this is
    the trainer's way. With LoRA the weights are those of A and B, as in theirs. A batch holds rows
    of one role, as many as a task batch.

    Args:
        proximity: ρ ≥ 0, the authors' 1.
        safety_steps, task_steps: K_A and K_F, theirs 100 and 900 of some thousands.

    Source: Huang et al. 2024, "Lazy Safety Alignment for Large Language Models against Harmful
    Fine-tuning" (Lisa; not the layerwise LISA), arXiv 2405.18641, github.com/git-disl/Lisa.
    """

    proximity: From0 = 1.0
    safety_steps: Count = 5
    task_steps: Count = 5
    needs_safety: ClassVar[bool] = True
    keeps_state: ClassVar[bool] = True

    def reads(self, step: int) -> Reads:
        in_safety = step % (self.safety_steps + self.task_steps) < self.safety_steps
        return "safety" if in_safety else "task"

    def prepare(self, trainer: MethodTrainer) -> None:
        self.left: dict[Reads, list[Tensor]] = {
            state: snapshot(trainer.model) for state in ("safety", "task")
        }
        self.state: Reads = "safety"

    def loss(self, step: Step) -> Tensor:
        return step.safety_loss if bool(step.is_safety.any()) else step.task_loss

    @torch.no_grad()
    def before_optimizer_step(self, trainer: MethodTrainer) -> None:
        step = trainer.state.global_step
        state = self.reads(step)
        if state != self.state:
            self.left[self.state] = snapshot(trainer.model)
            self.state = state
        if step > WITHOUT_PULL * trainer.state.max_steps:
            anchor = self.left["task" if state == "safety" else "safety"]
            for weight, there in zip(trained(trainer.model), anchor, strict=True):
                add_to_gradient(weight, self.proximity * (weight - there))

    def held(self) -> tuple[dict[Reads, list[Tensor]]]:
        return (self.left,)
