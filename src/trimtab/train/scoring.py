"""One forward pass of a training, as an objective takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from trimtab.data.encoding import IGNORED
from trimtab.train.batches import ROLE, Batch, by_role, model_inputs, role_of_labels
from trimtab.train.objectives.base import Objective, Step
from trimtab.train.reference import AlignedReference


@dataclass(frozen=True)
class Scorer:
    """Calls the model on batches of both roles.

    Args:
        fused: calls the model with TRL's head, which gives log-probabilities and no logits; with a
            batch and the labelled tokens of its step.
        unwrapped: θ as `fused` calls it may be wrapped; the same without, whose adapter can be
            disabled.
        reference: θ_s, where the objective compares with it.
        router_weight: of a mixture of experts' auxiliary loss in one batch; None without experts.
    """

    fused: Callable[[nn.Module, Batch, Tensor], Any]
    unwrapped: nn.Module
    reference: AlignedReference | None
    router_weight: float | None

    def step(self, objective: Objective, model: nn.Module, batch: Batch, tokens: Tensor) -> Step:
        """What the objective's loss is taken of.

        `tokens`, of shape (2,), counts labelled tokens of task and of safety rows in the step.
        """
        divergence = None
        if objective.compares == "safety":
            assert self.reference is not None
            batch, safety = by_role(batch)
            outputs = self.fused(model, batch, tokens[0])
            divergence = self.reference.divergence(model, self.unwrapped, safety)
            log_probs = outputs.log_probs
        elif objective.compares == "task":
            assert self.reference is not None
            routing = {} if self.router_weight is None else {"output_router_logits": True}
            outputs = model(**model_inputs(batch), use_cache=False, **routing)
            logits = outputs.logits
            divergence = objective.divergence(self.reference, logits, self.unwrapped, batch)
            log_probs = label_log_probs(outputs.logits, batch["labels"])
        else:
            plain = {name: value for name, value in batch.items() if name != ROLE}
            outputs = self.fused(model, plain, tokens.sum())
            log_probs = outputs.log_probs
        router = 0.0 if self.router_weight is None else self.router_weight * outputs.aux_loss
        task, safety_tokens = tokens
        of_label = role_of_labels(batch)
        return Step(batch, -log_probs, of_label, task, safety_tokens, router, divergence)


def label_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """log P of each next-token label, zero where there is none, of shape (rows, width − 1).

    Shapes (rows, width, vocabulary) and (rows, width); column t is the label at t + 1.
    """
    counted = labels[:, 1:] != IGNORED
    log_probs = torch.zeros(counted.shape, device=logits.device)
    chosen = log_softmax(logits[:, :-1][counted].float(), dim=-1)
    log_probs[counted] = chosen.gather(1, labels[:, 1:][counted][:, None])[:, 0]
    return log_probs
