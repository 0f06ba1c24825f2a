"""The commands: parse, call one function, print. Users' mistakes are caught here and only here."""

from __future__ import annotations

import sys

import typer

from trimtab.cli.auditing import audit, proxy
from trimtab.cli.choosing import compare, repair, suggest
from trimtab.cli.dial import dial
from trimtab.cli.looking import bounds, report
from trimtab.cli.making import demo, sweep, train
from trimtab.errors import UserError

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
for command in COMMANDS:
    app.command()(command)
app.add_typer(dial, name="dial")


def main() -> None:
    """Run a command; a user's mistake is one line and status 2."""
    try:
        app()
    except UserError as error:
        print(f"trimtab: {error}", file=sys.stderr)
        sys.exit(2)
