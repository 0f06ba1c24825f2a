"""What a task of one's own is made of: its files here, known by their content."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from trimtab.results.checksums import digest_of, sha256_of

_KINDS = (".yaml", ".yml", ".py", ".json", ".jsonl", ".csv")
_TEXTS = (".yaml", ".yml", ".py")


def task_digest(place: Path | None) -> str:
    """A hash of the files of a task, empty where it has none here.

    A folder is all of its files that may say or hold a task. A file is that file, with those beside
    it that it names, and those that they name: what it includes, imports or reads.

    Args:
        place: a file or a folder.
    """
    if place is None or not place.exists():
        return ""
    root = place if place.is_dir() else place.parent
    files = sorted(_fit(place.rglob("*"))) if place.is_dir() else sorted(_named_from(place))
    lines = (f"{sha256_of(file)}  {file.relative_to(root).as_posix()}\n" for file in files)
    return digest_of("".join(lines))


def _named_from(start: Path) -> list[Path]:
    files = [start]
    beside = sorted(_fit(start.parent.iterdir()))
    for file in files:  # which grows as it is read
        text = file.read_text(encoding="utf-8", errors="replace") if _is_text(file) else ""
        files += [
            other
            for other in beside
            if other not in files and re.search(rf"\b{re.escape(other.stem)}\b", text)
        ]
    return files


def _fit(paths: Iterator[Path]) -> Iterator[Path]:
    return (path for path in paths if path.suffix in _KINDS and path.is_file())


def _is_text(path: Path) -> bool:
    return path.suffix in _TEXTS
