"""The probability of labels, from logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from trimtab.data.encoding import IGNORED


def label_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """log P of each next-token label, zero where there is none, of shape (rows, width − 1).

    Shapes (rows, width, vocabulary) and (rows, width); column t is the label at t + 1.
    """
    counted = labels[:, 1:] != IGNORED
    found = torch.zeros(counted.shape, device=logits.device)
    chosen = log_softmax(logits[:, :-1][counted].float(), dim=-1)
    found[counted] = chosen.gather(1, labels[:, 1:][counted][:, None])[:, 0]
    return found
