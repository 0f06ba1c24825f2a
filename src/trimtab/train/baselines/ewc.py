"""EWC: a pull towards the starting point, strongest where the safety data is sensitive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.config.ranges import Count, From0
from trimtab.measure.losses import evaluating
from trimtab.train.batches import Batch
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import (
    Objective,
    Roles,
    add_to_gradient,
    snapshot,
    trained,
)
from trimtab.train.safety_stream import SafetyStream
from trimtab.train.scoring import label_log_probs


@dataclass
class EWC(Objective):
    """Minimise L_f(w) + λ Σᵢ Fᵢ (wᵢ − w₀ᵢ)², with F the diagonal of the safety data's Fisher at w₀.

    Fᵢ = mean over safety rows of (∂ −log P(y|x) / ∂wᵢ)², a row at a time, divided by its own mean
    over all trained weights, so that λ has the scale of L2-SP's and does not grow with the rows or
    the batches that F was summed over. F is taken before training on a gradient of its own: none
    of it is left for the first step. With LoRA the weights are those of A and B, and F is zero on
    A, whose gradient is zero while B is: B alone is held.

    Args:
        penalty: λ ≥ 0 on the normalised F; a published script has 1e9 on a summed one.
        fisher_rows: how many safety rows F is a mean over.

    Source: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", PNAS,
    arXiv 1612.00796.
    """

    penalty: From0 = 0.1
    fisher_rows: Count = 256
    needs_safety = True
    needs_padded_rows = True

    def batch_roles(self, step: int) -> Roles:
        return "task"

    def prepare(self, context: TrainingContext) -> None:
        assert context.safety is not None
        self.start = snapshot(context.model)
        stream = context.safety
        count = min(self.fisher_rows, len(stream.rows))
        single_rows = SafetyStream(stream.rows, stream.collate, 1, stream.seed)
        self.fisher = [torch.zeros_like(weight) for weight in self.start]
        with evaluating(context.model) as model:
            weights = trained(model)
            for number in range(count):
                self._add(model, weights, single_rows.batch(number))
        mean = sum(float(f.sum()) for f in self.fisher) / sum(f.numel() for f in self.fisher)
        for f in self.fisher:
            f.div_(mean)

    def _add(self, model: Any, weights: list[nn.Parameter], batch: Batch) -> None:
        nll = -label_log_probs(model, batch).sum()
        gradient = torch.autograd.grad(nll, weights, allow_unused=True)
        for total, part in zip(self.fisher, gradient, strict=True):
            if part is not None:
                total.add_(part.square())
        self.extra_tokens += int(batch["attention_mask"].sum())

    @torch.no_grad()
    def adjust_gradient(self, context: TrainingContext) -> None:
        for weight, start, f in zip(trained(context.model), self.start, self.fisher, strict=True):
            add_to_gradient(weight, 2 * self.penalty * f * (weight - start))

    def extra_state(self) -> tuple[list[Tensor], list[Tensor]]:
        return self.start, self.fisher
