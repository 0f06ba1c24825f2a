"""What every command shares: its options in their ranges, and one line where it cannot go on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from trimtab.config.ranges import in_range, stated
from trimtab.errors import mistake, printable
from trimtab.runner.processes import require_one_process

if TYPE_CHECKING:
    from trimtab.cli.progress import TerminalWatcher

_P = ParamSpec("_P")

GOES_ON = "What is finished is kept; the same command goes on."


def command(function: Callable[_P, None], by_processes: bool = False) -> Callable[_P, None]:
    """The function as a command: a mistake or an interruption ends it with one line.

    Its numbers are held to the ranges that their annotations state. The exit status is 2 after a
    mistake, 130 after an interruption.

    Args:
        by_processes: whether a launcher may start several processes for it.
    """
    checked = in_range(function)
    hints = get_type_hints(function, include_extras=True)
    for hint in hints.values():
        _name_the_number(hint)

    @wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            if not by_processes:
                require_one_process(f"trimtab {function.__name__.rstrip('_')}")
            checked(*args, **kwargs)
            if sys.stdout is not None:  # as where it was closed
                sys.stdout.flush()
        except KeyboardInterrupt as interruption:
            say("", error=True)
            end(f"interrupted. {str(interruption) or GOES_ON}", 130)
        except BrokenPipeError:
            _close_output()
            raise typer.Exit(1) from None  # who read the output has read enough
        except Exception as error:
            message = mistake(error)
            if message is None:
                raise
            end(message, 2)

    run.__annotations__ = hints
    # typer reads a signature: the function's own, evaluated anew, lacks the numbers' names.
    own_signature = signature(function)
    parameters = [
        parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
        for parameter in own_signature.parameters.values()
    ]
    run.__signature__ = own_signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


class Command(TyperCommand):
    """A command whose help shows options by what they are about, and which names the nearest one.

    typer shows panels in boxes only, which break lines of text.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := help_record(parameter, ctx)) is not None:
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panel = getattr(parameter, "rich_help_panel", None) or kind
                panels.setdefault(panel, []).append(record)
        for panel, lines in panels.items():
            with formatter.section(panel):
                formatter.write_dl(lines)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # typer keeps the class of an unknown option to itself
            nearest = getattr(error, "possibilities", None)
            if nearest:  # the nearest first, where typer sorts them by letter
                error.message = f"{error.message}. Did you mean {nearest[0]}?"  # type: ignore[attr-defined]
                error.possibilities = None  # type: ignore[attr-defined]
            elif hasattr(error, "message"):
                error.message = error.message.removeprefix("Value error, ")  # pydantic's word
            raise


@contextmanager
def watched() -> Iterator[TerminalWatcher]:
    """Someone who shows in the terminal how far a training or a measuring is."""
    from rich.console import Console

    from trimtab.cli.progress import TerminalWatcher
    from trimtab.models import quiet_libraries

    quiet_libraries()
    with TerminalWatcher(Console(stderr=True)) as watcher:
        yield watcher


def help_record(parameter: Any, context: Any) -> tuple[str, str] | None:
    """What the help calls a parameter, with its type, and what it says of it; None where hidden."""
    record = parameter.get_help_record(context)
    if record is None:
        return None
    name, text = record
    return name.replace("<list[str]>", "<str>"), text  # that it is repeatable is said in words


def _name_the_number(hint: Any) -> None:
    """Let the help say <int> or <float> of an optional number, where it would print its range."""
    number_range = stated(hint)
    for metadata in getattr(hint, "__metadata__", ()):
        if number_range and isinstance(metadata, OptionInfo) and metadata.metavar is None:
            metadata.metavar = "<int>" if number_range.whole else "<float>"


def say(text: str, error: bool = False) -> None:
    """Print a line, with names in it that steer no terminal."""
    print(printable(text), file=sys.stderr if error else sys.stdout)


def end(line: str, status: int) -> NoReturn:
    """Print a last line on standard error and exit."""
    say(f"trimtab: {line}", error=True)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _close_output()
    raise typer.Exit(status) from None


def encode_what_can_be() -> None:
    """Let a character that the terminal's encoding lacks be a question mark, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _close_output() -> None:
    # What is still buffered would be written, and fail, once more as Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
