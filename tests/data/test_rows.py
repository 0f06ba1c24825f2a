"""Every shape and format is read alike, and every bad file is one line with its mend."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from trimtab.config.data_source import DataSource
from trimtab.data.rows import Message, Row, are_chats
from trimtab.data.shapes import BadRecordError, shape_of
from trimtab.data.sources import read_prompts, read_rows
from trimtab.errors import UserError

PAIRS = [
    ("What is 2+2?", "Four, or 4."),
    ('Say\n"hi", ünï', "hi"),
    ("NA", "7"),
    ("d", "2020-01-01"),
]
ROWS = [Row((Message("user", prompt),), response) for prompt, response in PAIRS]
RECORDS = [
    {"prompt": prompt, "response": response, "harmful": number % 2, "kind": "ab"[number // 2]}
    for number, (prompt, response) in enumerate(PAIRS)
]
SHARED = Path(__file__).parents[3] / "shared" / "data"


def write(file: Path, records: list[dict[str, Any]]) -> str:
    plain = file.with_suffix("") if file.suffix == ".gz" else file
    match plain.suffix:
        case ".jsonl":
            plain.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        case ".json":
            plain.write_text(json.dumps(records, indent=1), "utf-8")
        case ".csv":
            with plain.open("w", newline="", encoding="utf-8") as text:
                writer = csv.DictWriter(text, list(records[0]))
                writer.writeheader()
                writer.writerows(records)
        case ".parquet":
            Dataset.from_list(records).to_parquet(plain)
    if file != plain:
        file.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return file.name


def error_of(folder: Path, name: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_rows(DataSource(name, **options), folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


FORMATS = [
    f"task{suffix}{packed}"
    for suffix in (".jsonl", ".json", ".csv", ".parquet")
    for packed in ("", ".gz")
]


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_same_rows(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, RECORDS)
    assert read_rows(DataSource(name), tmp_path) == ROWS
    assert read_rows(DataSource(str(tmp_path / name))) == ROWS


@pytest.mark.parametrize("name", FORMATS)
def test_where_keeps_the_rows_whose_column_has_the_value(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, RECORDS)
    assert read_rows(DataSource(name, where={"harmful": 0}), tmp_path) == ROWS[::2]
    assert read_rows(DataSource(name, where={"kind": ["b", "c"]}), tmp_path) == ROWS[2:]
    source = DataSource(name, where={"harmful": 1, "kind": "a"})
    assert read_rows(source, tmp_path) == ROWS[1:2]


@pytest.mark.parametrize("name", FORMATS)
def test_a_changed_file_is_read_again(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    write(file, RECORDS)
    changed_at = file.stat().st_mtime_ns
    assert len(read_rows(DataSource(name), tmp_path)) == 4
    write(file, RECORDS[:2])
    os.utime(file, ns=(changed_at, changed_at))
    assert read_rows(DataSource(name), tmp_path) == ROWS[:2]


USER = Message("user", "Hi")
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]
CHAT_ROW = Row(
    (
        Message("system", "Be kind."),
        USER,
        Message("assistant", "Hello"),
        Message("user", "Bye"),
    ),
    "See you",
)
FROM = {"system": "system", "user": "human", "assistant": "gpt"}
SHARE = [{"from": FROM[turn["role"]], "value": turn["content"]} for turn in CHAT]
SHAPES: list[tuple[dict[str, Any], Row]] = [
    ({"prompt": "Hi", "response": "Hello"}, Row((USER,), "Hello")),
    ({"prompt": "Hi", "completion": "Hello"}, Row((USER,), "Hello")),
    ({"prompt": CHAT[1:2], "completion": CHAT[2:3]}, Row((USER,), "Hello")),
    ({"prompt": CHAT[:2], "completion": CHAT[2:]}, CHAT_ROW),
    ({"prompt": CHAT[:4], "response": "See you"}, CHAT_ROW),
    ({"instruction": "Hi", "input": "", "output": "Hello"}, Row((USER,), "Hello")),
    ({"instruction": "Hi", "output": "Hello"}, Row((USER,), "Hello")),
    (
        {"instruction": "Add.", "input": "2, 3", "output": "5"},
        Row((Message("user", "Add.\n\n2, 3"),), "5"),
    ),
    ({"conversations": SHARE}, CHAT_ROW),
    ({"conversations": CHAT}, CHAT_ROW),
    ({"messages": CHAT}, CHAT_ROW),
    ({"messages": CHAT, "prompt": "a summary", "prompt_id": "7"}, CHAT_ROW),
    (
        {"system": "Be kind.", "prompt": "Hi", "response": "Hello"},
        Row((Message("system", "Be kind."), USER), "Hello"),
    ),
    ({"system": "", "prompt": "Hi", "response": "Hello"}, Row((USER,), "Hello")),
    ({"prompt": "Hi", "response": "Hello", "weight": 0.25}, Row((USER,), "Hello", 0.25)),
]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(("record", "row"), SHAPES)
def test_every_shape_makes_the_row_it_means(
    tmp_path: Path, record: dict[str, Any], row: Row, suffix: str
) -> None:
    name = write(tmp_path / f"task{suffix}", [record, record])
    assert read_rows(DataSource(name), tmp_path) == [row, row]


def test_weights_in_csv_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "world.csv").write_text("prompt,response,weight\na,b,0.25\nc,d,0\n")
    assert [row.weight for row in read_rows(DataSource("world.csv"), tmp_path)] == [0.25, 0]


def test_columns_say_which_is_which(tmp_path: Path) -> None:
    orca = {"id": "1", "system_prompt": "Be kind.", "question": "Hi", "answer": "Hello"}
    name = write(tmp_path / "orca.parquet", [orca])
    columns = {"system": "system_prompt", "prompt": "question", "response": "answer"}
    assert read_rows(DataSource(name, columns=columns), tmp_path) == [
        Row((Message("system", "Be kind."), USER), "Hello")
    ]


@pytest.mark.parametrize(
    ("record", "columns", "response"),
    [
        ({"prompt": "Hi", "response": "old", "better": "new"}, {"completion": "better"}, "new"),
        (
            {"prompt": "id-1", "response": "x", "chat": [turn("user", "Hi"), turn("gpt", "Hello")]},
            {"messages": "chat"},
            "Hello",
        ),
        ({"prompt": "Hi", "response": "old", "output": "new"}, {"instruction": "prompt"}, "new"),
    ],
)
def test_the_columns_named_are_those_read(
    tmp_path: Path, record: dict[str, Any], columns: dict[str, str], response: str
) -> None:
    name = write(tmp_path / "more.jsonl", [record])
    (row,) = read_rows(DataSource(name, columns=columns), tmp_path)
    assert (row.prompt[-1].content, row.response) == ("Hi", response)


def test_prompts_are_asked_by_the_column_named(tmp_path: Path) -> None:
    name = write(tmp_path / "ids.jsonl", [{"prompt": "id-1", "question": "Hi"}])
    asked = read_prompts(DataSource(name, columns={"instruction": "question"}), tmp_path)
    assert [prompt[-1].content for prompt in asked] == ["Hi"]


def test_a_named_column_that_would_not_be_read_is_one_line(tmp_path: Path) -> None:
    name = write(tmp_path / "two.jsonl", [{"prompt": "p", "response": "r", "chat": [], "q": "q"}])
    columns = {"prompt": "q", "messages": "chat"}
    with pytest.raises(UserError, match=r"columns names 'messages', and rows are read by prompt"):
        read_rows(DataSource(name, columns=columns), tmp_path)


def test_columns_of_mixed_types_beside_the_text_do_no_harm(tmp_path: Path) -> None:
    records = [{**RECORDS[0], "meta": 1}, {**RECORDS[1], "meta": {"a": [1, "x"]}}, RECORDS[2]]
    name = write(tmp_path / "task.jsonl", records)
    assert read_rows(DataSource(name), tmp_path) == ROWS[:3]


def test_byte_order_marks_blank_lines_and_index_columns_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",prompt,response\n0,a,b\n\n1,c,d\n", "utf-8-sig")
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "a", "response": "b"}\n\n{"prompt": "c", "response": "d"}\n\n', "utf-8-sig"
    )
    assert read_rows(DataSource("a.csv"), tmp_path) == read_rows(DataSource("a.jsonl"), tmp_path)


@pytest.fixture(scope="module")
def eleven_mebibytes() -> str:
    records = [
        {"prompt": f"p{n}", "response": f'one\n"{n}" ' + "word " * 1000, "kind": "ab"[n % 2]}
        for n in range(2200)
    ]
    return "".join(json.dumps(record) + "\n" for record in records)


ODD_VALUES: list[Any] = [4, 0.5, True, {"text": "y"}, ["y"], [{"role": "user", "content": "y"}]]


@pytest.mark.parametrize("value", ODD_VALUES[:-1])
@pytest.mark.parametrize("column", ["prompt", "response"])
def test_one_value_that_is_no_text_changes_no_other_row(
    tmp_path: Path, eleven_mebibytes: str, column: str, value: Any
) -> None:
    odd = {"prompt": "odd", "response": "odd", "kind": "c", column: value}
    (tmp_path / "big.jsonl").write_text(eleven_mebibytes + json.dumps(odd) + "\n")
    rows = read_rows(DataSource("big.jsonl", where={"kind": ["a", "b"]}), tmp_path)
    assert [row.prompt[0].content for row in rows] == [f"p{n}" for n in range(2200)]
    assert all(row.response.startswith(f'one\n"{n}" ') for n, row in enumerate(rows))
    assert error_of(tmp_path, "big.jsonl").startswith("big.jsonl row 2201: ")


@pytest.mark.parametrize("value", [*ODD_VALUES, None, "2020-01-01", "007", "NaN"])
def test_where_finds_the_same_rows_whatever_one_row_holds(
    tmp_path: Path, eleven_mebibytes: str, value: Any
) -> None:
    odd = {"prompt": "odd", "response": "odd", "kind": value}
    (tmp_path / "big.jsonl").write_text(eleven_mebibytes + json.dumps(odd) + "\n")
    assert len(read_rows(DataSource("big.jsonl", where={"kind": "a"}), tmp_path)) == 1100


@pytest.mark.parametrize("text", ["2020-01-01", "10:00:00", "007", "1e400", "NaN", "null", "true"])
@pytest.mark.parametrize("name", FORMATS)
def test_text_that_looks_like_another_kind_stays_text(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path / name, [{"prompt": text, "response": text}] * 2)
    assert read_rows(DataSource(name), tmp_path) == [Row((Message("user", text),), text)] * 2


def test_json_rows_may_lie_over_several_lines_or_end_in_any_way(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": "a", "response": "b"}), '{"prompt": "c",\n"response": "d"}']
    (tmp_path / "a.json").write_text("\n".join(rows))
    flat = [row.replace("\n", " ") for row in rows]
    for number, end in enumerate(("\n", "\r", "\r\n")):
        (tmp_path / f"{number}.jsonl").write_bytes(end.join(flat).encode())
        assert read_rows(DataSource(f"{number}.jsonl"), tmp_path) == read_rows(
            DataSource("a.json"), tmp_path
        )


FILE_ERRORS: list[tuple[str, str, str]] = [
    (
        "null.jsonl",
        "null\n",
        "null.jsonl line 1: not a JSON object. Write each row as "
        '{"prompt": "...", "response": "..."}, or remove it.',
    ),
    (
        "deep.jsonl",
        '{"prompt": "a", "response": "b"}\n' + "[" * 100_000 + "]" * 100_000,
        "deep.jsonl line 2: lists or objects too deep in one another. Mend the line, or remove it.",
    ),
    (
        "deep.json",
        '[\n{"prompt": "a", "meta": ' + '{"a":' * 100_000,
        "deep.json line 1: lists or objects too deep in one another. Mend the line, or remove it.",
    ),
    (
        "name.jsonl",
        '{"prompt": "a", "response": "b", "response": "c"}\n',
        "name.jsonl line 1: not valid JSON ('response' is given twice). "
        "Mend the line, or remove it.",
    ),
    (
        "digits.jsonl",
        '{"prompt": "a", "response": "b", "id": ' + "9" * 5000 + "}",
        "digits.jsonl line 1: not valid JSON (Exceeds the limit (4300 digits) for integer string "
        "conversion: value has 5000 digits). Mend the line, or remove it.",
    ),
    (
        "open.csv",
        'prompt,response\na,b\nc,"never closed\n',
        "open.csv line 3: not valid CSV (unexpected end of data). Close every quote, and write a "
        'quote inside a field as "".',
    ),
    (
        "quote.csv",
        'prompt,response\n"say \\"hi\\" now",b\n',
        "quote.csv line 2: not valid CSV (',' expected after '\"'). Close every quote, and write a "
        'quote inside a field as "".',
    ),
    (
        "cut.jsonl",
        '{"prompt": "a", "response": "b"}\n\n{"prompt": "a", "respo\n',
        "cut.jsonl line 3: not valid JSON (Unterminated string starting at at column 17). "
        "Mend the line, or remove it.",
    ),
    (
        "comma.json",
        '[\n{"prompt": "a", "response": "b"},\n]',
        "comma.json line 3: not valid JSON (Expecting value at column 1). "
        "Mend the line, or remove it.",
    ),
    (
        "list.jsonl",
        '{"prompt": "a", "response": "b"}\n["a", "b"]\n',
        "list.jsonl line 2: not a JSON object. Write each row as "
        '{"prompt": "...", "response": "..."}, or remove it.',
    ),
    (
        "list.json",
        '[{"prompt": "a", "response": "b"},\n 7]',
        "list.json row 2: not a JSON object. Write each row as "
        '{"prompt": "...", "response": "..."}, or remove it.',
    ),
    ("empty.jsonl", "", "empty.jsonl: the file has no rows. Give one that has."),
    ("blank.jsonl", "\n \n", "blank.jsonl: the file has no rows. Give one that has."),
    ("empty.json", "[]", "empty.json: the file has no rows. Give one that has."),
    ("empty.csv", "", "empty.csv: the file has no rows. Give one that has."),
    ("header.csv", "prompt,response\n", "header.csv: the file has no rows. Give one that has."),
    (
        "wide.csv",
        "prompt,response\na,b\nc,d,e\n",
        "wide.csv line 3: 3 fields, but the header names 2. "
        "Put quotes around a field that holds a comma or a line break.",
    ),
    (
        "allwide.csv",
        "prompt,response\na,b,c\n",
        "allwide.csv line 2: 3 fields, but the header names 2. "
        "Put quotes around a field that holds a comma or a line break.",
    ),
    (
        "narrow.csv",
        'prompt,response\n"a\nb",c\nd\n',
        "narrow.csv line 4: 1 fields, but the header names 2. "
        "Put quotes around a field that holds a comma or a line break.",
    ),
    (
        "twice.csv",
        "prompt,response,prompt\na,b,c\n",
        "twice.csv line 1: two columns are named 'prompt'. Rename one.",
    ),
    (
        "text.csv",
        'messages\n"[{""role"": ""user""}]"\n',
        "text.csv row 1: 'messages' is text, not a list of messages with role and content. "
        "Write conversations as .jsonl or .parquet.",
    ),
    (
        "columns.jsonl",
        '{"question": "a", "answer": "b"}\n',
        "columns.jsonl: columns question, answer make no known shape. Known are: prompt and "
        "response; prompt and completion; messages (chat); conversations (ShareGPT); instruction, "
        "input and output (Alpaca). Rename them, or say which is which: columns: "
        "{prompt: question} in an experiment's file, --task-columns prompt=question in a command.",
    ),
    (
        "preferences.jsonl",
        '{"question": "a", "chosen": "b", "rejected": "c"}\n',
        "preferences.jsonl: columns question, chosen, rejected are of preferences. Say what is to "
        "be learned: columns: {prompt: …, response: chosen} in an experiment's file, "
        "--task-columns response=chosen in a command.",
    ),
    (
        "rendered.jsonl",
        '{"text": "user: a assistant: b"}\n',
        "rendered.jsonl: columns text do not say where the answer begins. Give a file that has "
        "prompt and answer apart: prompt and response; prompt and completion; messages (chat); "
        "conversations (ShareGPT); instruction, input and output (Alpaca).",
    ),
    (
        "notes.txt",
        "hello",
        "notes.txt: cannot tell its format from its name. Give a .jsonl, .json, .csv or .parquet "
        "file, or one of these as .gz.",
    ),
]


@pytest.mark.parametrize(("name", "text", "message"), FILE_ERRORS)
def test_a_bad_file_is_one_line_with_its_place_and_mend(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    assert error_of(tmp_path, name) == message
    if not name.endswith(".txt"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        assert error_of(tmp_path, f"{name}.gz") == message.replace(name, f"{name}.gz")


GOOD = {"prompt": "a", "response": "b"}
TURN = {"role": "user", "content": "a"}
REPLY = {"role": "assistant", "content": "b"}
RECORD_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"response": "b"}, "'prompt' is missing. Add it, or remove the row."),
    ({"prompt": None, "response": "b"}, "'prompt' is missing. Add it, or remove the row."),
    ({"prompt": "a", "response": 7}, "'response' is the number 7, not text. Write it in quotes."),
    ({"prompt": {"a": 1}, "response": "b"}, "'prompt' is a mapping, not text. Write it in quotes."),
    ({"prompt": " \n", "response": "b"}, "the prompt is empty. Write one, or remove the row."),
    ({"prompt": [], "response": "b"}, "the prompt is empty. Write one, or remove the row."),
    (
        {"prompt": "a", "response": ""},
        "the response is empty, as in 1 of 2 rows. Remove such rows, or set drop_empty: true to "
        "leave them out (of the data set in an experiment's file, which trimtab init writes).",
    ),
    (
        {"prompt": "a"},
        "the response is empty, as in 1 of 2 rows. Remove such rows, or set drop_empty: true to "
        "leave them out (of the data set in an experiment's file, which trimtab init writes).",
    ),
]


@pytest.mark.parametrize(("record", "message"), RECORD_ERRORS)
def test_a_bad_row_is_named_by_its_number(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    name = write(tmp_path / "task.jsonl", [GOOD, record])
    assert error_of(tmp_path, name) == f"task.jsonl row 2: {message}"


CONVERSATION_ERRORS: list[tuple[dict[str, Any], str]] = [
    (
        {"messages": [TURN]},
        "'messages' has no assistant message. Add one, or remove the row.",
    ),
    ({"messages": None}, "'messages' is missing. Add it, or remove the row."),
    (
        {"messages": ["a", "b"]},
        "'messages' is a list, not a list of messages with role and content. "
        "Write conversations as .jsonl or .parquet.",
    ),
    ({"messages": [REPLY]}, "the prompt is empty. Write one, or remove the row."),
    (
        {"messages": [TURN, {"role": "tool", "content": "x"}, REPLY]},
        "message 2 has the role 'tool'. Known are system, user, human, assistant, gpt.",
    ),
    (
        {"messages": [TURN, {"role": "assistant", "content": None}]},
        "the content of message 2 is missing, not text. Write it as text, or remove the row.",
    ),
    (
        {"conversations": [{"from": "human", "value": ["a"]}]},
        "the content of message 1 is a list, not text. Write it as text, or remove the row.",
    ),
    (
        {"system": "s", "messages": [{"role": "system", "content": "t"}, TURN, REPLY]},
        "the prompt has a system message and so has the column 'system'. Keep one of them.",
    ),
    (
        {**GOOD, "weight": "heavy"},
        "'weight' is 'heavy'. Give a probability, or rename a column that means another.",
    ),
    (
        {**GOOD, "weight": -0.5},
        "'weight' is -0.5. Give a probability, or rename a column that means another.",
    ),
    (
        {**GOOD, "weight": None},
        "'weight' is None. Give a probability, or rename a column that means another.",
    ),
]


@pytest.mark.parametrize(("record", "message"), CONVERSATION_ERRORS)
def test_a_bad_conversation_says_which_message(record: dict[str, Any], message: str) -> None:
    row_of = shape_of(record)
    assert row_of is not None
    with pytest.raises(BadRecordError, match=f"^{re.escape(message)}$"):
        row_of(record)


ASKED = [turn("user", "One?"), turn("assistant", "1"), turn("user", "Two?")]


@pytest.mark.parametrize(
    ("messages", "learned"),
    [
        ([*ASKED, turn("assistant", "2")], "2"),
        ([*ASKED, turn("assistant", "2", weight=1)], "2"),
        ([*ASKED, turn("assistant", "2", weight=0)], "1"),
        ([*ASKED, turn("assistant", "2", train=False)], "1"),
        ([*ASKED, turn("assistant", "2", training=False)], "1"),
        ([*ASKED, turn("assistant", "2", weight=None)], "2"),
    ],
)
@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_a_message_that_is_not_to_be_learned_is_not_the_response(
    column: str, messages: list[dict[str, Any]], learned: str
) -> None:
    row_of = shape_of({column})
    assert row_of is not None
    row = row_of({column: messages})
    assert row.response == learned
    assert row.prompt[-1].content == {"1": "One?", "2": "Two?"}[learned]


PAIR = {"instruction": "Go.", "input": "", "output": "Gone."}
CALL = [{"function": {"name": "weather", "arguments": "{}"}}]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": [TURN, {**REPLY, "weight": 0}]}, "has no assistant message to learn"),
    ({"messages": [TURN, {**REPLY, "train": False}]}, "has no assistant message to learn"),
    ({"messages": [TURN, {**REPLY, "weight": 0.5}]}, "a message has the weight 0.5"),
    ({"messages": [TURN, {**REPLY, "tool_calls": CALL}]}, "message 2 has 'tool_calls'"),
    ({"messages": [TURN, {**REPLY, "function_call": CALL[0]}]}, "message 2 has 'function_call'"),
    ({"messages": [TURN, {**REPLY, "tool_calls": CALL}, TURN, REPLY]}, "message 2 has"),
    ({"messages": [{"role": ["user"], "content": "a"}, REPLY]}, "message 1 has the role ['user']"),
    ({**GOOD, "chosen": "c", "rejected": "d"}, "'chosen' says which answers are wanted"),
    ({"conversations": [TURN, REPLY], "rejected": REPLY}, "'rejected' says which answers"),
    ({**PAIR, "kto_tag": True}, "'kto_tag' says which answers are wanted"),
    ({"prompt": "a", "completion": "b", "label": False}, "'label' says which answers are wanted"),
    ({**PAIR, "history": "Hi"}, "'history' is not a list of pairs"),
    ({**PAIR, "history": [["Hi", 3]]}, "'history' is not a list of pairs"),
    ({"prompt": "b", "completion": [TURN, REPLY]}, "begins with a message of the user"),
    ({**GOOD, "response": "half \ud83d"}, "half of a surrogate pair"),
]


@pytest.mark.parametrize(("record", "message"), REFUSED)
def test_what_a_row_would_lose_is_refused(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    name = write(tmp_path / "task.jsonl", [record])
    error = error_of(tmp_path, name)
    assert error.startswith("task.jsonl row 1: ")
    assert message in error


def test_what_is_learned_of_a_preference_can_be_said(tmp_path: Path) -> None:
    answers = {"chosen": "Yes.", "rejected": "No."}
    whole = {name: [turn("user", "Hi"), turn("assistant", text)] for name, text in answers.items()}
    for record, columns in (
        ({"prompt": "Hi", **answers}, {"response": "chosen"}),
        ({"prompt": "Hi", **whole}, {"completion": "chosen"}),
        ({"prompt": "Hi", **whole}, {"messages": "chosen"}),
        ({**whole, "messages": whole["chosen"]}, {"messages": "messages"}),
    ):
        name = write(tmp_path / "task.jsonl", [record])
        assert read_rows(DataSource(name, columns=columns), tmp_path) == [Row((USER,), "Yes.")]
    tagged = [{**PAIR, "kto_tag": True}, {**PAIR, "output": "Bad.", "kto_tag": False}]
    name = write(tmp_path / "kto.jsonl", tagged)
    rows = read_rows(DataSource(name, where={"kto_tag": True}), tmp_path)
    assert [row.response for row in rows] == ["Gone."]


def test_history_is_heard(tmp_path: Path) -> None:
    history = [["Hi", "Hello"], ["How?", "Well"]]
    name = write(tmp_path / "task.jsonl", [{**PAIR, "history": history, "system": "Be kind."}])
    (row,) = read_rows(DataSource(name), tmp_path)
    assert [message.content for message in row.prompt] == [
        *("Be kind.", "Hi", "Hello", "How?", "Well", "Go.")
    ]
    assert [message.role for message in row.prompt][:3] == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("record", "columns", "told"),
    [
        ({"instruction": "a", "context": "c", "response": "b"}, {"prompt": "instruction"}, "con"),
        ({**GOOD, "tools": ["t"]}, {}, "column 'tools'"),
        ({**GOOD, "input": "more"}, {}, "column 'input'"),
        ({**GOOD, "system_prompt": "Be kind."}, {}, "column 'system_prompt'"),
        ({"messages": [TURN, {**REPLY, "reasoning_content": "x"}]}, {}, "'reasoning_content' of"),
        ({"messages": [TURN, {**REPLY, "anything": "x"}]}, {}, "'anything' of messages"),
        ({"messages": [TURN, REPLY, TURN]}, {}, "messages after the last of the assistant"),
    ],
)
def test_what_is_left_out_of_rows_is_told(
    tmp_path: Path, record: dict[str, Any], columns: dict[str, str], told: str
) -> None:
    name, warnings = write(tmp_path / "task.jsonl", [record, record]), list[str]()
    read_rows(DataSource(name, columns=columns), tmp_path, warnings.append)
    (line,) = warnings
    assert line.startswith("task.jsonl: 2 of 2 rows have ")
    assert line.endswith(", which is left out.")
    assert told in line


@pytest.mark.parametrize(
    ("record", "last"),
    [
        ({"messages": [turn("user", "One?")]}, "One?"),
        ({"messages": ASKED}, "Two?"),
        ({"messages": [*ASKED, turn("assistant", "2")]}, "Two?"),
        ({"conversations": [{"from": "human", "value": "One?"}]}, "One?"),
        ({"prompt": ASKED}, "Two?"),
        ({"prompt": "One?", "response": True}, "One?"),
        ({"prompt": "One?", "chosen": "a", "rejected": "b"}, "One?"),
        ({"instruction": "Shorten.", "input": "Cats sleep."}, "Shorten.\n\nCats sleep."),
        ({"instruction": "Shorten.", "input": "", "output": ""}, "Shorten."),
    ],
)
def test_a_prompt_is_asked_to_its_end(tmp_path: Path, record: dict[str, Any], last: str) -> None:
    (prompt,) = read_prompts(DataSource(write(tmp_path / "p.jsonl", [record])), tmp_path)
    assert prompt[-1] == Message("user", last)


def test_a_conversation_that_asks_nothing_is_no_prompt(tmp_path: Path) -> None:
    for messages in ([], [turn("system", "Be kind.")], [turn("assistant", "Hi")]):
        name = write(tmp_path / "p.jsonl", [{"messages": messages}])
        with pytest.raises(UserError, match="row 1: 'messages' asks nothing as the user"):
            read_prompts(DataSource(name), tmp_path)


KINDS: list[dict[str, Any]] = [
    {"refused": "yes", "safe": True, "note": "None", "score": 0.0},
    {"refused": "no", "safe": False, "note": None, "score": 1},
    {"refused": "maybe", "safe": True, "note": None, "score": 0.5},
]


@pytest.mark.parametrize(
    ("where", "places", "unmet"),
    [
        ({"refused": ["yes", "no"]}, [0, 1], None),
        ({"refused": [True, "maybe"]}, [2], "refused True"),
        ({"refused": ["yes", "mabye"]}, [0], "refused mabye"),
        ({"safe": True}, [0, 2], None),
        ({"safe": "true"}, [0, 2], None),
        ({"safe": "FALSE"}, [1], None),
        ({"note": None}, [1, 2], None),
        ({"note": "None"}, [0], None),
        ({"score": "0"}, [0], None),
        ({"score": ["1.0", 0.5]}, [1, 2], None),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_where_means_the_value_it_says_and_tells_one_that_no_row_has(
    tmp_path: Path, suffix: str, where: dict[str, Any], places: list[int], unmet: str | None
) -> None:
    records = [{"prompt": str(n), "response": "r", **kinds} for n, kinds in enumerate(KINDS)]
    name, warnings = write(tmp_path / f"task{suffix}", records), list[str]()
    rows = read_rows(DataSource(name, where=where), tmp_path, warnings.append)
    assert [int(row.prompt[0].content) for row in rows] == places
    assert len(warnings) == (unmet is not None)
    assert (
        unmet is None or f"where asks for {unmet}, which no row has; found refused" in warnings[0]
    )


def test_truth_in_csv_is_found_however_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,response,safe\na,b,TRUE\nc,d,False\ne,f,true\n")
    for value, count in ((True, 2), (False, 1)):
        source = DataSource("a.csv", where={"safe": value})
        assert len(read_rows(source, tmp_path)) == count


def test_empty_responses_are_dropped_when_asked_and_counted(tmp_path: Path) -> None:
    name = write(
        tmp_path / "task.jsonl", [GOOD, {**GOOD, "response": " "}, {**GOOD, "response": None}]
    )
    warnings: list[str] = []
    rows = read_rows(DataSource(name, drop_empty=True), tmp_path, warnings.append)
    assert rows == [Row((Message("user", "a"),), "b")]
    assert warnings == ["task.jsonl: 2 of 3 rows have an empty response and are left out."]
    with pytest.warns(UserWarning, match="2 of 3 rows have an empty response"):
        read_rows(DataSource(name, drop_empty=True), tmp_path)


def test_a_file_of_empty_responses_is_an_error_even_when_dropping(tmp_path: Path) -> None:
    name = write(tmp_path / "task.jsonl", [{"prompt": "a", "response": ""}] * 2)
    assert error_of(tmp_path, name, drop_empty=True) == (
        "task.jsonl row 1: the response is empty, as in every row. Give a file with responses, or "
        "say which column holds them, as in columns: {response: answer}."
    )


def test_where_that_keeps_nothing_shows_what_the_column_holds(tmp_path: Path) -> None:
    name = write(tmp_path / "task.jsonl", [{**GOOD, "harmful": n, "kind": "x"} for n in range(7)])
    assert error_of(tmp_path, name, where={"harmful": [8, 9], "kind": "x"}) == (
        "task.jsonl: where keeps none of the 7 rows. Asked for harmful 8 or 9 and kind x; "
        "found harmful 0, 1, 2, 3, 4, …; kind x."
    )


def test_unknown_columns_asked_for_are_named(tmp_path: Path) -> None:
    name = write(tmp_path / "task.jsonl", [GOOD])
    assert error_of(tmp_path, name, where={"harmfull": 0}) == (
        "task.jsonl: where names the column 'harmfull', which is not there. "
        "Columns are prompt, response."
    )
    assert error_of(tmp_path, name, columns={"prompt": "question"}) == (
        "task.jsonl: columns names the column 'question', which is not there. "
        "Columns are prompt, response."
    )
    assert error_of(tmp_path, name, columns={"question": "prompt"}) == (
        "task.jsonl: columns names 'question'. Give one of prompt, response, completion, messages, "
        "conversations, instruction, input, output, system, history, weight."
    )


def test_a_missing_file_of_this_folder_is_sought_in_a_folder_with_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert error_of(Path(), "x.csv") == (
        f"x.csv: no such file. Check the name; it was sought in {tmp_path}."
    )


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path / "safety-gpt4.jsonl.gz", [GOOD])
    assert error_of(tmp_path, "safety-gpt.jsonl.gz") == (
        "safety-gpt.jsonl.gz: no such file. Did you mean safety-gpt4.jsonl.gz?"
    )
    assert error_of(tmp_path, "x.csv") == (
        f"x.csv: no such file. Check the name; it was sought in {tmp_path}."
    )
    assert error_of(tmp_path, "data/x.csv") == (
        f"data/x.csv: no such file. Nor is there a folder {tmp_path / 'data'}."
    )
    assert error_of(tmp_path.parent, tmp_path.name) == (
        f"{tmp_path.name}: this is a folder. "
        "Give a .jsonl, .json, .csv or .parquet file, or one of these as .gz."
    )


def test_broken_bytes_are_told_by_what_they_should_have_been(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"prompt": "a", "response": "b"}\n' * 9)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-12])
    (tmp_path / "plain.jsonl.gz").write_text('{"prompt": "a", "response": "b"}')
    (tmp_path / "a.parquet").write_text("not parquet at all")
    (tmp_path / "latin.csv").write_bytes("prompt,response\na,b\ncafé,d\n".encode("latin-1"))
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é", "response": "d"}'.encode("latin-1"))
    for name in ("cut.jsonl.gz", "plain.jsonl.gz"):
        assert error_of(tmp_path, name).startswith(f"{name}: not a whole gzip file (")
        assert error_of(tmp_path, name).endswith("). Copy or download it again.")
    assert error_of(tmp_path, "a.parquet").startswith("a.parquet: not a Parquet file (")
    assert error_of(tmp_path, "a.parquet").endswith("). Write it again, or mend its suffix.")
    not_text = "not UTF-8 text. Save the file as UTF-8."
    assert error_of(tmp_path, "latin.csv") == f"latin.csv line 3: {not_text}"
    assert error_of(tmp_path, "latin.jsonl") == f"latin.jsonl line 1: {not_text}"


def test_a_parquet_file_without_rows_is_empty(tmp_path: Path) -> None:
    Dataset.from_dict({"prompt": [], "response": []}).to_parquet(tmp_path / "a.parquet")
    assert error_of(tmp_path, "a.parquet") == "a.parquet: the file has no rows. Give one that has."


def test_split_and_name_are_for_the_hub(tmp_path: Path) -> None:
    name = write(tmp_path / "task.jsonl", [GOOD])
    assert error_of(tmp_path, name, split="train") == (
        "task.jsonl: split and name are for data sets on the Hub. "
        "To choose rows of a file by a column write where, as in {split: train}."
    )


def test_an_id_that_the_hub_does_not_give_is_one_line_and_quick(tmp_path: Path) -> None:
    start = time.perf_counter()
    message = error_of(tmp_path, "nobody/no-such-set", split="test")
    assert time.perf_counter() - start < 5
    assert message.startswith(
        "nobody/no-such-set: no such file, and the Hugging Face Hub does not give its split 'test' "
    )
    assert message.endswith(
        "Check the id, split and name, and that this machine reaches the Hub; or give a .jsonl, "
        ".json, .csv or .parquet file, or one of these as .gz."
    )


def test_hub_data_sets_are_asked_for_by_id_name_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[tuple[str, str | None, str]] = []

    def load_dataset(path: str, name: str | None, split: str) -> Dataset:
        requests.append((path, name, split))
        return Dataset.from_list([{"instruction": "Hi", "input": "", "output": "Hello"}])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read_rows(DataSource("tatsu-lab/alpaca")) == [Row((USER,), "Hello")]
    read_rows(DataSource("openai/gsm8k", name="main", split="test[:100]"))
    assert requests == [
        ("tatsu-lab/alpaca", None, "train"),
        ("openai/gsm8k", "main", "test[:100]"),
    ]


@pytest.mark.parametrize("held_out", [0, 1, 1.5, -0.2])
def test_a_share_outside_zero_and_one_is_an_error(held_out: float) -> None:
    with pytest.raises(UserError) as caught:
        DataSource("task.jsonl", held_out=held_out)
    message = f"task.jsonl: held_out is {held_out}. Give a number above 0, below 1, or a text."
    assert str(caught.value) == message


@pytest.mark.parametrize("limit", ["rows", "held_out_rows"])
def test_a_limit_below_one_is_an_error(limit: str) -> None:
    with pytest.raises(UserError, match=f"^task.jsonl: {limit} is 0. Give a whole number from 1 "):
        DataSource("task.jsonl", **{limit: 0})  # type: ignore[arg-type]


def test_reading_is_silent_leaves_no_cache_and_needs_no_torch(tmp_path: Path) -> None:
    write(tmp_path / "task.csv.gz", RECORDS)
    (tmp_path / "bad.jsonl").write_text("{")
    program = (
        "import sys, pathlib\n"
        "from trimtab.data.sources import read_rows\n"
        "from trimtab.config.data_source import DataSource\n"
        "from trimtab.errors import UserError\n"
        "read_rows(DataSource('task.csv.gz'))\n"
        "try: read_rows(DataSource('bad.jsonl'))\n"
        "except UserError: pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    home = tmp_path / "home"
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HOME": str(home),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert not list(home.rglob("*.arrow")) if home.exists() else True


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside the repository")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("alpaca-gpt4-demo.jsonl.gz", 999),
        ("code-alpaca-davinci003.jsonl.gz", 2015),
        ("commitpackft.jsonl.gz", 451),
        ("do-not-answer-gpt4.jsonl.gz", 939),
        ("gsm8k-test.jsonl.gz", 1319),
        ("mbpp.jsonl.gz", 974),
        ("orca-openai.jsonl.gz", 284),
    ],
)
def test_real_files_are_read_whole(name: str, count: int) -> None:
    assert len(read_rows(DataSource(name), SHARED)) == count


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside the repository")
def test_real_rows_labelled_harmful_are_left_out() -> None:
    source = DataSource("do-not-answer-gpt4.jsonl.gz", where={"harmful": 0})
    assert len(read_rows(source, SHARED)) == 939 - 23


@pytest.mark.parametrize("column", ["completion", "response"])
def test_an_answer_without_an_answer_is_not_made_of_the_prompt(column: str) -> None:
    row_of = shape_of({"prompt", column})
    assert row_of is not None
    assert row_of({"prompt": ASKED, column: []}).response == ""
    for answer, told in (
        ([turn("assistant", "2", weight=0)], "no assistant message to learn"),
        ([turn("user", "Three?")], "no assistant message. Add one"),
    ):
        with pytest.raises(BadRecordError, match=f"'{column}' has {told}"):
            row_of({"prompt": ASKED, column: answer})
    row = row_of({"prompt": ASKED, column: [turn("assistant", "2")]})
    assert (row.prompt[-1].content, row.response) == ("Two?", "2")


def test_an_input_that_no_instruction_takes_in_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "Translate.", "input": "bonjour", "response": "hello"}\n')
    named = {"prompt": "instruction", "input": "input"}
    with pytest.raises(UserError, match="'input', which is read after an instruction alone"):
        read_rows(DataSource(str(path), columns=named))
    with pytest.raises(UserError, match="'input', which is read after an instruction alone"):
        read_prompts(DataSource(str(path), columns=named))
    (row,) = read_rows(DataSource(str(path), columns={"output": "response", "input": "input"}))
    assert row == Row((Message("user", "Translate.\n\nbonjour"),), "hello")


def test_whole_conversations_of_preferences_are_named_as_messages(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"chosen": turns, "rejected": turns}) + "\n")
    with pytest.raises(UserError, match=r"\{messages: chosen\}.*--task-columns messages=chosen"):
        read_rows(DataSource(str(path)))
    (row,) = read_rows(DataSource(str(path), columns={"messages": "chosen"}))
    assert row == Row((Message("user", "Hi"),), "Hello")


@pytest.mark.parametrize("column", ["prompt", "messages", "conversations"])
def test_a_conversation_is_asked_again_from_before_its_answer(column: str, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({column: turns}) + "\n")
    assert read_prompts(DataSource(str(path))) == [(Message("user", "Hi"),)]


def test_a_long_number_is_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = 2**53
    path.write_text(
        "".join(
            json.dumps({"prompt": f"p{number}", "response": "r", "id": number}) + "\n"
            for number in range(first, first + 4)
        )
    )
    for place in range(4):
        (row,) = read_rows(DataSource(str(path), where={"id": str(first + place)}))
        assert row.prompt[0].content == f"p{first + place}"
    with pytest.raises(UserError):
        read_rows(DataSource(str(path), where={"id": f"{first + 9}"}))
    (row,) = read_rows(DataSource(str(path), where={"id": f"{first}.0"}))
    assert row.prompt[0].content == f"p{first}"


def test_what_a_prompt_alone_would_lose_is_told(tmp_path: Path) -> None:
    lines = [{"prompt": "Sum it up.", "context": f"Text {n}", "tools": []} for n in range(3)]
    warnings: list[str] = []
    read_prompts(DataSource(write(tmp_path / "p.jsonl", lines)), tmp_path, warnings.append)
    assert warnings == ["p.jsonl: 3 of 3 rows have column 'context', which is left out."]


def test_a_prompt_is_that_of_the_row(tmp_path: Path) -> None:
    record = {
        "instruction": "Add.",
        "input": "2 and 3",
        "output": "5",
        "prompt": "### Add. ### 2 and 3 ### Output: 5",
    }
    source = DataSource(write(tmp_path / "p.jsonl", [record]))
    warnings: list[str] = []
    (prompt,) = read_prompts(source, tmp_path, warnings.append)
    (row,) = read_rows(source, tmp_path, warnings.append)
    assert prompt == row.prompt
    assert warnings == []


def test_a_file_of_rows_has_one_shape_and_is_read_again(tmp_path: Path) -> None:
    question = Message("user", "Why?")
    rows = [
        Row((question,), "So."),
        Row((Message("system", "Be brief."), question), "Because", is_whole=False),
    ]
    as_chat = are_chats(row.prompt for row in rows)
    assert as_chat
    name = write(tmp_path / "rows.jsonl", [row.to_json(as_chat) for row in rows])
    assert read_rows(DataSource(name), tmp_path) == rows
    assert not are_chats(row.prompt for row in rows[:1])
    name = write(tmp_path / "rows.jsonl", [row.to_json(as_chat=False) for row in rows[:1]])
    assert read_rows(DataSource(name), tmp_path) == rows[:1]
