"""RESTA: safety as a direction in weights, added back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.config.ranges import From0, From0Below1, Seed
from trimtab.models import merged_model
from trimtab.train.baselines.post_hoc import PostHocMethod, add_, required, weights_of


@dataclass(frozen=True)
class RESTA(PostHocMethod):
    """w = w_ft + γ·DARE_p(w_aligned − w_unaligned).

    DARE drops each entry with probability p and multiplies the others by 1/(1 − p), seeded. An
    adapter is merged first, since the direction is not of its rank: the result is a whole model.
    The authors unalign a model by fine-tuning it on harmful rows; here the unaligned model is the
    one from before it was aligned, so the direction also holds what else aligning taught.

    Args:
        strength: γ ≥ 0, the authors' 1.
        drop: p, the share of entries dropped; 0 adds the whole direction. What is added is then
            noisier by √(1/(1 − p)), which costs safety as well as the task where γ is large.

    Source: Bhardwaj, Do and Poria 2024, arXiv 2402.11746; DARE: Yu et al. 2024, arXiv 2311.03099.
    """

    strength: From0 = 1.0
    drop: From0Below1 = 0.3
    seed: Seed = 0
    needs_unaligned: ClassVar[bool] = True
    merges: ClassVar[bool] = True

    @torch.no_grad()
    def apply(self, model: Any, aligned: PreTrainedModel, unaligned: PreTrainedModel | None) -> Any:
        before = required(unaligned, "RESTA")
        if isinstance(model, PeftModel):
            model = merged_model(model)
        safe = weights_of(aligned, "aligned", model)
        unsafe = weights_of(before, "unaligned", model)
        generator = torch.Generator().manual_seed(self.seed)
        for name, weight in model.named_parameters():
            direction = safe[name].cpu() - unsafe[name].cpu()
            add_(weight, self.strength * dropped(direction, self.drop, generator))
        return model


def dropped(direction: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """DARE: each entry is 0 with probability `share`, else 1/(1 − share) times itself."""
    mask = torch.rand(direction.shape, generator=generator) >= share
    return direction * mask / (1 - share)
