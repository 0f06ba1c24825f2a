"""Rows as token ids with labels on the response alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING

from datasets import Dataset

from trimtab.data.rows import Lengths, Message, Row
from trimtab.errors import UserError, reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


IGNORED = -100


def encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, lengths: Lengths) -> Dataset:
    """`input_ids` and `labels` per row, with labels −100 on the prompt.

    A tokenizer with a chat template renders the row through it; one without joins the messages by
    newlines and ends the response with its end-of-sequence token. Training and measuring both use
    these ids, so a loss means the same in each.

    Raises:
        UserError: a row has no response token left, or the tokenizer or its template refuses it.
    """
    encoded = []
    for row in rows:
        with _told_of(row.prompt, row.response):
            encoded.append(_encode_row(row, tokenizer, lengths))
    for row, (_, labels) in zip(rows, encoded, strict=True):
        if all(label == IGNORED for label in labels):
            raise UserError(
                f"the response {row.response[:40]!r} has no token of its own under this tokenizer. "
                "Remove the row."
            )
    return Dataset.from_dict(
        {"input_ids": [ids for ids, _ in encoded], "labels": [labels for _, labels in encoded]}
    )


def _encode_row(
    row: Row, tokenizer: PreTrainedTokenizerBase, lengths: Lengths
) -> tuple[list[int], list[int]]:
    prompt, whole = _token_ids(row, tokenizer)
    shared = _shared_length(prompt, whole)
    prompt, response = whole[:shared][-lengths.prompt :], whole[shared:][: lengths.response]
    return prompt + response, [IGNORED] * len(prompt) + response


def _shared_length(prompt: list[int], whole: list[int]) -> int:
    pairs = zip(prompt, whole, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def prompt_ids(prompt: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids after which the response begins, uncut. Raises UserError as `encode` does."""
    with _told_of(prompt):
        return _prompt_ids(prompt, tokenizer)


@contextmanager
def _told_of(prompt: Sequence[Message], response: str = "") -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    # A template is a program, and a tokenizer's errors have no common class.
    except Exception as error:
        texts = [*(message.content for message in prompt), response]
        if any("\ud800" <= one <= "\udfff" for text in texts for one in text):
            reason = "half of a surrogate pair, which is no character"
        else:
            reason = reason_of(error)
        begins = prompt[-1].content[:40] if prompt else response[:40]
        raise UserError(
            f"the row with {begins!r} cannot be turned into tokens ({reason}). Mend or remove the "
            "row, or mend the model's tokenizer or chat template."
        ) from error


def _prompt_ids(prompt: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if tokenizer.chat_template is None:
        text = "\n".join(message.content for message in prompt) + "\n"
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids
    messages = [{"role": message.role, "content": message.content} for message in prompt]
    rendered: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True)[
        "input_ids"
    ]
    return rendered


def _token_ids(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    prompt = _prompt_ids(row.prompt, tokenizer)
    if tokenizer.chat_template is None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "the tokenizer has neither a chat template nor an end-of-sequence token, so that "
                "no response would end. Set eos_token and save it again."
            )
        response = tokenizer(row.response, add_special_tokens=False)["input_ids"]
        return prompt, [*prompt, *response, tokenizer.eos_token_id]
    messages = [{"role": message.role, "content": message.content} for message in row.prompt]
    reply = {"role": "assistant", "content": row.response}
    return prompt, tokenizer.apply_chat_template([*messages, reply])["input_ids"]
