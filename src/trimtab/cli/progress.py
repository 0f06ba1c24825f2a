"""What the terminal shows: progress while a sweep is made, and a summary at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from trimtab.analysis.labels import budget_in_words, change_in_words
from trimtab.config.grid import Plan
from trimtab.config.methods import DIAL, OWN, PLAIN
from trimtab.config.run_spec import RunSpec
from trimtab.errors import printable
from trimtab.report import Finding
from trimtab.report import tables as report_tables
from trimtab.results.metrics import Metrics, Role
from trimtab.results.result import Point
from trimtab.results.store import Failure
from trimtab.results.under_way import UnderWay
from trimtab.runner.status import Status

if TYPE_CHECKING:
    from trimtab.runner.cost import Cost

_MARKS = {"holds": "[green]✔ holds[/]", "does not hold": "[red]✘ does not hold[/]"}
_COLOURS = {"within": "green", "beyond": "red", "undecided": "yellow"}
_UNDECIDED = "[yellow]? {}[/]"


class ProgressBars:
    """Progress bars on a terminal, which warnings and results are printed above."""

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

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

    def stage_after(self, stage: TaskID, what: str, steps: int | None) -> TaskID:
        """The bar of a new stage in the place of one: reset, it would keep its number of steps."""
        self.progress.remove_task(stage)
        return self.progress.add_task(plain(what), total=steps, status="")

    def warned(self, warning: str) -> None:
        self.console.print(f"[yellow]warning[/] {plain(warning)}", highlight=False, soft_wrap=True)


class TerminalWatcher(ProgressBars):
    """The models and the steps of a sweep; elsewhere one line for each measured model."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, TimeRemainingColumn(), TextColumn("[dim]{task.fields[status]}"))
        self._models: TaskID = self.progress.add_task("models", total=None, status="")
        self._steps: TaskID = self.progress.add_task("loading", total=None, status="")
        self._done = self._all = 0
        self._changes = ""

    def planned(self, plan: Plan, left: Plan) -> None:
        self._all = len(plan.runs)
        self._done = self._all - len(left.runs)
        self.progress.update(self._models, total=self._all, completed=self._done)
        if 0 < len(left.specs) < len(plan.specs):
            made = len(plan.specs) - len(left.specs) - len(left.failed)
            failed = f", {len(left.failed)} failed before" if left.failed else ""
            self.console.print(
                f"Going on: {made} of {len(plan.specs)} points are there already{failed}."
            )

    def training(self, name: str, steps: int) -> None:
        self.doing(f"training {name}", steps)

    def doing(self, what: str, steps: int | None = None) -> None:
        self._steps = self.stage_after(self._steps, what, steps)
        self._changes = ""

    def stepped(self, steps: int) -> None:
        self.progress.update(self._steps, completed=steps)

    def logged(self, metrics: Metrics) -> None:
        changes = changes_so_far(metrics)
        if changes and self._all <= 1:  # of many models, what each became says enough
            self.console.print(
                f"[dim]step {metrics.step}/{metrics.of}[/] {plain(changes)} [dim]nats per token "
                "over the start[/]",
                highlight=False,
                soft_wrap=True,
            )
        self._changes = changes or self._changes
        loss = None if metrics.loss is None else f"loss {metrics.loss:.3f}"
        description = ", ".join(filter(None, (loss, self._changes)))
        self.progress.update(self._steps, status=plain(description))

    def measured(self, points: list[Point]) -> None:
        self._advance()
        point = points[0]
        self.console.print(
            f"[dim]{self._done:>3}/{self._all}[/] {plain(describe(point.spec))}: "
            f"{_losses(point)}{_last_setting_text(points)} "
            f"[dim](trained in {point.wall_seconds:.0f} s)[/]",
            highlight=False,
            soft_wrap=True,
        )
        if point.budget_verdict is not None:
            colour = _COLOURS[point.budget_verdict]
            verdict_text = plain(budget_in_words(point))
            self.console.print(f"[{colour}]{verdict_text}[/]", highlight=False, soft_wrap=True)

    def failed(self, failure: Failure) -> None:
        self._advance()
        self.console.print(
            f"[red]failed[/] {plain(describe(failure.spec))}: {plain(failure.reason)}",
            highlight=False,
            soft_wrap=True,
        )

    def _advance(self) -> None:
        self._done += 1
        self.progress.update(self._models, completed=self._done)


def describe(spec: RunSpec) -> str:
    """A model in a few words.

    >>> from trimtab.config.methods import CASE_1
    >>> describe(RunSpec(CASE_1, 0.3, "near", "code", 0))
    'Case I λ = 0.3 near → code, seed 0'
    """
    if spec.is_plain:
        return f"{PLAIN.title} → {spec.task}, seed {spec.seed}"
    data = f"{spec.proxy} → {spec.task}" if spec.method.reads_safety else f"→ {spec.task}"
    method = spec.method.short or spec.method.name
    return f"{method} {spec.label} {data}, seed {spec.seed}"


def changes_so_far(metrics: Metrics) -> str:
    """What a training has changed on held-out rows; empty where nothing was measured.

    >>> changes_so_far(Metrics(5, 10, 0.1, safety_loss_change=0.021, safety_loss_change_low=0.009,
    ...     safety_loss_change_high=0.033))
    'safety +0.021 [+0.009, +0.033]'
    """
    roles: tuple[Role, ...] = ("safety", "original", "task")
    changes = {role: metrics.change(role) for role in roles}
    return ", ".join(
        f"{role} {change_in_words(change)}" for role, change in changes.items() if change
    )


def plan_table(
    plan: Plan, left: Plan, cost: Cost, prompts: int = 0, again: str = "--retry"
) -> Table:
    """What a sweep would make, and what that costs; each model answers so many `prompts`.

    `again` is the option that tries again what failed.
    """
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("points", f"{len(plan.specs)}{_left_text(plan, left, again)}")
    if plan.aligned:
        table.add_row("", f"{len(plan.aligned)} of the starting model itself")
    methods = [spec.method for run in plan.runs for spec in run.specs]
    published = sum(method.name not in OWN for method in methods)
    for method in OWN.values():
        if count := methods.count(method):
            measured = "" if method is not DIAL else ", at each of its settings measured later"
            table.add_row("", f"{count} of {method.title}{measured}")
    if published:
        table.add_row("", f"{published} of published methods")
    shares = any(len(run.specs) > 1 and run.training.is_plain for run in plan.runs)
    note = " (points without a constraint share one)" if shares else ""
    table.add_row("trainings", f"{cost.trainings}{note}")
    table.add_row("tokens", f"{cost.train_tokens:,} to train on, padding not counted")
    table.add_row("memory", f"about {cost.memory / 2**30:.1f} GiB at the peak")
    table.add_row("time", f"about {_duration(cost.seconds)} on this machine (to a factor of 2)")
    if prompts:
        table.add_row("answers", f"{prompts} from each model, judged: not in this time and memory")
    return table


def _left_text(plan: Plan, left: Plan, again: str) -> str:
    """What of a plan is made, failed and still to be made; nothing is said where all is left."""
    planned, unmade, failed = len(plan.specs), len(left.specs), len(left.failed)
    if unmade == planned:
        return ""
    if failed:
        still = f", {unmade} still to be made" if unmade else ""
        return f": {planned - unmade - failed} made, {failed} failed ({again}){still}"
    if unmade == 0:
        return ", all of them made"
    return f", of which {unmade} {'is' if unmade == 1 else 'are'} still to be made"


def status_table(status: Status) -> Table:
    """How far a sweep is, with a line for each training that is under way or has failed."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    runs = len(status.done) + len(status.left) + len({run.name for run, _ in status.failed})
    waiting = len([run for run in status.left if run.name not in status.running])
    table.add_row("points", f"{status.points} of {status.planned} written")
    table.add_row("done", f"{len(status.done)} of {_counted(runs, 'training')}")
    for name, training in status.running.items():
        table.add_row("running", f"{plain(name)}: {_where(training)}")
    for name, training in status.stopped.items():
        table.add_row("stopped", f"{plain(name)}: {_where(training)}")
    for run, failure in status.failed:
        table.add_row("failed", f"{plain(describe(failure.spec))}: {plain(failure.reason)}")
        assert failure.spec in run.specs
    continuation = (
        "" if status.is_being_made or not waiting else "; the same command goes on with them"
    )
    table.add_row("left", f"{_counted(waiting, 'training')}{continuation}")
    return table


def _where(training: UnderWay) -> str:
    return (
        f"step {training.steps} of {training.of}, process {training.process} on "
        f"{plain(training.host)}, since {training.since}"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def findings_table(findings: Sequence[Finding]) -> Table:
    """Each finding of the paper with its verdict and the numbers behind it."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        mark = _MARKS.get(finding.verdict, _UNDECIDED.format(finding.verdict))
        table.add_row(mark, f"{plain(finding.statement)}\n[dim]{plain(finding.evidence)}[/]")
    return table


def words_table(report_table: report_tables.Table, title: str | None = None) -> Table:
    """A table of the report on the terminal, under its caption or a bold title.

    A row that is an alarm is red.
    """
    table = Table(
        title=plain(title or report_table.caption),
        title_style="bold" if title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    for place, column in enumerate(report_table.columns):
        is_number = place >= report_table.names
        table.add_column(plain(column), justify="right" if is_number else "left", no_wrap=is_number)
    for row in report_table.rows:
        table.add_row(*map(plain, row.cells), style="bold red" if row.is_alarm else None)
    return table


def _last_setting_text(points: Sequence[Point]) -> str:
    """The last of a dial's settings, where the first is told already."""
    if points[0].method is not DIAL or len(points) < 2:
        return ""
    return f"; {points[-1].spec.label}: {_losses(points[-1])}"


def _losses(point: Point) -> str:
    losses = {
        "safety": point.alignment_loss or point.proxy_loss,
        "task": point.capability_loss,
    }
    loss_texts = [f"{name} {loss.value:.3f}" for name, loss in losses.items() if loss is not None]
    return f"{', '.join(loss_texts)} nats per token"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_page(page: Path, console: Console) -> None:
    """Name a page that was written."""
    console.print(
        f"[bold]{plain(str(page))}[/]  ← open it in a browser", highlight=False, soft_wrap=True
    )


def output_console() -> Console:
    """Standard output: a pipe has no width of its own, and no table may be folded there."""
    console = Console()
    has_width = console.is_terminal or "COLUMNS" in os.environ
    return console if has_width else Console(width=240)


def plain(text: str) -> str:
    r"""Text in which rich finds no markup, and a terminal nothing that steers it.

    >>> print(plain("[red]x[/red]\x1b[31m"))
    \[red]x\[/red]\x1b[31m
    """
    return escape(printable(text))
