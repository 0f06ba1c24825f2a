"""Where a role's rows come from, and how long they may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from trimtab.config.ranges import Count, From0, From0To1, Within0And1, check_ranges
from trimtab.errors import UserError


@dataclass(frozen=True)
class Lengths:
    """How long prompts and responses may be, in tokens. Raises UserError: less than one."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    prompt: Count = 512
    """In tokens. A longer prompt loses its beginning: the words nearest the response stay."""
    response: Count = 512
    """In tokens. A longer response loses its end, its end-of-sequence token with it."""

    def __post_init__(self) -> None:
        check_ranges(self, "lengths: ")


@dataclass(frozen=True)
class DataSource:
    """Where a role's rows come from, which of them count, and which are held out.

    Raises:
        UserError: a share outside (0, 1), or a row limit below 1.

    >>> DataSource("task.jsonl").held_out
    0.2
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

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
    rows: Count | None = None
    """At most this many, to train on, chosen by the seed; files that share prompts share them."""
    held_out: Within0And1 | str = 0.2
    """The share of prompts to hold out, a file of held-out rows, or another split on the Hub."""
    held_out_rows: Count | None = None
    """Measure on at most this many held-out rows, chosen by the seed; all when not given."""
    repeats: bool = False
    """Rows are draws that may come again: hold out a share of rows, and look for no leaks."""
    lowest_loss: From0 | None = None
    """The least loss any model can reach on this data, in nats per token, where it is known."""
    distance: From0 | None = None
    """Of safety data: how far from the original data they are held to be, in any unit. Which proxy
    is the nearer goes by a known world, else by this, else by the audit in the same folder; it is
    left open where none of them says."""
    context_overlap: From0To1 | None = None
    """The share of prompts that are also safety prompts, where it is known."""
    licence: str | None = None
    """Under which licence the rows are, for the model card."""

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise UserError(f"path is {self.path!r}. Give a file, or a Hub id.")
        check_ranges(self, f"{self.path}: ")
