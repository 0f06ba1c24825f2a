"""One forward pass of a training, as an objective takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from trimtab.measure.losses import labelled_places, log_probs_of, logits_at, scored
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
            labels = batch["labels"]
            outputs, logits = logits_at(
                model, model_inputs(batch), labelled_places(labels), use_cache=False, **routing
            )
            divergence = objective.divergence(self.reference, logits, self.unwrapped, batch)
            log_probs = log_probs_of(logits, labels)
        else:
            plain = {name: value for name, value in batch.items() if name != ROLE}
            outputs = self.fused(model, plain, tokens.sum())
            log_probs = outputs.log_probs
        router = 0.0 if self.router_weight is None else self.router_weight * outputs.aux_loss
        task, safety_tokens = tokens
        of_label = role_of_labels(batch)
        return Step(batch, -log_probs, of_label, task, safety_tokens, router, divergence)


def label_log_probs(model: nn.Module, batch: Batch) -> Tensor:
    """log P of each next-token label of padded rows, as `log_probs_of`, on the model's device."""
    device = next(model.parameters()).device
    batch = {name: batch[name].to(device) for name in ("input_ids", "attention_mask", "labels")}
    labels = batch.pop("labels")
    return scored(model, batch, labels, use_cache=False)[1]
