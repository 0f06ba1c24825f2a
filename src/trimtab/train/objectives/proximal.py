"""Moves towards the aligned model: onto a ball, or by a proximal step in the optimizer's metric."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from trimtab.errors import UserError
from trimtab.measure.distance import Displacement


def project_onto_ball(displacement: Displacement, radius: float) -> None:
    """θ ← θ_s + min(1, ε/‖θ − θ_s‖)·(θ − θ_s)."""
    length = displacement.norm()
    if length > radius:
        displacement.rescale_(radius / length)


def shrink(displacement: Displacement, penalty: float, optimizer: Optimizer) -> None:
    """The proximal step of λ‖θ − θ_s‖²; see `AlignmentParameterConstraint`."""
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
        largest = "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"
        second_moment: Tensor = state[largest] / correction
        return group["lr"] / (second_moment.sqrt() + group["eps"])
    if isinstance(optimizer, SGD):
        return torch.full_like(parameter, group["lr"] / (1 - group["momentum"]))
    raise UserError(
        "the penalty of an alignment parameter constraint knows the steps of Adam, AdamW and SGD, "
        f"not of {type(optimizer).__name__}. Set optim='adamw_torch', or give a radius, which "
        "needs no step."
    )
