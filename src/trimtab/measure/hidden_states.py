"""Rows as a model reads them: how surprised it is by each response, and its hidden states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.data.encoding import IGNORED
from trimtab.errors import UserError
from trimtab.measure.losses import evaluating, padded_batches, scored

Array = NDArray[np.float64]
States = NDArray[np.float32]


@dataclass(frozen=True)
class Reading:
    """What one pass of a model over n rows leaves behind.

    `nll` is −log P_θ(y|x) in nats and `tokens` the length of y, each of shape (n,). `prompts`
    (n, h) holds the mean hidden state over the tokens of x half-way up the model, `responses`
    (n, 2h) the means over the tokens of y half-way up and at the top: x acts on them through
    attention, so they speak of the pair (x, y).
    """

    nll: Array
    tokens: Array
    prompts: States
    responses: States

    def __len__(self) -> int:
        return len(self.nll)


@torch.inference_mode()
def read_through(
    model: nn.Module,
    rows: Dataset,
    tokens_per_batch: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Reading:
    """One forward pass over `rows`; `progress` hears how many rows are read by now.

    Raises:
        UserError: a hidden state or a loss is not a finite number.
    """
    count, read = len(rows), 0
    nll, tokens = np.empty(count), np.empty(count)
    prompts: States | None = None
    responses: States | None = None
    with evaluating(model):
        for places, inputs, targets in padded_batches(model, rows, tokens_per_batch):
            loss, prompt, response = _read_batch(model, inputs, targets)
            if prompts is None or responses is None:
                prompts = np.empty((count, prompt.shape[1]), dtype=np.float32)
                responses = np.empty((count, response.shape[1]), dtype=np.float32)
            nll[places] = loss
            tokens[places] = (targets[:, 1:] != IGNORED).sum(dim=1).cpu().numpy()
            prompts[places] = prompt
            responses[places] = response
            read += len(places)
            progress(read)
    assert prompts is not None
    assert responses is not None
    if not all(np.isfinite(part).all() for part in (nll, prompts, responses)):
        raise UserError(
            "the model's hidden states are not finite numbers (NaN or infinity), so nothing can be "
            "measured on it. Give a model whose weights are whole, in float32 if need be."
        )
    return Reading(nll, tokens, prompts, responses)


def _read_batch(
    model: nn.Module, inputs: dict[str, Tensor], targets: Tensor
) -> tuple[Array, States, States]:
    """Summed losses and mean states of one batch, whose logits and states end with the call."""
    outputs, log_probs = scored(model, inputs, targets, output_hidden_states=True)
    middle = outputs.hidden_states[len(outputs.hidden_states) // 2]
    top = outputs.hidden_states[-1]
    answered = targets != IGNORED
    prompted = inputs["attention_mask"].bool() & ~answered
    response = torch.cat([_mean_over(middle, answered), _mean_over(top, answered)], dim=1)
    return (
        -log_probs.sum(dim=1).double().cpu().numpy(),
        _mean_over(middle, prompted).float().cpu().numpy(),
        response.float().cpu().numpy(),
    )


def _mean_over(states: Tensor, mask: Tensor) -> Tensor:
    """Shapes (rows, width, hidden) and (rows, width) to (rows, hidden); zero where nothing is."""
    chosen = mask[:, :, None].to(states.dtype)
    return (states * chosen).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)
