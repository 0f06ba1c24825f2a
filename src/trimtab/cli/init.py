"""trimtab init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.command import say
from trimtab.cli.options import Model, require_there
from trimtab.config.yaml_io import EXPERIMENT_FILE
from trimtab.errors import UserError


def init(
    model: Model,
    task: Annotated[
        list[str], typer.Option(help="Data to fine-tune on: a file or a Hub id; repeatable.")
    ],
    safety: Annotated[
        list[str], typer.Option(help="Safety data, a proxy: a file or a Hub id; repeatable.")
    ],
    original: Annotated[
        str | None, typer.Option(help="The model's own alignment data, to measure on.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path(EXPERIMENT_FILE),
) -> None:
    """Write an experiment's file to start from, with comments."""
    import os
    import shlex
    from dataclasses import replace

    from trimtab.config.experiment import SMOLLM2
    from trimtab.config.new_experiment import experiment_text
    from trimtab.config.yaml_io import parse_experiment
    from trimtab.data.splits import read_roles
    from trimtab.results.files import write_atomically

    if out.exists():
        raise UserError(f"{out} is there already. Give another --out, or remove it.")
    data_paths = {"--task": task, "--safety": safety, "--original": [original] if original else []}
    require_there(model, ((option, path) for option, paths in data_paths.items() for path in paths))
    data = [path for paths in data_paths.values() for path in paths]
    has_relative = not all(Path(path).is_absolute() for path in data)
    root = os.path.relpath(Path.cwd(), out.parent.resolve()) if has_relative else "."
    is_relative = model != SMOLLM2 and Path(model).exists() and not Path(model).is_absolute()
    model_path = os.path.relpath(model, out.parent) if is_relative else model
    text = experiment_text(model_path, task, safety, original, root)
    experiment = replace(parse_experiment(text, str(out)), data_root=str(Path.cwd()))
    roles = read_roles(experiment)  # before anything is written
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text)
    for warning in roles.warnings:
        say(f"warning: {warning}", error=True)
    rows = sum(len(split.train) for split in (*roles.task.values(), *roles.safety.values()))
    folder = out.with_suffix("").name + "-results"
    sweep = shlex.join(["trimtab", "sweep", str(out), "--out", folder])
    say(f"{out} is written, for {rows:,} rows to train on.")
    say(f"What it costs: {sweep} --dry-run")
    say(f"Then make it:  {sweep}")
