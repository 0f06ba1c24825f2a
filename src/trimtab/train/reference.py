"""The aligned model θ_s kept beside the one in training, to hold it to by KL divergence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import kl_div

from trimtab.errors import UserError
from trimtab.measure.adapters import (
    low_rank_adapters,
    not_at_its_base,
    require_weights,
    weights_beside_adapters,
)
from trimtab.measure.distance import LowRankPart, distance, norm
from trimtab.measure.losses import evaluating, labelled_places, logits_at
from trimtab.measure.sharded_weights import reshard
from trimtab.measure.shared_weights import sharing_frozen, sharing_start
from trimtab.train.batches import Batch, model_inputs

_ROUNDING = 1e-6
"""The distance, as a share of ‖θ‖, that merging an adapter which changes nothing may make."""


class AlignedReference:
    """θ_s: the base of an adapter, or else a frozen copy of the model as it is when this is built.

    Weights of the base that are trained beside the adapter, such as biases or a head, are copied,
    and put back for as long as θ_s is asked.

    Args:
        autocast: in what precision it computes: as the model in training does, which a trainer has
            given a forward of its own for that.

    Raises:
        UserError: an adapter whose base is not the model it starts from, so that there is no θ_s
            to be had.
    """

    def __init__(
        self,
        model: nn.Module,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._autocast = autocast
        self.copy: nn.Module | None = None
        self.start: list[tuple[nn.Parameter, Tensor]] = []
        if isinstance(model, PeftModel):
            _require_start_at_base(model)
            beside = weights_beside_adapters(model.get_base_model()).values()
            self.start = [
                (weight, weight.detach().clone()) for weight in beside if weight.requires_grad
            ]
        else:
            self.copy = copy_apart(model).eval().requires_grad_(False)

    def require_none_beside_adapter(self) -> None:
        """Raises UserError where weights of the base are trained, which shards cannot put back."""
        if self.start:
            raise UserError(
                "the target 'kl' puts weights that are trained beside an adapter back for θ_s, "
                "which sharded weights do not allow. Train the adapter alone (bias='none', no "
                "modules_to_save), or launch with plain data parallelism."
            )

    def shard(self, accelerator: Accelerator) -> None:
        """Divide the copy among processes, as FSDP2 does with the model that is trained."""
        if self.copy is not None:
            self.copy = fsdp2_prepare_model(accelerator, self.copy)

    def extra_state(self) -> tuple[nn.Module | None, list[Tensor]]:
        """What it keeps in memory beyond plain fine-tuning."""
        return self.copy, [start for _, start in self.start]

    def divergence(self, model: nn.Module, trained: nn.Module, batch: Batch) -> Tensor:
        """Σ over completion tokens of KL(P_θs(·|prefix) ‖ P_θ(·|prefix)), in nats.

        Over the whole vocabulary, at the positions that predict a token with a label: neither the
        prompt nor padding counts. The prefixes are those of the batch; the labels themselves only
        say where the completion is.

        Args:
            model: θ as the trainer calls it, perhaps wrapped.
            trained: the same unwrapped, whose adapter can be disabled.
            batch: what a collator gives, padded or one sequence after another.
        """
        places = labelled_places(batch["labels"])
        _, logits = logits_at(model, model_inputs(batch), places, use_cache=False)
        return self.divergence_of(logits, trained, batch)

    def divergence_of(
        self, logits: Tensor, trained: nn.Module, batch: Batch, weights: Tensor | None = None
    ) -> Tensor:
        """The same, of θ's logits at the labelled places; each row times its weight."""
        places = labelled_places(batch["labels"])
        target = self.logits_at(places, trained, batch).float().log_softmax(dim=-1)
        predicted = logits.float().log_softmax(dim=-1)
        if weights is None:
            return kl_div(predicted, target, reduction="sum", log_target=True)
        by_place = kl_div(predicted, target, reduction="none", log_target=True).sum(dim=-1)
        return (by_place * weights[places.nonzero()[:, 0]]).sum()

    def logits_at(self, places: Tensor, trained: nn.Module, batch: Batch) -> Tensor:
        """θ_s's at `places` of a batch, without a gradient, of shape (places, vocabulary)."""
        with torch.no_grad(), self._autocast(), self._aligned(trained) as aligned:
            return logits_at(aligned, model_inputs(batch), places)[1]

    @contextmanager
    def _aligned(self, trained: nn.Module) -> Iterator[nn.Module]:
        if self.copy is not None:
            yield self.copy
            reshard(self.copy)
            return
        assert isinstance(trained, PeftModel)
        now = [weight.data for weight, _ in self.start]
        try:
            for weight, start in self.start:
                weight.data = start.to(weight.device)
            with evaluating(trained), trained.disable_adapter():
                yield trained
        finally:
            for (weight, _), data in zip(self.start, now, strict=True):
                weight.data = data


def copy_apart(model: nn.Module) -> nn.Module:
    """A copy of a model that a trainer holds, which has a life of its own.

    Weights that are not trained, such as the base of an adapter, are shared.
    """
    return _without_trainers_forward(sharing_frozen(model))


def copy_to_edit(model: nn.Module, aligned: nn.Module, whole: bool = False) -> nn.Module:
    """A copy of a trained model whose difference from the aligned one is its own to write into.

    Weights that are the aligned model's are shared unless it is `whole`.
    """
    return _without_trainers_forward(deepcopy(model) if whole else sharing_start(model, aligned))


def _without_trainers_forward(copy: nn.Module) -> nn.Module:
    # SFTTrainer puts a forward of its own on the model, a closure that goes on calling the original
    # from the copy: the divergence would be zero for ever.
    for part in copy.modules():
        part.__dict__.pop("forward", None)
    return copy


def _require_start_at_base(model: PeftModel) -> None:
    require_weights(model)
    base = model.get_base_model()
    try:
        starts_at_base = LowRankPart(tuple(low_rank_adapters(model))).is_zero()
    except UserError:  # no product BA: what it makes of the weights may be theirs all the same
        starts_at_base = distance(model, base) <= _ROUNDING * norm(base)
    if not starts_at_base:
        raise UserError(f"the target 'kl' needs the aligned model, but {not_at_its_base(model)}")
