"""Every command by its name."""

from __future__ import annotations

import typer

from trimtab.cli.auditing import audit, proxy
from trimtab.cli.choosing import compare, repair, suggest
from trimtab.cli.command import command
from trimtab.cli.dial import dial
from trimtab.cli.looking import bounds, report
from trimtab.cli.making import demo, sweep, train

app = typer.Typer(
    help="Fine-tune a language model under a safety constraint, and measure what each gave up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
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
)
for function in COMMANDS:
    app.command()(command(function))
app.add_typer(dial, name="dial")
