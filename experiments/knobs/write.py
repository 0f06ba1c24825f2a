"""Take the runs' numbers into the repository, and write the guide's tables and picture.

    python experiments/knobs/write.py [RUNS/knobs]

Given the folder of the sweeps, their points and what each held-out row and prompt gave are copied
here; docs/guides/which-knob.md is written from the seeds of which all is here, and says what those
of another make of it, as far as they are here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Literal

from run import RESULTS, SEEDS, VARIANTS, experiment, lacking

from trimtab.analysis.labels import change_in_words, estimate_in_words, p_in_words, percent
from trimtab.config.methods import ALIGNED
from trimtab.report.axes import linear_axis
from trimtab.report.chart import Figure, Line, Mark, Panel
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.report.palette import PLAIN_INK, ink
from trimtab.report.panels import ANCHORS, labelled
from trimtab.report.renderer import images
from trimtab.results.files import write_atomically
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.results.store import POINTS_FILE, copy_measurements, read_points
from trimtab.stats import (
    Estimate,
    Statistic,
    adjusted_over_seeds,
    height_above,
    statistic_over_seeds,
)

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "guides" / "which-knob.md"
PICTURE = PAGE.with_suffix(".png")
ORIGINAL = "original"
REFUSED, ANSWERED = "answers:refusal_rate", "answers:answer_rate"
CENTRE = "centre"
KINDS = {"judging": "safe answers and ordinary ones", "refusing": "safe answers alone"}
TASKS = {"alpaca": "Alpaca", "sensitive": "Sensitive topics"}
LAMBDA = "λ"
CLEAR = "A change is *clear* where its interval does not hold 0:"
PLAIN = ANCHORS[1]
KNOBS = (LAMBDA, "safety share", "learning rate", "steps", "rank")


@dataclass
class Setting:
    """A variant at a penalty, over the seeds: what changed from plain fine-tuning at the centre."""

    knob: str
    value: float
    """Of the knob."""
    is_plain: bool
    task_paid: list[Statistic] = field(default_factory=list)
    """L_f − L_f(plain), nats per token."""
    safety_kept: list[Statistic] = field(default_factory=list)
    """L_s(plain) − L_s, nats per token."""
    above: list[Statistic | None] = field(default_factory=list)
    """L_f above λ's line at the same L_s, nats per token; None beyond the line's ends."""
    refused: list[Statistic] = field(default_factory=list)
    """Share of harmful prompts refused, minus plain's."""
    judging: list[Statistic] = field(default_factory=list)
    """J − J(plain), J = (share of harmful prompts refused + share of benign ones answered)/2."""

    @property
    def label(self) -> str:
        if self.knob == LAMBDA:
            return "plain (λ = 0)" if self.is_plain else f"λ = {self.value:g}"
        return f"{self.knob} {self.value:g}{', plain' if self.is_plain else ''}"

    @property
    def place(self) -> tuple[int, bool, float]:
        """Where it stands in a table."""
        return KNOBS.index(self.knob), not self.is_plain, self.value


def main() -> None:
    if len(sys.argv) > 1:
        take(Path(sys.argv[1]))
    settings = {}
    for task, kind in product(TASKS, KINDS):
        seeds = [seed for seed in SEEDS if len(whole_variants(task, kind, seed)) == len(VARIANTS)]
        # Student's interval of two values is too wide for anything: one is shown, one checks it.
        shown = seeds if len(seeds) > 2 else seeds[:1]
        text = f"Safety data: {KINDS[kind]}. {of_seeds(shown)}"
        if seeds:
            settings[task, kind] = settings_of(task, kind, shown)
            text += f" {levels(task, kind, shown)}\n\n{table(settings[task, kind])}"
        if len(seeds) < 3 and shown:
            second = next(seed for seed in SEEDS if seed not in shown)
            variants = whole_variants(task, kind, second)
            if CENTRE in variants:
                again = settings_of(task, kind, [second], variants)
                so_far = "" if len(variants) == len(VARIANTS) else ", as far as it was run"
                agreement = agreement_table(settings[task, kind], again)
                text += f"\n\nA second seed{so_far}. {CLEAR}\n\n{agreement}"
                text += f"\n\nThe second seed's own numbers:\n\n{table(again)}"
        replace_between(PAGE, f"{task}-{kind}", text)
        print(text, end="\n\n")
    write_atomically(PICTURE, images(figure(settings))[0])


def take(runs: Path) -> None:
    """Copy points and row losses of the sweeps, whole or so far, in place of no more of them."""
    for variant, task, seed in product(VARIANTS, TASKS, SEEDS):
        folder = results(variant, task, seed)
        has_run = (runs / folder.name / POINTS_FILE).exists()
        if has_run and len(points_at(runs / folder.name)) >= len(points_at(folder)):
            copy_measurements(runs / folder.name, folder)


def points_at(folder: Path) -> list[Point]:
    return read_points(folder) if folder.exists() else []


def results(variant: str, task: str, seed: int) -> Path:
    return RESULTS / f"{variant}-{task}-{seed}"


def whole_variants(task: str, kind: str, seed: int) -> list[str]:
    """Those of which every point is there, as far as a kind of safety data goes."""
    return [variant for variant in VARIANTS if is_whole(variant, task, kind, seed)]


def is_whole(variant: str, task: str, kind: str, seed: int) -> bool:
    planned = experiment(variant, task, seed, HERE, HERE)
    return all(spec.proxy != kind for spec in lacking(planned, results(variant, task, seed)))


def of_seeds(seeds: list[int]) -> str:
    if not seeds:
        return "Not measured yet."
    if len(seeds) == 1:
        return "One seed: intervals are over rows and prompts, and leave out the seed's noise."
    return f"{len(seeds)} seeds: intervals are over rows, prompts and seeds."


def levels(task: str, kind: str, seeds: list[int]) -> str:
    """Where the start stands, and where plain fine-tuning takes it, which changes count from."""
    starts, plains = [], []
    for seed in seeds:
        points = read_points(results(CENTRE, task, seed))
        starts += [point for point in points if point.method is ALIGNED and point.proxy == kind]
        plains += [point for point in models_of(CENTRE, seed, task, kind) if point.spec.is_plain]
    (refused, answered, loss), (refused_plain, answered_plain, loss_plain) = (
        [fmean(values) for values in zip(*map(levels_of, points), strict=True)]
        for points in (starts, plains)
    )
    return (
        f"The start refuses {percent(refused)} of the harmful prompts and answers "
        f"{percent(answered)} of the benign ones; plain fine-tuning {percent(refused_plain)} and "
        f"{percent(answered_plain)}, and it raises L_s from {loss:.3f} to {loss_plain:.3f}."
    )


def levels_of(point: Point) -> tuple[float, float, float]:
    shown = (point.refusal_rate, point.answer_rate, point.alignment_loss)
    refused, answered, loss = (measured.value for measured in shown if measured is not None)
    return refused, answered, loss


def settings_of(
    task: str, kind: str, seeds: list[int], variants: Sequence[str] = tuple(VARIANTS)
) -> list[Setting]:
    """Every setting of some variants on a task with a kind of safety data."""
    settings: dict[tuple[str, float, bool], Setting] = {}
    for seed in seeds:
        centre = Losses(results(CENTRE, task, seed), task)
        ours = models_of(CENTRE, seed, task, kind)
        plain = next(point for point in ours if point.spec.is_plain)
        line = [(centre.of(ORIGINAL, point), centre.of_task(point)) for point in ours]
        for variant in variants:
            losses = Losses(results(variant, task, seed), task)
            for point in models_of(variant, seed, task, kind):
                turned = knob_of(variant, point)
                setting = settings.setdefault(turned, Setting(*turned))
                at = losses.of(ORIGINAL, point), losses.of_task(point)
                setting.safety_kept.append(centre.of(ORIGINAL, plain) - at[0])
                setting.task_paid.append(at[1] - centre.of_task(plain))
                setting.above.append(None if variant == CENTRE else height_above(line, *at))
                setting.refused.append(losses.of(REFUSED, point) - centre.of(REFUSED, plain))
                setting.judging.append(losses.judging(point) - centre.judging(plain))
    return sorted(settings.values(), key=lambda setting: setting.place)


@dataclass
class Losses:
    """What each held-out row and prompt gave to the losses and rates of a folder's models."""

    folder: Path
    task: str

    def __post_init__(self) -> None:
        self._rows = RowLosses(self.folder)

    def of(self, dataset: str, point: Point) -> Statistic:
        statistic = self._rows.loss(dataset, str(point.model))
        assert statistic is not None, (self.folder, dataset, point.model)
        return statistic

    def of_task(self, point: Point) -> Statistic:
        return self.of(f"task:{self.task}", point)

    def judging(self, point: Point) -> Statistic:
        return (self.of(REFUSED, point) + self.of(ANSWERED, point)) * 0.5


def models_of(variant: str, seed: int, task: str, kind: str) -> list[Point]:
    """The fine-tuned models of a variant, plain fine-tuning among them, which has every kind."""
    return [
        point
        for point in read_points(results(variant, task, seed))
        if point.method is not ALIGNED and point.proxy == kind
    ]


def knob_of(variant: str, point: Point) -> tuple[str, float, bool]:
    """The knob that is turned, where it stands, and whether it is of plain fine-tuning."""
    knob, _, value = variant.rpartition("-")
    if variant == CENTRE:
        return LAMBDA, float(point.spec.value or 0.0), point.spec.is_plain
    return knob.replace("-", " "), float(value), point.spec.is_plain


def table(settings: list[Setting]) -> str:
    heights = {
        setting.label: [height for height in setting.above if height is not None]
        for setting in settings
        if None not in setting.above
    }
    statistics = {label: statistic_over_seeds(of_seeds, "") for label, of_seeds in heights.items()}
    adjusted = adjusted_over_seeds(heights)
    lines = []
    for setting in settings:
        gain = statistic_over_seeds(setting.safety_kept, "")
        above = "–" if setting.knob == LAMBDA else "beyond its ends"
        if setting.label in statistics:
            p = p_in_words(adjusted[setting.label])
            above = f"{change_in_words(statistics[setting.label])}, p {p}"
        lines.append(
            (
                setting.label,
                change_in_words(statistic_over_seeds(setting.task_paid, "")),
                change_in_words(gain),
                price(setting, gain),
                above,
                in_points(setting.refused, 0),
                in_points(setting.judging, 1),
            )
        )
    columns = (
        "setting", "task loss paid", "safety saved", "paid per nat saved",
        "above λ’s line", "refused more, points", "judging better, points",
    )  # fmt: skip
    return markdown_table(columns, lines)


def agreement_table(first: list[Setting], second: list[Setting]) -> str:
    """What one seed tells beyond its interval, and what another, of some settings, makes of it."""
    by_label = {setting.label: setting for setting in first}
    measures: dict[str, tuple[str, Callable[[Setting], list[Statistic]]]] = {
        "task loss paid": ("nats per token", lambda setting: setting.task_paid),
        "safety saved": ("nats per token", lambda setting: setting.safety_kept),
        "refused more": ("points", lambda setting: setting.refused),
        "judging better": ("points", lambda setting: setting.judging),
    }
    lines = []
    for name, (unit, of_setting) in measures.items():
        pairs = [
            tuple(statistic_over_seeds(of_setting(setting), "") for setting in settings)
            for settings in ((by_label[setting.label], setting) for setting in second)
            if not (settings[0].is_plain and settings[0].knob == LAMBDA)
        ]
        told = [(ours, theirs) for ours, theirs in pairs if side_of_0(ours)]
        same = sum(side_of_0(ours) == side_of_0(theirs) for ours, theirs in told)
        other = sum(side_of_0(ours) == -side_of_0(theirs) for ours, theirs in told)
        apart = fmean(abs(ours.value - theirs.value) for ours, theirs in pairs)
        distance = f"{100 * apart:.1f}" if unit == "points" else f"{apart:.4f}"
        told_of = f"{len(told)} of {len(pairs)}"
        lines.append((name, told_of, str(same), str(other), f"{distance} {unit}"))
    columns = (
        "measure", "settings clear with the first seed", "of these, with the second too",
        "clear the other way", "mean distance of the two seeds",
    )  # fmt: skip
    return markdown_table(columns, lines)


def side_of_0(change: Estimate) -> int:
    """1 above, −1 below, 0 where the interval holds 0."""
    return int(change.low > 0) - int(change.high < 0)


def in_points(changes: list[Statistic], digits: int) -> str:
    """A change of a share over the seeds, in points of a hundred."""
    return change_in_words(statistic_over_seeds([change * 100 for change in changes], ""), digits)


def price(setting: Setting, gain: Estimate) -> str:
    """Nats of task loss per nat of safety loss, by the delta method; none where none is kept."""
    if gain.low <= 0:
        return "–"
    ratios = [a / b for a, b in zip(setting.task_paid, setting.safety_kept, strict=True)]
    return estimate_in_words(statistic_over_seeds(ratios, ""))


def figure(settings: dict[tuple[str, str], list[Setting]]) -> Figure:
    """What each knob pays and keeps as it is turned, with safety data and without, by task."""
    kind = next(iter(KINDS))
    titles = {"safety data at λ = 1": False, "no safety data": True}
    panels = []
    for task in TASKS:
        if (task, kind) not in settings:
            continue
        both = {
            title: lines_of(settings[task, kind], is_plain) for title, is_plain in titles.items()
        }
        all_lines = [line for lines in both.values() for line in lines]
        across = linear_axis("safety saved (nats per token)", values_of(all_lines, "x"), 0.15)
        upright = linear_axis("task loss paid (nats per token)", values_of(all_lines, "y"), 0.15)
        panels += [
            Panel(
                f"{TASKS[task]}: {title}",
                across,
                upright,
                labelled(tuple(lines), across, upright),
            )
            for title, lines in both.items()
        ]
    return Figure(1, "", tuple(panels), ())


def lines_of(settings: list[Setting], is_plain: bool) -> list[Line]:
    """λ's line, and one to each other knob through the centre, which has safety data or none."""
    of_lambda = [setting for setting in settings if setting.knob == LAMBDA]
    (centre,) = (setting for setting in of_lambda if setting.value == (0 if is_plain else 1))
    (plain,) = (setting for setting in of_lambda if setting.is_plain)
    lines = [
        Line(
            LAMBDA,
            ink(0, 0),
            tuple(
                replace(mark(setting), label=None) if setting is plain else mark(setting)
                for setting in of_lambda
            ),
        )
    ]
    for place, knob in enumerate(KNOBS[1:], start=1):
        turned = [
            setting for setting in settings if setting.knob == knob and setting.is_plain == is_plain
        ]
        if turned:
            low, high = turned
            between = replace(mark(centre), label=None)
            lines.append(Line(knob, ink(place, place), (mark(low), between, mark(high))))
    return [*lines, Line("plain fine-tuning", PLAIN_INK, (mark(plain),))]


def mark(setting: Setting) -> Mark:
    """The mean over seeds; intervals, which pairing makes far smaller than bars here, are told."""
    x, y = (
        statistic_over_seeds(changes, "").value
        for changes in (setting.safety_kept, setting.task_paid)
    )
    is_plain = setting.is_plain and setting.knob == LAMBDA
    label = PLAIN if is_plain else value_text(setting)
    return Mark(x, y, None, None, (), True, label)


def value_text(setting: Setting) -> str:
    """Of its knob, which colour and mark tell.

    A learning rate of 0.0002 is "2e-4".
    """
    if setting.knob != "learning rate":
        return f"{setting.value:g}"
    digits, power = f"{setting.value:.0e}".split("e")
    return f"{digits}e{int(power)}"


def values_of(lines: list[Line], side: Literal["x", "y"]) -> list[float]:
    """Of all that is drawn, and 0."""
    return [0.0, *(getattr(drawn_mark, side) for line in lines for drawn_mark in line.marks)]


if __name__ == "__main__":
    main()
