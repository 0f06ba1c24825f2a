"""trimtab proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.command import say
from trimtab.cli.options import Model, Restart, conditions_of
from trimtab.cli.settings import Options, settings_as_options
from trimtab.config.data_source import DataSource, Lengths
from trimtab.config.loading import Loading
from trimtab.config.ranges import Count, Seed


@settings_as_options
def proxy(
    model: Model,
    prompts: Annotated[str, typer.Option(help="Safety prompts: a file, a Hub id or a known set.")],
    out: Annotated[Path, typer.Option("--out", help="The .jsonl file to write.")],
    where: Annotated[
        list[str] | None, typer.Option(help="Keep prompts with column=value; repeatable.")
    ] = None,
    lengths: Annotated[Lengths, Options(prefix="max_")] = Lengths(),  # noqa: B008  # frozen
    batch_size: Annotated[Count, typer.Option(help="Prompts answered at once.")] = 16,
    seed: Annotated[Seed, typer.Option(help="Of the sampling.")] = 0,
    load: Loading = Loading(),  # noqa: B008  # frozen
    restart: Restart = False,
) -> None:
    """Write the aligned model's own answers as safety data."""
    from trimtab.audit.own_proxy import empty_and_cut_answers, write_own_proxy
    from trimtab.cli.audit_output import watched_stages
    from trimtab.models import quiet_libraries

    quiet_libraries()
    with watched_stages(True) as watcher:
        lines = write_own_proxy(
            model,
            DataSource(prompts, where=conditions_of(where)),
            out,
            lengths,
            batch_size,
            seed,
            watcher,
            restart,
            load,
        )
    say(f"{lines} answers are in {out}.")
    empty, cut = empty_and_cut_answers(out)
    if cut:
        are = "is" if cut == 1 else "are"
        say(
            f"{cut} of them {are} cut off at {lengths.response} tokens, and marked cut_short: "
            "training on them teaches no end. For whole answers give a larger --max-response and "
            "--restart."
        )
    if empty:
        are = "is" if empty == 1 else "are"
        say(
            f"{empty} of them {are} empty: the model ended at once. Remove those lines, or set "
            "drop_empty: true for the file in an experiment."
        )
