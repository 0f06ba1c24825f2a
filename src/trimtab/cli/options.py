"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from trimtab.cli.settings import help_of
from trimtab.config.data_source import DataSource
from trimtab.config.experiment import Answers, Experiment, Measuring
from trimtab.config.ranges import Count, CountOrNone
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
    list[str] | None,
    typer.Option(help="Keep task rows with this value; repeatable.", metavar="COLUMN=VALUE"),
]
SafetyWhere = Annotated[
    list[str] | None,
    typer.Option(help="Keep safety rows with this value; repeatable.", metavar="COLUMN=VALUE"),
]
OriginalWhere = Annotated[
    list[str] | None,
    typer.Option(help="Keep original rows with this value; repeatable.", metavar="COLUMN=VALUE"),
]
HeldOutRows = Annotated[Count | None, typer.Option(help=help_of(DataSource, "held_out_rows"))]
MeasureEvery = Annotated[CountOrNone | None, typer.Option(help=help_of(Measuring, "every"))]
DataRoot = Annotated[
    Path | None, typer.Option(help="Where relative paths of data start, if not as it says.")
]
Harmful = Annotated[
    list[str] | None,
    typer.Option(help="Prompts to refuse, for every model: a known set or a file; repeatable."),
]
Benign = Annotated[
    list[str] | None,
    typer.Option(help="Prompts to answer, for every model: a known set or a file; repeatable."),
]
JudgeNames = Annotated[
    list[str] | None,
    typer.Option("--judge", help="Who judges the answers, as of 'trimtab evaluate'; repeatable."),
]
Folder = Annotated[Path, typer.Argument(help="Where the points are.")]


def conditions_of(given: list[str] | None) -> dict[str, list[str]]:
    """Values by column of options such as harmful=0. Raises UserError."""
    conditions: dict[str, list[str]] = {}
    for condition in given or []:
        column, sign, value = condition.partition("=")
        if not sign:
            raise UserError(f"{condition!r} is no condition. Write column=value, as in harmful=0.")
        conditions.setdefault(column, []).append(value)
    return conditions


def answers_of(
    harmful: list[str] | None, benign: list[str] | None, judges: list[str] | None
) -> Answers | None:
    """What models are to be asked; None where nothing is. Raises UserError: a judge of nothing."""
    if not harmful and not benign:
        if judges:
            raise UserError("--judge has nothing to judge. Give --harmful or --benign too.")
        return None

    def sources(given: list[str] | None) -> tuple[DataSource, ...]:
        # Relative to here, wherever the experiment's data are.
        paths = [Path(path) for path in given or []]
        return tuple(DataSource(str(p.resolve()) if p.exists() else str(p)) for p in paths)

    asked = Answers(sources(harmful), sources(benign))
    return replace(asked, judges=tuple(judges)) if judges else asked


def experiment_of(
    model: str,
    roles: Mapping[Literal["task", "safety"], tuple[str, list[str] | None]],
    original: tuple[str | None, list[str] | None],
    held_out_rows: int | None,
    **settings: Any,
) -> Experiment:
    """The experiment of a command's options; a role is its path and its conditions.

    Raises UserError.
    """

    def source(path: str, where: list[str] | None) -> DataSource:
        return DataSource(path, where=conditions_of(where), held_out_rows=held_out_rows)

    path, where = original
    return Experiment(
        model=model,
        task={"task": source(*roles["task"])},
        safety={"safety": source(*roles["safety"])},
        original=source(path, where) if path else None,
        data_root=str(Path.cwd()),
        **settings,
    )
