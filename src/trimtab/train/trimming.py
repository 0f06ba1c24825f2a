"""A batch computed in pieces of like length, its labelled positions alone through the LM head."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from trimtab.data.encoding import IGNORED

# How many parameters times tokens a device gets through while a layer's kernels are launched
# once, forward and backward. An accelerator's is large: it is better fed with padding than cut up.
_PER_LAUNCH = {"cpu": 1e7}
_PER_LAUNCH_ELSEWHERE = 5e10

# Shorter pieces than this keep no processor busy, whatever the model.
_FEWEST_TOKENS = 16

_TRL_SCORES_LABELS_ALONE = ("cuda", "xpu")


@dataclass(frozen=True)
class TrimmedModel:
    """A model that gives what one call on a padded batch gives, from less work.

    Rows of a batch differ in length, and a batch is as wide as its longest row. Here its rows, in
    order of length, are cut into pieces that have the least Σ rows · width + c · pieces, c being
    what a call costs in tokens; each piece is called for itself and the outputs are put together
    again in the batch's shape (rows, width − 1). Where TRL's fused head scores every position,
    which is anywhere but on CUDA and XPU, it is handed the positions that have a label.

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
        """`FusedCausalLMOutput` of right-padded rows, all arguments of shape (rows, width)."""
        lengths = attention_mask.sum(dim=1).tolist()
        places = pieces_of_like_length(lengths, self._tokens_per_call(input_ids.device.type))
        outputs = []
        for piece in places:
            rows = torch.tensor(piece, device=input_ids.device)
            width = max(2, max(lengths[place] for place in piece))
            cut = (tensor[rows, :width] for tensor in (input_ids, attention_mask, labels))
            outputs.append(self._called(*cut, **settings))
        return _together(outputs, places, labels.shape[1] - 1)

    def _called(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **settings: Any
    ) -> FusedCausalLMOutput:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **settings}
        if input_ids.device.type in _TRL_SCORES_LABELS_ALONE:
            return self.model(**given, labels=labels)
        shifted = labels[:, 1:]
        labelled = shifted != IGNORED
        with self._only(labelled):
            output = self.model(**given, labels=labels, shift_labels=shifted[labelled][None])
        scored = {
            name: value.new_zeros(labelled.shape).masked_scatter(labelled, value)
            for name, value in _per_token(output).items()
        }
        return FusedCausalLMOutput(**scored)

    def _only(self, labelled: Tensor) -> AbstractContextManager[Any]:
        """The backbone gives, in place of every position's hidden state, those labelled."""

        def select(backbone: nn.Module, given: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[:, :-1][labelled][None]
            return output

        return self._language_model.base_model.register_forward_hook(select)

    @property
    def _language_model(self) -> PreTrainedModel:
        whole = self.unwrapped
        return whole.get_base_model() if isinstance(whole, PeftModel) else whole

    def _tokens_per_call(self, device: str) -> float:
        model = self._language_model
        per_layer = model.num_parameters() / model.config.get_text_config().num_hidden_layers
        return _FEWEST_TOKENS + _PER_LAUNCH.get(device, _PER_LAUNCH_ELSEWHERE) / per_layer


def pieces_of_like_length(lengths: list[int], tokens_per_call: float) -> list[list[int]]:
    """Places of rows, cut where Σ rows · longest + `tokens_per_call` · pieces is least.

    >>> pieces_of_like_length([9, 90, 10, 88], tokens_per_call=20)
    [[1, 3], [2, 0]]
    >>> pieces_of_like_length([9, 90, 10, 88], tokens_per_call=200)
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


def _together(
    outputs: list[FusedCausalLMOutput], places: list[list[int]], width: int
) -> FusedCausalLMOutput:
    order = torch.tensor([place for piece in places for place in piece]).argsort()
    parts = [_per_token(output) for output in outputs]
    return FusedCausalLMOutput(
        **{
            name: torch.cat([pad(part[name], (0, width - part[name].shape[1])) for part in parts])[
                order.to(parts[0][name].device)
            ]
            for name in parts[0]
        }
    )
