"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="The folder to write to.")]
Restart = Annotated[
    bool, typer.Option("--restart", help="Discard what --out holds and start anew.")
]
Retry = Annotated[bool, typer.Option("--retry", help="Try again what failed before.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print points, tokens, memory and time; train nothing.")
]
