"""How far a model is from the aligned model it started from: ‖θ − θ_s‖."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from trimtab.errors import UserError
from trimtab.measure.adapters import (
    LowRankAdapter,
    layers_by_name,
    low_rank_adapters,
    low_rank_adapters_of,
    merged_weights,
    not_at_its_base,
    require_no_single_tokens,
    require_weights,
    weights_beside_adapters,
    weights_in_place,
)
from trimtab.measure.sharded_weights import of_own_parts, own_part, summed_over_parts, whole
from trimtab.measure.shared_weights import whole_weights

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

    def gradient(self) -> list[tuple[nn.Parameter, Tensor]]:
        """∂/∂x of this part, for each of its parameters."""


@dataclass(frozen=True)
class DensePart:
    """s²‖w − w_s‖² of one trained tensor; keeps a copy of w_s. s is 1, or a LoRA bias's scaling."""

    weight: nn.Parameter
    start: Tensor
    scaling: float = 1.0

    def squared_norm(self) -> Tensor:
        return whole(self.scaling**2 * (self.weight.detach() - self.start).square().sum())

    @torch.no_grad()
    def rescale_(self, factor: Tensor) -> None:
        self.weight.sub_(self.start).mul_(factor).add_(self.start)

    @torch.no_grad()
    def shrink_(self, penalty: float, step_size: StepSize) -> None:
        pull = step_size(self.weight).mul_(2 * penalty * self.scaling**2)
        self.weight.lerp_(self.start, pull.div_(pull + 1))

    @torch.no_grad()
    def gradient(self) -> list[tuple[nn.Parameter, Tensor]]:
        return [(self.weight, 2 * self.scaling**2 * (self.weight - self.start))]


@dataclass(frozen=True)
class LowRankPart:
    """Σ_e ‖(s·BA)_e‖² of one weight, from Gram matrices: Σ_e tr((S BᵀB S)(AAᵀ)), S = diag(s).

    `a` is (experts·r, in) and `b` (out, r·experts), s the scaling, α/r or α/√r. A layer has one
    expert; LoRA on fused experts keeps the experts outermost in A and innermost in B. Adapters that
    are active at once add up: they are one whose factors are [B₁ B₂] and [A₁; A₂]. BA is never
    formed.

    Where FSDP2 shards the factors, each process has columns of A and rows of B, and Gram matrices
    are summed over processes: all else goes row by row, or column by column.
    """

    adapters: tuple[LowRankAdapter, ...]
    """All of one weight."""

    def squared_norm(self) -> Tensor:
        b = self._b()
        gram = summed_over_parts(b.mT @ b, self.adapters[0].b)
        return (gram * self._gram_of_rows()).sum()

    @torch.no_grad()
    def rescale_(self, factor: Tensor) -> None:
        for adapter in self.adapters:
            adapter.b.mul_(factor)

    @torch.no_grad()
    def shrink_(self, penalty: float, step_size: StepSize) -> None:
        steps = self._joined_b([step_size(adapter.b) for adapter in self.adapters])
        factors = _proximal_rows(self._b(), 2 * penalty * self._gram_of_rows(), steps)
        for adapter, b in zip(self.adapters, self._divided_b(factors), strict=True):
            adapter.b.copy_(b)
        steps = self._joined_a([step_size(adapter.a) for adapter in self.adapters])
        factors = _proximal_rows(self._a().mT, 2 * penalty * self._gram_of_columns(), steps.mT)
        for adapter, a in zip(self.adapters, self._divided_a(factors.mT), strict=True):
            adapter.a.copy_(a)

    @torch.no_grad()
    def gradient(self) -> list[tuple[nn.Parameter, Tensor]]:
        for_b = self._divided_b(2 * self._b() @ self._gram_of_rows())
        for_a = self._divided_a(2 * self._gram_of_columns() @ self._a())
        b, a = [adapter.b for adapter in self.adapters], [adapter.a for adapter in self.adapters]
        return list(zip(b + a, for_b + for_a, strict=True))

    def is_zero(self) -> bool:
        """Whether a factor of each adapter is zero, as a new one's B is."""
        return not any(
            _has_values(adapter.a) and _has_values(adapter.b) for adapter in self.adapters
        )

    def formed(self) -> Tensor:
        """(s·BA)_e of whole weights, of shape (experts, out, in)."""
        return (self._b() * self._scalings()) @ self._a()

    def _gram_of_rows(self) -> Tensor:
        """S AAᵀ S, of shape (experts, r, r)."""
        a = self._a().mT * self._scalings()
        return summed_over_parts(a.mT @ a, self.adapters[0].a)

    def _gram_of_columns(self) -> Tensor:
        """S BᵀB S, of shape (experts, r, r)."""
        b = self._b() * self._scalings()
        return summed_over_parts(b.mT @ b, self.adapters[0].b)

    def _scalings(self) -> Tensor | float:
        """s of each column of B: one number where there is one adapter."""
        if len(self.adapters) == 1:
            return self.adapters[0].scaling
        a = own_part(self.adapters[0].a.detach(), dim=1)
        return torch.cat([a.new_full((rank,), adapter.scaling) for adapter, rank in self._ranks()])

    def _ranks(self) -> list[tuple[LowRankAdapter, int]]:
        return [(adapter, len(adapter.a) // adapter.experts) for adapter in self.adapters]

    def _a(self) -> Tensor:
        return self._joined_a([adapter.a.detach() for adapter in self.adapters])

    def _b(self) -> Tensor:
        return self._joined_b([adapter.b.detach() for adapter in self.adapters])

    def _joined_a(self, factors: list[Tensor]) -> Tensor:
        """Of shape (experts, r, in), r summed over the adapters; in is that of a process."""
        experts = self.adapters[0].experts
        factors = [own_part(a, dim=1) for a in factors]
        return torch.cat(
            [a.reshape(experts, len(a) // experts, a.shape[-1]) for a in factors], dim=1
        )

    def _joined_b(self, factors: list[Tensor]) -> Tensor:
        """Of shape (experts, out, r); out is that of a process."""
        experts = self.adapters[0].experts
        factors = [own_part(b, dim=0) for b in factors]
        split = [
            b.reshape(len(b), b.shape[1] // experts, experts).permute(2, 0, 1) for b in factors
        ]
        return torch.cat(split, dim=2)

    def _divided_a(self, joined: Tensor) -> list[Tensor]:
        pieces = joined.split([rank for _, rank in self._ranks()], dim=1)
        return [
            of_own_parts(a.reshape(len(adapter.a), a.shape[-1]), dim=1, like=adapter.a)
            for adapter, a in zip(self.adapters, pieces, strict=True)
        ]

    def _divided_b(self, joined: Tensor) -> list[Tensor]:
        pieces = joined.split([rank for _, rank in self._ranks()], dim=2)
        shaped = (piece.permute(1, 2, 0) for piece in pieces)
        return [
            of_own_parts(b.reshape(len(b), adapter.b.shape[1]), dim=0, like=adapter.b)
            for adapter, b in zip(self.adapters, shaped, strict=True)
        ]


class Displacement:
    """θ − θ_s of a model, over everything that is trained of it.

    ‖θ − θ_s‖ = sqrt(Σ_dense ‖w − w_s‖² + Σ_LoRA ‖s·BA‖²): the Euclidean norm over all tensors
    together, LoRA modules counted by their product. Dense tensors cost one copy of themselves.

    Args:
        model: θ, all weights or a LoRA adapter with what it trains beside BA: biases, whole
            modules, rows of single tokens.
        aligned: θ_s. None is the model as it is now, before training; the displacement is then of
            the weights that are to be trained.

    Raises:
        UserError: the adapter changes the weights otherwise than by s·BA, or is merged; its base is
            not θ_s, or, before training, it does not start there.
    """

    def __init__(self, model: nn.Module, aligned: nn.Module | None = None) -> None:
        self.parts: list[Part] = []
        self.low_rank: dict[str, LowRankPart] = {}
        """LoRA by the weight of θ_s that it changes."""
        self.dense: dict[str, DensePart] = {}
        """Whole weights that were trained, by their name in θ_s; where `aligned` is given."""
        if isinstance(model, PeftModel):
            self.low_rank = _by_weight(low_rank_adapters(model))
            self.parts += self.low_rank.values()
        if aligned is None:
            self._add_what_is_to_be_trained(model)
        else:
            self._add_what_was_trained(model, aligned)

    def norm(self) -> Tensor:
        """‖θ − θ_s‖, a float32 scalar on the model's device."""
        return torch.stack([part.squared_norm() for part in self.parts]).sum().sqrt()

    def rescale_(self, factor: Tensor) -> None:
        """Move along the ray from θ_s: θ ← θ_s + factor·(θ − θ_s)."""
        for part in self.parts:
            part.rescale_(factor)

    def _add_what_is_to_be_trained(self, model: nn.Module) -> None:
        adapters = [adapter for part in self.low_rank.values() for adapter in part.adapters]
        scalings = {id(adapter.bias): adapter.scaling for adapter in adapters}
        factors = {id(factor) for adapter in adapters for factor in (adapter.a, adapter.b)}
        for weight in model.parameters():
            if weight.requires_grad and id(weight) not in factors:
                scaling = scalings.get(id(weight), 1.0)
                self.parts.append(DensePart(weight, weight.detach().clone(), scaling))
        if not isinstance(model, PeftModel):
            return
        if not all(part.is_zero() for part in self.low_rank.values()):
            raise UserError(not_at_its_base(model))
        beside = weights_beside_adapters(model.get_base_model(), every_name=True)
        for name in self.low_rank:
            if beside[name].requires_grad:
                raise UserError(
                    f"{name} is trained itself and by an adapter as well. Train it in one of the "
                    "two ways."
                )

    def _add_what_was_trained(self, model: nn.Module, aligned: nn.Module) -> None:
        if not isinstance(model, PeftModel):
            start = weights_beside_adapters(aligned, every_name=True)
            self._add_dense(model.named_parameters(), start)
            return
        base = model.get_base_model()
        require_no_single_tokens(base)
        start, present = weights_beside_adapters(aligned, every_name=True), weights_in_place(base)
        below = weights_beside_adapters(base, every_name=True)
        for name, part in self.low_rank.items():
            if name not in start or not _same(below[name], start[name]):
                raise UserError(
                    f"the adapter's base is not the aligned model: they differ in {name}. Give the "
                    "model that the adapter was trained on, or merge the adapter first: "
                    "model = model.merge_and_unload()."
                )
            self.parts += _bias_parts(part.adapters)
        self._add_dense(present.items(), start)

    def _add_dense(
        self, weights: Iterable[tuple[str, nn.Parameter]], start: dict[str, nn.Parameter]
    ) -> None:
        for name, weight in _each_once(weights, start):
            if not _same(weight, start[name]):
                self.dense[name] = DensePart(weight, start[name].detach().to(weight))
        self.parts += self.dense.values()


def distance(model: nn.Module, aligned_model: nn.Module) -> float:
    """‖θ − θ_s‖ between a trained model and the aligned model, over all weights together.

    An adapter counts by what it makes of the weights: plain LoRA on θ_s by its product BA, all else
    that PEFT can merge by merging a copy of one layer after the other. A weight that two layers
    share counts once, as does what they train together.

    Raises:
        UserError: an adapter that cannot be merged, such as prompt tuning; or the two models do not
            have the same weights.
    """
    start = weights_beside_adapters(aligned_model, every_name=True)
    if not isinstance(model, PeftModel):
        return math.sqrt(_squared_difference(dict(model.named_parameters()), start))
    require_weights(model)
    base = model.get_base_model()
    present = weights_in_place(base)
    squared = 0.0
    counted: set[frozenset[int]] = set()
    for name, layers in layers_by_name(base).items():
        own = {key: present.pop(key) for key in list(present) if key.startswith(f"{name}.")}
        below = [weight for key, weight in start.items() if key.startswith(f"{name}.")]
        together = frozenset(map(id, [*layers[0].parameters(), *below]))
        if together in counted:
            continue
        counted.add(together)
        parts = _plain_parts(name, layers)
        if parts is not None and all(_same(own[key], start[key]) for key in own):
            squared += sum(float(part.squared_norm()) for part in parts)
        else:
            squared += _squared_difference(merged_weights(name, layers[0]), start)
    return math.sqrt(squared + _squared_difference(present, start))


def norm(model: nn.Module) -> float:
    """‖θ‖ over all parameters; of quantised ones, over what they stand for."""
    return math.sqrt(sum(float(weight.double().square().sum()) for weight in whole_weights(model)))


def _plain_parts(name: str, layers: list[BaseTunerLayer]) -> list[Part] | None:
    """The change of an adapted layer in low-rank parts, None where it has no such form."""
    try:
        adapters = low_rank_adapters_of(name, layers)
    except UserError:
        return None
    return [*_by_weight(adapters).values(), *_bias_parts(adapters)]


def _by_weight(adapters: list[LowRankAdapter]) -> dict[str, LowRankPart]:
    names = dict.fromkeys(adapter.weight_name for adapter in adapters)
    return {
        name: LowRankPart(tuple(adapter for adapter in adapters if adapter.weight_name == name))
        for name in names
    }


def _bias_parts(adapters: Iterable[LowRankAdapter]) -> list[DensePart]:
    """s·b that `lora_bias` adds to the biases of layers."""
    return [
        DensePart(adapter.bias, torch.zeros_like(adapter.bias), adapter.scaling)
        for adapter in adapters
        if adapter.bias is not None
    ]


def _squared_difference(weights: dict[str, nn.Parameter], start: dict[str, nn.Parameter]) -> float:
    squared = 0.0
    for name, weight in _each_once(weights.items(), start):
        if weight.data_ptr() == start[name].data_ptr():  # the adapter's base is θ_s itself
            continue
        aligned = start[name].detach().to(weight.device)
        squared += float((weight.detach().double() - aligned.double()).square().sum())
    return squared


def _each_once(
    weights: Iterable[tuple[str, nn.Parameter]], start: dict[str, nn.Parameter]
) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights by name, one that stands under two names, here and in θ_s, by the first."""
    seen: set[tuple[int, int]] = set()
    for name, weight in weights:
        _require_weight(name, weight, start)
        if (pair := (id(weight), id(start[name]))) not in seen:
            seen.add(pair)
            yield name, weight


def _require_weight(name: str, weight: nn.Parameter, start: dict[str, nn.Parameter]) -> None:
    if name not in start or weight.shape != start[name].shape:
        raise UserError(
            f"the aligned model has no weight {name} of shape {tuple(weight.shape)}. Give the "
            "model that this one comes from."
        )


def _same(weight: nn.Parameter, start: nn.Parameter) -> bool:
    if weight.shape == start.shape and weight.data_ptr() == start.data_ptr():
        return True
    aligned = start.detach().to(weight.device)
    return weight.shape == aligned.shape and torch.equal(weight.detach(), aligned.to(weight.dtype))


def _has_values(factor: Tensor) -> bool:
    return bool(whole((factor.detach() != 0).sum()))


def _proximal_rows(rows: Tensor, quadratic: Tensor, step_size: Tensor) -> Tensor:
    """Per row z: argmin_x Σᵢ (x − z)ᵢ²/(2hᵢ) + ½ xᵀQx, the solution of (I + diag(h) Q) x = z.

    rows and h are (experts, n, r), Q is (experts, r, r). With S = diag(√h) it is
    x = z − S(I + SQS)⁻¹SQz, so that an h of 0 divides nothing, and conjugate gradients solve all
    rows at once: a few products with Q where the penalty is gentle. The systems that would take
    them longer go to a direct solver. A large λ makes Q hide the identity, and then it takes
    float64.
    """
    if not rows.numel():  # a process without a row of its own
        return rows
    is_gentle = bool((step_size.amax() * torch.linalg.matrix_norm(quadratic)).amax() < 1)
    kind = rows.dtype if is_gentle else torch.float64
    z, root, q = rows.to(kind), step_size.to(kind).sqrt(), quadratic.to(kind)
    right = root * (z @ q)
    solution, residual = torch.zeros_like(z), right
    direction, squared = right, right.square().sum(dim=-1, keepdim=True)
    enough = _SOLVED[kind] ** 2 * squared
    tiny = torch.finfo(kind).tiny
    for _ in range(_ITERATIONS):
        if (squared <= enough).all():
            return (z - root * solution).to(rows.dtype)
        image = direction + root * ((root * direction) @ q)
        length = squared / (direction * image).sum(dim=-1, keepdim=True).clamp(min=tiny)
        solution = solution + length * direction
        residual = residual - length * image
        before, squared = squared, residual.square().sum(dim=-1, keepdim=True)
        direction = residual + (squared / before.clamp(min=tiny)) * direction
    system = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    system = system + root[..., :, None] * q[:, None] * root[..., None, :]
    return (z - root * torch.linalg.solve(system, right)).to(rows.dtype)
