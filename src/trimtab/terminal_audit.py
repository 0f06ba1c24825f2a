"""What the terminal shows of an audit: its stages while it is made, and its numbers at the end."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from trimtab.report import audit_tables


class StageWatcher:
    """A progress bar for the stage at hand on a terminal; elsewhere warnings alone."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._stage = self.progress.add_task("reading data", total=None)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def warned(self, warning: str) -> None:
        self.console.print("[yellow]warning[/]", warning, markup=True, highlight=False)

    def doing(self, what: str, steps: int | None = None) -> None:
        self.progress.reset(self._stage, total=steps, description=what.replace("[", r"\["))

    def done(self, steps: int) -> None:
        self.progress.advance(self._stage, steps)


def print_audit(record: Mapping[str, Any], console: Console) -> None:
    """The tables of an audit and its forecast."""
    for title, given in audit_tables.tables(record).items():
        table = Table(
            title=title, title_justify="left", title_style="bold", box=None, pad_edge=False
        )
        for number, column in enumerate(given.columns):
            table.add_column(column, justify="right" if number >= given.names else "left")
        for row in given.rows:
            table.add_row(*(cell.replace("[", r"\[") for cell in row.cells))
        console.print(table)
        console.print(f"[dim]{given.caption.replace('[', chr(92) + '[')}[/]\n", highlight=False)
    console.print("[bold]Forecast[/] (an estimate, before any training)")
    for line in record["forecast"]["reasoning"]:
        console.print(f"• {line}", markup=False, highlight=False)
    console.print()
