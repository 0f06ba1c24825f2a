"""trimtab export."""

from __future__ import annotations

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
    csv: Annotated[bool, typer.Option("--csv", help="As CSV, the default.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON, a list of records.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; printed where none is given.")
    ] = None,
) -> None:
    """Print every measured model as a row of a table, for other programs."""
    from trimtab.analysis.results import read_results
    from trimtab.results.files import write_atomically

    if csv and json:
        raise UserError("--csv and --json are given. Give one of them.")
    results = read_results(folder)
    text = _json(results) if json else _csv(results)
    if out is None:
        print(text, end="")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text)
    say(f"{len(results.points)} rows are in {out}.")


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
