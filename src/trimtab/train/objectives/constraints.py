"""The two strategies of Chen et al. 2025: constrain the alignment loss, or the parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from trimtab.config.ranges import FiniteOrInfinity, From0, Radius, check_ranges
from trimtab.errors import UserError
from trimtab.measure.distance import Displacement

Target = Literal["response", "kl"]


@dataclass(frozen=True)
class AlignmentLossConstraint:
    """Case I: minimise L_f(θ) + λ·L_ŝ(θ), or L_f(θ) subject to L_ŝ(θ) ≤ L_ŝ(θ_s) + budget.

    L_f and L_ŝ are each a mean over the completion tokens of their own rows in an optimizer step,
    so neither the share of safety rows in a batch nor the lengths of responses change what λ means.

    With target "kl" the second term is λ·KL(P_θs ‖ P_θ), over the whole vocabulary at every
    completion token of the safety rows: the model is held to the aligned model's own distribution
    there, whoever wrote the rows. It costs a forward pass of θ_s on them. On rows that θ_s wrote
    itself (`trimtab proxy`) its expectation and that of "response" differ by a constant, the
    entropy of θ_s, and "kl" has the smaller variance.

    Args:
        penalty: λ ≥ 0. 0 is plain fine-tuning: safety rows are then not even read. With a budget,
            λ > 0 at the first step, from where it is learned.
        target: what safety rows ask for, their "response" or the aligned model's "kl".
        budget: what L_ŝ may rise by, in nats per token, in place of a λ: see `BudgetKeeper`. Below
            0 safety has to improve, which more safety training often attains; infinity is plain
            fine-tuning.

    Raises:
        UserError: the penalty is negative or not finite, or the target is another word; with a
            budget, the penalty is 0 or the target is "kl".

    Source: alignment loss constraint, Chen et al. 2025, arXiv 2503.20807; a response-free target
    by KL to the aligned model, as in SafeGrad, arXiv 2508.07172.
    """

    penalty: From0 = 1.0
    target: Target = "response"
    budget: FiniteOrInfinity | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.target not in get_args(Target):
            raise UserError(f"target {self.target!r} is none of {', '.join(get_args(Target))}.")
        if self.budget is None:
            return
        if self.penalty == 0:
            raise UserError("a budget learns λ from a start above 0. Leave penalty out.")
        if self.target == "kl":
            raise UserError("a budget is for the loss on safety rows: set target='response'.")

    @property
    def is_plain(self) -> bool:
        return self.penalty == 0 or self.budget == math.inf


@dataclass(frozen=True)
class AlignmentParameterConstraint:
    """Case II: minimise L_f(θ) + λ‖θ − θ_s‖², or L_f(θ) within ‖θ − θ_s‖ ≤ ε; a budget sets ε.

    θ_s is the model as the trainer received it; the norm is `Displacement.norm`, over all trained
    tensors together, LoRA modules by their product (α/r)BA.

    **The ball** is kept by projection along the ray from θ_s after every optimizer step.

    **The penalty** is a proximal step after every optimizer step, and not a term of the loss. As a
    term its gradient 2λ(θ − θ_s) is useless at θ_s, where it is zero, so that an adaptive
    optimizer's first steps have their full length whatever λ is; and for a large λ an explicit
    step oscillates (SGD diverges from λ > 1/(2·lr) on). Shrinking by lr·λ as AdamW decays weights
    is stable, but its stationary points are those of another objective, Σ √vᵢ(θ − θ_s)ᵢ² in place
    of ‖θ − θ_s‖². So the shrinkage is taken in the optimizer's own metric: with hᵢ the step the
    optimizer takes per unit of gradient (Adam: lr/(√v̂ᵢ + eps)),

        θᵢ ← θ_s,ᵢ + (θᵢ − θ_s,ᵢ) / (1 + 2λhᵢ),

    exactly the minimiser of (θ − θ⁺)ᵢ²/(2hᵢ) + λ(θ − θ_s)ᵢ². It is stable for every λ, and a point
    where it balances the optimizer's step has ∇L_f + 2λ(θ − θ_s) = 0, as the objective says. For
    LoRA the same step is taken in B, then in A: each is a quadratic in its r columns or rows.
    Gradient clipping changes the task's step but not this one: while it clips by a factor c, λ
    acts as λ/c; switch it off for λ to mean itself.

    Args:
        penalty: λ ≥ 0; 0 is plain fine-tuning.
        radius: ε > 0; infinity is plain fine-tuning.
        budget: > 0, what L_ŝ may rise by, in nats per token. It sets ε: see `BudgetKeeper`. The
            ball only holds the model near θ_s, so it cannot make it safer than that; infinity is
            plain fine-tuning. Give one of the three.

    Raises:
        UserError: not exactly one is given, or one is out of range.

    Source: alignment parameter constraint, Chen et al. 2025, arXiv 2503.20807; proximal steps in an
    adaptive metric, Yun, Lozano and Yang, "Adaptive Proximal Gradient Methods for Structured
    Neural Networks", NeurIPS 2021.
    """

    penalty: From0 | None = None
    radius: Radius | None = None
    budget: FiniteOrInfinity | None = None

    def __post_init__(self) -> None:
        if sum(knob is not None for knob in (self.penalty, self.radius, self.budget)) != 1:
            raise UserError(
                "an alignment parameter constraint takes a penalty, a radius or a budget: one."
            )
        check_ranges(self)
        if self.budget is not None and not self.budget > 0:
            raise UserError(
                f"budget {self.budget} must be above 0: near the model its safety loss is at best "
                "unchanged. Give an alignment loss constraint, which can lower it."
            )

    @property
    def is_plain(self) -> bool:
        return self.penalty == 0 or math.inf in (self.radius, self.budget)

    def apply(self, displacement: Displacement, optimizer: Optimizer) -> None:
        """Hold the constraint after an optimizer step."""
        if self.radius is not None:
            project_onto_ball(displacement, self.radius)
        elif self.penalty is not None:
            shrink(displacement, self.penalty, optimizer)


Constraint = AlignmentLossConstraint | AlignmentParameterConstraint


def project_onto_ball(displacement: Displacement, radius: float) -> None:
    """θ ← θ_s + min(1, ε/‖θ − θ_s‖)·(θ − θ_s)."""
    length = displacement.norm()
    if length > radius:
        displacement.rescale_(radius / length)


def shrink(displacement: Displacement, penalty: float, optimizer: Optimizer) -> None:
    """The proximal step of λ‖θ − θ_s‖² in the optimizer's metric; see the class above."""
    group_of = {
        parameter: group for group in optimizer.param_groups for parameter in group["params"]
    }

    def step_size(parameter: nn.Parameter) -> Tensor:
        if parameter not in group_of:
            return torch.zeros_like(parameter)
        return optimizer_step_size(parameter, group_of[parameter], optimizer)

    for part in displacement.parts:
        part.shrink_(penalty, step_size)


def optimizer_step_size(
    parameter: nn.Parameter, group: dict[str, Any], optimizer: Optimizer
) -> Tensor:
    """h: how far the optimizer moves `parameter` per unit of steady gradient, elementwise.

    Adam and AdamW: lr/(√v̂ + eps). SGD: lr/(1 − momentum).

    Raises:
        UserError: the optimizer is another one.
    """
    if isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    if isinstance(optimizer, Adam | AdamW):
        state = optimizer.state.get(parameter)
        if not state:  # no gradient has reached it yet
            return torch.zeros_like(parameter)
        correction = 1 - group["betas"][1] ** float(state["step"])
        second_moment: Tensor = state["exp_avg_sq"] / correction
        return group["lr"] / (second_moment.sqrt() + group["eps"])
    if isinstance(optimizer, SGD):
        return torch.full_like(parameter, group["lr"] / (1 - group["momentum"]))
    raise UserError(
        "the penalty of an alignment parameter constraint knows the steps of Adam, AdamW and SGD, "
        f"not of {type(optimizer).__name__}. Set optim='adamw_torch', or give a radius, which "
        "needs no step."
    )
