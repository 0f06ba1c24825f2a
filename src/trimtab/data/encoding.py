"""Rows as token ids with labels on the response alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from trimtab.config.data_source import Lengths
from trimtab.data.rows import Message, Row, is_whole_text
from trimtab.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


IGNORED = -100

TEMPLATE_DATE = datetime(2024, 7, 26)
"""Today, to a chat template that asks, so that a sweep measures the same rows tomorrow."""

# What stands for the response while the template is asked what it puts around one.
_STAND_IN = "trimtabresponse"

# U+FDD0 is no character; a number between two of them stands for a control token in a row's text.
_MARK = re.compile("\ufdd0(\\d+)\ufdd0")

_THOUGHT = re.compile("</?think(?:ing)?>")


@dataclass(frozen=True)
class Limits:
    """What a model can read."""

    context: int | None
    """The most tokens of a prompt with its response; None where the model has no bound."""
    vocabulary: int
    """How many token ids it has an embedding for."""


def encode(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    lengths: Lengths,
    limits: Limits | None = None,
    warning: Callable[[str], None] = lambda _: None,
    place: str = "",
) -> Dataset:
    """`input_ids` and `labels` per row, with labels −100 on the prompt.

    A tokenizer with a chat template renders the row through it; one without joins the messages by
    newlines and ends the response with its end-of-sequence token. The prompt is what the template
    puts before an assistant's words, its header and an empty thought included, and the response is
    all that follows; of one that was cut short, all but the end. A control token in a row's text is
    read as the characters it is written with. Training, measuring and sampling use these ids, so a
    loss means the same in each.

    Args:
        limits: what the model can read, where it is known.
        warning: hears how many rows are cut, hold control tokens, or are rendered in part.
        place: whose rows they are, for errors and warnings to begin with.

    Raises:
        UserError: a row has no response token left, is more than the model can read, or is
            refused by the template; the tokenizer has neither template nor end of sequence.
    """
    try:
        columns, warnings = _encoded(rows, tokenizer, lengths, limits)
    except UserError as error:
        raise UserError(f"{place}: {error}" if place else str(error)) from None
    for line in warnings:
        warning(f"{place}: {line}" if place else line)
    return Dataset.from_dict(columns)


def _encoded(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    lengths: Lengths,
    limits: Limits | None,
) -> tuple[dict[str, list[list[int]]], list[str]]:
    encoder = _Encoder(tokenizer)
    encoded = [encoder.divided(row) for row in rows]
    ids, labels = [], []
    for row, (prompt, response) in zip(rows, encoded, strict=True):
        prompt, response = cut_prompt(prompt, tokenizer, lengths), response[: lengths.response]
        if not response:
            raise UserError(
                f"the response {row.response[:40]!r} has no token of its own under this tokenizer. "
                "Remove the row."
            )
        ids.append(prompt + response)
        labels.append([IGNORED] * len(prompt) + response)
    if limits is not None:
        _require_within(ids, tokenizer, limits)
    warnings = [*_cut(encoded, lengths), *encoder.noticed(len(rows))]
    return {"input_ids": ids, "labels": labels}, warnings


def prompt_ids(prompt: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids after which the response begins, uncut. Raises UserError as `encode` does."""
    return _Encoder(tokenizer).prompt(prompt)


def ends_of_answers(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer as `encode` has it: the template's end of a turn, and of text.

    Raises UserError as `encode` does.
    """
    ends = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    if tokenizer.chat_template is not None:
        of_turn = _Encoder(tokenizer).end_of_turn()
        ends |= set() if of_turn is None else {of_turn}
    return frozenset(ends)


def teaches_an_end(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether an answer in training is followed by a control token, as the end of a turn is.

    Raises UserError as `encode` does.
    """
    return tokenizer.chat_template is None or _Encoder(tokenizer).ends_turns()


def cut_prompt(ids: list[int], tokenizer: PreTrainedTokenizerBase, lengths: Lengths) -> list[int]:
    """The end of a prompt's ids, with the beginning-of-sequence token it began with."""
    if len(ids) <= lengths.prompt:
        return ids
    first = ids[:1] if ids[0] == tokenizer.bos_token_id and lengths.prompt > 1 else []
    return first + ids[len(ids) - lengths.prompt + len(first) :]


@dataclass(frozen=True)
class _Turn:
    """What a template puts around an assistant's words."""

    asked: str
    """The conversation with the generation prompt."""
    opening: str
    """All that stands before the words, whatever they are: asked and a header, or less than it."""
    lead: str
    """Spaces before the words, which tokenizers take as part of the first."""
    end: str


class _Encoder:
    """A tokenizer and its template, and how many rows it had to treat in a way of their own."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        control = {str(token) for token in added if token.special}
        plain = {str(token) for token in added} - control
        if plain and tokenizer.chat_template is not None:
            control |= {token for token in plain if self._ending.lstrip().startswith(token)}
        self.control = sorted(control, key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, self.control)) or "(?!)")
        self.controlled: set[str] = set()
        self.with_control = 0
        self.in_part = 0

    def prompt(self, prompt: Sequence[Message]) -> list[int]:
        """The ids before the response."""
        marked = [self._marked(message) for message in prompt]
        if self.tokenizer.chat_template is None:
            return self._before() + self._ids(_joined(marked))
        return self._ids(self._turn(marked).opening)

    @cached_property
    def _ending(self) -> str:
        """What the template puts after an answer."""
        return self._turn([Message("user", "?")]).end

    def end_of_turn(self) -> int | None:
        """The control token right after an answer; None where the template has none there."""
        ending = self._ending.lstrip()
        token = next((token for token in self.control if ending.startswith(token)), None)
        return None if token is None else int(self.tokenizer.convert_tokens_to_ids(token))

    def ends_turns(self) -> bool:
        """Whether the template puts any control token after an answer."""
        return any(token in self._ending for token in self.control)

    def divided(self, row: Row) -> tuple[list[int], list[int]]:
        """The ids of prompt and response, uncut."""
        prompt = [self._marked(message) for message in row.prompt]
        response = self._marked(Message("assistant", row.response)).content
        tokens = {
            token
            for text in (*(message.content for message in row.prompt), row.response)
            for token in self._controls.findall(text)
        }
        self.controlled |= tokens
        self.with_control += bool(tokens)
        if self.tokenizer.chat_template is None:
            end = self.tokenizer.eos_token_id
            if end is None:
                raise UserError(
                    "the tokenizer has neither a chat template nor an end-of-sequence token, so a "
                    "response would never end. Give it one of the two."
                )
            ends = [end] if row.is_whole else []
            return self._before() + self._ids(_joined(prompt)), [*self._ids(response), *ends]
        opening, whole = self._opening_and_whole(prompt, response, row.is_whole)
        before, ids = self._ids(opening), self._ids(whole)
        shared = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, ids, strict=False))
        )
        return ids[:shared], ids[shared:]

    def noticed(self, rows: int) -> list[str]:
        """What was met in some of `rows`, a line each."""
        lines = []
        if self.with_control:
            tokens = ", ".join(sorted(self.controlled)[:5])
            lines.append(
                f"{self.with_control} of {rows} rows hold control tokens ({tokens}), which are "
                "read as plain text."
            )
        if self.in_part:
            lines.append(
                f"the chat template leaves out part of {self.in_part} of {rows} responses, such as "
                "a thought; they are taken as the rows have them."
            )
        return lines

    def _opening_and_whole(
        self, prompt: list[Message], response: str, has_end: bool
    ) -> tuple[str, str]:
        turn = self._turn(prompt)
        whole = self._rendered([*prompt, Message("assistant", response)])
        for opening in (turn.opening, turn.asked):
            if whole.startswith(opening) and _holds(whole[len(opening) :], response):
                return opening, whole if has_end else whole.removesuffix(turn.end)
        # The template shows a finished conversation otherwise than one to be answered, or shows
        # part of the response: what is asked stays as it is asked, and the response as it is.
        answer = response if response in whole else response.strip()
        if not _holds(whole, response):
            self.in_part += 1
            answer = response
        opening = turn.opening if turn.asked.startswith(turn.opening) else turn.asked
        return opening, opening + turn.lead + answer + (turn.end if has_end else "")

    def _turn(self, prompt: list[Message]) -> _Turn:
        question = self._rendered(prompt, add_generation_prompt=True)
        finished = self._rendered([*prompt, Message("assistant", _STAND_IN)])
        before, stand_in, end = finished.rpartition(_STAND_IN)
        if not stand_in:
            raise UserError(
                "the tokenizer's chat template does not show what the assistant says. Give a "
                "model with another template."
            )
        header = before.rstrip(" ")
        if before.startswith(question):
            opening = header if before[len(question) :].strip() else question
        elif question.startswith(before):
            opening = header
        else:
            opening = question
        # A space that ends the opening is taken as part of the first word, as in training.
        stripped = opening.rstrip(" ")
        lead = opening[len(stripped) :] or before[len(header) :]
        return _Turn(question, stripped, lead, end)

    def _rendered(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [{"role": message.role, "content": message.content} for message in messages],
                    chat_template=dated(self.tokenizer.get_chat_template()),
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                )
            )
        # A template is a program of the model's makers, and fails in ways of its own.
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            roles = ", ".join(message.role for message in messages)
            raise UserError(
                f"the tokenizer's chat template refuses a conversation of {roles} ({reason}). "
                "Change such rows, as by leaving out the system message, or remove them."
            ) from None

    def _marked(self, message: Message) -> Message:
        if not is_whole_text(message.content):
            raise UserError(
                f"the text {message.content[:40]!r} holds half of a surrogate pair, which is no "
                "character. Mend the row, or remove it."
            )
        if "\ufdd0" in message.content:  # which marks control tokens here
            raise UserError(
                f"the text {message.content[:40]!r} holds U+FDD0, which no text may. Remove it."
            )
        return Message(
            message.role,
            self._controls.sub(
                lambda match: f"\ufdd0{self.control.index(match[0])}\ufdd0", message.content
            ),
        )

    def _ids(self, text: str) -> list[int]:
        parts = _MARK.split(text)
        ids: list[int] = []
        for place, part in enumerate(parts):
            piece = self.control[int(part)] if place % 2 else part
            if piece:
                settings: dict[str, Any] = {"split_special_tokens": True} if place % 2 else {}
                ids += self.tokenizer(piece, add_special_tokens=False, **settings)["input_ids"]
        return ids

    def _before(self) -> list[int]:
        """What the tokenizer puts before any text; what it puts behind would end the prompt."""
        alone = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole: list[int] = self.tokenizer("a")["input_ids"]
        for start in range(len(whole) - len(alone) + 1):
            if whole[start : start + len(alone)] == alone:
                return whole[:start]
        return []


def dated(template: str) -> str:
    """The template with its clock at `TEMPLATE_DATE`, by a macro of the clock's name."""
    if "strftime_now" not in template:
        return template
    return f"{_CLOCK}\n{template}"


_CLOCK = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(
        f"|replace('{part}', '{TEMPLATE_DATE.strftime(part)}')"
        for part in [
            *(f"%-{letter}" for letter in "dmHIMSjy"),
            *(f"%{letter}" for letter in "aAwdebBhmyYHIpMSfzZjUWcxXDFTRGuV%"),
        ]
    )
    + " }}{% endmacro %}"
)


def _joined(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages) + "\n"


def _holds(text: str, response: str) -> bool:
    """Whether `text` holds the response, thought and answer in their order."""
    place = 0
    for part in _THOUGHT.split(response):
        place = text.find(part.strip(), place)
        if place < 0:
            return False
        place += len(part.strip())
    return True


def _cut(encoded: list[tuple[list[int], list[int]]], lengths: Lengths) -> list[str]:
    prompts = sum(len(prompt) > lengths.prompt for prompt, _ in encoded)
    responses = sum(len(response) > lengths.response for _, response in encoded)
    cut = [
        *([f"{prompts} prompts are cut to their last {lengths.prompt} tokens"] * (prompts > 0)),
        *([f"{responses} responses to their first {lengths.response}"] * (responses > 0)),
    ]
    if not cut:
        return []
    if not prompts:
        cut = [f"{responses} responses are cut to their first {lengths.response} tokens"]
    return [
        f"of {len(encoded)} rows {' and '.join(cut)}. Give --max-prompt and --max-response "
        "(lengths in a file) to keep more."
    ]


def _require_within(
    ids: list[list[int]], tokenizer: PreTrainedTokenizerBase, limits: Limits
) -> None:
    longest = max(map(len, ids), default=0)
    if limits.context is not None and longest > limits.context:
        raise UserError(
            f"a prompt with its response has {longest} tokens, and the model reads "
            f"{limits.context}. Give --max-prompt and --max-response that add up to no more, or "
            "remove longer rows."
        )
    require_known_tokens(ids, tokenizer, limits)


def require_known_tokens(
    ids: list[list[int]], tokenizer: PreTrainedTokenizerBase, limits: Limits
) -> None:
    """Raises UserError where a tokenizer has tokens that the model has no embeddings for."""
    highest = max((max(row) for row in ids), default=0)
    if highest >= limits.vocabulary:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise UserError(
            f"the tokenizer writes {token!r} as number {highest}, and the model has embeddings for "
            f"{limits.vocabulary} tokens. Give the tokenizer that belongs to the model."
        )
