"""trimtab export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.command import say
from trimtab.cli.options import Folder
from trimtab.errors import UserError

if TYPE_CHECKING:
    from trimtab.analysis.results import Results


def export(
    folder: Folder,
    csv: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write CSV to this file; - prints it.")
    ] = None,
    json: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write JSON to this file; - prints it.")
    ] = None,
) -> None:
    """Write every measured model as a row of a table, for other programs."""
    from trimtab.analysis.results import read_results

    targets: list[tuple[str | None, Callable[[Results], str]]] = [(csv, _csv), (json, _json)]
    if csv is None and json is None:
        raise UserError("nothing says how to write it. Give --csv FILE or --json FILE; - prints.")
    if csv == json == "-":
        raise UserError("--csv and --json would print into each other. Give one of them a file.")
    results = read_results(folder)
    for target, text_of in targets:
        if target is not None:
            _write(target, text_of(results), len(results.points))


def _csv(results: Results) -> str:
    return str(results.frame().to_csv(index=False))


def _json(results: Results) -> str:
    """A list of records; JSON has no infinity, so an infinite value is the text "inf"."""
    import json
    import math

    records = [
        {name: "inf" if value == math.inf else value for name, value in record.items()}
        for record in results.records()
    ]
    return json.dumps(records, indent=1) + "\n"


def _write(target: str, text: str, rows: int) -> None:
    from trimtab.results.files import write_atomically

    if target == "-":
        print(text, end="")
        return
    write_atomically(Path(target), text)
    say(f"{rows} rows are in {target}.")
