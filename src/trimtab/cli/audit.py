"""trimtab audit."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.options import (
    Model,
    OriginalColumns,
    OriginalWhere,
    SafetyColumns,
    SafetyWhere,
    TaskColumns,
    TaskWhere,
    data_source,
    require_there,
)
from trimtab.cli.settings import Options, settings_as_options
from trimtab.config.audit_settings import AuditSettings
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.loading import Loading
from trimtab.errors import UserError

_SUFFIXES = re.compile(r"(\.(jsonl|json|csv|parquet))?(\.gz)?$")


@settings_as_options
def audit(
    model: Model,
    task: Annotated[
        list[str], typer.Option(help="Data to fine-tune on: PATH or NAME=PATH; repeatable.")
    ],
    safety: Annotated[
        list[str], typer.Option(help="Safety data, proxies: PATH or NAME=PATH; repeatable.")
    ],
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
    task_columns: TaskColumns = None,
    safety_columns: SafetyColumns = None,
    original_columns: OriginalColumns = None,
    settings: Annotated[AuditSettings, Options(without=("lengths", "load"))] = AuditSettings(),  # noqa: B008  # frozen
    lengths: Annotated[Lengths, Options(prefix="max_")] = Lengths(),  # noqa: B008
    load: Loading = Loading(),  # noqa: B008
) -> None:
    """Say before training what the data will cost, and how good the safety data are."""
    from trimtab.audit.audit import audit as make_audit
    from trimtab.cli.audit_output import print_audit, watched_stages
    from trimtab.cli.progress import output_console, print_page
    from trimtab.models import quiet_libraries
    from trimtab.report.audit_page import write_audit_page
    from trimtab.results.files import only_writer

    settings = replace(settings, lengths=lengths, load=load)

    def sources(
        data: list[str], where: list[str] | None, columns: list[str] | None
    ) -> dict[str, DataSource]:
        sources_by_name: dict[str, DataSource] = {}
        for text in data:
            name, path = _name_and_path(text)
            if name in sources_by_name:
                raise UserError(f"two data sets are called {name}. Write NAME={path}.")
            sources_by_name[name] = data_source(path, where, columns)
        return sources_by_name

    data = {"--task": task, "--safety": safety}
    paths = [(option, _name_and_path(text)[1]) for option, texts in data.items() for text in texts]
    require_there(model, [*paths, *([("--original", original)] if original else [])])
    quiet_libraries()
    make = partial(
        make_audit,
        model,
        sources(task, task_where, task_columns),
        sources(safety, safety_where, safety_columns),
        data_source(original, original_where, original_columns) if original else None,
        settings,
        out,
    )
    with watched_stages(out is not None) as watcher, only_writer(out) if out else nullcontext():
        result = make(watcher)
    page = write_audit_page(out) if out is not None else None
    if as_json:
        print(json.dumps(result.to_json(), indent=1))
        return
    console = output_console()
    print_audit(result, console)
    if page is not None:
        print_page(page, console)


def _name_and_path(text: str) -> tuple[str, str]:
    name, sign, path = text.partition("=")
    if sign and path and re.fullmatch(r"[\w.-]+", name) and not Path(text).exists():
        return name, path
    return _SUFFIXES.sub("", Path(text).name), text
