"""trimtab audit."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import (
    MaxPrompt,
    MaxResponse,
    Model,
    OriginalWhere,
    SafetyWhere,
    TaskWhere,
    conditions_of,
)
from trimtab.cli.settings import settings_as_options
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.loading import Loading
from trimtab.config.ranges import Above0, Count, From0Below1, Rank, Seed
from trimtab.errors import UserError

if TYPE_CHECKING:
    pass

_SUFFIXES = re.compile(r"(\.(jsonl|json|csv|parquet))?(\.gz)?$")


@settings_as_options
def audit(
    model: Model,
    task: Annotated[list[str], typer.Option(help="Data to fine-tune on: PATH or NAME=PATH.")],
    safety: Annotated[list[str], typer.Option(help="Safety data, proxies: PATH or NAME=PATH.")],
    original: Annotated[
        str | None, typer.Option(help="The model's own alignment data; else its own answers.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder for audit.json, page and kept rows.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print audit.json instead.")] = False,
    task_where: TaskWhere = None,
    safety_where: SafetyWhere = None,
    original_where: OriginalWhere = None,
    budget: Annotated[
        Above0, typer.Option(help="Rise of the safety loss allowed, nats per token.")
    ] = 0.1,
    rows: Annotated[Count, typer.Option(help="Rows of each data set the model reads.")] = 400,
    embedding: Annotated[
        str | None, typer.Option(help="Compare rows by: words, model, or another model's name.")
    ] = None,
    landscape: Annotated[str, typer.Option(help="Over lora, full weights, or none.")] = "lora",
    landscape_rank: Annotated[Rank, typer.Option(help="Rank of the LoRA subspace.")] = 8,
    landscape_rows: Annotated[Count, typer.Option(help="Rows behind slope and curvature.")] = 16,
    drop: Annotated[
        From0Below1, typer.Option(help="Share of task rows that may be left out as influence.")
    ] = 0.05,
    max_prompt: MaxPrompt = Lengths.prompt,
    max_response: MaxResponse = Lengths.response,
    load: Loading = Loading(),  # noqa: B008  # frozen
    seed: Annotated[Seed, typer.Option(help="Which rows are chosen, and every draw.")] = 0,
) -> None:
    """Judge data, proxies and landscape before training."""
    from rich.console import Console

    from trimtab.audit.audit import audit as make_audit
    from trimtab.audit.settings import AuditSettings
    from trimtab.cli.audit_output import print_audit, watched_stages
    from trimtab.cli.progress import print_page
    from trimtab.models import quiet_libraries
    from trimtab.report.audit_page import write_audit_page
    from trimtab.results.files import only_writer

    settings = AuditSettings(
        rows=rows,
        lengths=Lengths(max_prompt, max_response),
        embedding=embedding,
        budget=budget,
        drop=drop,
        space=landscape,  # type: ignore[arg-type]  # checked by the class, whose error is a UserError
        rank=landscape_rank,
        landscape_rows=landscape_rows,
        load=load,
        seed=seed,
    )

    def sources(given: list[str], where: list[str] | None) -> dict[str, DataSource]:
        named: dict[str, DataSource] = {}
        for one in given:
            name, path = _named(one)
            if name in named:
                raise UserError(f"two data sets are called {name}. Write NAME={path}.")
            named[name] = DataSource(path, where=conditions_of(where))
        return named

    quiet_libraries()
    made = partial(
        make_audit,
        model,
        sources(task, task_where),
        sources(safety, safety_where),
        DataSource(original, where=conditions_of(original_where)) if original else None,
        settings,
        out,
    )
    with watched_stages(out is not None) as watcher, only_writer(out) if out else nullcontext():
        result = made(watcher)
    page = write_audit_page(out) if out is not None else None
    if as_json:
        print(json.dumps(result.to_json(), indent=1))
        return
    console = Console()
    print_audit(result, console)
    if page is not None:
        print_page(page, console)


def _named(given: str) -> tuple[str, str]:
    name, sign, path = given.partition("=")
    if sign and path and re.fullmatch(r"[\w.-]+", name) and not Path(given).exists():
        return name, path
    return _SUFFIXES.sub("", Path(given).name), given
