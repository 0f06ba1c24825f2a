"""L_D(θ) over fixed rows as a function of the weights: value, gradient, Hessian times a vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from trimtab.data.encoding import IGNORED
from trimtab.errors import UserError, reason_of
from trimtab.measure.losses import evaluating, padded_batches, scored
from trimtab.measure.shared_weights import sharing_all

Direction = list[Tensor]
"""One tensor for each weight, of its shape."""


@dataclass(frozen=True)
class TokenLoss:
    """L(w) = Σ over rows of −log P_w(y|x), divided by the tokens of all y; nats per token.

    `weights` are the coordinates w: all of a model's, or those of a subspace. The model is in
    evaluation mode while it is asked, and every method leaves the weights as they were.
    """

    model: nn.Module
    weights: tuple[nn.Parameter, ...]
    batches: tuple[tuple[dict[str, Tensor], Tensor], ...]
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        tokens = sum(int((targets[:, 1:] != IGNORED).sum()) for _, targets in self.batches)
        object.__setattr__(self, "tokens", tokens)

    @classmethod
    def over(
        cls,
        model: nn.Module,
        weights: Sequence[nn.Parameter],
        rows: Dataset,
        tokens_per_batch: int,
    ) -> TokenLoss:
        """The loss over encoded rows."""
        batches = [
            (inputs, targets)
            for _, inputs, targets in padded_batches(model, rows, tokens_per_batch)
        ]
        return cls(model, tuple(weights), tuple(batches))

    def part(self, number: int, of: int) -> TokenLoss:
        """The loss over every `of`-th row, from row `number` on, all batches counted through."""
        parts, counted = [], 0
        for inputs, targets in self.batches:
            first = (number - counted) % of
            counted += len(targets)
            if first < len(targets):
                rows = {name: value[first::of] for name, value in inputs.items()}
                parts.append((rows, targets[first::of]))
        return TokenLoss(self.model, self.weights, tuple(parts))

    @property
    def rows(self) -> int:
        """How many rows it is over."""
        return sum(len(targets) for _, targets in self.batches)

    @torch.no_grad()
    def value(self) -> float:
        """L(w)."""
        with evaluating(self.model):
            total = sum(float(self._summed(*batch)) for batch in self.batches)
        return total / self.tokens

    def gradient(self) -> Direction:
        """∇L(w)."""
        total = [torch.zeros_like(weight) for weight in self.weights]
        with evaluating(self.model):
            for batch in self.batches:
                # No name for the gradient: it would hold it while the next batch's is computed.
                self._add(total, self._summed_gradient(*batch))
        return total

    def curvature_along(self, direction: Direction) -> Direction:
        """∇²L(w)·v, by differentiating ⟨∇L(w), v⟩: about twice the cost of a gradient."""
        total = [torch.zeros_like(weight) for weight in self.weights]
        # The fast attention kernels have no second derivative.
        with evaluating(self.model), sdpa_kernel(SDPBackend.MATH):
            for batch in self.batches:
                self._add(total, self._summed_curvature(direction, *batch))
        return total

    @contextmanager
    def moved(self, direction: Direction, length: float) -> Iterator[None]:
        """The weights at w + length · direction, and exactly at w again afterwards."""
        starts = [weight.detach().clone() for weight in self.weights]
        try:
            with torch.no_grad():
                for weight, step in zip(self.weights, direction, strict=True):
                    weight.add_(step, alpha=length)
            yield
        finally:
            with torch.no_grad():
                for weight, start in zip(self.weights, starts, strict=True):
                    weight.copy_(start)

    def _summed(self, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return -scored(self.model, inputs, targets)[1].sum()

    def _summed_gradient(
        self, inputs: dict[str, Tensor], targets: Tensor, create_graph: bool = False
    ) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            self._summed(inputs, targets),
            self.weights,
            create_graph=create_graph,
            allow_unused=True,  # as the part of a model that reads images
            materialize_grads=True,
        )

    def _summed_curvature(
        self, direction: Direction, inputs: dict[str, Tensor], targets: Tensor
    ) -> tuple[Tensor, ...]:
        # The first derivative holds the batch's activations, and ends with the call.
        first = self._summed_gradient(inputs, targets, create_graph=True)
        return torch.autograd.grad(
            inner(first, direction), self.weights, allow_unused=True, materialize_grads=True
        )

    def _add(self, total: Direction, summed: Sequence[Tensor]) -> None:
        for weight_sum, new in zip(total, summed, strict=True):
            weight_sum.add_(new, alpha=1 / self.tokens)


def inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """⟨u, v⟩ over all weights together."""
    return torch.stack([(u * v).sum() for u, v in zip(first, second, strict=True)]).sum()


def length(direction: Sequence[Tensor]) -> float:
    """‖v‖ over all weights together."""
    return float(inner(direction, direction)) ** 0.5


def scaled(direction: Sequence[Tensor], factor: float) -> Direction:
    """factor · v."""
    return [part * factor for part in direction]


def random_direction(weights: Sequence[Tensor], seed: int) -> Direction:
    """A unit vector, evenly over all directions."""
    generator = torch.Generator().manual_seed(seed)
    direction = [
        torch.randn(weight.shape, generator=generator).to(weight.device) for weight in weights
    ]
    return scaled(direction, 1 / length(direction))


@contextmanager
def all_weights(model: PreTrainedModel) -> Iterator[tuple[nn.Module, tuple[nn.Parameter, ...]]]:
    """The model and every weight of it: distances are ‖θ − θ_s‖."""
    yield model, tuple(weight for weight in model.parameters() if weight.requires_grad)


@contextmanager
def low_rank_subspace(
    model: PreTrainedModel, rank: int, seed: int = 0
) -> Iterator[tuple[nn.Module, tuple[nn.Parameter, ...]]]:
    """The model with W + CQ in every linear layer, Q fixed with orthonormal rows; the weights C.

    It is where a LoRA adapter of this rank starts: C = B for an A whose rows are made orthonormal
    and a scaling of 1, so that ‖CQ‖ = ‖C‖ and distances are those of `measure.distance`. A trained
    adapter moves A too and reaches further; slopes and curvatures here are therefore too small for
    it. The model itself stays as it is.
    """
    adapter = LoraConfig(
        r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    try:
        adapted: Any = get_peft_model(sharing_all(model), adapter)
    except ValueError as error:  # as of layers that PEFT knows to adapt wrongly
        raise UserError(
            f"no landscape can be measured where a LoRA adapter starts: {reason_of(error)}. Give "
            "--landscape full, or none (landscape_rows: 0 in an experiment's file)."
        ) from None
    weights = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in adapted.modules():
            if isinstance(layer, LoraLayer):
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                if rank > a.shape[1]:
                    raise UserError(
                        f"a subspace of rank {rank} does not fit a layer of width "
                        f"{a.shape[1]}. Give a smaller rank."
                    )
                nn.init.orthogonal_(a)
                a.requires_grad_(False)
                weights.append(b)
    yield adapted, tuple(weights)
