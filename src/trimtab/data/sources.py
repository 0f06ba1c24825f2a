"""A data source becomes rows, or one line that says which row to mend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from warnings import warn

from trimtab.config.data_source import DataSource
from trimtab.data.files import read_records
from trimtab.data.rows import Message, Row
from trimtab.data.shapes import (
    FIELDS,
    SHAPES,
    BadRecordError,
    Record,
    left_out,
    prompt_shape_of,
    refuse_preferences,
    shape_of,
)
from trimtab.errors import UserError


def read_rows(
    source: DataSource, data_root: Path | None = None, warning: Callable[[str], None] = warn
) -> list[Row]:
    """Every row of `source` that its `where` keeps, in the file's order.

    Relative paths start at `data_root`, the working folder when None. Rows that `drop_empty` leaves
    out are counted in a line given to `warning`. Row numbers count records from 1.

    Raises:
        UserError: the source cannot be read, has no rows, has columns of no known shape, or a row
            lacks text; says where and how to mend it.
    """
    records = read_records(source, data_root)
    unknown = (
        f"make no known shape. Known are: {SHAPES}. Rename them, or say which is which: "
        "columns: {prompt: question} in an experiment's file, --task-columns prompt=question in a "
        "command."
    )
    if records and {"chosen", "rejected"} <= records[0].keys():
        is_whole = isinstance(records[0]["chosen"], list) and "prompt" not in records[0]
        in_file = "{messages: chosen}" if is_whole else "{prompt: …, response: chosen}"
        option = "messages=chosen" if is_whole else "response=chosen"
        unknown = (
            f"are of preferences. Say what is to be learned: columns: {in_file} in an experiment's "
            f"file, --task-columns {option} in a command."
        )
    elif records and records[0].keys() & {"text"}:
        unknown = (
            "do not say where the answer begins. Give a file that has prompt and answer apart: "
            f"{SHAPES}."
        )
    return _answered(source, _rows_by_number(source, records, shape_of, unknown, warning), warning)


def read_prompts(
    source: DataSource, data_root: Path | None = None, warning: Callable[[str], None] = warn
) -> list[tuple[Message, ...]]:
    """The prompts of `source`, each once and in the file's order; responses are not asked for.

    A conversation is asked up to its last message, or to the one before where that answers.

    Raises:
        UserError: the source cannot be read, or has no prompts.
    """
    records = read_records(source, data_root)
    unknown = (
        "hold no prompt. Give a column prompt, or say which it is, as in columns: "
        "{prompt: question}."
    )
    rows = _rows_by_number(source, records, prompt_shape_of, unknown, warning)
    return list(dict.fromkeys(row.prompt for row in rows.values()))


def _rows_by_number(
    source: DataSource,
    records: list[dict[str, Any]],
    shape: Callable[[Collection[str], Collection[str]], Callable[[Record], Row] | None],
    unknown: str,
    warning: Callable[[str], None],
) -> dict[int, Row]:
    """The rows that `where` keeps; `unknown` ends the line on columns of no known shape."""
    if not records:
        raise UserError(f"{source.path}: the file has no rows. Give one that has.")
    _check_columns(source, list(records[0]))
    renamed = [_renamed(record, source.columns) for record in records]
    try:
        row_of = shape(renamed[0], source.columns)
    except BadRecordError as error:
        raise UserError(f"{source.path}: {error}") from None
    if row_of is None:
        raise UserError(f"{source.path}: columns {', '.join(records[0])} {unknown}")
    places = [place for place, record in enumerate(records) if _is_kept(record, source.where)]
    if not places:
        raise UserError(
            f"{source.path}: where keeps none of the {len(records)} rows. Asked for "
            f"{_conditions_text(source.where)}; found {_values_text(records, source.where)}."
        )
    _tell_values_without_rows(source, records, warning)
    named_columns, is_asked = {*source.columns.values(), *source.where}, shape is prompt_shape_of
    rows: dict[int, Row] = {}
    more: Counter[str] = Counter()
    for place in places:
        try:
            rows[place + 1] = row_of(renamed[place])
            if not is_asked:
                refuse_preferences(renamed[place], source.columns, source.where)
            more.update(set(left_out(renamed[place], named_columns, is_asked=is_asked)))
        except BadRecordError as error:
            raise UserError(f"{source.path} row {place + 1}: {error}") from None
    for description, count in sorted(more.items()):
        warning(
            f"{source.path}: {count} of {len(places)} rows have {description}, which is left out."
        )
    return rows


def _tell_values_without_rows(
    source: DataSource, records: list[dict[str, Any]], warning: Callable[[str], None]
) -> None:
    for column, values in source.where.items():
        for value in _listed(values):
            if not any(_matches(record[column], value) for record in records):
                spelled = " Put yes, no, on and off in quotes." if isinstance(value, bool) else ""
                warning(
                    f"{source.path}: where asks for {column} {_value_text(value)}, which no row has"
                    f"; found {_values_text(records, {column: values})}.{spelled}"
                )


def _answered(
    source: DataSource, rows: dict[int, Row], warning: Callable[[str], None]
) -> list[Row]:
    empty = [number for number, row in rows.items() if not row.response.strip()]
    if len(empty) == len(rows):
        raise UserError(
            f"{source.path} row {empty[0]}: the response is empty, as in every row. "
            "Give a file with responses, or say which column holds them, as in "
            "columns: {response: answer}."
        )
    if empty and not source.drop_empty:
        raise UserError(
            f"{source.path} row {empty[0]}: the response is empty, as in {len(empty)} of "
            f"{len(rows)} rows. Remove such rows, or set drop_empty: true to leave them out (of "
            "the data set in an experiment's file, which trimtab init writes)."
        )
    if empty:
        warning(
            f"{source.path}: {len(empty)} of {len(rows)} rows have an empty response and are "
            "left out."
        )
    return [row for row in rows.values() if row.response.strip()]


def _check_columns(source: DataSource, record_columns: list[str]) -> None:
    for meant in source.columns:
        if meant not in FIELDS:
            raise UserError(
                f"{source.path}: columns names {meant!r}. Give one of {', '.join(FIELDS)}."
            )
    for option, columns in (("columns", source.columns.values()), ("where", source.where)):
        for column in columns:
            if column not in record_columns:
                raise UserError(
                    f"{source.path}: {option} names the column {column!r}, which is not there. "
                    f"Columns are {', '.join(record_columns)}."
                )


def _renamed(record: Record, columns: dict[str, str]) -> Record:
    return {**record, **{meant: record[column] for meant, column in columns.items()}}


def _is_kept(record: Record, where: dict[str, Any]) -> bool:
    return all(
        any(_matches(record[column], value) for value in _listed(values))
        for column, values in where.items()
    )


def _matches(value: object, expected: object) -> bool:
    if value is None or expected is None or isinstance(value, list | dict):
        return value == expected
    if isinstance(value, bool) or isinstance(expected, bool):
        # YAML, JSON and CSV files each spell truth in their own way.
        return value == expected or str(value).lower() == str(expected).lower()
    if isinstance(value, int | float) and isinstance(expected, str):
        try:  # a whole number is compared as one: as a float it may be another's neighbour
            is_whole = isinstance(value, int) and expected.strip().lstrip("+-").isdigit()
            return (int(expected) if is_whole else float(expected)) == value
        except ValueError:
            return False
    # A CSV file holds text alone, so {harmful: 0} must also find "0".
    return value == expected or str(value) == str(expected)


def _value_text(value: object) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    return "null" if value is None else str(value)


def _listed(values: object) -> list[object]:
    return values if isinstance(values, list) else [values]


def _conditions_text(where: dict[str, Any]) -> str:
    return " and ".join(
        f"{column} {' or '.join(map(_value_text, _listed(values)))}"
        for column, values in where.items()
    )


def _values_text(records: list[dict[str, Any]], where: dict[str, Any]) -> str:
    distinct = {
        column: list(dict.fromkeys(_value_text(record[column]) for record in records))
        for column in where
    }
    return "; ".join(
        f"{column} {', '.join(values[:5])}{', …' if len(values) > 5 else ''}"
        for column, values in distinct.items()
    )
