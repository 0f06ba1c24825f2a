"""A row of training data, and where rows come from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.stats import group_numbers

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Row:
    """A prompt x and the response y that answers it: one draw (x, y) from a role's distribution."""

    prompt: tuple[Message, ...]
    """Every message before the response; a plain text prompt is one message of the user."""
    response: str
    """The text the model learns to answer, and the only text a loss is taken on."""
    weight: float = 1.0
    """The row's probability where the rows enumerate a finite distribution; 1 for a draw."""
    is_whole: bool = True
    """Whether the response ends where it stops; one that was cut short teaches no end."""

    def to_json(self, as_chat: bool) -> dict[str, Any]:
        """As a file of training data has it: prompt and response, or the messages of a chat.

        A file has one shape, so `as_chat` where any of its rows is more than a user's one message.
        """
        cut: dict[str, Any] = {} if self.is_whole else {"cut_short": True}
        if not as_chat:
            return {"prompt": self.prompt[0].content, "response": self.response, **cut}
        messages = [{"role": message.role, "content": message.content} for message in self.prompt]
        return {"messages": [*messages, {"role": "assistant", "content": self.response}], **cut}


def are_chats(prompts: Iterable[tuple[Message, ...]]) -> bool:
    """Whether any prompt is more than one message of the user."""
    return any(len(prompt) != 1 or prompt[0].role != "user" for prompt in prompts)


def row_weights(rows: Sequence[Row]) -> NDArray[np.float64] | None:
    """The probabilities of rows that enumerate a distribution; None of rows drawn from one."""
    weights = np.array([row.weight for row in rows])
    return None if (weights == 1).all() else weights


def prompt_key(prompt: tuple[Message, ...]) -> str:
    """What two prompts have in common that are one, but for the blanks round their messages."""
    return json.dumps([[message.role, message.content.strip()] for message in prompt])


def question_key(prompt: tuple[Message, ...]) -> str:
    """What two prompts have in common that ask the same, under whatever system message.

    >>> question = Message("user", "Why?")
    >>> question_key((Message("system", "Be brief."), question)) == prompt_key((question,))
    True
    """
    return prompt_key(tuple(message for message in prompt if message.role != "system"))


def prompt_numbers(rows: Sequence[Row]) -> NDArray[np.intp] | None:
    """Which prompt each row answers, numbered as they first come; None where each has its own.

    >>> hello, bye = ((Message("user", text),) for text in ("hello", "bye"))
    >>> prompt_numbers([Row(hello, "a"), Row(bye, "b"), Row(hello, "c")])
    array([0, 1, 0])
    """
    numbers = group_numbers(prompt_key(row.prompt) for row in rows)
    return None if len(set(numbers.tolist())) == len(rows) else numbers


def is_whole_text(text: str) -> bool:
    """Whether every character is one: JSON can write half of a surrogate pair.

    >>> is_whole_text("ok"), is_whole_text("\\ud83d")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
