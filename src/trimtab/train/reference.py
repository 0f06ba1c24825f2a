"""The aligned model θ_s kept beside the one in training, to hold it to by KL divergence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import kl_div

from trimtab.data.encoding import IGNORED
from trimtab.errors import UserError
from trimtab.measure.distance import distance
from trimtab.train.batches import Batch


class AlignedReference:
    """θ_s: a LoRA adapter's base, or else a frozen copy of the model as it is when this is built.

    Raises:
        UserError: an adapter whose base is not the model it starts from, so that there is no θ_s
            to be had: it already holds an update, or is none of LoRA.
    """

    def __init__(self, model: nn.Module) -> None:
        self.copy: nn.Module | None = None
        if isinstance(model, PeftModel):
            _require_fresh_lora(model)
        else:
            self.copy = copy_apart(model).eval().requires_grad_(False)

    def divergence(self, model: nn.Module, trained: nn.Module, batch: Batch) -> Tensor:
        """Σ over completion tokens of KL(P_θs(·|prefix) ‖ P_θ(·|prefix)), in nats.

        Over the whole vocabulary, at the positions that predict a token with a label: neither the
        prompt nor padding counts. The prefixes are those of the batch; the labels themselves only
        say where the completion is.

        Args:
            model: θ as the trainer calls it, perhaps wrapped.
            trained: the same unwrapped, whose adapter can be disabled.
            batch: input_ids, attention_mask and labels.
        """
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return self.divergence_of(model(**inputs, use_cache=False).logits, trained, batch)

    def divergence_of(self, logits: Tensor, trained: nn.Module, batch: Batch) -> Tensor:
        """The same, of logits that the model has given already."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        counted = batch["labels"][:, 1:] != IGNORED
        with torch.no_grad(), self._aligned(trained) as aligned:
            target = aligned(**inputs).logits[:, :-1][counted].float().log_softmax(dim=-1)
        predicted = logits[:, :-1][counted].float().log_softmax(dim=-1)
        return kl_div(predicted, target, reduction="sum", log_target=True)

    @contextmanager
    def _aligned(self, trained: nn.Module) -> Iterator[nn.Module]:
        if self.copy is not None:
            yield self.copy
            return
        assert isinstance(trained, PeftModel)
        was_training = trained.training
        trained.eval()
        try:
            with trained.disable_adapter():
                yield trained
        finally:
            trained.train(was_training)


def copy_apart(model: nn.Module) -> nn.Module:
    """A copy of a model that a trainer holds, which has a life of its own."""
    copy = deepcopy(model)
    # SFTTrainer puts a forward of its own on the model, a closure that goes on calling the original
    # from the copy: the divergence would be zero for ever.
    for part in copy.modules():
        part.__dict__.pop("forward", None)
    return copy


def _require_fresh_lora(model: PeftModel) -> None:
    if not any(isinstance(layer, LoraLayer) for layer in model.modules()):
        raise UserError(
            "the target 'kl' needs the aligned model: the base of a LoRA adapter, or a copy of the "
            "whole model. Use LoRA, or train all weights."
        )
    if distance(model, model.get_base_model()) > 0:
        raise UserError(
            "the target 'kl' needs the aligned model, but the LoRA adapter already holds an "
            "update: its base is another model. Merge it first: model = model.merge_and_unload()."
        )
