"""Every command by its name."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trimtab import __version__
from trimtab.cli.audit import audit
from trimtab.cli.bounds import bounds
from trimtab.cli.command import Command, command, say
from trimtab.cli.compare import compare
from trimtab.cli.demo import demo
from trimtab.cli.dial import dial
from trimtab.cli.evaluate import evaluate
from trimtab.cli.export import export
from trimtab.cli.init import init
from trimtab.cli.judge import judge
from trimtab.cli.proxy import proxy
from trimtab.cli.repair import repair
from trimtab.cli.report import report
from trimtab.cli.status import status
from trimtab.cli.suggest import suggest
from trimtab.cli.sweep import sweep
from trimtab.cli.train import train
from trimtab.cli.verify import verify


class _Grouped(TyperGroup):
    """Commands under what they are for; typer does so only in boxes, which break lines of text."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            help_text = command.get_short_help_str(limit=200)
            panels.setdefault(command.rich_help_panel, []).append((name, help_text))
        for panel, lines in panels.items():
            with formatter.section(panel):
                formatter.write_dl(lines)


app = typer.Typer(
    cls=_Grouped,
    help="Fine-tune a language model under a safety constraint, and measure what each gave up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100},
    rich_markup_mode=None,
)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        say(f"trimtab {__version__}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Say which version this is.", is_eager=True, callback=_tell_version
        ),
    ] = False,
) -> None:
    pass


COMMANDS = {
    "Before training": (init, audit, proxy),
    "Train": (train, sweep, compare, status),
    "What came out": (report, suggest, bounds, evaluate, judge, export, verify),
    "Mend": (repair,),
    "See it work": (demo,),
}
"""By what a person wants; `trimtab --help` shows them in this order."""

_TRAINING = (train, sweep, compare, demo)

for panel, functions in COMMANDS.items():
    for function in functions:
        run = command(function, by_processes=function in _TRAINING)
        app.command(cls=Command, rich_help_panel=panel)(run)
    if panel == "Train":
        app.add_typer(dial, name="dial", rich_help_panel=panel)
