"""Commands that choose among methods: compare, suggest and repair."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.command import say
from trimtab.cli.looking import Folder
from trimtab.cli.options import DryRun, Out, Restart, Retry
from trimtab.config.ranges import Finite, Seed
from trimtab.errors import UserError

if TYPE_CHECKING:
    from trimtab.analysis.selection import Suggestion


def compare(
    experiment: Annotated[
        Path | None,
        typer.Argument(help="A YAML file; left out, a small world whose answer is known."),
    ] = None,
    out: Out = Path("comparison"),
    data_root: Annotated[
        Path | None, typer.Option(help="Where relative paths of data start, if not as it says.")
    ] = None,
    seed: Annotated[Seed, typer.Option(help="Of the small world, where no file is given.")] = 0,
    restart: Restart = False,
    retry: Retry = False,
    dry_run: DryRun = False,
) -> None:
    """Put every method over its own knob beside the two cases."""
    from dataclasses import replace

    from trimtab.cli.making import (
        end_with_failures,
        print_plan,
        sweep_and_report,
        tell_where_models_are,
    )
    from trimtab.config.yaml_io import read_experiment
    from trimtab.models import quiet_libraries
    from trimtab.runner.comparison import comparison_of, comparison_world

    quiet_libraries()
    if experiment is None:
        read = comparison_world(out, seed, restart)
    else:
        read = read_experiment(experiment)
        if data_root is not None:
            read = replace(read, data_root=str(data_root.resolve()))
    grid, left_out = comparison_of(read)
    for name in left_out:
        say(f"{name} is left out: it needs the model from before it was aligned (align).")
    if dry_run:
        print_plan(grid, out)
        return
    sweep_and_report(grid, out, restart, retry)
    _print_methods(out)
    end_with_failures(out, "--retry")
    tell_where_models_are(grid, out)


def suggest(
    folder: Folder,
    budget: Annotated[
        Finite, typer.Option(help="What the safety loss may rise by, in nats per token.")
    ],
) -> None:
    """Name the method and knob that keep a budget at the least capability loss."""
    from trimtab.analysis.selection import suggestions
    from trimtab.results.store import read_points

    found = suggestions(read_points(folder), budget)
    if not found:
        raise UserError(f"{folder}: no trained model is here yet. Let 'trimtab sweep' make one.")
    for place, one in enumerate(found):
        for line in [""] * (place > 0) + _told(one, budget):
            say(line)


def repair(
    method: Annotated[str, typer.Argument(help="wise-ft, resta or safe-lora.")],
    model: Annotated[Path, typer.Option(help="The fine-tuned model's folder, or its adapter's.")],
    aligned: Annotated[str, typer.Option(help="The model it was fine-tuned from.")],
    out: Out,
    unaligned: Annotated[
        str | None, typer.Option(help="The model from before it was aligned (resta, safe-lora).")
    ] = None,
    knob: Annotated[
        Finite, typer.Option(help="wise-ft: the aligned share; resta: γ; safe-lora: τ.")
    ] = 0.5,
) -> None:
    """Mend the safety of a fine-tuned model, after the fact."""
    from trimtab.config.experiment import AFTER_TRAINING
    from trimtab.models import quiet_libraries
    from trimtab.runner.post_hoc import repair_saved

    if method not in AFTER_TRAINING:
        raise UserError(f"{method!r} mends no model. Give one of {', '.join(AFTER_TRAINING)}.")
    quiet_libraries()
    moved = repair_saved(method, knob, model, aligned, unaligned, out)
    say(f"The model is in {out}, at a distance of {moved:.4g} from the aligned one.")


def _told(one: Suggestion, budget: float) -> list[str]:
    from trimtab.analysis.labels import estimate_in_words, number
    from trimtab.analysis.methods import title

    lines = [
        f"Task {one.task}, safety data {one.proxy}: a rise of at most {number(budget)} nats per "
        f"token on the {one.safety}."
    ]
    if one.best is None:
        near = one.nearest
        lines.append(
            f"None of the points keeps it. Least rises {title(near.tried.method)}"
            f"{_knob(near.tried.knob)}: {estimate_in_words(near.rise)}."
        )
        return lines
    best = one.best
    seeds = len(best.tried.points)
    lines += [
        f"  {title(best.tried.method)}{_knob(best.tried.knob)}",
        f"  safety loss rises by {estimate_in_words(best.rise)}, kept in {best.kept_by} of {seeds} "
        f"seed{'s' if seeds > 1 else ''}",
        f"  capability loss {estimate_in_words(best.capability)} nats per token",
    ]
    if one.left_out is None:
        lines.append(
            "These are the numbers it was chosen by, and so flattering; with more seeds they "
            "could be checked."
        )
    else:
        left = one.left_out
        lines += [
            "These are the numbers it was chosen by. Chosen on the other seeds and measured on the "
            f"one left out: rise {estimate_in_words(left.rise)}, capability loss "
            f"{estimate_in_words(left.capability)}, kept in {left.kept} of {left.seeds}.",
        ]
        if len(set(left.choices)) > 1:
            lines.append(f"The choice was not always the same: {'; '.join(left.choices)}.")
    lines.append("All are estimates, none a guarantee.")
    return lines


def _knob(value: float | None) -> str:
    return "" if value is None else f" at {value:g}"


def _print_methods(folder: Path) -> None:
    from trimtab.analysis.methods import method_results, title
    from trimtab.results.store import read_points

    results = method_results(read_points(folder))
    if not results:
        return
    say("method                            share dominated       settings beaten")
    for one in results:
        low, high = one.volume.low, one.volume.high
        spread = f"[{low:.3f}, {high:.3f}]" if low < high else ""
        beaten = f"{one.dominated} of {one.judged}" if one.judged else "–"
        say(f"{title(one.method):32}  {one.volume.value:.3f} {spread:16} {beaten}")
