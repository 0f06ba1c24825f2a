"""Which method and hyperparameter keep to limits at the least task loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from trimtab.analysis.groups import Setting, all_settings
from trimtab.config.data_names import ORIGINAL, answers_data, safety_data, task_data
from trimtab.config.methods import ALIGNED, PLAIN, number
from trimtab.errors import UserError
from trimtab.evaluate.rates import ANSWERED, COMPLIANCE, REFUSALS, Rate
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import (
    Array,
    Estimate,
    Verdict,
    front,
    limit_at_every_look,
    note_on_rows,
    over_seeds,
    paired_difference,
    rows_to_tell_share,
    share,
    share_over_seeds,
    statistic_over_seeds,
    verdict,
)

FEWEST_ROWS = 20
"""Below it held-out rows are not divided: a half would be too few for any interval to hold."""

Metric = Literal["safety loss", "task loss", "refusal rate", "harmful rate", "answer rate"]
RATE_OF: dict[Metric, Rate] = {
    "refusal rate": REFUSALS,
    "harmful rate": COMPLIANCE,
    "answer rate": ANSWERED,
}
"""What each metric that is no loss counts."""


@dataclass(frozen=True)
class Limit:
    """What a setting has to keep to: a rise of a loss over θ_s, or a rate, at most or at least.

    Rises are in nats per token, rates shares of prompts.
    """

    metric: Metric
    value: float
    at_least: bool = False

    def verdict(self, measured: Estimate) -> Verdict:
        """By the interval of what was measured."""
        if not self.at_least:
            return verdict(measured, self.value)
        turned = Estimate(
            -measured.value, -measured.high, -measured.low, measured.unit, measured.kind
        )
        return verdict(turned, -self.value)

    def shortfall(self, measured: Estimate) -> float:
        """How far the far end of the interval lies beyond the limit; below 0 it is within."""
        return self.value - measured.low if self.at_least else measured.high - self.value

    @property
    def in_words(self) -> str:
        """As in 'harmful rate at most 0.02'."""
        side = "at least" if self.at_least else "at most"
        text = f"{self.metric} {side} {number(self.value)}"
        is_loss = self.metric.endswith("loss")
        return f"{text} nats per token over the start's" if is_loss else text

    def rows_to_keep_it(self, measured: Estimate) -> int | None:
        """Of a rate: as many prompts as would show it within the limit, were they like those seen.

        None where the rate itself is not within it.
        """
        if self.at_least:
            return rows_to_tell_share(1 - measured.value, 1 - self.value)
        return rows_to_tell_share(measured.value, self.value)


@dataclass(frozen=True)
class Standing:
    """What was measured of a model, and how it stands to limits.

    Losses are the rise over the aligned model in nats per token, paired with it by row.
    """

    measured: Mapping[Metric, Estimate]
    verdicts: Mapping[Limit, Verdict]

    @classmethod
    def of(cls, measured: Mapping[Metric, Estimate], limits: Iterable[Limit]) -> Self:
        """The verdict on each limit, by what was measured of its metric."""
        return cls(measured, {limit: limit.verdict(measured[limit.metric]) for limit in limits})

    @property
    def verdict(self) -> Verdict:
        """Of all limits: beyond where one is, else undecided where one is, else within."""
        return all_within(list(self.verdicts.values()))

    @property
    def shortfall(self) -> float:
        """The largest of its limits' shortfalls, each beside the size of the limit."""
        return max(
            limit.shortfall(self.measured[limit.metric]) / max(abs(limit.value), 0.01)
            for limit in self.verdicts
        )


@dataclass(frozen=True)
class Candidate:
    """One setting and how it stands to the limits, means over seeds."""

    setting: Setting
    standing: Standing

    @property
    def measured(self) -> Mapping[Metric, Estimate]:
        """By metric."""
        return self.standing.measured

    @property
    def verdicts(self) -> Mapping[Limit, Verdict]:
        """On each limit."""
        return self.standing.verdicts

    @property
    def verdict(self) -> Verdict:
        """On all limits together."""
        return self.standing.verdict

    @property
    def rise(self) -> Estimate | None:
        """Of the safety loss; None where it was measured on other safety data only."""
        return self.measured.get("safety loss")

    @property
    def task_change(self) -> Estimate:
        """Of the task loss; below 0 it has learned."""
        return self.measured["task loss"]


@dataclass(frozen=True)
class PlainBeside:
    """The task loss of plain fine-tuning, and what a setting pays beside it; nats per token."""

    task_change: Estimate
    """From the aligned model's; below 0 it has learned."""
    cost: Estimate | None
    """How far the setting's task loss lies above it, by row and by seed; None where rows are not
    known and losses are not exact."""


@dataclass(frozen=True)
class Suggestion:
    """The best setting within the limits for one task and proxy, and what fresh rows say of it.

    Where no setting is within them, it is the one that comes nearest.
    """

    proxy: str | None
    task: str
    safety: str
    """What the rise of the safety loss is on."""
    chosen_by: Candidate
    """The numbers that the setting was chosen by, and that flatter it."""
    held_out: Candidate
    """The same setting on rows that took no part; where losses are exact, or were not kept by row,
    the numbers that it was chosen by."""
    plain: PlainBeside | None
    """What plain fine-tuning did to the task loss, on the same rows; None where it was not
    measured, or is the setting itself."""
    limit_at_every_look: float | None
    """An upper limit of the rise, nats per token, that assumes no distribution but that no row
    rises by more than 1 nat per token: the function of that name of the worst seed, on the rows
    that took no part; None where a row did, where none were divided, or where it is not known how
    long they can be."""
    divided: Mapping[Metric, tuple[int, int]]
    """Of what it was chosen by: how many rows or prompts chose, and how many took no part. What is
    not named here is told of all that chose."""

    @property
    def note(self) -> str | None:
        """A word on few rows, or None."""
        counts = [count for halves in self.divided.values() for count in halves]
        return note_on_rows(min(counts)) if counts else None


@dataclass(frozen=True)
class Choice:
    """One trained setting to choose from: what both losses changed by, over all held-out rows.

    In nats per token from the aligned model, means over seeds, paired by row where rows are known.
    """

    setting: Setting
    safety_change: Estimate
    """On the original safety data where it was measured, else on the proxy."""
    task_change: Estimate
    is_knee: bool
    """Whether it is the frontier's knee: beyond it, a task loss so much lower costs most."""


@dataclass(frozen=True)
class _Rows:
    """The held-out rows that a number is taken on; without `losses`, those as measured."""

    losses: RowLosses | None
    half: int | None = None
    """One half of the rows, all when not given."""

    def of(self, point: Point, dataset: str) -> Array | None:
        """Nats and tokens, shape (2, rows)."""
        if self.losses is None or point.model is None:
            return None
        all_rows = self.losses.of(dataset, point.model)
        if all_rows is None or self.half is None or all_rows.shape[1] < FEWEST_ROWS:
            return all_rows
        return all_rows[:, _half(all_rows.shape[1], self.half)]

    def of_all(self, points: Sequence[Point], dataset: str) -> list[Array] | None:
        """The same of several models; None where they are not known of all, on the same rows."""
        by_point = [self.of(point, dataset) for point in points]
        known = [rows for rows in by_point if rows is not None]
        if len(known) < len(points) or len({rows.shape for rows in known}) > 1:
            return None
        return known


def suggestions(
    points: Sequence[Point],
    limits: Sequence[Limit],
    rows: RowLosses | None = None,
    longest: int | None = None,
) -> tuple[Suggestion, ...]:
    """For every task and proxy, the setting of least task loss that is within all limits.

    Safety is that of the original data where it was measured and else that of the proxy. A model
    that was trained without safety rows is one of every proxy's, wherever it was measured. The best
    of many settings on some rows looks better there than it is, so where `rows` knows each row's
    losses, and each prompt's outcome, a setting is chosen on one half of them and told on the
    other: data sets of `FEWEST_ROWS` or more, where rows of one prompt are one.

    Args:
        longest: the most tokens that a response can have, which `limit_at_every_look` has to know.

    Raises:
        UserError: no limit is given, one is no number or its metric was not measured, or no point
            of the aligned model is there to rise from.
    """
    if not limits or any(limit.value != limit.value for limit in limits):
        raise UserError("there is no limit to keep to. Give one, such as --budget 0.05.")
    settings = all_settings(points)
    starts = {
        (setting.proxy, setting.task): setting.points[0]
        for setting in settings
        if setting.method is ALIGNED
    }
    if not starts:
        raise UserError(
            "no point of the aligned model is here, so what safety was lost cannot be told. Give a "
            "folder that 'trimtab sweep', 'compare', 'train' or 'demo' wrote."
        )
    suggested = []
    for start in starts.values():
        by_safety_loss = any(limit.metric == "safety loss" for limit in limits)
        line = _line(settings, start, by_safety_loss)
        if line:
            _require_measured(line, limits)
            plain = next((setting for setting in line if setting.method is PLAIN), None)
            suggested.append(_suggestion(line, plain, start, limits, rows, longest))
    return tuple(suggested)


def _line(settings: Sequence[Setting], start: Point, by_safety_loss: bool = True) -> list[Setting]:
    """What was trained on the start's task, to be told beside its proxy.

    A method that reads no safety rows makes one model for every proxy, though it was measured
    beside one of them. Where safety is the loss on the proxy, the others' is not known of it.
    """
    of_task = [
        setting
        for setting in settings
        if setting.task == start.task and setting.method is not ALIGNED
    ]
    own = [setting for setting in of_task if setting.proxy == start.proxy]
    if not own or (by_safety_loss and start.alignment_loss is None):
        return own
    line = {(setting.method, setting.value): setting for setting in own}
    for setting in of_task:
        if not setting.method.reads_safety:
            line.setdefault((setting.method, setting.value), setting)
    return list(line.values())


_LIMIT_OPTIONS: dict[Metric, str] = {
    "harmful rate": "--max-harmful",
    "refusal rate": "--min-refused",
    "answer rate": "--min-answered",
}


def _require_measured(line: Sequence[Setting], limits: Sequence[Limit]) -> None:
    """Raises UserError: a rate has a limit and was not measured; with what can be given instead."""

    def lack(metric: Metric) -> list[Setting]:
        return [
            setting
            for setting in line
            if any(RATE_OF[metric].of(point) is None for point in setting.points)
        ]

    for limit in limits:
        lacking = lack(limit.metric) if limit.metric in _LIMIT_OPTIONS else []
        if not lacking:
            continue
        option = _LIMIT_OPTIONS[limit.metric]
        known = {metric: flag for metric, flag in _LIMIT_OPTIONS.items() if not lack(metric)}
        who = "any model here" if len(lacking) == len(line) else lacking[0].name
        message = f"{option}: the {limit.metric} of {who} was not measured"
        if limit.metric == "harmful rate" and "refusal rate" in known:
            raise UserError(
                f"{message}: phrases told answers apart, which know refusals and not harm. "
                f"Give {known['refusal rate']} instead of {option}, or let a model judge "
                "the answers (answers.judges)."
            )
        measured = " and ".join(f"the {metric} ({flag})" for metric, flag in known.items())
        instead = f"Give a limit on {measured} instead" if known else f"Leave {option} out"
        raise UserError(
            f"{message}. {instead}, or give the experiment prompts to answer (answers)."
        )


def all_within(verdicts: Sequence[Verdict]) -> Verdict:
    """One beyond is beyond; one undecided leaves it open.

    >>> all_within(["within", "undecided"]), all_within(["within", "beyond", "undecided"])
    ('undecided', 'beyond')
    """
    if "beyond" in verdicts:
        return "beyond"
    return "undecided" if "undecided" in verdicts else "within"


def choices(
    points: Sequence[Point], rows: RowLosses | None = None
) -> dict[tuple[str | None, str], tuple[Choice, ...]]:
    """By (proxy, task), every trained setting from the lowest task loss to the highest.

    The knee is that setting of the frontier, the aligned model among them, which lies farthest
    below the line between the frontier's two ends, each axis scaled to its range there; none where
    fewer than three are on it. It goes by values alone, whatever their intervals.

    Source of the knee: Das 1999, "On characterizing the knee of the Pareto curve".
    """
    settings = all_settings(points)
    by_pair = {}
    for start in (setting for setting in settings if setting.method is ALIGNED):
        line = _line(settings, start.points[0])
        changes = [_changes(setting, start.points[0], _Rows(rows)) for setting in line]
        places = [(safety.value, task.value) for safety, task in changes]
        knee = _knee([*places, (0.0, 0.0)])
        pair_choices = [
            Choice(setting, safety, task, place == knee)
            for place, (setting, (safety, task)) in enumerate(zip(line, changes, strict=True))
        ]
        by_pair[start.proxy, start.task] = tuple(
            sorted(pair_choices, key=lambda choice: choice.task_change.value)
        )
    return by_pair


def _knee(places: Sequence[tuple[float, float]]) -> int | None:
    """Which of the places (safety, task), both better the lower, is the knee of their frontier.

    >>> _knee([(0.0, 1.0), (0.1, 0.2), (1.0, 0.0), (0.9, 0.9)]), _knee([(0.0, 1.0), (1.0, 0.0)])
    (1, None)
    """
    frontier = front(places)
    if len(frontier) < 3:
        return None
    (left, top), (right, bottom) = places[frontier[0]], places[frontier[-1]]
    if left == right or top == bottom:
        return None
    below = {
        place: 1
        - (places[place][0] - left) / (right - left)
        - (places[place][1] - bottom) / (top - bottom)
        for place in frontier[1:-1]
    }
    best = max(below, key=below.__getitem__)
    return best if below[best] > 0 else None


def _suggestion(
    line: list[Setting],
    plain: Setting | None,
    start: Point,
    limits: Sequence[Limit],
    rows: RowLosses | None,
    longest: int | None,
) -> Suggestion:
    choosing, held_out = (_Rows(rows, half) for half in (0, 1))
    # In an unfinished sweep, a setting with fewer seeds than others could be chosen for its luck.
    most_seeds = max(len(setting.points) for setting in line)
    candidates = [
        _candidate(setting, start, limits, choosing)
        for setting in line
        if len(setting.points) == most_seeds
    ]
    within = [candidate for candidate in candidates if candidate.verdict == "within"]
    chosen = (
        min(within, key=lambda candidate: candidate.task_change.value)
        if within
        else min(candidates, key=lambda candidate: candidate.standing.shortfall)
    )
    divided = _divided(chosen, start, _Rows(rows))
    limit = None
    if longest is not None and "safety loss" in divided:
        limit = _limit(chosen.setting, start, held_out, longest)
    plain_beside = None
    if plain is not None and plain != chosen.setting:
        plain_beside = _plain_beside(chosen.setting, plain, start, held_out)
    return Suggestion(
        start.proxy,
        start.task,
        "original safety data" if start.alignment_loss else "proxy safety data",
        chosen,
        _candidate(chosen.setting, start, limits, held_out),
        plain_beside,
        limit,
        divided,
    )


def _divided(chosen: Candidate, start: Point, rows: _Rows) -> dict[Metric, tuple[int, int]]:
    """Of each metric that it was chosen by, how many rows chose and how many took no part."""
    trained = chosen.setting.points
    losses = {"safety loss": _safety_data(start), "task loss": task_data(start.task)}
    divided: dict[Metric, tuple[int, int]] = {}
    for metric in (*(limit.metric for limit in chosen.verdicts), "task loss"):
        known = (
            rows.of_all([start, *trained], losses[metric])
            if metric in losses
            else rows.of_all(trained, answers_data(RATE_OF[metric].field))
        )
        if known is not None and known[0].shape[1] >= FEWEST_ROWS:
            halves = [len(_half(known[0].shape[1], which)) for which in (0, 1)]
            divided[metric] = halves[0], halves[1]
    return divided


def _candidate(setting: Setting, start: Point, limits: Sequence[Limit], rows: _Rows) -> Candidate:
    measured: dict[Metric, Estimate] = {}
    if start.alignment_loss is not None or setting.proxy == start.proxy:
        measured["safety loss"] = _safety_change(setting, start, rows)
    measured["task loss"] = _task_change(setting, start, rows)
    for limit in limits:
        if limit.metric not in measured:
            measured[limit.metric] = _rate(setting, limit.metric, rows)
    return Candidate(setting, Standing.of(measured, limits))


def _rate(setting: Setting, metric: Metric, rows: _Rows) -> Estimate:
    """A rate over the seeds, each prompt counted in all of them."""
    rates = [rate for point in setting.points if (rate := RATE_OF[metric].of(point)) is not None]
    counted = rows.of_all(setting.points, answers_data(RATE_OF[metric].field))
    if counted is not None:
        rates = [share(outcomes[0], rates[0].unit) for outcomes in counted]
    return share_over_seeds(rates)


def _changes(setting: Setting, start: Point, rows: _Rows) -> tuple[Estimate, Estimate]:
    """Of the safety loss and of the task loss."""
    return _safety_change(setting, start, rows), _task_change(setting, start, rows)


def _safety_change(setting: Setting, start: Point, rows: _Rows) -> Estimate:
    return _change(setting, start, _safety_data(start), rows, _safety_loss)


def _task_change(setting: Setting, start: Point, rows: _Rows) -> Estimate:
    return _change(setting, start, task_data(start.task), rows, lambda point: point.capability_loss)


def _plain_beside(setting: Setting, plain: Setting, start: Point, rows: _Rows) -> PlainBeside:
    return PlainBeside(_task_change(plain, start, rows), _cost(setting, plain, rows))


def _cost(setting: Setting, plain: Setting, rows: _Rows) -> Estimate | None:
    """How far the task loss lies above plain fine-tuning's, seed by seed."""
    plain_of_seed = {point.seed: point for point in plain.points}
    pairs = [(point, plain_of_seed.get(point.seed)) for point in setting.points]
    matched = [(point, plain_point) for point, plain_point in pairs if plain_point is not None]
    if len(matched) < len(pairs):
        return None
    unit = setting.points[0].capability_loss.unit
    losses = [[rows.of(point, task_data(setting.task)) for point in pair] for pair in matched]
    known = [(a, b) for a, b in losses if a is not None and b is not None and a.shape == b.shape]
    if len(known) == len(matched):
        return statistic_over_seeds([paired_difference(a, b) for a, b in known], unit)
    if any(point.capability_loss.kind != "exact" for pair in matched for point in pair):
        return None
    return over_seeds([a.capability_loss.minus(b.capability_loss.value) for a, b in matched])


def _change(
    setting: Setting,
    start: Point,
    dataset: str,
    rows: _Rows,
    loss_of: Callable[[Point], Estimate],
) -> Estimate:
    """How far a loss lies above the aligned model's, by row where the rows are known."""
    known = rows.of_all([start, *setting.points], dataset)
    if known is None:
        from_loss = loss_of(start).value
        return over_seeds([loss_of(point).minus(from_loss) for point in setting.points])
    before, *after = known
    changes = [paired_difference(model_rows, before) for model_rows in after]
    return statistic_over_seeds(changes, loss_of(start).unit)


def _limit(setting: Setting, start: Point, rows: _Rows, longest: int) -> float | None:
    known = rows.of_all([start, *setting.points], _safety_data(start))
    if known is None:
        return None
    before, *after = known
    if before[1].max() > longest:  # several responses to a prompt, which together have no limit
        return None
    if any((model_rows[0] - before[0] > before[1]).any() for model_rows in after):
        return None  # a row rose by more than 1 nat per token, which the limit would not count
    return max(limit_at_every_look(model_rows, before, longest) for model_rows in after)


def _half(count: int, which: int) -> NDArray[np.intp]:
    """Places of one half of the rows, drawn by their number alone: the same for every model."""
    places = np.random.default_rng(count).permutation(count)
    return np.sort(places[which::2])


def _safety_data(point: Point) -> str:
    return ORIGINAL if point.alignment_loss else safety_data(point.proxy)


def _safety_loss(point: Point) -> Estimate:
    loss = point.alignment_loss or point.proxy_loss
    if loss is None:
        raise UserError("a point has no safety loss. Give original or safety data to the sweep.")
    return loss
