"""The model's own answers to prompts: a proxy that needs no other teacher."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from trimtab.config.data_source import Lengths
from trimtab.data.encoding import (
    cut_prompt,
    ends_of_answers,
    prompt_ids,
    require_known_tokens,
)
from trimtab.data.rows import Message
from trimtab.errors import UserError
from trimtab.measure.losses import evaluating
from trimtab.measure.reading import heeds_padding
from trimtab.models import limits_of, without_adapter

log = logging.getLogger(__name__)


@torch.inference_mode()
def sampled_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[Message, ...]],
    lengths: Lengths,
    batch_size: int = 16,
    seed: int = 0,
    first: int = 0,
    finished: Callable[[int, str, bool], None] = lambda place, answer, is_whole: None,
    greedy: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[str]:
    """One draw y ~ P_θ(·|x) for every prompt x, by default at temperature 1 with no filter.

    By default the answers are a sample of the model's own conditional, and in Theorem 1 the
    distance of that proxy from the original is bounded by the model's own gap:
    E_x TV(P_θs, D_s) ≤ sqrt(G_s(θ_s)/2), by Pinsker. Each batch has a seed of its own,
    so that going on from `first` gives the answers that one run would have given. A model that does
    not heed padding, as a recurrent one, is asked one prompt at a time.

    Args:
        prompts: all of them, whichever have an answer already.
        lengths: where prompts and answers are cut.
        first: the first prompt to answer, a multiple of `batch_size`.
        finished: hears the place and the answer as each is ready, and whether the model ended it:
            one that is cut at `lengths.response` tokens it would have gone on with.
        greedy: take the likeliest word at each place instead of a draw.
        temperature: what logits are divided by before a draw.
        top_p: draw from the fewest tokens that together have this probability.

    Raises:
        UserError: a prompt with its answer is longer than the model can read.
    """
    draw = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
    answers: list[str] = []
    padding: Any = tokenizer.pad_token_id
    require_context(model, lengths)
    ends_taught = ends_of_answers(tokenizer)
    with evaluating(model):
        with only_ends_of(model, tokenizer):
            if not heeds_padding(model, padding):
                batch_size = 1
        for start in range(first, len(prompts), batch_size):
            batch = [
                asked_ids(prompt, tokenizer, lengths)
                for prompt in prompts[start : start + batch_size]
            ]
            require_known_tokens(batch, tokenizer, limits_of(model))
            width = max(map(len, batch))
            ids = torch.tensor([[padding] * (width - len(row)) + row for row in batch])
            attended = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
            with torch.random.fork_rng(), only_ends_of(model, tokenizer) as ends:
                torch.manual_seed(seed * 2**20 + start)
                tokens: Any = model.generate(
                    input_ids=ids.to(model.device),
                    attention_mask=attended.to(model.device),
                    **({"do_sample": False} if greedy else draw),
                    max_new_tokens=lengths.response,
                    pad_token_id=padding,
                )
            for place, written in enumerate(tokens[:, width:].tolist(), start=start):
                said = list(takewhile(lambda token: token not in ends_taught, written))
                answer = tokenizer.decode(said, skip_special_tokens=True).strip()
                answers.append(answer)
                finished(place, answer, not ends.isdisjoint(written))
    return answers


def asked_ids(
    prompt: Sequence[Message], tokenizer: PreTrainedTokenizerBase, lengths: Lengths
) -> list[int]:
    """A prompt's ids as a model is asked; that some lose their beginning is said once."""
    ids = prompt_ids(prompt, tokenizer)
    if len(ids) > lengths.prompt:
        _tell_of_cut(lengths.prompt)
    return cut_prompt(ids, tokenizer, lengths)


@cache
def _tell_of_cut(tokens: int) -> None:
    log.warning(
        "Prompts of more than %d tokens are asked without their beginning, and so without a system "
        "message. Give --max-prompt (lengths in a file) to keep more.",
        tokens,
    )


@contextmanager
def only_ends_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Iterator[frozenset[int]]:
    """The model's own way of generating put aside, but for the tokens that end a text, given.

    They are those of its generation configuration, and those that end an answer in training: a
    template may close a turn with another token than the one that ends a text.

    `generate` fills whatever it is not given (beams, filters, guidance, a watermark, stop words)
    from the model's generation configuration, so that is where it must not be.
    """
    inner = without_adapter(model)
    own = inner.generation_config
    configured = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = ends_of_answers(tokenizer) | {end for end in configured if end is not None}
    bare = GenerationConfig(eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id)
    holders = [model, inner] if inner is not model else [model]
    configs = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = bare
    text = inner.config.get_text_config()
    routes = getattr(text, "output_router_logits", None)
    if routes:  # experts' loss over a prompt does not go with the tokens that follow it
        text.output_router_logits = False
    try:
        yield ends
    finally:
        if routes:
            text.output_router_logits = routes
        for holder, config in zip(holders, configs, strict=True):
            holder.generation_config = config


def require_context(model: PreTrainedModel, lengths: Lengths) -> None:
    """Refuse lengths that together are more than the model can read. Raises UserError."""
    context = limits_of(model).context
    if context is not None and lengths.prompt + lengths.response > context:
        raise UserError(
            f"prompts of up to {lengths.prompt} tokens with responses of up to {lengths.response} "
            f"are longer than the {context} tokens the model reads. Give lengths of prompts and "
            "of answers (--max-prompt, and --max-response or --max-tokens) that add up to no more."
        )
