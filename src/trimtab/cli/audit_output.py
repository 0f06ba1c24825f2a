"""What the terminal shows of an audit: its stages while it is made, and its numbers at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from trimtab.audit.in_short import in_short
from trimtab.audit.result import AuditResult
from trimtab.cli.progress import ProgressBars, plain, words_table
from trimtab.report import audit_tables


class StageWatcher(ProgressBars):
    """The stage of an audit at hand; elsewhere one line for each stage."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._stage = self.progress.add_task("reading data", total=None)
        self._last_stage = ""

    def doing(self, what: str, steps: int | None = None) -> None:
        self._stage = self.stage_after(self._stage, what, steps)
        if not self.console.is_terminal and what != self._last_stage:
            self.console.print(plain(what), highlight=False, soft_wrap=True)
            self._last_stage = what

    def stepped(self, steps: int) -> None:
        self.progress.update(self._stage, completed=steps)


@contextmanager
def watched_stages(goes_on: bool) -> Iterator[StageWatcher]:
    """Someone who looks on at an audit; an interruption says whether what is done is kept."""
    try:
        with StageWatcher(Console(stderr=True)) as watcher:
            yield watcher
    except KeyboardInterrupt:
        raise KeyboardInterrupt("" if goes_on else "Give --out to keep what is done.") from None


def print_audit(result: AuditResult, console: Console) -> None:
    """The tables of an audit and its forecast."""
    for title, table in audit_tables.tables(result).items():
        console.print(words_table(table, title))
        console.print(f"[dim]{plain(table.caption)}[/]\n", highlight=False)
    console.print("[bold]Forecast[/] (an estimate, before any training)")
    for line in result.forecast.reasoning:
        console.print(f"• {plain(line)}", highlight=False)
    short = in_short(result)
    for title, lines in (("Expect", short.expected), ("Not known before training", short.untold)):
        if lines:
            console.print(f"\n[bold]{title}[/]")
        for line in lines:
            console.print(f"• {plain(line)}", highlight=False)
    console.print()
