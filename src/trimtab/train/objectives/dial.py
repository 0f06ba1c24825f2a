"""One training that holds the whole frontier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from peft import PeftConfig
from torch import Tensor, nn

from trimtab.config.experiment import Dial
from trimtab.errors import UserError
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import Objective, Step, Target
from trimtab.train.objectives.endpoints import DenseEndpoints, Endpoints, new_endpoints


@dataclass
class DialObjective(Objective):
    """Train θ(α) = θ_s + α·Δ_task + (1 − α)·Δ_safe for every α in [0, 1] at once.

    Each optimizer step draws a setting α and takes a step of Case I at its penalty λ(α),

        loss = (L_f(θ(α)) + λ(α)·L_ŝ(θ(α))) / (1 + λ(α)),

    whose gradient g at θ(α) moves Δ_task by α·g and Δ_safe by (1 − α)·g. Dividing by 1 + λ leaves
    each step's optimum where it is and keeps the steps of a large λ from drowning the others. The
    setting is `Dial.setting_of_step`, a function of the seed and the number of the step alone: all
    batches and processes of a step share it, and a resumed run meets the same ones.

    A batch has as many rows as without, divided by what they weigh: of N rows λ/(1 + λ) are safety
    rows, and a few of each role at least (`row_split`). Half and half, as a run at one λ may have
    it, would spend at α = 1 half of the rows on 1 % of the loss.

    With the trainer's `peft_config` each displacement is a LoRA adapter of its rank, otherwise a
    copy of all weights: training then keeps three copies of the model and the optimizer's state of
    two. `endpoints` holds the result, and the model stands at α = ½ of it when it is evaluated, and
    at the end: `endpoints.set_alpha` turns it. With all weights `max_grad_norm`
    clips g before it is shared out; with adapters it clips what both were given, together.

    Args:
        dial: the penalties at the ends of the dial and how settings are drawn.
        target: what is asked of safety rows, as `AlignmentLossConstraint.target` says.

    Raises:
        UserError: an adapter other than plain LoRA; all weights, where the gradient is in float16.

    Source: Dimitriadis, Frossard and Fleuret, "Pareto Low-Rank Adapters: Efficient Multi-Task
    Learning with Preferences", ICLR 2025, arXiv 2407.08056; learning a line of models, Wortsman et
    al., "Learning Neural Network Subspaces", ICML 2021, arXiv 2102.10472. The penalty along the
    dial, the normalisation and the sequence of settings are this project's.
    """

    needs_whole_model = False

    dial: Dial = field(default_factory=Dial)
    target: Target = "response"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.needs_safety = True
        self.alpha = 0.0
        self.is_trained = False
        """Whether its training has ended: then it stays where it is set."""
        self.endpoints: Endpoints

    @property
    def looked_at(self) -> float:
        """The setting at which it is measured while it is trained."""
        return 0.5

    @property
    def compares(self) -> Literal["safety"] | None:
        return "safety" if self.target == "kl" else None

    def placed_on(self, model: Any, peft_config: PeftConfig | None) -> Any:
        self.endpoints = new_endpoints(model, peft_config)
        self.moves_copies = isinstance(self.endpoints, DenseEndpoints)
        return self.endpoints.model

    def optimized(self) -> nn.Module:
        return self.endpoints.trained()

    def copies(self) -> list[tuple[nn.Parameter, ...]]:
        return self.endpoints.copies()

    def prepare(self, context: TrainingContext) -> None:
        if context.args.fp16 and self.moves_copies:
            raise UserError(
                "a dial over all weights shares its gradient unscaled: set bf16=True for fp16, or "
                "give a LoRA configuration."
            )

    def safety_share_at(self, step: int, seed: int) -> float:
        penalty = self.dial.penalty_at(self.dial.setting_of_step(seed, step))
        return penalty / (1 + penalty)

    def begin_step(self, context: TrainingContext, safety_batches: range) -> None:
        self.is_trained = False
        self.alpha = self.dial.setting_of_step(context.args.seed, context.step)
        self.endpoints.set_alpha(self.alpha)

    def loss(self, step: Step) -> Tensor:
        penalty = self.dial.penalty_at(self.alpha)
        safety = step.safety_loss if self.target == "response" else step.divergence_on_safety
        return (step.task_loss + penalty * safety) / (1 + penalty)

    def before_optimizer_step(self, context: TrainingContext) -> None:
        self.endpoints.share_gradient(self.alpha)

    @contextmanager
    def looked_at_rest(self) -> Iterator[None]:
        """At one setting, whatever that of the step is; once trained, as it stands."""
        if self.is_trained:
            yield
            return
        self.endpoints.set_alpha(self.looked_at)
        try:
            yield
        finally:
            self.endpoints.set_alpha(self.alpha)

    def end(self, context: TrainingContext) -> None:
        self.alpha = self.looked_at
        self.endpoints.set_alpha(self.alpha)
        self.is_trained = True

    def state_dict(self) -> dict[str, Any]:
        return self.endpoints.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.endpoints.load_state_dict(state)
