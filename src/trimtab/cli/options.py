"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.config.ranges import Above0, Count
from trimtab.errors import UserError

Out = Annotated[Path, typer.Option("--out", help="The folder to write to.")]
Restart = Annotated[
    bool, typer.Option("--restart", help="Move aside what --out holds and start anew.")
]
Retry = Annotated[bool, typer.Option("--retry", help="Try again what failed before.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print points, tokens, memory and time; train nothing.")
]

Model = Annotated[str, typer.Option(help="smollm2, a folder, a .gguf file, or a Hub id.")]
Task = Annotated[str, typer.Option(help="Data to fine-tune on: a file or a Hub id.")]
Safety = Annotated[str, typer.Option(help="Safety data, the proxy: a file or a Hub id.")]
Original = Annotated[
    str | None, typer.Option(help="The model's own alignment data, to measure on.")
]
TaskWhere = Annotated[
    list[str] | None, typer.Option(help="Keep task rows with column=value; repeatable.")
]
SafetyWhere = Annotated[
    list[str] | None, typer.Option(help="Keep safety rows with column=value; repeatable.")
]
OriginalWhere = Annotated[
    list[str] | None, typer.Option(help="Keep original rows with column=value; repeatable.")
]
BatchSize = Annotated[Count, typer.Option(help="Task rows per step.")]
LearningRate = Annotated[Above0, typer.Option(help="Its highest value.")]
Precision = Annotated[str, typer.Option(help="float32 or bfloat16.")]
MaxPrompt = Annotated[Count, typer.Option(help="Cut prompts to this many tokens.")]
MaxResponse = Annotated[Count, typer.Option(help="Cut responses to this many tokens.")]
HeldOutRows = Annotated[
    Count | None, typer.Option(help="Measure on at most this many rows of each role.")
]
CheckpointEvery = Annotated[
    Count | None, typer.Option(help="Steps between checkpoints to go on from.")
]


def conditions_of(given: list[str] | None) -> dict[str, list[str]]:
    """Values by column of options such as harmful=0. Raises UserError."""
    conditions: dict[str, list[str]] = {}
    for condition in given or []:
        column, sign, value = condition.partition("=")
        if not sign:
            raise UserError(f"{condition!r} is no condition. Write column=value, as in harmful=0.")
        conditions.setdefault(column, []).append(value)
    return conditions


def source_of(path: str, where: list[str] | None, held_out_rows: int | None) -> dict[str, Any]:
    """A data source as an experiment's file would give it. Raises UserError."""
    return {"path": path, "where": conditions_of(where), "held_out_rows": held_out_rows}
