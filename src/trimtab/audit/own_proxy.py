"""A file of the aligned model's own answers: a proxy, written so that it can be gone on with."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.loading import Loading
from trimtab.data.rows import Message, Row, are_chats
from trimtab.data.sources import read_prompts
from trimtab.errors import UserError
from trimtab.evaluate.prompt_sets import known_source
from trimtab.measure.generation import sampled_answers
from trimtab.models import load_model
from trimtab.results.files import hold
from trimtab.watching import Watcher

log = logging.getLogger(__name__)


def write_own_proxy(
    model: str,
    prompts: DataSource,
    out: Path,
    lengths: Lengths,
    batch_size: int,
    seed: int,
    watcher: Watcher,
    restart: bool = False,
    load: Loading = Loading(),  # noqa: B008  # frozen
) -> int:
    """One sampled answer to every prompt, a line each in `out`; returns how many lines there are.

    Called again after an interruption it answers what is missing, as one run would have. The last
    batch that was begun is answered again, also of a file that is whole, and only where the file
    says the same is it added to or taken. An answer as long as it may be, which the model did not
    end, is marked `cut_short`: training on it teaches no end. An empty answer (the model ended at
    once) keeps its line, with an empty response. `restart` moves `out` aside, once prompts and
    model are read. Of a known set the harmful prompts are taken.

    Raises:
        UserError: prompts or model cannot be read, another process writes to `out`, or it holds
            answers to other prompts, of another model or under other settings.
    """
    all_prompts = read_prompts(known_source(prompts, "harmful"))
    as_chat = are_chats(all_prompts)
    if not restart:
        _Written.read(out, all_prompts, as_chat)  # refused before a model is loaded
    loaded, tokenizer = load_model(model, load)
    if restart and out.exists():
        aside = next(path for number in count(1) if not (path := _aside(out, number)).exists())
        out.rename(aside)
        log.warning("What %s held is in %s.", out, aside)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("ab") as file:
        hold(file.fileno(), out)
        written = _Written.read(out, all_prompts, as_chat)
        done, whole = len(written.lines), sum(map(len, written.lines))
        first = max(done - 1, 0) // batch_size * batch_size
        watcher.doing("answering", len(all_prompts))
        watcher.stepped(first)

        def finished(place: int, answer: str, is_whole: bool) -> None:
            line = _line(Row(all_prompts[place], answer, is_whole=is_whole).to_json(as_chat))
            if place < done:
                require_same(line == written.lines[place], place)
            else:
                if place == done and written.rest:
                    require_same(line.startswith(written.rest.rstrip(b"\0")), place)
                    log.warning("%s line %d was cut short: it is made again.", out, place + 1)
                    file.truncate(whole)
                file.write(line)
                file.flush()
            watcher.stepped(place + 1)

        def require_same(same: bool, place: int) -> None:
            if not same:
                raise UserError(
                    f"{out} line {place + 1}: not what this model answers under these settings. "
                    "Give another --out, or --restart to move the file aside."
                )

        sampled_answers(
            loaded,
            tokenizer,
            all_prompts,
            lengths,
            batch_size,
            seed,
            first=first,
            finished=finished,
        )
        if done == len(all_prompts):
            file.truncate(whole)  # NULs, which a loss of power leaves behind
    return len(all_prompts)


def empty_and_cut_answers(out: Path) -> tuple[int, int]:
    """How many answers of a file are empty, which no training takes, and how many are cut short."""
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]
    return (
        sum(not _answer_of(record) for record in records),
        sum("cut_short" in record for record in records),
    )


def _aside(out: Path, number: int) -> Path:
    return out.with_name(f"{out.stem}.before-restart-{number}{out.suffix}")


def _line(record: dict[str, object]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class _Written:
    """The whole lines of a file of answers, and what follows the last of them."""

    lines: list[bytes]
    rest: bytes

    @classmethod
    def read(cls, out: Path, prompts: list[tuple[Message, ...]], as_chat: bool) -> _Written:
        """What `out` holds. Raises UserError: a line is no answer to the prompt of its place."""
        if not out.exists():
            return cls([], b"")
        *lines, tail = out.read_bytes().split(b"\n")
        for place, line in enumerate([*lines, tail] if tail.strip(b"\0") else lines):
            is_answer = place < len(prompts) and (
                _answers(line, prompts[place], as_chat)
                if place < len(lines)
                else _begins(line, prompts[place], as_chat)
            )
            if not is_answer:
                raise UserError(
                    f"{out} line {place + 1}: no answer to prompt {place + 1} of those given. Give "
                    "another --out, or --restart to move the file aside."
                )
        return cls([line + b"\n" for line in lines], tail)


def _answer_of(record: dict[str, Any]) -> str:
    response = record["response"] if "response" in record else record["messages"][-1]["content"]
    return str(response)


def _answers(line: bytes, prompt: tuple[Message, ...], as_chat: bool) -> bool:
    try:
        record = json.loads(line)
        row = Row(prompt, _answer_of(record), is_whole="cut_short" not in record)
    except (ValueError, LookupError, TypeError):
        return False
    return bool(record == row.to_json(as_chat))


def _begins(cut: bytes, prompt: tuple[Message, ...], as_chat: bool) -> bool:
    """Whether a line that was cut short, perhaps with NULs after it, is the prompt's."""
    opening = _line(Row(prompt, "").to_json(as_chat)).rsplit(b'""', 1)[0]
    beginning = cut.rstrip(b"\0")
    return beginning.startswith(opening) or opening.startswith(beginning)
