"""Whether a model reads a row in a batch as it reads the row alone, asked of a few tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.models import computes_in_float32, limits_of

_ROUNDING = 1e-2
"""How far log-probabilities may lie apart in float32, nats: 2e-5 on SmolLM2."""
_COARSE_ROUNDING = 0.5
"""How far they may on average where fewer bits are computed with: up to 0.15 there in bfloat16."""


def few_tokens(model: PreTrainedModel, count: int, seed: int = 0) -> list[int]:
    """Tokens that no model takes for padding, an end or an image."""
    vocabulary = limits_of(model).vocabulary
    generator = torch.Generator().manual_seed(seed)
    lowest, highest = vocabulary // 4, max(vocabulary // 4 + 1, vocabulary // 2)
    return torch.randint(lowest, highest, (count,), generator=generator).tolist()


def next_log_probs(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """log P of every next token by the model's own head, shape (rows, width, vocabulary)."""
    logits: Tensor = model(**inputs).logits
    return logits.float().log_softmax(-1)


def are_alike(first: Tensor, second: Tensor, is_float32: bool) -> bool:
    """Whether two results are one but for rounding, which TF32 on a GPU makes coarser too."""
    is_float32 &= not (first.is_cuda and torch.backends.cuda.matmul.allow_tf32)
    apart = (first.float() - second.float()).abs()
    return bool(apart.max() <= _ROUNDING if is_float32 else apart.mean() <= _COARSE_ROUNDING)


@torch.no_grad()
def heeds_padding(model: PreTrainedModel, padding: int) -> bool:
    """Whether padding before a prompt leaves the likeliest answer's first tokens as they are."""
    ids = torch.tensor([few_tokens(model, 12)], device=model.device)
    filled = torch.full((1, 24), padding, device=model.device)
    asked = [
        (ids, torch.ones_like(ids)),
        (
            torch.cat([filled, ids], dim=1),
            torch.cat([torch.zeros_like(filled), torch.ones_like(ids)], dim=1),
        ),
    ]
    alone, padded = (
        model.generate(
            input_ids=given,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=4,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=padding,
        ).logits
        for given, mask in asked
    )
    is_float32 = computes_in_float32(model)
    return all(
        are_alike(first.log_softmax(-1), second.log_softmax(-1), is_float32)
        for first, second in zip(alone, padded, strict=False)
    )
