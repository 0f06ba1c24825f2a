"""WiSE-FT: between the aligned and the fine-tuned weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from trimtab.config.ranges import From0To1
from trimtab.measure.distance import Displacement
from trimtab.train.baselines.post_hoc import PostHocMethod


@dataclass(frozen=True)
class Interpolation(PostHocMethod):
    """w = a·w₀ + (1 − a)·w_ft; with LoRA on the aligned weights B ← (1 − a)·B,
    and what the adapter trained beside BA as all weights are.

    A frontier from one plain run, for nothing: whatever costs more has to beat it.

    Args:
        share: a, the share of the aligned weights; the authors' 0.5.

    Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv 2109.01903.
    """

    share: From0To1 = 0.5

    @torch.no_grad()
    def apply(
        self, model: Any, aligned: PreTrainedModel, unaligned: PreTrainedModel | None = None
    ) -> Any:
        Displacement(model, aligned).rescale_(torch.tensor(1 - self.share))
        return model
