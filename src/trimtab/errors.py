"""The one exception for mistakes a user can mend, and what a person is told of any error."""

from __future__ import annotations

import errno
import re
import unicodedata
from collections.abc import Iterator

_HINTS = {
    errno.ENOSPC: "Make room on the disk, or give a folder on another; the same command goes on",
    errno.EFBIG: "Give a folder where larger files may be written",
    errno.EDQUOT: "Make room in the quota, or give a folder on another disk",
    errno.EROFS: "Give a folder that can be written to",
    errno.EACCES: "Change its permissions, or give another path",
    errno.EPERM: "Change its permissions, or give another path",
    errno.ENOENT: "Check the path",
    errno.EISDIR: "Give a file",
    errno.ENOTDIR: "A file is where a folder would be: give another path",
    errno.EEXIST: "Give another path, or remove what is there",
    errno.ENAMETOOLONG: "Give a shorter path",
}
# How what is written in Rust or C++ tells of the same.
_DISK = re.compile(
    r"os error \d+|No space left|File too large|PytorchStreamWriter|inline_container"
)

# Marks that reorder the text after them.
_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


class UserError(Exception):
    """What is wrong, where it is and how to mend it, in one line.

    Raised anywhere, caught in `trimtab.cli` alone, which prints the line and exits with status 2.

    >>> str(UserError("task.jsonl line 17: 'response' is empty. Remove the row."))
    "task.jsonl line 17: 'response' is empty. Remove the row."
    """


def printable(text: str, keep: str = "") -> str:
    r"""Text that neither steers a terminal nor breaks its line: such characters as escapes.

    What `keep` holds stays, as line breaks do in a page.

    >>> print(printable("a\x1b[31mb\nc \u202e"))
    a\x1b[31mb\nc \u202e
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if _steers(character) and character not in keep
        else character
        for character in text
    )


def _steers(character: str) -> bool:
    if character.isprintable():
        return False
    turns = unicodedata.bidirectional(character) in _TURNS
    return turns or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def reason_of(error: BaseException) -> str:
    """The first line of what a library says, or its error's kind where it says nothing."""
    return (
        next((line.strip() for line in str(error).splitlines() if line.strip()), "").rstrip(".:")
        or type(error).__name__
    )


def mistake(error: Exception) -> str | None:
    """What a user is told of an error, in one line; None where the error is the program's own.

    A mistake is a `UserError`, or what the operating system refused: a path, a disk, memory.
    """
    if isinstance(error, UserError):
        return printable(str(error))
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno is not None:
            hint = _HINTS.get(cause.errno, "Check the path and the disk")
            place = f"{_name(cause.filename)}: " if cause.filename is not None else ""
            return printable(f"{place}{cause.strerror}. {hint}.")
        if isinstance(cause, UnicodeEncodeError) and cause.reason == "surrogates not allowed":
            return printable(f"{_around(cause)} is not Unicode text. Rename it.")
        if isinstance(cause, UnicodeDecodeError):
            near = cause.object[max(0, cause.start - 20) : cause.end + 20]
            return f"a file that was read is not UTF-8 text (near {near!r}). Restore it."
        if isinstance(cause, ValueError) and "null byte" in str(cause):
            return "a path holds a NUL character. Give one without."
        if isinstance(cause, MemoryError):
            return "out of memory. Give fewer or shorter rows, or a smaller model."
        if type(cause).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            return (
                "the device is out of memory. Give a smaller batch_size or tokens_per_batch, or "
                "set gradient_checkpointing: true."
            )
        if not isinstance(cause, OSError) and _DISK.search(str(cause)):
            return printable(f"{reason_of(cause)}. {_HINTS[errno.ENOSPC]}.")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _name(filename: object) -> str:
    return filename.decode(errors="replace") if isinstance(filename, bytes) else str(filename)


def _around(error: UnicodeEncodeError) -> str:
    return repr(error.object[max(0, error.start - 40) : error.end + 40])
