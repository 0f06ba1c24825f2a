"""Prompts to evaluate on: published sets by their names, and files of the same shape.

The table holds where a set is and how it is read, never its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from warnings import warn

from trimtab.config.data_source import DataSource
from trimtab.data.rows import Message, Row, prompt_key
from trimtab.data.sources import read_prompts
from trimtab.data.splits import choose_rows
from trimtab.errors import UserError
from trimtab.results.generations import AskedPrompt, Kind


@dataclass(frozen=True)
class PromptSet:
    """A published set of prompts on the Hub.

    `harmful` and `benign` say which split, configuration and rows are of that kind; `benign` is
    None where the set has none such. Where `by_hand` is given, the set is not of a shape that is
    read as it stands, and that is what to do. `unverified` names what was not found stated by the
    source.
    """

    name: str
    licence: str
    gated: bool
    harmful: DataSource
    benign: DataSource | None = None
    by_hand: str = ""
    unverified: tuple[str, ...] = ()

    @property
    def hub(self) -> str:
        """Its id on the Hub."""
        return self.harmful.path

    def source(self, kind: Kind) -> DataSource:
        """Where prompts of a kind are. Raises UserError: the set has none, or has to be copied."""
        source = self.harmful if kind == "harmful" else self.benign
        if source is None:
            raise UserError(
                f"{self.name}: the set has no {kind} prompts. Give another set, or a file."
            )
        if self.by_hand:
            raise UserError(f"{self.name}: {self.by_hand}")
        return source


def _of(hub: str, column: str, **more: object) -> DataSource:
    named = {} if column == "prompt" else {"prompt": column}
    return DataSource(hub, columns=named, **more)  # type: ignore[arg-type]


PROMPT_SETS = (
    PromptSet(
        name="do-not-answer",
        licence="CC BY-NC-SA 4.0",
        gated=False,
        harmful=_of("LibrAI/do-not-answer", "question"),
    ),
    PromptSet(
        name="xstest",
        licence="CC BY 4.0",
        gated=False,
        harmful=_of("Paul/XSTest", "prompt", where={"label": "unsafe"}),
        benign=_of("Paul/XSTest", "prompt", where={"label": "safe"}),
    ),
    PromptSet(
        name="harmbench",
        licence="MIT",
        gated=True,
        harmful=_of("walledai/HarmBench", "prompt", name="standard"),
    ),
    PromptSet(
        name="jailbreakbench",
        licence="MIT",
        gated=False,
        harmful=_of("JailbreakBench/JBB-Behaviors", "Goal", name="behaviors", split="harmful"),
        benign=_of("JailbreakBench/JBB-Behaviors", "Goal", name="behaviors", split="benign"),
    ),
    PromptSet(
        name="strongreject",
        licence="MIT",
        gated=True,
        harmful=_of("walledai/StrongREJECT", "prompt"),
    ),
    PromptSet(
        name="advbench",
        licence="MIT",
        gated=True,
        harmful=_of("walledai/AdvBench", "prompt"),
    ),
    PromptSet(
        name="sorry-bench",
        licence="its own agreement",
        gated=True,
        harmful=_of("sorry-bench/sorry-bench-202503", "turns", where={"prompt_style": "base"}),
        by_hand="its column turns is a list. Write the first of each row with prompt_style base "
        "into a file with a column prompt, and give that.",
    ),
    PromptSet(
        name="hex-phi",
        licence="its own agreement",
        gated=True,
        harmful=_of("LLM-Tuning-Safety/HEx-PHI", "prompt"),
        by_hand="its CSV files, one a category, have no header. Write their rows into a file with "
        "a column prompt, and give that.",
        unverified=("columns",),
    ),
    PromptSet(
        name="or-bench",
        licence="CC BY 4.0",
        gated=False,
        harmful=_of("bench-llm/or-bench", "prompt", name="or-bench-toxic"),
        benign=_of("bench-llm/or-bench", "prompt", name="or-bench-hard-1k"),
    ),
    PromptSet(
        name="wildjailbreak",
        licence="ODC-BY",
        gated=True,
        harmful=_of(
            "allenai/wildjailbreak",
            "adversarial",
            name="eval",
            where={"data_type": "adversarial_harmful"},
        ),
        benign=_of(
            "allenai/wildjailbreak",
            "adversarial",
            name="eval",
            where={"data_type": "adversarial_benign"},
        ),
        by_hand="its files are separated by tabs. Write the column adversarial of the rows with "
        "data_type adversarial_harmful or adversarial_benign into a file each, with a column "
        "prompt, and give those.",
        unverified=("licence",),
    ),
)
"""Known sets, by the names that the command line takes."""


def known_source(source: DataSource, kind: Kind) -> DataSource:
    """Where a known set's prompts of a kind are; any other source is as it was given.

    Raises:
        UserError: the set has none, or has to be copied, or other rows are asked for by more than
            their number.
    """
    known = {known_set.name: known_set for known_set in PROMPT_SETS}.get(source.path)
    if known is None:
        return source
    if replace(source, rows=None) != DataSource(known.name):
        raise UserError(
            f"{known.name}: of a known set rows alone limit what is taken. To choose otherwise, "
            f"give its id on the Hub, {known.hub}."
        )
    return replace(known.source(kind), rows=source.rows)


def prompts_of(
    data_source: DataSource,
    kind: Kind,
    seed: int = 0,
    data_root: Path | None = None,
    trained_on: Mapping[str, str] = MappingProxyType({}),
    warning: Callable[[str], None] = warn,
) -> list[AskedPrompt]:
    """The prompts of a known set or of a file, at most `data_source.rows`, shortest first.

    Shortest first, so that a batch holds little padding. What a model answers to a prompt that it
    was trained on tells nothing of others: such prompts are left out, and counted.

    Args:
        trained_on: as of `Roles.trained_on`.
        warning: hears how many prompts are left out.

    Raises:
        UserError: nothing of that name can be read, it holds no prompts, or all are trained on.
    """
    source = known_source(data_source, kind)
    rows = [Row(prompt, "") for prompt in read_prompts(source, data_root, warning)]
    labels = [trained_on.get(prompt_key(row.prompt)) for row in rows]
    if known := sorted({label for label in labels if label is not None}):
        are_known = (
            f"{data_source.path}: of {len(rows)} {kind} prompts "
            f"{len(rows) - labels.count(None)} are trained on ({', '.join(known)})"
        )
        rows = [row for row, label in zip(rows, labels, strict=True) if label is None]
        if not rows:
            raise UserError(
                f"{are_known}, and answers to them would tell nothing of others. Give prompts that "
                "no training row has."
            )
        warning(f"{are_known} and are not asked.")
    chosen = [row.prompt for row in choose_rows(rows, data_source.rows, seed)]
    chosen.sort(key=lambda prompt: len(prompt[-1].content))
    name = Path(data_source.path).name
    return [
        AskedPrompt(tuple((message.role, message.content) for message in prompt), kind, name)
        for prompt in chosen
    ]


def distinct_prompts(prompts: Iterable[AskedPrompt]) -> list[AskedPrompt]:
    """Each prompt once, where it came first: one that comes again is no further evidence.

    Raises:
        UserError: a prompt is harmful in one source and benign in another.
    """
    first: dict[tuple[tuple[str, str], ...], AskedPrompt] = {}
    for prompt in prompts:
        before = first.setdefault(prompt.messages, prompt)
        if before.kind != prompt.kind:
            raise UserError(
                f"the prompt {prompt.text[:40]!r} is {before.kind} in {before.prompt_set} and "
                f"{prompt.kind} in {prompt.prompt_set}. Take it out of one of them."
            )
    return list(first.values())


def messages_of(prompt: AskedPrompt) -> tuple[Message, ...]:
    """The messages of a prompt, as models are asked."""
    return tuple(Message(role, content) for role, content in prompt.messages)  # type: ignore[arg-type]
