"""How far a model is from the aligned model it started from: ‖θ − θ_s‖."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.errors import UserError

_ITERATIONS = 8
_SOLVED = {torch.float32: 1e-7, torch.float64: 1e-8}

StepSize = Callable[[nn.Parameter], Tensor]
"""h of a parameter: how far its optimizer moves it per unit of gradient, of the same shape."""


class Part(Protocol):
    """One summand of ‖θ − θ_s‖², and the parameters it depends on."""

    def squared_norm(self) -> Tensor:
        """This part of ‖θ − θ_s‖²."""

    def rescale_(self, factor: Tensor) -> None:
        """Multiply this part of θ − θ_s by `factor`."""

    def shrink_(self, penalty: float, step_size: StepSize) -> None:
        """x ← argmin_x' Σᵢ (x' − x)ᵢ²/(2hᵢ) + λ · (this part at x'), parameter by parameter."""


@dataclass(frozen=True)
class DensePart:
    """‖w − w_s‖² of one trained tensor; keeps a copy of w_s."""

    weight: nn.Parameter
    start: Tensor

    def squared_norm(self) -> Tensor:
        return (self.weight.detach() - self.start).square().sum()

    @torch.no_grad()
    def rescale_(self, factor: Tensor) -> None:
        self.weight.sub_(self.start).mul_(factor).add_(self.start)

    @torch.no_grad()
    def shrink_(self, penalty: float, step_size: StepSize) -> None:
        pull = step_size(self.weight).mul_(2 * penalty)
        self.weight.lerp_(self.start, pull.div_(pull + 1))


@dataclass(frozen=True)
class LowRankPart:
    """‖s·BA‖² of one LoRA module, from the r×r Gram matrices: s² tr((BᵀB)(AAᵀ)).

    A is (r, in), B is (out, r) and s the module's scaling, α/r or α/√r. BA is never formed.
    """

    a: nn.Parameter
    b: nn.Parameter
    scaling: float

    def squared_norm(self) -> Tensor:
        return self.scaling**2 * (self._gram_a() * self._gram_b()).sum()

    @torch.no_grad()
    def rescale_(self, factor: Tensor) -> None:
        self.b.mul_(factor)

    @torch.no_grad()
    def shrink_(self, penalty: float, step_size: StepSize) -> None:
        weight = 2 * penalty * self.scaling**2
        self.b.copy_(_proximal_rows(self.b, weight * self._gram_a(), step_size(self.b)))
        self.a.copy_(_proximal_rows(self.a.T, weight * self._gram_b(), step_size(self.a).T).T)

    def _gram_a(self) -> Tensor:
        a = self.a.detach()
        return a @ a.T

    def _gram_b(self) -> Tensor:
        b = self.b.detach()
        return b.T @ b


class Displacement:
    """θ − θ_s of a model in training, over every trainable parameter; θ_s is where it is built.

    ‖θ − θ_s‖ = sqrt(Σ_dense ‖w − w_s‖² + Σ_LoRA ‖s·BA‖²): the Euclidean norm over all tensors
    together, LoRA modules counted by their product. Dense tensors cost one copy of themselves.

    Raises:
        UserError: a LoRA adapter does not start from zero, or is of a kind whose product is not
            s·BA (DoRA), so that its distance has no such form.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parts: list[Part] = []
        low_rank: set[int] = set()
        for part in _low_rank_parts(model):
            self.parts.append(part)
            low_rank |= {id(part.a), id(part.b)}
        for parameter in model.parameters():
            if parameter.requires_grad and id(parameter) not in low_rank:
                self.parts.append(DensePart(parameter, parameter.detach().clone()))
        self._refuse_nonzero_start()

    def norm(self) -> Tensor:
        """‖θ − θ_s‖, a float32 scalar on the model's device."""
        return torch.stack([part.squared_norm() for part in self.parts]).sum().sqrt()

    def rescale_(self, factor: Tensor) -> None:
        """Move along the ray from θ_s: θ ← θ_s + factor·(θ − θ_s)."""
        for part in self.parts:
            part.rescale_(factor)

    def _refuse_nonzero_start(self) -> None:
        if self.norm() != 0:
            raise UserError(
                "the LoRA adapter already holds an update, so the distance would not start at the "
                "aligned model. Merge it first: model = model.merge_and_unload()."
            )


def distance(model: nn.Module, aligned_model: PreTrainedModel) -> float:
    """‖θ − θ_s‖ between a trained model and the aligned model it started from.

    A model with a LoRA adapter is compared through the adapter alone, whose base is θ_s.
    """
    if isinstance(model, PeftModel):
        return _adapter_norm(model)
    squared = 0.0
    start = dict(aligned_model.named_parameters())
    for name, weight in model.named_parameters():
        squared += float(
            (weight.detach() - start[name].detach().to(weight)).double().square().sum()
        )
    return float(squared**0.5)


def norm(model: nn.Module) -> float:
    """‖θ‖ over all parameters."""
    return float(
        sum(float(weight.detach().double().square().sum()) for weight in model.parameters()) ** 0.5
    )


def _adapter_norm(model: PeftModel) -> float:
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    parts = [_added_up(list(_low_rank_parts(layer))) for layer in layers if layer.active_adapters]
    return float(torch.stack([part.squared_norm() for part in parts]).sum().sqrt())


def _added_up(parts: list[LowRankPart]) -> LowRankPart:
    """Adapters active at once on one layer, as the one adapter that is their sum."""
    if len(parts) == 1:
        return parts[0]
    a = torch.cat([part.scaling * part.a.detach() for part in parts])
    b = torch.cat([part.b.detach() for part in parts], dim=1)
    return LowRankPart(nn.Parameter(a, False), nn.Parameter(b, False), 1.0)


def _low_rank_parts(model: nn.Module) -> Iterator[LowRankPart]:
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        for adapter in layer.active_adapters:
            if layer.use_dora.get(adapter, False):
                raise UserError(
                    f"{name}: DoRA rescales the whole weight, so its distance is not that of a "
                    "product BA. Use LoRA without DoRA, or an alignment loss constraint."
                )
            scaling = layer.scaling.get(adapter, 1.0)
            if adapter in layer.lora_A:
                yield LowRankPart(
                    layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, scaling
                )
            elif adapter in layer.lora_embedding_A:
                yield LowRankPart(
                    layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter], scaling
                )


def _proximal_rows(rows: Tensor, quadratic: Tensor, step_size: Tensor) -> Tensor:
    """Per row z: argmin_x Σᵢ (x − z)ᵢ²/(2hᵢ) + ½ xᵀQx, the solution of (I + diag(h) Q) x = z.

    rows and h are (n, r), Q is (r, r). With S = diag(√h) it is x = z − S(I + SQS)⁻¹SQz, so that an
    h of 0 divides nothing, and conjugate gradients solve all rows at once: a few products with Q
    where the penalty is gentle. The systems that would take them longer go to a direct solver.
    A large λ makes Q hide the identity, and then it takes float64.
    """
    is_gentle = bool(step_size.max() * torch.linalg.matrix_norm(quadratic) < 1)
    kind = rows.dtype if is_gentle else torch.float64
    z, root, q = rows.to(kind), step_size.to(kind).sqrt(), quadratic.to(kind)
    right = root * (z @ q)
    solution, residual = torch.zeros_like(z), right
    direction, squared = right, right.square().sum(dim=1, keepdim=True)
    enough = _SOLVED[kind] ** 2 * squared
    tiny = torch.finfo(kind).tiny
    for _ in range(_ITERATIONS):
        if (squared <= enough).all():
            return (z - root * solution).to(rows.dtype)
        image = direction + root * ((root * direction) @ q)
        length = squared / (direction * image).sum(dim=1, keepdim=True).clamp(min=tiny)
        solution = solution + length * direction
        residual = residual - length * image
        before, squared = squared, residual.square().sum(dim=1, keepdim=True)
        direction = residual + (squared / before.clamp(min=tiny)) * direction
    system = torch.eye(len(q), dtype=q.dtype, device=q.device)
    system = system + root[:, :, None] * q * root[:, None, :]
    return (z - root * torch.linalg.solve(system, right)).to(rows.dtype)
