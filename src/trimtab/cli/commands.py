"""Every command by its name."""

from __future__ import annotations

from typing import Annotated

import typer

from trimtab import __version__
from trimtab.cli.audit import audit
from trimtab.cli.bounds import bounds
from trimtab.cli.command import command, say
from trimtab.cli.compare import compare
from trimtab.cli.demo import demo
from trimtab.cli.dial import dial
from trimtab.cli.evaluate import evaluate
from trimtab.cli.export import export
from trimtab.cli.proxy import proxy
from trimtab.cli.repair import repair
from trimtab.cli.report import report
from trimtab.cli.suggest import suggest
from trimtab.cli.sweep import sweep
from trimtab.cli.train import train

app = typer.Typer(
    help="Fine-tune a language model under a safety constraint, and measure what each gave up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _tell_version(asked: bool) -> None:
    if asked:
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


COMMANDS = (
    audit,
    proxy,
    demo,
    sweep,
    train,
    compare,
    report,
    bounds,
    suggest,
    repair,
    evaluate,
    export,
)
for function in COMMANDS:
    app.command()(command(function))
app.add_typer(dial, name="dial")
