"""trimtab status."""

from __future__ import annotations

from trimtab.cli.options import Folder


def status(folder: Folder) -> None:
    """How far a sweep is: what is done, running, failed and left."""
    from trimtab.cli.progress import output_console, status_table
    from trimtab.runner.status import status_of

    output_console().print(status_table(status_of(folder)), highlight=False)
