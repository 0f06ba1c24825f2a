"""The shapes a record may have, told by its columns, and the row each makes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

from trimtab.data.rows import Message, Role, Row, is_whole_text

Record = Mapping[str, Any]

SHAPES = (
    "prompt and response; prompt and completion; messages (chat); conversations (ShareGPT); "
    "instruction, input and output (Alpaca)"
)
FIELDS = (
    *("prompt", "response", "completion", "messages", "conversations"),
    *("instruction", "input", "output", "system", "history", "weight"),
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


def shape_of(
    columns: Collection[str], named: Collection[str] = ()
) -> Callable[[Record], Row] | None:
    """The function that makes a row of a record with these columns; None where none can.

    Of several shapes it is that with most of the columns that the user `named`, and else the first
    of `SHAPES`; a named one that it would not read raises `BadRecordError`. Beside its own columns
    every shape takes `system`, a system message before the prompt,
    `history`, turns before it, `weight`, and `cut_short`, which is true where a response was cut
    off and its end is not to be learned. The last assistant message of a conversation that is
    to be learned is the response, all before it the prompt. The response may come out empty;
    everything else wrong raises `BadRecordError`.

    >>> row = shape_of({"instruction", "input", "output"})(
    ...     {"instruction": "Add.", "input": "2 and 3", "output": "5"}
    ... )
    >>> row.prompt[0].content, row.response
    ('Add.\\n\\n2 and 3', '5')
    """
    fitting = _fitting(columns)
    if not fitting:
        return None
    needed, row_of = max(fitting, key=lambda shape: len(shape[0] & set(named)))
    _require_input_read(named, after_instruction="instruction" in needed)
    _require_all_read(named, set().union(*(fields for fields, _ in _SHAPES)) - needed, needed)
    return lambda record: _whole(_with_side_columns(row_of(record), record))


def prompt_shape_of(
    columns: Collection[str], named: Collection[str] = ()
) -> Callable[[Record], Row] | None:
    """As `shape_of`, of records that are asked alone: the row's response is empty.

    The prompt is that of the row where the record makes one: beside an instruction and its output a
    column `prompt` may hold both. A conversation that ends with the assistant is asked again from
    before its answer; any other is asked as it stands.
    """
    fitting = [column for column in _PROMPTS if column in columns]
    if not fitting:
        return None
    of_rows = {column for needed, _ in _fitting(columns)[:1] for column in needed}
    column = max(fitting, key=lambda column: (column in named, column in of_rows))
    _require_input_read(named, after_instruction=column == "instruction")
    _require_all_read(named, _PROMPTS.keys() - {column}, {column})
    prompt_of = _PROMPTS[column]
    return lambda record: _whole(
        _with_side_columns(
            _row(prompt_of(record), ""),
            {name: value for name, value in record.items() if name != "weight"},
        )
    )


def _require_input_read(named: Collection[str], after_instruction: bool) -> None:
    if "input" in named and not after_instruction:
        raise BadRecordError(
            "columns names 'input', which is read after an instruction alone. Name that and its "
            "answer, as in columns: {instruction: task, input: context, output: response}."
        )


def _require_all_read(
    named: Collection[str], unread: Collection[str], read: Collection[str]
) -> None:
    lost = [field for field in named if field in unread]
    if lost:
        raise BadRecordError(
            f"columns names {lost[0]!r}, and rows are read by {' and '.join(sorted(read))}. Name "
            "the columns of one shape."
        )


def left_out(
    record: Record, named_columns: Collection[str], *, is_asked: bool = False
) -> list[str]:
    """What of a record says more than its row does, or its prompt where that alone `is_asked`.

    The user names `named_columns`.
    """
    reads_input = "instruction" in record and (
        "output" in record or (is_asked and not _PROMPTS.keys() - {"instruction"} & record.keys())
    )
    descriptions = [
        f"column {column!r}"
        for column in _SAYS_MORE
        if column not in named_columns
        and not (column == "input" and reads_input)
        and _says(record.get(column))
    ]
    if is_asked:
        return descriptions
    for column in ("messages", "conversations", "prompt", "completion", "response"):
        turns = record.get(column)
        if isinstance(turns, list) and all(isinstance(turn, Mapping) for turn in turns):
            more = {key for turn in turns for key in turn if _says(turn[key])} - _READ_OF_A_MESSAGE
            descriptions += [f"{key!r} of messages" for key in sorted(more)]
            if column != "prompt" and turns and _role(turns[-1]) != "assistant":
                descriptions.append("messages after the last of the assistant")
    return descriptions


def _prompt_response(record: Record) -> Row:
    return _answered(record, "response")


def _prompt_completion(record: Record) -> Row:
    return _answered(record, "completion")


def _prompt_messages(record: Record) -> tuple[Message, ...]:
    if isinstance(record["prompt"], list):
        return _messages(record, "prompt")
    return (Message("user", _text(record, "prompt")),)


def _answered(record: Record, answer: str) -> Row:
    prompt = _prompt_messages(record)
    if not isinstance(record[answer], list):
        return _row(prompt, _response(record, answer))
    answers = _messages(record, answer)
    first = next((place for place, message in enumerate(answers) if message.role == "assistant"), 0)
    if first and answers[first - len(prompt) : first] != prompt:
        raise BadRecordError(
            f"{answer!r} begins with a message of the {answers[0].role}, beside the column "
            "'prompt'. Say which holds the whole conversation, as in columns: "
            "{messages: chosen}, or leave the answer alone in it."
        )
    if not answers:
        return _row(prompt, "")
    before = () if first else prompt
    return _conversation(before + answers, answer, [*before, *record[answer]], len(before))


def _instructed(record: Record) -> tuple[Message, ...]:
    prompt = _text(record, "instruction")
    if record.get("input") is not None and _text(record, "input").strip():
        prompt = f"{prompt}\n\n{record['input']}"
    return (Message("user", prompt),)


def _alpaca(record: Record) -> Row:
    return _row(_instructed(record), _response(record, "output"))


def _chat(record: Record) -> Row:
    return _conversation(_messages(record, "messages"), "messages", record["messages"])


def _sharegpt(record: Record) -> Row:
    messages = _messages(record, "conversations")
    return _conversation(messages, "conversations", record["conversations"])


_SHAPES: tuple[tuple[set[str], Callable[[Record], Row]], ...] = (
    ({"prompt", "response"}, _prompt_response),
    ({"prompt", "completion"}, _prompt_completion),
    ({"messages"}, _chat),
    ({"conversations"}, _sharegpt),
    ({"instruction", "output"}, _alpaca),
)


def _fitting(columns: Collection[str]) -> list[tuple[set[str], Callable[[Record], Row]]]:
    """The shapes that records with these columns may have, the first one first."""
    return [shape for shape in _SHAPES if shape[0] <= set(columns)]


def _to_be_answered(column: str) -> Callable[[Record], tuple[Message, ...]]:
    def prompt_of(record: Record) -> tuple[Message, ...]:
        messages = _messages(record, column)
        if messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        if not messages or messages[-1].role != "user":
            raise BadRecordError(f"{column!r} asks nothing as the user. Remove the row.")
        return messages

    return prompt_of


def _prompt_to_be_answered(record: Record) -> tuple[Message, ...]:
    is_conversation = isinstance(record["prompt"], list)
    return (_to_be_answered("prompt") if is_conversation else _prompt_messages)(record)


_PROMPTS: dict[str, Callable[[Record], tuple[Message, ...]]] = {
    "prompt": _prompt_to_be_answered,
    "messages": _to_be_answered("messages"),
    "conversations": _to_be_answered("conversations"),
    "instruction": _instructed,
}

_READ_OF_A_MESSAGE = {"role", "from", "content", "value", "weight", "train", "training"}

# Columns that published sets have beside those of their shape, and that change what a row means.
_SAYS_MORE = (
    *("input", "context", "documents", "tools", "functions", "system_prompt", "reasoning"),
    *("reasoning_content", "thinking", "images", "image", "audio", "audios", "video", "videos"),
)

_ANSWERS = {"response", "completion", "messages", "conversations", "output"}


def _says(value: object) -> bool:
    return value is not None and value != "" and value != [] and value != {}


def refuse_preferences(record: Record, columns: Collection[str], where: Collection[str]) -> None:
    """Refuse a row that says which answer is the better, where the user does not.

    Args:
        columns: the fields that the user gives a column for; an answer's settles what is learned.
        where: the columns that the user chooses rows by.

    Raises:
        BadRecordError: it has `chosen` or `rejected` and no answer is named; or `kto_tag`, or a
            truth value `label` beside a completion, by which rows are not chosen.
    """
    preferences = [
        column
        for column in ("chosen", "rejected")
        if record.get(column) is not None and not _ANSWERS & set(columns)
    ]
    if record.get("kto_tag") is not None and "kto_tag" not in where:
        preferences.append("kto_tag")
    if "completion" in record and isinstance(record.get("label"), bool) and "label" not in where:
        preferences.append("label")
    if preferences:
        mend = "where: {kto_tag: true}".replace("kto_tag", preferences[0])
        if preferences[0] in ("chosen", "rejected"):
            mend = "columns: {response: chosen}"
        raise BadRecordError(
            f"{preferences[0]!r} says which answers are wanted, and fine-tuning learns all alike. "
            f"Say what to learn, as in {mend}, or remove the column."
        )


def _conversation(
    messages: tuple[Message, ...], column: str, turns: Sequence[object], begin: int = 0
) -> Row:
    """The row whose response is the last to be learned, of the turns from `begin` on."""
    answers = [
        place
        for place, message in enumerate(messages)
        if place >= begin and message.role == "assistant"
    ]
    if not answers:
        raise BadRecordError(f"{column!r} has no assistant message. Add one, or remove the row.")
    for place in reversed(answers):
        turn = turns[place]
        if not isinstance(turn, Mapping) or _is_to_be_learned(turn):
            return _row(messages[:place], messages[place].content)
    raise BadRecordError(
        f"{column!r} has no assistant message to learn: each has a weight of 0 or is not to be "
        "trained on. Remove the row."
    )


def _is_to_be_learned(turn: Record) -> bool:
    for flag in ("weight", "train", "training"):
        value = turn.get(flag)
        if value is not None and value not in (0, 1):
            raise BadRecordError(
                f"a message has the {flag} {value!r}. Known are 0 and 1: learned, or not."
            )
        if value is not None and not value:
            return False
    return True


def _row(prompt: tuple[Message, ...], response: str) -> Row:
    if not any(message.content.strip() for message in prompt):
        raise BadRecordError("the prompt is empty. Write one, or remove the row.")
    return Row(prompt, response)


def _with_side_columns(row: Row, record: Record) -> Row:
    if _says(record.get("history")):
        row = replace(row, prompt=(*_turns(record["history"]), *row.prompt))
    if record.get("system") is not None and _text(record, "system").strip():
        if any(message.role == "system" for message in row.prompt):
            raise BadRecordError(
                "the prompt has a system message and so has the column 'system'. Keep one of them."
            )
        row = replace(row, prompt=(Message("system", record["system"]), *row.prompt))
    if record.get("cut_short") is True:
        row = replace(row, is_whole=False)
    return replace(row, weight=_weight(record["weight"])) if "weight" in record else row


def _turns(history: object) -> tuple[Message, ...]:
    messages: list[Message] = []
    for pair in history if isinstance(history, list) else [history]:
        match pair:
            case [str(question), str(answer)]:
                messages += [Message("user", question), Message("assistant", answer)]
            case _:
                raise BadRecordError(
                    "'history' is not a list of pairs of a question and its answer. Write it so, "
                    "or remove the column."
                )
    return tuple(messages)


def _whole(row: Row) -> Row:
    for text in (*(message.content for message in row.prompt), row.response):
        if not is_whole_text(text):
            raise BadRecordError(
                f"the text {text[:40]!a} holds half of a surrogate pair, which is no character. "
                "Mend the row, or remove it."
            )
    return row


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
    name = _name(turn)
    content = turn.get("value") if turn.get("content") is None else turn["content"]
    for call in ("tool_calls", "function_call"):
        if _says(turn.get(call)):
            raise BadRecordError(
                f"message {number} has {call!r}, which the row would lose. Write the call as text, "
                "or remove the row."
            )
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


def _name(turn: Record) -> object:
    return turn.get("role") or turn.get("from")


def _role(turn: Record) -> Role | None:
    name = _name(turn)
    return _ROLES.get(name) if isinstance(name, str) else None


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
