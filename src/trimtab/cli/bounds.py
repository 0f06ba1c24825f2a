"""trimtab bounds."""

from __future__ import annotations

from typing import Annotated

import typer

from trimtab.cli.options import Folder
from trimtab.errors import UserError


def bounds(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Print the paper's four bounds on both losses (arXiv 2503.20807) beside what was measured."""
    import json

    from trimtab.analysis.bounds import bounds_beside
    from trimtab.analysis.results import read_results
    from trimtab.cli.progress import output_console, words_table
    from trimtab.report.tables import bounds_in_short

    results = read_results(folder)
    checks = bounds_beside(results.points, results.world, results.landscape, results.rows)
    if as_json:
        print(json.dumps([check.to_json() for check in checks], indent=1))
        return
    if not checks:
        raise UserError(
            f"{folder}: no theorem speaks to these points. Theorems 1 and 2 need models trained "
            "under an alignment loss constraint with a penalty above 0; Theorems 3 and 4 models "
            "under an alignment parameter constraint, and measure: {landscape_rows: 100} in the "
            "experiment."
        )
    console = output_console()
    for table in bounds_in_short(checks):
        console.print(words_table(table), "", highlight=False)
    console.print(
        "Theorems 1, 2 and 4 speak of the optimum of an objective: a model measured above them (a "
        "negative slack) has not reached it. Each one's terms are in the report's page and in "
        "--json. Theorem 3 speaks of every model at the distance reached, by slope and curvature "
        "at the aligned model: an estimate. With an adapter they are those of one draw of its "
        "directions, which a trained one leaves, so that the slope may be too small."
    )
