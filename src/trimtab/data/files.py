"""A file or a Hub id becomes records, each value as it was written."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
from datasets import Dataset
from pyarrow import parquet

from trimtab.config.data_source import DataSource
from trimtab.errors import UserError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

UNPACKED_FREELY = 64 << 20
"""In bytes: a .gz file may unpack to these, however small it is."""
MOST_UNPACKED = 100
"""Beyond that, to at most so many times its size: text does not pack better."""

_KNOWN = "a .jsonl, .json, .csv or .parquet file, or one of these as .gz"


def on_hub(path: str, data_root: Path | None = None) -> bool:
    """Whether `path` is a Hub id: no such file exists, and it does not look like one either.

    >>> on_hub("tatsu-lab/alpaca"), on_hub("tasks/code.jsonl.gz")
    (True, False)
    """
    looks_local = path.startswith(("/", ".", "~")) or _suffix(Path(path)) in SUFFIXES
    return not looks_local and not local_path(path, data_root).exists()


def local_path(path: str, data_root: Path | None = None) -> Path:
    """The file that `path` means: relative paths start at `data_root`, ~ is the home folder."""
    return (data_root or Path()) / Path(path).expanduser()


def require_files(
    paths: Iterable[tuple[str, str]],
    data_root: Path | None = None,
    folders: Sequence[tuple[str, str]] = (),
) -> None:
    """Raises MissingFilesError where paths are not there, with all of them.

    Args:
        paths: whose path it is, as an option's or a data set's name, and the path; Hub ids pass.
        folders: the same of folders, which start at the working folder.
    """
    lacking = [
        *((owner, path, Path(path)) for owner, path in folders if not Path(path).exists()),
        *(
            (owner, path, local_path(path, data_root))
            for owner, path in paths
            if not on_hub(path, data_root) and not local_path(path, data_root).exists()
        ),
    ]
    if len(lacking) == 1:
        ((owner, path, file),) = lacking
        kind = "folder" if lacking[0][:2] in folders else "file"
        raise MissingFilesError(f"{owner} {path}: no such {kind}.{_suggestion(file)}")
    if lacking:
        missing_text = "; ".join(
            f"{owner} {path}"
            + (f" (did you mean {nearest}?)" if (nearest := _nearest(file)) else "")
            for owner, path, file in lacking
        )
        sought = ", ".join(dict.fromkeys(str(file.parent.absolute()) for *_, file in lacking))
        raise MissingFilesError(
            f"not there: {missing_text}. Check the names; they were sought in {sought}."
        )


class MissingFilesError(UserError):
    """Files of data are not where they were sought."""


def read_records(source: DataSource, data_root: Path | None = None) -> list[dict[str, Any]]:
    """The records of `source` in their order, every one with the same columns.

    Relative paths start at `data_root`, the working folder when None. A file is read afresh each
    time and leaves nothing in a cache; a Hub data set is kept where `datasets` keeps it.

    Raises:
        UserError: nothing is there, or it cannot be read; says where and how to mend it.
    """
    with _quiet():
        if on_hub(source.path, data_root):
            return _hub_records(source)
        if source.split or source.name:
            raise UserError(
                f"{source.path}: split and name are for data sets on the Hub. "
                "To choose rows of a file by a column write where, as in {split: train}."
            )
        return _file_records(
            source.path, _existing(source.path, local_path(source.path, data_root))
        )


def _hub_records(source: DataSource) -> list[dict[str, Any]]:
    split = source.split or "train"
    try:
        return list(datasets.load_dataset(source.path, source.name, split=split))
    # The Hub fails in many ways, none under a common class.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"{source.path}: no such file, and the Hugging Face Hub does not give its split "
            f"{split!r} ({reason}). Check the id, split and name, and that this machine reaches "
            f"the Hub; or give {_KNOWN}."
        ) from error


def _file_records(path: str, file: Path) -> list[dict[str, Any]]:
    with TemporaryDirectory(prefix="trimtab-") as scratch:
        if file.suffix == ".gz":
            file = _unpacked(path, file, Path(scratch))
        match file.suffix:
            case ".csv":
                return _csv_records(path, file)
            case ".parquet":
                return _parquet_records(path, file, scratch)
            case _:
                return _json_records(path, file)


def _csv_records(path: str, file: Path) -> list[dict[str, Any]]:
    """Every field as text: a response "7" stays "7", and "NA" stays "NA"."""
    csv.field_size_limit(2**31 - 1)
    # Strict: a quote that is never closed, or has text behind it, must not change a field.
    lines = csv.reader(StringIO(_text(path, file), newline=""), strict=True)
    records: list[dict[str, Any]] = []
    try:
        columns = [name or f"Unnamed: {place}" for place, name in enumerate(next(lines, []))]
        repeated = sorted({name for name in columns if columns.count(name) > 1})
        if repeated:
            raise UserError(f"{path} line 1: two columns are named {repeated[0]!r}. Rename one.")
        for fields in filter(None, lines):
            if len(fields) != len(columns):
                raise UserError(
                    f"{path} line {lines.line_num}: {len(fields)} fields, but the header names "
                    f"{len(columns)}. Put quotes around a field that holds a comma or a line break."
                )
            records.append(dict(zip(columns, fields, strict=True)))
    except csv.Error as error:
        raise UserError(
            f"{path} line {lines.line_num}: not valid CSV ({error}). Close every quote, and write "
            'a quote inside a field as "".'
        ) from None
    return records


def _parquet_records(path: str, file: Path, scratch: str) -> list[dict[str, Any]]:
    try:
        rows = parquet.read_metadata(file).num_rows
        if not rows:
            return []
        if rows > max(1_000_000, file.stat().st_size):
            raise UserError(
                f"{path}: {rows:,} rows in {file.stat().st_size:,} bytes, as rows of text do not "
                "pack. Write it again."
            )
        return list(Dataset.from_parquet(str(file), cache_dir=scratch, keep_in_memory=True))
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        reason = str(error.__cause__ or error).splitlines()[0].rstrip(".")
        raise UserError(
            f"{path}: not a Parquet file ({reason}). Write it again, or mend its suffix."
        ) from error


def _json_records(path: str, file: Path) -> list[dict[str, Any]]:
    """Every row parsed for itself, so that none is read as another's type would have it."""
    text = _text(path, file)
    if text.lstrip().startswith("["):
        numbered = list(enumerate(_parsed(path, text, 1), start=1))
        unit = "row"
    elif file.suffix == ".json":
        numbered = list(enumerate(_parsed_in_turn(path, text), start=1))
        unit = "row"
    else:
        lines = enumerate(_LINE_END.split(text), start=1)
        numbered = [(number, _parsed(path, line, number)) for number, line in lines if line.strip()]
        unit = "line"
    for number, record in numbered:
        if not isinstance(record, dict):
            raise UserError(
                f"{path} {unit} {number}: not a JSON object. Write each row as "
                '{"prompt": "...", "response": "..."}, or remove it.'
            )
    columns = dict.fromkeys(column for _, record in numbered for column in record)
    return [{**dict.fromkeys(columns), **record} for _, record in numbered]


def _parsed(path: str, text: str, line: int) -> Any:
    with _named_line(path, text, line):
        return _DECODER.decode(text)


def _parsed_in_turn(path: str, text: str) -> Iterator[Any]:
    """The values of a file that holds one or several, each over as many lines as it likes."""
    place = 0
    while beginning := _BLACK.search(text, place):
        place = beginning.start()
        with _named_line(path, text, 1, place):
            value, place = _DECODER.raw_decode(text, place)
        yield value


@contextmanager
def _named_line(path: str, text: str, line: int, place: int = 0) -> Iterator[None]:
    try:
        yield
        return
    except json.JSONDecodeError as error:
        line += error.lineno - 1
        reason = f"not valid JSON ({error.msg} at column {error.colno})"
    except RecursionError:
        line += text.count("\n", 0, place)
        reason = "lists or objects too deep in one another"
    # A number of thousands of digits, which Python refuses to read, or a name given twice.
    except ValueError as error:
        line += text.count("\n", 0, place)
        reason = f"not valid JSON ({str(error).split(';')[0]})"
    raise UserError(f"{path} line {line}: {reason}. Mend the line, or remove it.")


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_each_name_once)
_BLACK = re.compile(r"\S")
_LINE_END = re.compile("\r\n|\r|\n")


def _text(path: str, file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path} line {line}: not UTF-8 text. Save the file as UTF-8.") from None


def _unpacked(path: str, file: Path, folder: Path) -> Path:
    unpacked = folder / file.stem
    try:
        most = max(UNPACKED_FREELY, MOST_UNPACKED * file.stat().st_size)
        with gzip.open(file) as packed, unpacked.open("wb") as plain:
            while block := packed.read(1 << 20):
                if plain.tell() + len(block) > most:
                    raise UserError(
                        f"{path}: unpacks to more than {MOST_UNPACKED} times its size, as text "
                        "does not. Unpack it by hand, if it is what you mean."
                    )
                plain.write(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: not a whole gzip file ({error}). Copy or download it again."
        ) from error
    return unpacked


def _suffix(file: Path) -> str:
    return Path(file.stem).suffix if file.suffix == ".gz" else file.suffix


def _existing(path: str, file: Path) -> Path:
    if file.is_dir():
        raise UserError(f"{path}: this is a folder. Give {_KNOWN}.")
    if not file.exists():
        raise UserError(f"{path}: no such file.{_suggestion(file)}")
    if not file.is_file():
        raise UserError(f"{path}: this is a device or a pipe. Give {_KNOWN}.")
    if _suffix(file) not in SUFFIXES:
        raise UserError(f"{path}: cannot tell its format from its name. Give {_KNOWN}.")
    return file


def _suggestion(missing: Path) -> str:
    folder = missing.parent.absolute()  # "." would be read as the line's end
    if not folder.is_dir():
        return f" Nor is there a folder {folder}."
    nearest = _nearest(missing)
    return (
        f" Did you mean {nearest}?" if nearest else f" Check the name; it was sought in {folder}."
    )


def _nearest(missing: Path) -> str | None:
    folder = missing.parent.absolute()
    if not folder.is_dir():
        return None
    names = sorted(entry.name for entry in folder.iterdir())
    return next(iter(get_close_matches(missing.name, names, n=1)), None)


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(library) for library in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
