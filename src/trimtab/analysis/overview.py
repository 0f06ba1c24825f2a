"""The question first: what fine-tuning cost and gained, and which models there are to choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mode
from typing import Literal

from trimtab.analysis.changes import rate_changes
from trimtab.analysis.choices import choices
from trimtab.analysis.groups import Setting, all_settings
from trimtab.analysis.labels import change_in_words, percent
from trimtab.config.methods import ALIGNED, PLAIN
from trimtab.evaluate.rates import REFUSALS, Rate
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import Estimate, over_seeds, share_change_over_seeds, share_over_seeds

KEPT = 0.5
"""Of what plain fine-tuning learned, the share that a recommended model has to learn."""

Axis = Literal["refusals", "losses"]


@dataclass(frozen=True)
class Measured:
    """A mean over seeds, and how far it lies from that of θ_s on the same rows."""

    value: Estimate
    change: Estimate | None
    count: int | None = None
    """Of how many prompts; None of losses."""


@dataclass(frozen=True)
class Option:
    """One model to choose, θ_s and plain fine-tuning among them. Losses in nats per token."""

    setting: Setting
    safety: Measured
    """The loss on the original safety data where it was measured, else on the proxy."""
    task: Measured
    rates: dict[Rate, Measured]
    """Empty where no answers were judged."""

    @property
    def name(self) -> str:
        """Method and hyperparameter as a person says them."""
        if self.setting.method is ALIGNED:
            return "start θₛ"
        method_name = self.setting.method.brief
        return method_name if self.setting.value is None else f"{method_name}, {self.setting.label}"


@dataclass(frozen=True)
class Overview:
    """Every model to choose, and those of the task with most of them that share a picture."""

    options: tuple[Option, ...]
    """By task: the start, plain fine-tuning, then from the lowest task loss to the highest."""
    task: str
    pictured: tuple[Option, ...]
    """Of one task and, where safety is measured on the proxy, of one proxy."""
    unit: Axis
    on_original: bool

    @property
    def start(self) -> Option:
        """θ_s of the picture."""
        return next(option for option in self.pictured if option.setting.method is ALIGNED)

    @property
    def plain(self) -> Option | None:
        """Plain fine-tuning of the picture."""
        return next((option for option in self.pictured if option.setting.method is PLAIN), None)

    @property
    def trained(self) -> tuple[Option, ...]:
        """All but the start, of all tasks."""
        return tuple(option for option in self.options if option.setting.method is not ALIGNED)

    @property
    def choices(self) -> tuple[Option, ...]:
        """Of the picture, all but the start and plain fine-tuning."""
        return tuple(
            option for option in self.pictured if option.setting.method not in (ALIGNED, PLAIN)
        )

    @property
    def best(self) -> Option | None:
        """The safest that learned at least half of what plain fine-tuning did.

        By refusals where they were counted, else by the safety loss, and by values alone. None
        where plain fine-tuning learned nothing that its interval sets apart from none.
        """
        plain = self.plain
        if plain is None or plain.task.change is None or plain.task.change.high >= 0:
            return None
        least = KEPT * plain.task.change.value
        held = [
            option
            for option in self.choices
            if option.task.change and option.task.change.value <= least
        ]
        return min(held, key=self._danger, default=None)

    def _danger(self, option: Option) -> tuple[float, float]:
        refused = option.rates.get(REFUSALS)
        change = option.safety.change
        return (-refused.value.value if refused else 0.0, change.value if change else 0.0)


def overview(points: Sequence[Point], rows: RowLosses) -> Overview | None:
    """What there is to choose; None without the start, without a trained model beside it, or where
    no safety loss was measured."""
    known = [point for point in points if point.alignment_loss or point.proxy_loss]
    starts = [setting for setting in all_settings(known) if setting.method is ALIGNED]
    if not starts:
        return None
    on_original = all(point.alignment_loss for point in known)
    by_key: dict[tuple[object, ...], Option] = {}
    by_pair = choices(known, rows)
    for start in starts:
        zero = Estimate(0.0, 0.0, 0.0, "nats per token", "exact")
        line = by_pair[start.proxy, start.task]
        plain_first = sorted(line, key=lambda choice: choice.setting.method is not PLAIN)
        changes = [
            (choice.setting, choice.safety_change, choice.task_change) for choice in plain_first
        ]
        for setting, safety, task in ((start, zero, zero), *changes):
            by_key.setdefault(
                _key(setting, on_original), _option(setting, safety, task, points, rows)
            )
    tasks = list(dict.fromkeys(start.task for start in starts))
    options = tuple(
        sorted(
            by_key.values(),
            key=lambda option: (tasks.index(option.setting.task), _rank(option)),
        )
    )
    trained = [option.setting for option in options if option.setting.method is not ALIGNED]
    if not trained:
        return None
    main_task = mode(setting.task for setting in trained)
    pictured = tuple(option for option in options if option.setting.task == main_task)
    if not on_original:
        proxy = mode(setting.proxy for setting in trained if setting.task == main_task)
        pictured = tuple(option for option in pictured if option.setting.proxy == proxy)
    counted = all(REFUSALS in option.rates for option in pictured)
    return Overview(options, main_task, pictured, "refusals" if counted else "losses", on_original)


def answer_in_words(summary: Overview) -> tuple[str, ...]:
    """The answer in two or three sentences, for a reader who knows none of the symbols."""
    shown = summary.plain or next(
        option for option in summary.pictured if option.setting.method is not ALIGNED
    )
    how = f" by {_option_text(shown)}" if summary.plain is None else ""
    who = f"{'Fine-tuning' if how else 'Plain fine-tuning'} on {summary.task}{how}"
    seeds = len(shown.setting.points)
    mean = f" (means over {seeds} seeds)" if seeds > 1 else ""
    losses = (
        f"{who} {_change_text('the safety loss', shown.safety.change)} and "
        f"{_change_text('the task loss', shown.task.change)}, in nats per token{mean}."
    )
    sentences = [losses]
    if refusals := _refusals(summary, shown):
        sentences.insert(0, refusals)
    if summary.plain is None:
        sentences.append(
            "What plain fine-tuning would have cost is not known here: train it as well."
        )
    elif sentence := _recommendation(summary):
        sentences.append(sentence)
    return tuple(sentences)


def _recommendation(summary: Overview) -> str | None:
    best, alternatives = summary.best, summary.choices
    if best is None:
        learned = summary.plain is not None and _learned(summary.plain)
        return (
            f"No other model here keeps {KEPT:.0%} of that gain."
            if alternatives and learned
            else None
        )
    if len(alternatives) == 1:
        return f"{_option_text(best)} instead: {_changes_text(best)}."
    return (
        f"Of the other {len(alternatives)} models here, the safest that keeps at least half of the "
        f"gain is {_option_text(best)}: {_changes_text(best)}. These numbers chose it, and flatter "
        "it."
    )


def _learned(option: Option) -> bool:
    return option.task.change is not None and option.task.change.high < 0


def _refusals(summary: Overview, shown: Option) -> str | None:
    before, now = summary.start.rates.get(REFUSALS), shown.rates.get(REFUSALS)
    if before is None or now is None:
        return None
    of = f"{now.count} harmful prompts" if now.count else "the harmful prompts"
    who = "plain fine-tuning" if summary.plain else f"fine-tuning by {_option_text(shown)}"
    return (
        f"Of {of} the model refused {percent(before.value.value)} before, and "
        f"{percent(now.value.value)} after {who}{_points_text(now)}."
    )


def _points_text(rate: Measured) -> str:
    return "" if rate.change is None else f" ({points_in_words(rate.change)})"


def points_in_words(change: Estimate) -> str:
    """A change of a share, in percentage points.

    >>> points_in_words(Estimate(-0.94, -0.98, -0.88, "share", "estimate"))
    '−94 points [−98, −88]'
    """
    value, low, high = (
        f"{round(100 * end):+d}".replace("-", "−").replace("+0", "0")
        for end in (change.value, change.low, change.high)
    )
    return f"{value} points" if change.low == change.high else f"{value} points [{low}, {high}]"


def _change_text(what: str, change: Estimate | None) -> str:
    if change is None:
        return f"changed {what} by what is not known"
    if change.low <= 0 <= change.high:
        return f"may not have changed {what} ({change_in_words(change)})"
    if change.value > 0:
        return f"raised {what} by {change_in_words(change).replace('+', '')}"
    turned = Estimate(-change.value, -change.high, -change.low, change.unit, change.kind)
    return f"lowered {what} by {change_in_words(turned).replace('+', '')}"


def _option_text(option: Option) -> str:
    setting = option.setting
    hyperparameter = setting.method.hyperparameter.replace("_", " ")
    symbol = setting.method.symbol
    label = f"{hyperparameter} {setting.label}" if symbol and len(symbol) == 1 else setting.label
    method_name = setting.method.brief
    if setting.value is None:
        return method_name
    reads = setting.method.reads_safety and setting.proxy
    return f"{method_name} with {label}{f' on safety data {setting.proxy}' if reads else ''}"


def _changes_text(option: Option) -> str:
    parts = []
    if refused := option.rates.get(REFUSALS):
        parts.append(f"{percent(refused.value.value)} refused")
    for what, measured in (("safety loss", option.safety), ("task loss", option.task)):
        if measured.change is not None:
            parts.append(f"{what} {change_in_words(measured.change)}")
    return ", ".join(parts)


def _option(
    setting: Setting, safety: Estimate, task: Estimate, points: Sequence[Point], rows: RowLosses
) -> Option:
    return Option(
        setting,
        Measured(_mean(setting, lambda point: point.alignment_loss or point.proxy_loss), safety),
        Measured(_mean(setting, lambda point: point.capability_loss), task),
        _rates(setting, points, rows),
    )


def _mean(setting: Setting, loss_of: Callable[[Point], Estimate | None]) -> Estimate:
    return over_seeds([loss for point in setting.points if (loss := loss_of(point)) is not None])


def _rates(setting: Setting, points: Sequence[Point], rows: RowLosses) -> dict[Rate, Measured]:
    of_seeds = [
        {rate_change.rate: rate_change for rate_change in rate_changes(point, points, rows)}
        for point in setting.points
    ]
    shared = [rate for rate in of_seeds[0] if all(rate in of_seed for of_seed in of_seeds)]
    rates = {}
    for rate in shared:
        seed_changes = [of_seed[rate] for of_seed in of_seeds]
        changes = [
            rate_change.change for rate_change in seed_changes if rate_change.change is not None
        ]
        change = share_change_over_seeds(changes) if len(changes) == len(seed_changes) else None
        rates[rate] = Measured(
            share_over_seeds([rate_change.now for rate_change in seed_changes]),
            change,
            seed_changes[0].prompts,
        )
    return rates


def _key(setting: Setting, on_original: bool) -> tuple[object, ...]:
    # On the original data, a model that no proxy has touched is one row, not one for each proxy.
    untouched = on_original and not setting.method.reads_safety
    untouched = untouched or (on_original and setting.method is ALIGNED)
    proxy = None if untouched else setting.proxy
    return setting.method, setting.value, setting.task, proxy


def _rank(option: Option) -> tuple[int, float]:
    change = option.task.change
    rank = {ALIGNED: 0, PLAIN: 1}.get(option.setting.method, 2)
    return rank, change.value if change else 0.0
