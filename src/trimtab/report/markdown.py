"""Tables in Markdown, and the place that a page keeps for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from trimtab.errors import UserError
from trimtab.results.files import write_atomically


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """One line for the columns' names, one for each row; a `|` in a cell does not end it.

    >>> print(markdown_table(("λ", "gap"), [("1", "0.2")]))
    | λ | gap |
    |---|---|
    | 1 | 0.2 |
    """
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in (columns, *rows))
    names, *lines = (f"| {' | '.join(row)} |" for row in escaped)
    return "\n".join([names, "|---" * len(columns) + "|", *lines])


def replace_between(page: Path, name: str, text: str) -> None:
    """Put `text` between the page's `<!-- name -->` and `<!-- end of name -->`.

    Raises:
        UserError: the page has no such marks.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, begin_found, after_begin = page.read_text(encoding="utf-8").partition(begin)
    _, end_found, after = after_begin.partition(end)
    if not (begin_found and end_found):
        raise UserError(f"{page}: no {begin} with {end} after it. Put both where {name} belongs.")
    write_atomically(page, f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")
