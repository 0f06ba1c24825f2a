"""A row of training data, and where rows come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from trimtab.errors import UserError

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


@dataclass(frozen=True)
class Lengths:
    """How long prompts and responses may be, in tokens. Raises UserError: less than one."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    prompt: int = 512
    """A longer prompt loses its beginning, but for its first token where that begins a sequence."""
    response: int = 512
    """A longer response loses its end, its end-of-sequence token with it."""

    def __post_init__(self) -> None:
        for part in ("prompt", "response"):
            length = getattr(self, part)
            if length < 1:
                raise UserError(
                    f"the length of a {part} is {length} tokens. Give --max-{part}, or {part} "
                    "under lengths in a file, of at least 1."
                )


@dataclass(frozen=True)
class DataSource:
    """Where a role's rows come from, which of them count, and which are held out.

    Raises:
        UserError: a share outside (0, 1), or a row limit below 1.

    >>> DataSource("task.jsonl").held_out
    0.2
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    path: str
    """A Hugging Face Hub id, or a .jsonl, .json, .csv or .parquet file, each also as .gz."""
    split: str | None = None
    """The Hub data set's split, "train" when not given; slices such as "train[:5000]" work."""
    name: str | None = None
    """The Hub data set's configuration, where it has several."""
    columns: dict[str, str] = field(default_factory=dict)
    """The file's names for the columns meant, as in {prompt: question, system: system_prompt}."""
    where: dict[str, Any] = field(default_factory=dict)
    """Keep rows whose column has this value or one of this list, as in {harmful: 0}."""
    drop_empty: bool = False
    """Leave out rows with an empty response and say how many, where they are an error otherwise."""
    rows: int | None = None
    """At most this many, to train on, chosen by the seed; files that share prompts share them."""
    held_out: float | str = 0.2
    """The share of prompts to hold out, a file of held-out rows, or another split on the Hub."""
    held_out_rows: int | None = None
    """Measure on at most this many held-out rows, chosen by the seed."""
    repeats: bool = False
    """Rows are draws that may come again: hold out a share of rows, and look for no leaks."""
    lowest_loss: float | None = None
    """The least loss any model can reach on this data, in nats per token, where it is known."""
    context_overlap: float | None = None
    """The share of prompts that are also safety prompts, where it is known."""

    def __post_init__(self) -> None:
        if not isinstance(self.held_out, str) and not 0 < self.held_out < 1:
            raise UserError(
                f"{self.path}: held_out is {self.held_out}. Give a share between 0 and 1, as in "
                "0.2, or the path of a file of held-out rows."
            )
        for limit in ("rows", "held_out_rows"):
            count = getattr(self, limit)
            if count is not None and count < 1:
                raise UserError(
                    f"{self.path}: {limit} is {count}. Give at least 1, or leave it out."
                )
