"""How much of the frontier of eight separate runs does one dial hold, and at what cost?

    python benchmarks/frontier_from_one_run.py                        # the built-in world, 3 seeds
    python benchmarks/frontier_from_one_run.py --confirm              # three worlds looked at once
    python benchmarks/frontier_from_one_run.py --docs    # table and figure of docs/dial.md again

Measured side by side in one experiment: separate runs at eight penalties from 100 to 0.01, the same
with batches divided by what their rows weigh (as a dial's are), the same at twice the length, dials
of once, 1.25 times and twice a run's steps, the first two also by KL (safety rows ask for θ_s's
distribution, whose forward passes are not among the tokens), one with Pareto LoRA's weights in
place of ours, continuation from the largest penalty to the smallest (in all the dial's steps),
WiSE-FT: plain fine-tuning interpolated towards θ_s, and rewarded soups: the same between a model
trained on task rows alone and one trained on safety rows alone. Held-out (L_ŝ, L_f) of every model
go into benchmarks/results/frontier_from_one_run.json as they are made; one that is interrupted, or
that --minutes stops, goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from trimtab.config.experiment import Block, Dial, Experiment
from trimtab.config.grid import Run
from trimtab.config.methods import CASE_1, PUBLISHED, Method
from trimtab.config.methods import DIAL as DIAL_METHOD
from trimtab.config.run_spec import RunSpec
from trimtab.data.splits import read_roles
from trimtab.measure.losses import held_out_loss
from trimtab.models import load_model, quiet_libraries
from trimtab.report.axes import linear_axis
from trimtab.report.chart import Figure, Line, Mark, Panel
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.report.palette import START_INK, ink
from trimtab.report.renderer import images
from trimtab.results.files import write_atomically
from trimtab.results.layout import model_folder
from trimtab.runner.demo import demo_experiment
from trimtab.runner.runner import Runner
from trimtab.runner.sweep import SilentWatcher
from trimtab.theory import chord_area, hypervolume
from trimtab.train.objectives.endpoints import load_endpoints

RESULTS = Path(__file__).parent / "results" / "frontier_from_one_run.json"
PENALTIES = [float(penalty) for penalty in np.geomspace(100, 0.01, 8)]
DOCS = Path(__file__).parent.parent / "docs"
MARK = "results"
SEEDS = (0, 1, 2)
BUDGETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
SETTINGS = 21
"""How many settings of the dial, and of WiSE-FT, are measured."""
AIM, MOST_TOKENS = 1.0, 1.25

CONFIRMING = (10, 11, 12)
"""Worlds that nothing was chosen by: they are run once."""
SEPARATE, LONGER = "separate runs", "separate runs, twice the steps"
DIVIDED = "separate runs, rows by weight"
DIAL, MIDDLE_DIAL, SHORT_DIAL = (
    "dial, twice the steps",
    "dial, 1.25 × a run's",
    "dial, a run's steps",
)
KL_DIAL, MIDDLE_KL_DIAL = "dial by KL, a run's steps", "dial by KL, 1.25 × a run's"
PARETO, SOUPS = "Pareto weights, a run's steps", "rewarded soups"
CONTINUATION = "continuation over λ"
WISE, LONGER_WISE = "WiSE-FT", "WiSE-FT, twice the steps"
METHODS = (
    SEPARATE,
    DIVIDED,
    SHORT_DIAL,
    MIDDLE_DIAL,
    DIAL,
    KL_DIAL,
    MIDDLE_KL_DIAL,
    PARETO,
    SOUPS,
    WISE,
    LONGER_WISE,
    CONTINUATION,
    LONGER,
)
TO_CONFIRM = tuple(name for name in METHODS if name not in (DIAL, CONTINUATION, LONGER))
SAFETY_ALONE = 1e6
"""λ at which the task counts for nothing."""
OF_SEVERAL = (SEPARATE, DIVIDED, LONGER)
"""Methods with a training behind each of their points."""


class OutOfTimeError(Exception):
    """--minutes are over; what is made is kept."""


@dataclass(frozen=True)
class Setting:
    """One world to compare the methods in."""

    name: str
    experiment: Experiment
    longer: tuple[float, ...]
    """The penalties of separate runs that are also trained at the dial's length."""
    methods: tuple[str, ...] = METHODS


@dataclass(frozen=True)
class ParetoWeights(Dial):
    """Pareto LoRA's weights: α·L_f + (1 − α)·L_ŝ, with α evenly over [0, 1]."""

    end_share: float = 0.0

    def penalty_at(self, alpha: float) -> float:
        return (1 - alpha) / max(alpha, 1 / SAFETY_ALONE)


class Quiet(SilentWatcher):
    def training(self, name: str, steps: int) -> None:
        print(f"  {name}, {steps} steps", flush=True)


def world(seed: int, *, confirms: bool = False) -> Setting:
    demo = demo_experiment(Path(tempfile.mkdtemp()), seed)
    experiment = replace(
        demo,
        task={"shared": demo.task["shared"]},
        safety={"near": demo.safety["near"]},
        grid=(Block("alignment-loss", tuple(PENALTIES)),),
        dial=Dial(),
        seeds=(seed,),
        keep_models=True,
    )
    if confirms:
        return Setting(f"worlds to confirm, seed {seed}", experiment, (), TO_CONFIRM)
    return Setting(f"world, seed {seed}", experiment, tuple(PENALTIES))


def measure(setting: Setting, by_method: dict[str, Any], keep: Callable[[], None]) -> None:
    """Fill in what `by_method` lacks: a method's (L_ŝ, L_f) points and the tokens trained on."""
    experiment = setting.experiment
    folder = Path(tempfile.mkdtemp())
    runner = Runner(experiment, read_roles(experiment), folder, Quiet())
    (proxy,), (task,) = experiment.safety, experiment.task
    (seed,) = experiment.seeds
    aligned, steps = runner.aligned, experiment.train.steps
    alphas = np.linspace(0, 1, SETTINGS)

    def losses(model: nn.Module) -> list[float]:
        held_out = (runner.rows.safety[proxy].held_out, runner.rows.task[task].held_out)
        return [held_out_loss(model, rows, experiment.measure).per_token.value for rows in held_out]

    def trained(
        penalty: float, length: int, seed: int = seed, method: Method = CASE_1
    ) -> tuple[nn.Module, int]:
        spec = RunSpec(method, penalty, proxy, task, seed)
        run = Run(spec.training, (spec,))
        training = replace(experiment.train, steps=length)
        runner.experiment = replace(experiment, train=training)
        (point,) = runner.points_of(run)
        place = str(model_folder(folder, run.name))
        return load_model(place)[0], point.train_tokens

    def separate(
        length: int, penalties: tuple[float, ...], method: Method = CASE_1
    ) -> Iterator[tuple[list[float], int]]:
        for penalty in penalties:
            model, tokens = trained(penalty, length, method=method)
            yield losses(model), tokens

    def dial(
        length: int, settings: Dial | None = None, target: Literal["response", "kl"] = "response"
    ) -> Iterator[tuple[list[float], int]]:
        runner.experiment = replace(
            experiment,
            train=replace(experiment.train, steps=length, safety_target=target),
            dial=settings or experiment.dial,
        )
        ends = runner.trained_dial(RunSpec(DIAL_METHOD, None, proxy, task, seed))
        ends.endpoints.save(folder / "dial", runner.tokenizer)
        endpoints = load_endpoints(folder / "dial", deepcopy(aligned))
        for place, alpha in enumerate(alphas):
            endpoints.set_alpha(float(alpha))
            yield losses(endpoints.model), ends.train_tokens if place == 0 else 0

    def continuation() -> Iterator[tuple[list[float], int]]:
        length = 2 * steps // len(PENALTIES)
        for stage, penalty in enumerate(PENALTIES):
            model, tokens = trained(penalty, length, seed=1000 * (seed + 1) + stage)
            yield losses(model), tokens
            runner.aligned = model
        runner.aligned = aligned

    def wise(length: int) -> Iterator[tuple[list[float], int]]:
        model, tokens = trained(0.0, length)
        end = deepcopy(model)
        for place, share in enumerate(alphas):
            interpolate(model, end, aligned, float(share))
            yield losses(model), tokens if place == 0 else 0

    def soups() -> Iterator[tuple[list[float], int]]:
        capable, task_tokens = trained(0.0, steps)
        safe, safety_tokens = trained(SAFETY_ALONE, steps, method=PUBLISHED["case-one-by-share"])
        model = deepcopy(capable)
        for place, share in enumerate(alphas):
            interpolate(model, capable, safe, float(share))
            yield losses(model), task_tokens + safety_tokens if place == 0 else 0

    makers: dict[str, Callable[[int], Iterator[tuple[list[float], int]]]] = {
        SEPARATE: lambda count: separate(steps, tuple(PENALTIES)[count:]),
        DIVIDED: lambda count: separate(
            steps, tuple(PENALTIES)[count:], PUBLISHED["case-one-by-share"]
        ),
        LONGER: lambda count: separate(2 * steps, setting.longer[count:]),
        DIAL: lambda _: dial(2 * steps),
        MIDDLE_DIAL: lambda _: dial(round(1.25 * steps)),
        SHORT_DIAL: lambda _: dial(steps),
        KL_DIAL: lambda _: dial(steps, target="kl"),
        MIDDLE_KL_DIAL: lambda _: dial(round(1.25 * steps), target="kl"),
        PARETO: lambda _: dial(steps, ParetoWeights()),
        SOUPS: lambda _: soups(),
        CONTINUATION: lambda _: continuation(),
        WISE: lambda _: wise(steps),
        LONGER_WISE: lambda _: wise(2 * steps),
    }
    by_method.setdefault("aligned", losses(aligned))
    for method in setting.methods:
        record = by_method.setdefault(method, {"points": [], "tokens": [], "finished": False})
        if record["finished"]:
            continue
        if method not in OF_SEVERAL:  # one training behind all its points
            record["points"], record["tokens"] = [], []
        for point, tokens in makers[method](len(record["points"])):
            record["points"].append(point)
            record["tokens"] += [tokens] if tokens else []
            if method in OF_SEVERAL:
                keep()
        record["finished"] = True
        keep()


@torch.no_grad()
def interpolate(model: nn.Module, end: nn.Module, start: nn.Module, share: float) -> None:
    """θ_start + share·(θ_end − θ_start)."""
    for name, weight in model.named_parameters():
        torch.lerp(start.get_parameter(name), end.get_parameter(name), share, out=weight)


def areas(
    by_method: dict[str, Any], area: Callable[[list[list[float]], list[float]], float]
) -> dict[str, float]:
    """Hypervolume, or the area above chords, by method over that of the separate runs.

    The reference corner is L_ŝ of plain fine-tuning and L_f of θ_s: what one has for doing nothing.
    Curves with more than eight points count once with eight, evenly spaced, and once with all.
    """
    corner = [by_method[WISE]["points"][-1][0], by_method["aligned"][1]]
    base = area(by_method[SEPARATE]["points"], corner)
    ratios = {}
    for method in (name for name in METHODS if name in by_method and by_method[name]["finished"]):
        points = by_method[method]["points"]
        places = np.linspace(0, len(points) - 1, min(8, len(points))).round().astype(int)
        ratios[method] = area([points[place] for place in places], corner) / base
        if len(points) > 8:
            ratios[f"{method}, {len(points)} points"] = area(points, corner) / base
    return ratios


def within_budget(by_method: dict[str, Any], method: str, budget: float) -> float | None:
    """The least L_f among the method's points with L_ŝ ≤ L_ŝ(θ_s) + budget."""
    allowed = by_method["aligned"][0] + budget
    losses = [task for safety, task in by_method[method]["points"] if safety <= allowed]
    return min(losses, default=None)


def cost(by_method: dict[str, Any], method: str) -> float:
    """Training tokens of the whole method over those of one separate run."""
    return sum(by_method[method]["tokens"]) / mean(by_method[SEPARATE]["tokens"])


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown: per group of settings the mean and, over seeds, the range."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, by_method in results.items():
        groups.setdefault(name.partition(", seed")[0], []).append(by_method)
    lines: list[str] = []
    for name, group in groups.items():
        group = [by_method for by_method in group if is_finished(by_method)]
        if not group:
            continue
        seeds = f"{len(group)} seeds: mean [lowest, highest]" if len(group) > 1 else "one seed"
        lines += [f"**{name}** ({seeds})", ""]
        of_areas, of_budgets = [], []
        group_volumes = [areas(by_method, hypervolume) for by_method in group]
        group_chords = [areas(by_method, chord_area) for by_method in group]
        for row in group_volumes[0]:
            method = next(m for m in sorted(METHODS, key=len, reverse=True) if row.startswith(m))
            cells = [f"{mean(cost(by_method, method) for by_method in group):.2f}×"]
            cells += [
                mean_and_range([ratios[row] for ratios in of_group])
                for of_group in (group_volumes, group_chords)
            ]
            of_areas.append((row, *cells))
            has_more = any(len(by_method[method]["points"]) > 8 for by_method in group)
            if row == method and has_more:
                continue
            reached = {
                budget: [within_budget(by_method, method, budget) for by_method in group]
                for budget in BUDGETS
            }
            of_budgets.append((row, *(_mean_or_none(losses) for losses in reached.values())))
        lines.append(markdown_table(("method", "tokens", "hypervolume", "chord area"), of_areas))
        columns = ["L_f at", *(f"+{budget:g}" for budget in BUDGETS)]
        lines += ["", markdown_table(columns, of_budgets)]
        aims = _aims(group, group_volumes, group_chords)
        lines += ["", "\n".join(f"- {aim}" for aim in aims), "", *_beside_wise(group), ""]
        aligned = [
            f"{mean(by_method['aligned'][place] for by_method in group):.3f}" for place in (0, 1)
        ]
        lines += [f"θ_s itself: L_ŝ = {aligned[0]}, L_f = {aligned[1]}.", ""]
    return "\n".join(lines)


def _mean_or_none(losses: list[float | None]) -> str:
    known = [loss for loss in losses if loss is not None]
    return f"{mean(known):.3f}" if len(known) == len(losses) else "none"


def _aims(
    group: list[dict[str, Any]],
    volumes: list[dict[str, float]],
    chords: list[dict[str, float]],
) -> list[str]:
    """Whether a dial at 1.25 × the tokens at most ties the runs that divide rows by weight too."""
    lines = []
    for method in (SHORT_DIAL, MIDDLE_DIAL, KL_DIAL, MIDDLE_KL_DIAL):
        if method not in volumes[0] or DIVIDED not in volumes[0]:
            continue
        all_points = next(row for row in volumes[0] if row.startswith(f"{method}, "))
        tokens = mean(cost(by_method, method) for by_method in group)
        for row in (method, all_points):
            told = []
            for what, of_group in (("hypervolume", volumes), ("chord area", chords)):
                over = [ratios[row] / ratios[DIVIDED] for ratios in of_group]
                met = "met" if mean(over) >= AIM and round(tokens, 2) <= MOST_TOKENS else "missed"
                told.append(f"{mean_and_range(over)} of the {what}, {met}")
            lines.append(
                f"{row}, at {tokens:.2f}× the tokens of one run: {'; '.join(told)}. Aim: {AIM:.2f} "
                f"at {MOST_TOKENS}×, of separate runs with rows by weight."
            )
    return lines


def _beside_wise(group: list[dict[str, Any]]) -> list[str]:
    """How far a dial of all points lies above WiSE-FT of all points."""
    cells = []
    for dial, wise in (
        (SHORT_DIAL, WISE),
        (SHORT_DIAL, LONGER_WISE),
        (MIDDLE_DIAL, LONGER_WISE),
        (KL_DIAL, WISE),
        (KL_DIAL, LONGER_WISE),
        (MIDDLE_KL_DIAL, LONGER_WISE),
    ):
        if any(method not in by_method for by_method in group for method in (dial, wise)):
            continue
        above = [
            [
                (within_budget(by_method, dial, budget) or math.inf)
                - (within_budget(by_method, wise, budget) or math.inf)
                for by_method in group
            ]
            for budget in BUDGETS
        ]
        met = "met" if all(mean(of_budget) <= 0 for of_budget in above) else "missed"
        ranges = (
            f"{mean(of_budget):+.3f} [{min(of_budget):+.3f}, {max(of_budget):+.3f}]"
            for of_budget in above
        )
        cells.append((f"{dial}, less {wise}", *(text.replace("-", "−") for text in ranges), met))
    if not cells:
        return []
    columns = ["L_f, all points", *(f"at +{budget:g}" for budget in BUDGETS), "aim: 0 or below"]
    return [markdown_table(columns, cells)]


def is_finished(by_method: dict[str, Any]) -> bool:
    methods = [by_method[method] for method in METHODS if method in by_method]
    return len(methods) > 1 and all(method["finished"] for method in methods)


def draw(by_method: dict[str, Any], path: Path) -> None:
    """The curves of one setting in the plane (L_ŝ, L_f)."""
    methods = (SEPARATE, DIAL, WISE, CONTINUATION, LONGER_WISE, LONGER)
    lines = [
        Line(
            f"{method} ({cost(by_method, method):.1f}× one run’s tokens)",
            ink(place, place),
            tuple(Mark(x, y, None, None, (), joined=True) for x, y in by_method[method]["points"]),
        )
        for place, method in enumerate(methods)
    ]
    safety, task = by_method["aligned"]
    start = Mark(safety, task, None, None, (), joined=False)
    lines.append(Line("aligned model θₛ", START_INK, (start,)))
    x_axis, y_axis = (
        linear_axis(
            f"{role} loss on held-out rows (nats per token)",
            (getattr(mark, coordinate) for line in lines for mark in line.marks),
            margin=0.05,
        )
        for role, coordinate in (("safety", "x"), ("task", "y"))
    )
    panel = Panel("Every trade-off of one training", x_axis, y_axis, tuple(lines))
    png, *_ = images(Figure(1, "", (panel,), ()))
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, png)


def mean_and_range(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--confirm", action="store_true", help="the worlds to confirm in, once")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--docs", action="store_true", help="only rewrite docs/dial.md's results")
    arguments = parser.parse_args()
    quiet_libraries()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    started = time.monotonic()

    def keep(setting: Setting) -> None:
        RESULTS.parent.mkdir(exist_ok=True)
        saved = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        for name in saved.keys() - {setting.name}:  # another process may measure another setting
            results[name] = saved[name]
        write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
        if time.monotonic() - started > 60 * arguments.minutes:
            raise OutOfTimeError

    settings: list[Callable[[], Setting]] = []
    if arguments.confirm:
        settings = [partial(world, seed, confirms=True) for seed in CONFIRMING]
    elif not arguments.docs:
        settings = [partial(world, seed) for seed in SEEDS]
    try:
        for make in settings:
            setting = make()
            print(setting.name, flush=True)
            measure(setting, results.setdefault(setting.name, {}), partial(keep, setting))
    except OutOfTimeError:
        print("Out of time. The same command goes on.")
    if arguments.docs:
        replace_between(DOCS / "dial.md", MARK, tables(results))
        first = results.get(f"world, seed {SEEDS[0]}", {})
        if is_finished(first):
            draw(first, DOCS / "dial" / "frontier.png")
    print(tables(results))


if __name__ == "__main__":
    main()
