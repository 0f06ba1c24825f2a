"""Commands that look at points: report and bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.errors import UserError

Folder = Annotated[Path, typer.Argument(help="Where the points are.")]


def report(folder: Folder) -> None:
    """Draw figures and a page from points, an audit or both."""
    from rich.console import Console

    from trimtab.audit.result import AUDIT_FILE
    from trimtab.cli.progress import findings_table, plain, print_page
    from trimtab.report import write_report
    from trimtab.report.audit_page import write_audit_page
    from trimtab.results.store import POINTS_FILE

    console = Console()
    if (folder / AUDIT_FILE).exists():
        page = write_audit_page(folder)
        if not (folder / POINTS_FILE).exists():
            print_page(page, console)
            return
    written = write_report(folder)
    if written.findings:
        console.print(findings_table(written.findings))
    for figure in written.figures:
        if figure.suffix == ".png":
            console.print(plain(str(figure)), highlight=False, soft_wrap=True)
    print_page(written.page, console)


def bounds(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Print each theorem beside what was measured."""
    import json

    from rich.console import Console

    from trimtab.analysis.bounds import bounds_beside
    from trimtab.analysis.results import read_results
    from trimtab.cli.progress import words_table
    from trimtab.report.tables import bounds_tables

    results = read_results(folder)
    found = bounds_beside(results.points, results.world, results.landscape)
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=1))
        return
    if not found:
        raise UserError(
            f"{folder}: no theorem speaks to these points. Theorems 1 and 2 need models trained "
            "under an alignment loss constraint with a penalty above 0; Theorems 3 and 4 models "
            "under an alignment parameter constraint, and measure: {landscape_rows: 100} in the "
            "experiment."
        )
    console = Console()
    for table in bounds_tables(found):
        console.print(words_table(table), "", highlight=False)
    console.print(
        "Theorems 1, 2 and 4 speak of the optimum of an objective: a negative slack is a trained "
        "model that has not reached it. Theorem 3 speaks of every model at the distance reached; "
        "its curvature is that at the aligned model, so it is an estimate."
    )
