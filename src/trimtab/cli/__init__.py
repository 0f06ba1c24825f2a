"""The commands: parse, call one function, print."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from typing import Any


def main() -> None:
    """Run a command; a user's mistake is one line and status 2, an interruption status 130."""
    # It warns of a faster kernel as it is imported, by whatever looks whether it is there.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        # Here, so that an interruption of the import is a line too.
        from trimtab.cli.command import encode_what_can_be
        from trimtab.runner.processes import follow, is_first, launched, leading

        encode_what_can_be()
        if not is_first():
            sys.exit(follow())
        from trimtab.cli.commands import app

        with leading() if launched() > 1 else nullcontext():
            app()
    except KeyboardInterrupt:
        print("trimtab: interrupted.", file=sys.stderr)
        sys.exit(130)


def __getattr__(name: str) -> Any:
    if name == "app":
        from trimtab.cli.commands import app

        return app
    raise AttributeError(name)
