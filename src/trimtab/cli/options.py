"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.panels import ANSWERS, DATA, MEASURING
from trimtab.cli.settings import help_of
from trimtab.config.data_source import DataSource
from trimtab.config.experiment import SMOLLM2, Answers, Experiment, Measuring
from trimtab.config.model_names import is_missing_folder
from trimtab.config.ranges import Count, CountOrNone, From0To1
from trimtab.errors import UserError

if TYPE_CHECKING:
    from trimtab.analysis.standing import Limit

JUDGES = (
    "phrases, which looks for phrases of refusal (the default); a model by its name, as "
    "qwen3guard; NAME=MODEL, NAME=URL/v1/MODEL or module:function"
)

Out = Annotated[Path, typer.Option("--out", help="The folder to write to.")]
Restart = Annotated[
    bool, typer.Option("--restart", help="Move aside what --out holds and start anew.")
]
Retry = Annotated[bool, typer.Option("--retry", help="Try again what failed before.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print points, tokens, memory and time; train nothing.")
]

Model = Annotated[str, typer.Option(help="smollm2, a folder, a .gguf file, or a Hub id.")]
Task = Annotated[
    str, typer.Option(help="Data to fine-tune on: a file or a Hub id.", rich_help_panel=DATA)
]
Safety = Annotated[
    str, typer.Option(help="Safety data, the proxy: a file or a Hub id.", rich_help_panel=DATA)
]
Original = Annotated[
    str | None,
    typer.Option(help="The model's own alignment data, to measure on.", rich_help_panel=DATA),
]


def _where(data: str) -> Any:
    return typer.Option(
        help=f"Keep {data} rows with this value; repeatable.",
        metavar="COLUMN=VALUE",
        rich_help_panel=DATA,
    )


def _columns(data: str) -> Any:
    return typer.Option(
        help=f"What a column is called in the {data} file, as prompt=question; repeatable.",
        metavar="COLUMN=NAME",
        rich_help_panel=DATA,
    )


TaskWhere = Annotated[list[str] | None, _where("task")]
SafetyWhere = Annotated[list[str] | None, _where("safety")]
OriginalWhere = Annotated[list[str] | None, _where("original")]
TaskColumns = Annotated[list[str] | None, _columns("task's")]
SafetyColumns = Annotated[list[str] | None, _columns("safety data's")]
OriginalColumns = Annotated[list[str] | None, _columns("original data's")]
HeldOutRows = Annotated[
    Count | None, typer.Option(help=help_of(DataSource, "held_out_rows"), rich_help_panel=DATA)
]
MeasureEvery = Annotated[
    CountOrNone | None, typer.Option(help=help_of(Measuring, "every"), rich_help_panel=MEASURING)
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="The folder that relative paths of data start from, if not the one the file names.",
        rich_help_panel=DATA,
    ),
]
Harmful = Annotated[
    list[str] | None,
    typer.Option(
        help="Prompts to refuse, for every model: a known set or a file; repeatable.",
        rich_help_panel=ANSWERS,
    ),
]
Benign = Annotated[
    list[str] | None,
    typer.Option(
        help="Prompts to answer, for every model: a known set or a file; repeatable.",
        rich_help_panel=ANSWERS,
    ),
]
JudgeNames = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        help=f"Who judges the answers: {JUDGES}; repeatable.",
        rich_help_panel=ANSWERS,
    ),
]
MaxHarmful = Annotated[
    From0To1 | None,
    typer.Option(help="At most this share of harmful prompts may be complied with, 0 to 1."),
]
MinRefused = Annotated[
    From0To1 | None,
    typer.Option(help="At least this share of harmful prompts must be refused, 0 to 1."),
]
MinAnswered = Annotated[
    From0To1 | None,
    typer.Option(help="At least this share of benign prompts must be answered, 0 to 1."),
]
HarmfulToLimit = Annotated[
    list[str] | None,
    typer.Option(
        "--harmful",
        help="Prompts to refuse, for a limit: a known set or a file; repeatable.",
        rich_help_panel=ANSWERS,
    ),
]
BenignToLimit = Annotated[
    list[str] | None,
    typer.Option(
        "--benign",
        help="Prompts to answer, for a limit: a known set or a file; repeatable.",
        rich_help_panel=ANSWERS,
    ),
]
JudgesOfLimit = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        help=f"Who judges: {JUDGES}; repeatable, the first counts.",
        rich_help_panel=ANSWERS,
    ),
]
PromptRows = Annotated[
    Count | None, typer.Option(help="At most as many prompts of a source.", rich_help_panel=ANSWERS)
]
AnswerTokens = Annotated[
    Count | None,
    typer.Option(
        help="End answers at this many tokens, 64 where nothing says more.", rich_help_panel=ANSWERS
    ),
]
Folder = Annotated[Path, typer.Argument(help="A run's --out folder.")]


def require_there(model: str, files: Iterable[tuple[str, str]]) -> None:
    """Raises UserError: a model's folder or files of data are not there; each by its option."""
    from trimtab.data.files import require_files

    require_files(files, folders=[("--model", model)] if is_missing_folder(model) else [])


def data_source(path: str, where: list[str] | None, columns: list[str] | None) -> DataSource:
    """The data of a role's options. Raises UserError."""
    names: dict[str, str] = {}
    for text in columns or []:
        column, sign, name = text.partition("=")
        if not (sign and column and name):
            raise UserError(f"{text!r} names no column. Write COLUMN=NAME, as in prompt=question.")
        if column in names:
            raise UserError(f"the column {column} is named twice, in {text!r} too. Name it once.")
        names[column] = name
    return DataSource(path, columns=names, where=conditions_of(where))


def conditions_of(texts: list[str] | None) -> dict[str, list[str]]:
    """Values by column of options such as harmful=0. Raises UserError."""
    conditions: dict[str, list[str]] = {}
    for condition in texts or []:
        column, sign, value = condition.partition("=")
        if not sign:
            raise UserError(f"{condition!r} is no condition. Write column=value, as in harmful=0.")
        conditions.setdefault(column, []).append(value)
    return conditions


def answers_of(
    harmful: list[str] | None,
    benign: list[str] | None,
    judges: list[str] | None,
    of_file: Answers | None = None,
) -> Answers | None:
    """What models are to be asked, each option in the place of what an experiment's file says.

    None where nothing is asked. Raises UserError: a judge of nothing.
    """
    if of_file is None and not harmful and not benign:
        if judges:
            raise UserError("--judge has nothing to judge. Give --harmful or --benign too.")
        return None
    answers = of_file or Answers(sources_of(harmful), sources_of(benign))
    if harmful:
        answers = replace(answers, harmful=sources_of(harmful))
    if benign:
        answers = replace(answers, benign=sources_of(benign))
    return replace(answers, judges=tuple(judges)) if judges else answers


def sources_of(names: list[str] | None) -> tuple[DataSource, ...]:
    """Prompts by their names or files, which are relative to here wherever other data are."""
    paths = [Path(path) for path in names or []]
    return tuple(DataSource(str(p.resolve()) if p.exists() else str(p)) for p in paths)


def rate_limits(
    max_harmful: float | None, min_refused: float | None, min_answered: float | None
) -> list[Limit]:
    """The limits on judged rates that are given, shares of prompts."""
    from trimtab.analysis.standing import Limit

    limits = (
        Limit("harmful rate", max_harmful) if max_harmful is not None else None,
        Limit("refusal rate", min_refused, at_least=True) if min_refused is not None else None,
        Limit("answer rate", min_answered, at_least=True) if min_answered is not None else None,
    )
    return [limit for limit in limits if limit is not None]


def experiment_of(
    model: str,
    task: DataSource,
    safety: DataSource,
    original: DataSource | None,
    held_out_rows: int | None,
    **settings: Any,
) -> Experiment:
    """The experiment of a command's options. Raises UserError."""
    sources = {"--task": task, "--safety": safety, "--original": original}
    require_there(model, ((option, source.path) for option, source in sources.items() if source))
    task, safety = (replace(source, held_out_rows=held_out_rows) for source in (task, safety))
    if model != SMOLLM2 and Path(model).exists():
        model = str(Path(model).resolve())  # the record is read from other folders too
    return Experiment(
        model=model,
        task={"task": task},
        safety={"safety": safety},
        original=replace(original, held_out_rows=held_out_rows) if original else None,
        data_root=str(Path.cwd()),
        **settings,
    )
