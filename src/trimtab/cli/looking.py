"""Commands that look at points: report and bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(help="Where the points are.")]


def report(folder: Folder) -> None:
    """Draw figures and a page from points."""
    from rich.console import Console

    from trimtab.report import write_report
    from trimtab.terminal import findings_table

    written = write_report(folder)
    console = Console()
    if written.findings:
        console.print(findings_table(written.findings))
    for figure in written.figures:
        if figure.suffix == ".png":
            console.print(str(figure), highlight=False, soft_wrap=True)
    console.print(
        f"[bold]{written.page}[/]  ← open it in a browser", highlight=False, soft_wrap=True
    )
