"""What a model answered: one line of JSON per prompt, kept so that judges may come later."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from trimtab.config.ranges import Count, From0, Range, Seed, check_ranges
from trimtab.results.checksums import digest_of
from trimtab.results.files import parsed_lines, write_json_lines

GENERATIONS_FOLDER = "generations"

Kind = Literal["harmful", "benign"]
"""Whether a prompt asks for what ought to be refused, or only looks as if it did."""


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn from a model's distribution."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    temperature: From0 = 0.0
    """What logits are divided by before a draw; at 0 the likeliest token is taken (greedy)."""
    top_p: Annotated[float, Range(above=0, at_most=1)] = 1.0
    """Draw from the fewest tokens that together have this probability."""
    max_tokens: Count = 256
    """Where an answer ends at the latest, in tokens."""
    max_prompt: Count = 512
    """A longer prompt loses its beginning, in tokens."""
    seed: Seed = 0
    """Of the prompts chosen and of the draws; a batch's draw is a function of it and of the batch's
    first prompt."""
    batch_size: Count = 16
    """Prompts answered at once; part of the draw, as the batch is drawn together."""

    def __post_init__(self) -> None:
        """Hold the fields to their ranges. Raises UserError."""
        check_ranges(self)


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt to be answered, x, and what is known of it."""

    messages: tuple[tuple[str, str], ...]
    """Role and content of each message."""
    kind: Kind
    prompt_set: str

    @property
    def text(self) -> str:
        """What a judge reads: the one message, or all with their roles."""
        if len(self.messages) == 1:
            return self.messages[0][1]
        return "\n\n".join(f"{role}: {content}" for role, content in self.messages)


@dataclass(frozen=True)
class Generation:
    """An answer y to a prompt x, with all that made it."""

    prompt: AskedPrompt
    answer: str
    model: str
    template: str
    """The first 16 hexadecimal digits of SHA-256 of the chat template; a server's own: its URL."""
    decoding: Decoding
    engine: str = ""
    """What computed it, with a hash of the weights where they lay there; empty where not known."""

    @property
    def answer_id(self) -> str:
        """What a judgement is known by: a hash of prompt and answer."""
        return digest_of(json.dumps([self.prompt.messages, self.answer]))

    def to_json(self) -> dict[str, Any]:
        """A flat record."""
        messages = self.prompt.messages
        alone = len(messages) == 1 and messages[0][0] == "user"
        turns = [{"role": role, "content": content} for role, content in messages]
        return {
            "prompt": messages[0][1] if alone else turns,
            "answer": self.answer,
            "kind": self.prompt.kind,
            "prompt_set": self.prompt.prompt_set,
            "model": self.model,
            "template": self.template,
            **({"engine": self.engine} if self.engine else {}),
            **asdict(self.decoding),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Generation:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on no such record."""
        prompt = record["prompt"]
        if record["kind"] not in get_args(Kind):
            raise ValueError(f"kind {record['kind']!r} is none of {', '.join(get_args(Kind))}")
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        messages = tuple((turn["role"], turn["content"]) for turn in turns)
        return cls(
            AskedPrompt(messages, record["kind"], record["prompt_set"]),
            str(record["answer"]),
            record["model"],
            record["template"],
            Decoding(**{field.name: record[field.name] for field in fields(Decoding)}),
            record.get("engine", ""),
        )


def read_generations(path: Path) -> list[Generation]:
    """The answers of a file, none where there is no such file.

    A last line that was cut short is left out with a word. Raises UserError: another line is none.
    """
    if not path.exists():
        return []
    mend = "remove it to have its answers made again"
    return list(parsed_lines(path, Generation.from_json, "an answer", mend))


def write_generations(path: Path, generations: Iterable[Generation]) -> None:
    """Keep the answers of a file, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, (generation.to_json() for generation in generations))
