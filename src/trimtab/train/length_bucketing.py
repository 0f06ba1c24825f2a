"""A batch computed in pieces of like length, its labelled positions alone through the LM head."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import DistributedType
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel
from trl import SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

from trimtab.data.encoding import IGNORED
from trimtab.errors import UserError
from trimtab.models import without_adapter

# How many parameters times tokens a device gets through while a layer's kernels are launched
# once, forward and backward. An accelerator's is large: it is better fed with padding than cut up.
_PER_LAUNCH = {"cpu": 1e7}
_PER_LAUNCH_ELSEWHERE = 5e10

# Shorter pieces than this keep no processor busy, whatever the model.
_FEWEST_TOKENS = 16

_PER_TOKEN = ("position_ids", "token_type_ids")
"""What a collator may give besides, a number for each token."""

_TRL_SCORES_LABELS_ALONE = ("cuda", "xpu")


@dataclass(frozen=True)
class BucketedModel:
    """A model that gives what one call on a padded batch gives, from less work.

    Rows of a batch differ in length, and a batch is as wide as its longest row. Here its rows, in
    order of length, are cut into pieces that have the least Σ rows · width + c · pieces, c being
    what a call costs in tokens; each piece is called for itself and the outputs are put together
    again in the batch's shape (rows, width − 1). Where TRL's fused head scores every position,
    which is anywhere but on CUDA and XPU, it is handed the positions that have a label.

    Padding may stand on either side. With a router's auxiliary loss, which is none of single rows,
    the batch stays in one piece.

    So the loss is the same sum over the same tokens, equal but for rounding.

    Args:
        model: what is called; it may be wrapped.
        unwrapped: the model itself, with TRL's fused head, and with or without an adapter.
    """

    model: Any
    unwrapped: PreTrainedModel | PeftModel

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **settings: Any
    ) -> FusedCausalLMOutput:
        """`FusedCausalLMOutput` of padded rows, all tensors among the arguments (rows, width)."""
        first, last = _attended(attention_mask)
        lengths = [end - begin for begin, end in zip(first, last, strict=True)]
        cost = math.inf if settings.get("output_router_logits") else self._tokens_per_call
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        batch |= {name: settings.pop(name) for name in _PER_TOKEN if name in settings}
        pieces = []
        for places in length_buckets(lengths, cost):
            begin, end = min(first[row] for row in places), max(last[row] for row in places)
            columns = slice(begin, max(end, begin + 2))
            rows = torch.tensor(places, device=input_ids.device)
            cut = {name: value[rows, columns] for name, value in batch.items()}
            if begin > 0 and "position_ids" not in cut:  # a model counts from where a row is cut
                cut["position_ids"] = torch.arange(begin, columns.stop, device=rows.device)[None]
            pieces.append(_Piece(places, begin, self._called(**cut, **settings)))
        return _together(pieces, labels.shape[1] - 1)

    def _called(self, input_ids: Tensor, labels: Tensor, **settings: Any) -> FusedCausalLMOutput:
        arguments = {"input_ids": input_ids, **settings}
        if input_ids.device.type in _TRL_SCORES_LABELS_ALONE:
            return self.model(**arguments, labels=labels)
        shifted = labels[:, 1:]
        labelled = shifted != IGNORED
        with self._only(labelled):
            output = self.model(**arguments, labels=labels, shift_labels=shifted[labelled][None])
        scored = {
            name: value.new_zeros(labelled.shape).masked_scatter(labelled, value)
            for name, value in _per_token(output).items()
        }
        return FusedCausalLMOutput(**scored, aux_loss=output.aux_loss)

    def _only(self, labelled: Tensor) -> AbstractContextManager[Any]:
        """The backbone gives, in place of every position's hidden state, those labelled."""

        def select(backbone: nn.Module, inputs: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[:, :-1][labelled][None]
            return output

        return self._language_model.base_model.register_forward_hook(select)

    @property
    def _language_model(self) -> PreTrainedModel:
        return without_adapter(self.unwrapped)

    @property
    def _tokens_per_call(self) -> float:
        model = self._language_model
        per_layer = model.num_parameters() / model.config.get_text_config().num_hidden_layers
        per_launch = _PER_LAUNCH.get(model.device.type, _PER_LAUNCH_ELSEWHERE)
        return _FEWEST_TOKENS + per_launch / per_layer


def length_buckets(lengths: list[int], tokens_per_call: float) -> list[list[int]]:
    """Places of rows, cut where Σ rows · longest + `tokens_per_call` · pieces is least.

    >>> length_buckets([9, 90, 10, 88], tokens_per_call=20)
    [[1, 3], [2, 0]]
    >>> length_buckets([9, 90, 10, 88], tokens_per_call=200)
    [[1, 3, 2, 0]]
    """
    places = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    # A piece begins only where the length falls: rows of one length stay together.
    cuts = [
        place
        for place in range(len(places))
        if place == 0 or lengths[places[place]] < lengths[places[place - 1]]
    ] + [len(places)]
    best = [(0.0, 0)]
    for end in range(1, len(cuts)):
        best.append(
            min(
                (
                    best[begin][0]
                    + (cuts[end] - cuts[begin]) * lengths[places[cuts[begin]]]
                    + tokens_per_call,
                    begin,
                )
                for begin in range(end)
            )
        )
    pieces: list[list[int]] = []
    end = len(cuts) - 1
    while end > 0:
        begin = best[end][1]
        pieces.insert(0, places[cuts[begin] : cuts[end]])
        end = begin
    return pieces


def _per_token(output: FusedCausalLMOutput) -> dict[str, Tensor]:
    fields = ("log_probs", "entropy", "is_top1", "label_mask")
    return {name: getattr(output, name) for name in fields}


@dataclass(frozen=True)
class _Piece:
    """Rows of a batch that were computed together, from their column `begin` on."""

    places: list[int]
    begin: int
    output: FusedCausalLMOutput


def _attended(attention_mask: Tensor) -> tuple[list[int], list[int]]:
    """The first column that each row attends to, and the one behind its last."""
    width = attention_mask.shape[1]
    counted = attention_mask.bool()
    columns = torch.arange(width, device=attention_mask.device).expand_as(attention_mask)
    first = columns.where(counted, width).amin(dim=1).clamp(max=max(width - 2, 0))
    last = columns.where(counted, -1).amax(dim=1) + 1
    return first.tolist(), torch.maximum(last, first).tolist()


def _together(pieces: list[_Piece], width: int) -> FusedCausalLMOutput:
    order = torch.tensor([place for piece in pieces for place in piece.places]).argsort()
    parts = [
        {
            name: pad(value, (piece.begin, width - piece.begin - value.shape[1]))
            for name, value in _per_token(piece.output).items()
        }
        for piece in pieces
    ]
    joined = {
        name: torch.cat([part[name] for part in parts])[order.to(parts[0][name].device)]
        for name in parts[0]
    }
    # Of one piece alone: a router's loss over rows is no sum of losses over pieces of them.
    return FusedCausalLMOutput(**joined, aux_loss=pieces[0].output.aux_loss)


def require_what_can_be_bucketed(trainer: SFTTrainer) -> None:
    """Raises UserError where batches cannot be cut into pieces."""
    if trainer.padding_free or trainer._is_vision_dataset:
        raise UserError(
            "length_bucketing takes padded batches of text. Set length_bucketing=False."
        )
    if trainer.args.label_smoothing_factor > 0:
        raise UserError(
            "length_bucketing has no logits to smooth labels with: set "
            "label_smoothing_factor=0, or length_bucketing=False."
        )
    if trainer.compute_loss_func is not None:
        raise UserError(
            "length_bucketing adds up losses by token, and compute_loss_func has logits to take: "
            "set length_bucketing=False, or leave compute_loss_func out."
        )
    if isinstance(trainer.model, PeftModel) and trainer.model.active_peft_config.is_prompt_learning:
        raise UserError("length_bucketing knows no prompt tokens. Set length_bucketing=False.")
    if trainer.is_fsdp_enabled or trainer.accelerator.distributed_type is DistributedType.DEEPSPEED:
        raise UserError(
            "length_bucketing calls the model a different number of times on every process, "
            "which sharded weights do not allow. Set length_bucketing=False."
        )
