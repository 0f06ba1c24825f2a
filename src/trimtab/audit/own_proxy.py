"""A file of the aligned model's own answers: a proxy, written so that it can be gone on with."""

from __future__ import annotations

import json
from pathlib import Path

from trimtab.audit.eyes import Watcher
from trimtab.data.reading import read_prompts
from trimtab.data.rows import DataSource, Lengths, Message
from trimtab.errors import UserError
from trimtab.measure.answers import sampled_answers
from trimtab.models import load_model


def write_own_proxy(
    model: str,
    prompts: DataSource,
    out: Path,
    lengths: Lengths,
    batch_size: int,
    seed: int,
    watcher: Watcher,
) -> int:
    """One sampled answer to every prompt, a line each in `out`; returns how many lines there are.

    Called again after an interruption it answers what is missing, as one run would have. An empty
    answer (the model ended at once) keeps its line, with an empty response.

    Raises:
        UserError: prompts or model cannot be read, or `out` holds answers to other prompts.
    """
    asked = read_prompts(prompts)
    done = _answered(out, asked)
    whole = done - done % batch_size if done < len(asked) else done
    if whole < done:
        _cut(out, whole)
    watcher.doing("answering", len(asked))
    watcher.done(whole)
    if whole == len(asked):
        return whole
    loaded, tokenizer = load_model(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:

        def finished(place: int, answer: str) -> None:
            file.write(json.dumps(_record(asked[place], answer), ensure_ascii=False) + "\n")
            file.flush()
            watcher.done(1)

        sampled_answers(
            loaded, tokenizer, asked, lengths, batch_size, seed, first=whole, finished=finished
        )
    return len(asked)


def _record(prompt: tuple[Message, ...], answer: str) -> dict[str, object]:
    if len(prompt) == 1 and prompt[0].role == "user":
        return {"prompt": prompt[0].content, "response": answer}
    messages = [{"role": message.role, "content": message.content} for message in prompt]
    return {"messages": [*messages, {"role": "assistant", "content": answer}]}


def _answered(out: Path, asked: list[tuple[Message, ...]]) -> int:
    """How many leading prompts `out` holds a whole line for."""
    if not out.exists():
        return 0
    lines = out.read_text(encoding="utf-8").split("\n")
    whole = lines[:-1]  # what follows the last newline was being written
    for place, line in enumerate(whole):
        if place >= len(asked) or not _answers(line, asked[place]):
            raise UserError(
                f"{out} line {place + 1}: no answer to prompt {place + 1} of those given. Give "
                "another --out, or remove the file."
            )
    if lines[-1]:
        _cut(out, len(whole))
    return len(whole)


def _answers(line: str, prompt: tuple[Message, ...]) -> bool:
    try:
        record = json.loads(line)
        answer = record["response"] if "response" in record else record["messages"][-1]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return False
    return record == _record(prompt, answer)


def _cut(out: Path, lines: int) -> None:
    kept = out.read_text(encoding="utf-8").split("\n")[:lines]
    out.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
