"""The shapes a record may have, told by its columns, and the row each makes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

from trimtab.data.rows import Message, Role, Row

Record = Mapping[str, Any]

SHAPES = (
    "prompt and response; prompt and completion; messages (chat); conversations (ShareGPT); "
    "instruction, input and output (Alpaca)"
)
FIELDS = (
    *("prompt", "response", "completion", "messages", "conversations"),
    *("instruction", "input", "output", "system", "weight"),
)

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


class BadRecordError(Exception):
    """What is wrong with one record and how to mend it; the reader adds the file and the row."""


def shape_of(columns: Collection[str]) -> Callable[[Record], Row] | None:
    """The function that makes a row of a record with these columns; None where none can.

    Beside its own columns every shape takes `system`, a system message before the prompt, and
    `weight`. The last assistant message of a conversation is the response, all before it the
    prompt. The response may come out empty; everything else wrong raises `BadRecordError`.

    >>> row = shape_of({"instruction", "input", "output"})(
    ...     {"instruction": "Add.", "input": "2 and 3", "output": "5"}
    ... )
    >>> row.prompt[0].content, row.response
    ('Add.\\n\\n2 and 3', '5')
    """
    for needed, row_of in _SHAPES:
        if needed <= set(columns):
            return lambda record: _with_system_and_weight(row_of(record), record)
    return None


def _prompt_response(record: Record) -> Row:
    return _answered(record, "response")


def _prompt_completion(record: Record) -> Row:
    return _answered(record, "completion")


def _answered(record: Record, answer: str) -> Row:
    prompt = (
        _messages(record, "prompt")
        if isinstance(record["prompt"], list)
        else (Message("user", _text(record, "prompt")),)
    )
    if isinstance(record[answer], list):
        return _conversation((*prompt, *_messages(record, answer)), answer)
    return _row(prompt, _response(record, answer))


def _alpaca(record: Record) -> Row:
    prompt = _text(record, "instruction")
    if record.get("input") is not None and _text(record, "input").strip():
        prompt = f"{prompt}\n\n{record['input']}"
    return _row((Message("user", prompt),), _response(record, "output"))


def _chat(record: Record) -> Row:
    return _conversation(_messages(record, "messages"), "messages")


def _sharegpt(record: Record) -> Row:
    return _conversation(_messages(record, "conversations"), "conversations")


_SHAPES: tuple[tuple[set[str], Callable[[Record], Row]], ...] = (
    ({"prompt", "response"}, _prompt_response),
    ({"prompt", "completion"}, _prompt_completion),
    ({"messages"}, _chat),
    ({"conversations"}, _sharegpt),
    ({"instruction", "output"}, _alpaca),
)


def _conversation(messages: tuple[Message, ...], column: str) -> Row:
    for last in reversed(range(len(messages))):
        if messages[last].role == "assistant":
            return _row(messages[:last], messages[last].content)
    raise BadRecordError(f"{column!r} has no assistant message. Add one, or remove the row.")


def _row(prompt: tuple[Message, ...], response: str) -> Row:
    if not any(message.content.strip() for message in prompt):
        raise BadRecordError("the prompt is empty. Write one, or remove the row.")
    return Row(prompt, response)


def _with_system_and_weight(row: Row, record: Record) -> Row:
    if record.get("system") is not None and _text(record, "system").strip():
        if any(message.role == "system" for message in row.prompt):
            raise BadRecordError(
                "the prompt has a system message and so has the column 'system'. Keep one of them."
            )
        row = replace(row, prompt=(Message("system", record["system"]), *row.prompt))
    return replace(row, weight=_weight(record["weight"])) if "weight" in record else row


def _weight(value: object) -> float:
    try:
        weight = float(str(value))
    except ValueError:
        weight = -1.0
    if not (isfinite(weight) and weight >= 0):
        raise BadRecordError(
            f"'weight' is {value!r}. Give a probability, or rename a column that means another."
        )
    return weight


def _messages(record: Record, column: str) -> tuple[Message, ...]:
    messages = record[column]
    if messages is None:
        raise BadRecordError(f"{column!r} is missing. Add it, or remove the row.")
    if not isinstance(messages, list) or not all(isinstance(turn, Mapping) for turn in messages):
        raise BadRecordError(
            f"{column!r} is {_kind(messages)}, not a list of messages with role and content. "
            "Write conversations as .jsonl or .parquet."
        )
    return tuple(_message(turn, number) for number, turn in enumerate(messages, start=1))


def _message(turn: Record, number: int) -> Message:
    name = turn.get("role") or turn.get("from")
    content = turn.get("value") if turn.get("content") is None else turn["content"]
    if not isinstance(name, str) or name not in _ROLES:
        raise BadRecordError(
            f"message {number} has the role {name!r}. Known are {', '.join(_ROLES)}."
        )
    if not isinstance(content, str):
        raise BadRecordError(
            f"the content of message {number} is {_kind(content)}, not text. "
            "Write it as text, or remove the row."
        )
    return Message(_ROLES[name], content)


def _response(record: Record, column: str) -> str:
    return "" if record[column] is None else _text(record, column)


def _text(record: Record, column: str) -> str:
    value = record[column]
    if value is None:
        raise BadRecordError(f"{column!r} is missing. Add it, or remove the row.")
    if not isinstance(value, str):
        raise BadRecordError(f"{column!r} is {_kind(value)}, not text. Write it in quotes.")
    return value


def _kind(value: object) -> str:
    match value:
        case None:
            return "missing"
        case str():
            return "text"
        case bool() | int() | float():
            return f"the number {value}"
        case list():
            return "a list"
        case Mapping():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"
