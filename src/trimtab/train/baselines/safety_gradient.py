"""The gradient of L_ŝ on a few safety rows, taken beside the task's."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.measure.losses import evaluating
from trimtab.train.context import TrainingContext
from trimtab.train.objectives.base import filled
from trimtab.train.safety_stream import SafetyStream
from trimtab.train.scoring import label_log_probs


def safety_gradient(
    context: TrainingContext, weights: list[torch.nn.Parameter], rows: int, number: int
) -> tuple[list[Tensor], int]:
    """∇L_ŝ on batch `number` of so many safety rows, at the weights as they are, without dropout.

    Returns:
        A part for each weight, of its shape, and the tokens that were read.
    """
    stream = context.safety
    assert stream is not None
    batch = SafetyStream(stream.rows, stream.collate, rows, stream.seed).batch(number)
    with evaluating(context.model) as model:
        loss = -label_log_probs(model, batch).sum()
        parts = torch.autograd.grad(loss, weights, allow_unused=True)
    return filled(parts, weights), int(batch["attention_mask"].sum())
