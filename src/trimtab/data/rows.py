"""A row of training data, and where rows come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
