"""Which method and hyperparameter keep to limits at the least task loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.analysis.choices import settings_beside
from trimtab.analysis.groups import Setting, all_settings, on_common_seeds
from trimtab.analysis.row_changes import (
    FEWEST_ROWS,
    HeldOut,
    cost_beside,
    half_of,
    rate_over_seeds,
    safety_change,
    safety_data_of,
    task_change,
)
from trimtab.analysis.standing import RATE_OF, Limit, Metric, Standing
from trimtab.config.data_names import answers_data, task_data
from trimtab.config.methods import ALIGNED, PLAIN
from trimtab.errors import UserError
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import Estimate, LimitVerdict, limit_at_every_look, note_on_rows

_LIMIT_OPTIONS: dict[Metric, str] = {
    "harmful rate": "--max-harmful",
    "refusal rate": "--min-refused",
    "answer rate": "--min-answered",
}


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
    def verdicts(self) -> Mapping[Limit, LimitVerdict]:
        """On each limit."""
        return self.standing.verdicts

    @property
    def verdict(self) -> LimitVerdict:
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
    left_out: tuple[Setting, ...]
    """What was not compared, since it lacks seeds that the others have."""
    leaves_out_seeds: bool
    """Whether a setting that was compared has more seeds, which the others lack."""

    @property
    def note(self) -> str | None:
        """A word on few rows, or None."""
        counts = [count for halves in self.divided.values() for count in halves]
        return note_on_rows(min(counts)) if counts else None


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
        raise UserError("there is no limit to keep to. Give one, such as --budget 0.02.")
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
        line = settings_beside(settings, start, by_safety_loss)
        if line:
            _require_measured(line, limits)
            plain = next((setting for setting in line if setting.method is PLAIN), None)
            suggested.append(_suggestion(line, plain, start, limits, rows, longest))
    return tuple(suggested)


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


def _suggestion(
    line: list[Setting],
    plain: Setting | None,
    start: Point,
    limits: Sequence[Limit],
    rows: RowLosses | None,
    longest: int | None,
) -> Suggestion:
    choosing, held_out = (HeldOut(rows, half) for half in (0, 1))
    compared = on_common_seeds(line)
    candidates = [_candidate(setting, start, limits, choosing) for setting in compared.values()]
    within = [candidate for candidate in candidates if candidate.verdict == "within"]
    chosen = (
        min(within, key=lambda candidate: candidate.task_change.value)
        if within
        else min(candidates, key=lambda candidate: candidate.standing.shortfall)
    )
    divided = _divided(chosen, start, HeldOut(rows))
    limit = None
    if longest is not None and "safety loss" in divided:
        limit = _limit(chosen.setting, start, held_out, longest)
    plain_beside = None
    plain = compared.get(plain) if plain is not None else None
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
        tuple(setting for setting in line if setting not in compared),
        any(compared[setting] != setting for setting in compared),
    )


def _divided(chosen: Candidate, start: Point, rows: HeldOut) -> dict[Metric, tuple[int, int]]:
    """Of each metric that it was chosen by, how many rows chose and how many took no part."""
    trained = chosen.setting.points
    losses = {"safety loss": safety_data_of(start), "task loss": task_data(start.task)}
    divided: dict[Metric, tuple[int, int]] = {}
    for metric in (*(limit.metric for limit in chosen.verdicts), "task loss"):
        known = (
            rows.of_all([start, *trained], losses[metric])
            if metric in losses
            else rows.of_all(trained, answers_data(RATE_OF[metric].field))
        )
        if known is not None and known[0].shape[1] >= FEWEST_ROWS:
            halves = [len(half_of(known[0].shape[1], which)) for which in (0, 1)]
            divided[metric] = halves[0], halves[1]
    return divided


def _candidate(setting: Setting, start: Point, limits: Sequence[Limit], rows: HeldOut) -> Candidate:
    measured: dict[Metric, Estimate] = {}
    if start.alignment_loss is not None or setting.proxy == start.proxy:
        measured["safety loss"] = safety_change(setting, start, rows)
    measured["task loss"] = task_change(setting, start, rows)
    for limit in limits:
        if limit.metric not in measured:
            measured[limit.metric] = rate_over_seeds(setting, limit.metric, rows)
    return Candidate(setting, Standing.of(measured, limits))


def _plain_beside(setting: Setting, plain: Setting, start: Point, rows: HeldOut) -> PlainBeside:
    return PlainBeside(task_change(plain, start, rows), cost_beside(setting, plain, rows))


def _limit(setting: Setting, start: Point, rows: HeldOut, longest: int) -> float | None:
    known = rows.of_all([start, *setting.points], safety_data_of(start))
    if known is None:
        return None
    before, *after = known
    if before[1].max() > longest:  # several responses to a prompt, which together have no limit
        return None
    if any((model_rows[0] - before[0] > before[1]).any() for model_rows in after):
        return None  # a row rose by more than 1 nat per token, which the limit would not count
    return max(limit_at_every_look(model_rows, before, longest) for model_rows in after)
