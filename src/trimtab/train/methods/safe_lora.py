"""SafeLoRA: updates that leave the alignment's own directions are projected onto them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.ranges import Finite
from trimtab.train.methods.repair import Repair, adapters, required, weights_of


@dataclass(frozen=True)
class SafeLoRA(Repair):
    """Layer by layer: V = W_aligned − W_unaligned, C = VVᵀ/‖V‖_F; where cos(CΔ, Δ) ≤ τ, Δ ← CΔ.

    Δ is the update of a linear layer's weight: BA of a LoRA module, there B ← CB, or
    W_ft − W_aligned where all weights were trained. Layers are matched by their whole names, and
    nothing but linear weights is touched: no bias, norm or embedding, nor a head that shares the
    embedding's weight. C is as published, and no projection: CΔ also scales with V.

    Args:
        threshold: τ; from 1 on every layer is projected. The authors' default is 0.5, or the ten
            layers of lowest cosine.

    Source: Hsu et al. 2024, "Safe LoRA: the Silver Lining of Reducing Safety Risks when Fine-tuning
    Large Language Models", arXiv 2405.16833, github.com/IBM/SafeLoRA.
    """

    threshold: Finite = 0.5
    needs_unaligned: ClassVar[bool] = True

    @torch.no_grad()
    def applied(
        self, model: Any, aligned: PreTrainedModel, unaligned: PreTrainedModel | None
    ) -> Any:
        before = weights_of(required(unaligned, "SafeLoRA"), "unaligned", aligned)
        if isinstance(model, PeftModel):
            after = weights_of(aligned, "aligned", aligned)
            for adapter in adapters(model):
                name = f"{adapter.layer}.weight"
                v = after[name].to(adapter.b) - before[name].to(adapter.b)
                if self._projects(adapter.b @ adapter.a, v):
                    adapter.b.copy_(onto(v, adapter.b))
            return model
        after = weights_of(aligned, "aligned", model)
        for name in linear_weights(model):
            weight = model.get_parameter(name)
            start = after[name].to(weight)
            v, update = start - before[name].to(weight), weight - start
            if self._projects(update, v):
                weight.copy_(start + onto(v, update))
        return model

    def _projects(self, update: Tensor, v: Tensor) -> bool:
        if not update.any() or not v.any():
            return False
        cosine = torch.cosine_similarity(onto(v, update).flatten(), update.flatten(), dim=0)
        return float(cosine) <= self.threshold


def onto(v: Tensor, update: Tensor) -> Tensor:
    """CΔ = V(VᵀΔ)/‖V‖_F, without forming C."""
    return v @ (v.T @ update) / v.norm()


def linear_weights(model: nn.Module) -> list[str]:
    """The full names of linear layers' weights, those shared with an embedding left out."""
    embedded = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    return [
        f"{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and id(layer.weight) not in embedded
    ]
