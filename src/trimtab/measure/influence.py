"""Task rows that endanger safety: those whose own gradient works against the safety data's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from torch import nn

from trimtab.measure.losses import response_nll
from trimtab.measure.token_loss import Direction, TokenLoss, length, scaled

_NUDGE = 1e-3
"""Steps of the central difference, as a share of ‖θ_s‖ over the weights moved."""


@dataclass(frozen=True)
class Influence:
    """How fast a step on each task row alone would raise the safety loss.

    `rates` are −⟨∇ℓ_i(θ_s), ∇L_ŝ(θ')⟩/‖∇L_ŝ(θ')‖ with ℓ_i the mean loss per token of row i, in
    nats per token per unit of distance, shape (n,): above 0 where a step on the row moves against
    safety. `trial` is ‖θ' − θ_s‖.
    """

    rates: NDArray[np.float64]
    trial: float

    def worst(self, share: float) -> NDArray[np.intp]:
        """Places of the worst rows, worst first: `share` of all, and only those above 0."""
        count = round(share * len(self.rates))
        order = np.argsort(-self.rates, kind="stable")[:count]
        return order[self.rates[order] > 0]


def endangering_rows(
    model: nn.Module,
    safety: TokenLoss,
    rows: Dataset,
    downhill: Direction,
    trial: float,
    tokens_per_batch: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Influence:
    """Every task row's effect on the safety loss, in three passes over the rows and no training.

    The effect of a small step on row i is the inner product of two gradients, the row's and the
    safety data's. The latter is taken at θ' = θ_s + trial · downhill, a trial step down the task's
    gradient: at θ_s itself, where the alignment data's own gradient is nearly zero, its direction
    would be mostly noise. ⟨∇ℓ_i, v⟩ for all rows at once is the change of their losses between
    θ_s − hv and θ_s + hv, divided by 2h, so that no row needs a gradient of its own. The model has
    to compute in float32: in 16 bits its rounding is larger than that change.

    Args:
        safety: L_ŝ over the weights to move.
        rows: encoded task rows.
        downhill: the unit direction of a plain fine-tuning's first step.
        trial: how far along it to take the safety gradient.

    Source: gradient matching with anchors, He, Xia and Henderson, "What is in Your Safe Data?
    Identifying Benign Data that Breaks Safety", arXiv 2404.01099. There the anchors are harmful
    and safe examples and gradients are projected and normalised; here the one anchor is the safety
    data, the step is the row's own, and the inner product is taken without projection.
    """
    progress("the safety data's gradient after a trial step")
    with safety.moved(downhill, trial):
        anchor = safety.gradient()
    anchor = scaled(anchor, 1 / max(length(anchor), 1e-30))
    nudge = _NUDGE * max(length([weight.detach() for weight in safety.weights]), 1.0)
    losses = []
    for sign in (1.0, -1.0):
        progress("the task rows' losses beside it")
        with safety.moved(anchor, sign * nudge):
            nll, tokens = response_nll(model, rows, tokens_per_batch)
        losses.append(nll / tokens)
    return Influence(-(losses[0] - losses[1]) / (2 * nudge), trial)
