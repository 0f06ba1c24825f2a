"""SafeLoRA: updates that leave the alignment's own directions are projected onto them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trimtab.config.ranges import Finite
from trimtab.measure.distance import Displacement
from trimtab.train.baselines.post_hoc import PostHocMethod, required, weights_of


@dataclass(frozen=True)
class SafeLoRA(PostHocMethod):
    """Layer by layer: V = W_aligned − W_unaligned, C = VVᵀ/‖V‖_F; where cos(CΔ, Δ) ≤ τ, Δ ← CΔ.

    Δ is the update of a linear layer's weight: BA of a LoRA module, there B ← CB, or
    W_ft − W_aligned where all weights were trained. Layers are matched by their whole names, and
    nothing but linear weights is touched: no bias, norm or embedding, nor a head that shares the
    embedding's weight. Layers that an adapter trained as a whole are treated like trained weights,
    and fused experts are left as they are. C is as published, and no projection: CΔ also scales
    with V.

    Args:
        threshold: τ; from 1 on every layer is projected, but for those that aligning left as they
            were (V = 0), which say nothing of safety. The authors' default is 0.5, or the ten
            layers of lowest cosine.

    Source: Hsu et al. 2024, "Safe LoRA: the Silver Lining of Reducing Safety Risks when Fine-tuning
    Large Language Models", arXiv 2405.16833, github.com/IBM/SafeLoRA.
    """

    threshold: Finite = 0.5
    needs_unaligned: ClassVar[bool] = True

    @torch.no_grad()
    def apply(self, model: Any, aligned: PreTrainedModel, unaligned: PreTrainedModel | None) -> Any:
        before = weights_of(required(unaligned, "SafeLoRA"), "unaligned", aligned)
        displacement = Displacement(model, aligned)
        transposed = linear_weights(aligned)
        for name in displacement.low_rank.keys() & transposed.keys():
            part = displacement.low_rank[name]
            v = _direction(name, aligned, before, transposed[name]).to(part.adapters[0].b)
            if self._projects(part.formed()[0], v):
                for adapter in part.adapters:
                    adapter.b.copy_(onto(v, adapter.b))
        for name in displacement.dense.keys() & transposed.keys():
            dense = displacement.dense[name]
            v = _direction(name, aligned, before, transposed[name]).to(dense.start)
            update = dense.weight - dense.start
            update = update.T if transposed[name] else update
            if self._projects(update, v):
                update = onto(v, update)
                dense.weight.copy_(dense.start + (update.T if transposed[name] else update))
        return model

    def _projects(self, update: Tensor, v: Tensor) -> bool:
        if not update.any() or not v.any():
            return False
        if self.threshold >= 1:
            return True  # rounding may lift a cosine above 1
        cosine = torch.cosine_similarity(onto(v, update).flatten(), update.flatten(), dim=0)
        return float(cosine) <= self.threshold


def onto(v: Tensor, update: Tensor) -> Tensor:
    """CΔ = V(VᵀΔ)/‖V‖_F, without forming C."""
    return v @ (v.T @ update) / v.norm()


def linear_weights(model: nn.Module) -> dict[str, bool]:
    """The full names of linear layers' weights, and whether each is stored as (in, out).

    Those shared with an embedding are left out.
    """
    embedded = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    return {
        f"{name}.weight": isinstance(layer, Conv1D)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and id(layer.weight) not in embedded
    }


def _direction(
    name: str, aligned: nn.Module, before: dict[str, Tensor], is_transposed: bool
) -> Tensor:
    """V = W_aligned − W_unaligned of one layer, of shape (out, in)."""
    after = aligned.get_parameter(name).detach()
    v = after - before[name].to(after)
    return v.T if is_transposed else v
