"""What a setting changed from the aligned model, and from plain fine-tuning, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.analysis.groups import Setting
from trimtab.analysis.standing import RATE_OF, Metric
from trimtab.config.data_names import ORIGINAL, answers_data, safety_data, task_data
from trimtab.config.methods import ALIGNED
from trimtab.errors import UserError
from trimtab.evaluate.rates import ANSWERED, REFUSALS
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import (
    Array,
    Estimate,
    Statistic,
    mean_of,
    over_seeds,
    paired_difference,
    share,
    share_over_seeds,
    statistic_over_seeds,
)

FEWEST_ROWS = 20
"""Below it held-out rows are not divided: a half would be too few for any interval to hold."""


@dataclass(frozen=True)
class HeldOut:
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
        return all_rows[:, half_of(all_rows.shape[1], self.half)]

    def of_all(self, points: Sequence[Point], dataset: str) -> list[Array] | None:
        """The same of several models; None where they are not known of all, on the same rows."""
        by_point = [self.of(point, dataset) for point in points]
        known = [rows for rows in by_point if rows is not None]
        if len(known) < len(points) or len({rows.shape for rows in known}) > 1:
            return None
        return known


def half_of(count: int, which: int) -> NDArray[np.intp]:
    """Places of one half of the rows, drawn by their number alone: the same for every model."""
    places = np.random.default_rng(count).permutation(count)
    return np.sort(places[which::2])


def safety_change(setting: Setting, start: Point, rows: HeldOut) -> Estimate:
    """How far the safety loss lies above the aligned model's, nats per token, over the seeds."""
    return _change(setting, start, safety_data_of(start), rows, _safety_loss)


def task_change(setting: Setting, start: Point, rows: HeldOut) -> Estimate:
    """The same of the task loss; below 0 it has learned."""
    return _change(setting, start, task_data(start.task), rows, lambda point: point.capability_loss)


def rate_over_seeds(setting: Setting, metric: Metric, rows: HeldOut) -> Estimate:
    """A rate over the seeds, each prompt counted in all of them."""
    rates = [rate for point in setting.points if (rate := RATE_OF[metric].of(point)) is not None]
    counted = rows.of_all(setting.points, answers_data(RATE_OF[metric].field))
    if counted is not None:
        rates = [share(outcomes[0], rates[0].unit) for outcomes in counted]
    return share_over_seeds(rates)


def cost_beside(setting: Setting, plain: Setting, rows: HeldOut) -> Estimate | None:
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


def judging_beside(
    setting: Setting, reference: Setting, rows: RowLosses
) -> tuple[Statistic, ...] | None:
    """J(θ) − J(θ') seed by seed, paired by prompt: J = (harmful refused + benign answered)/2.

    A model that refuses everything, and one that answers everything, have J = ½. Over the seeds
    that both have; None where that is none, or one of several, which tells nothing of seeds, or
    where outcomes were not kept prompt by prompt.
    """
    of_seed = {point.seed: point for point in reference.points}
    changes = []
    for point in setting.points:
        # All seeds start from the same aligned model.
        other = reference.points[0] if reference.method is ALIGNED else of_seed.get(point.seed)
        if other is None:
            continue
        if point.model is None or other.model is None:
            return None
        by_rate = [
            rows.difference(answers_data(rate.field), point.model, other.model)
            for rate in (REFUSALS, ANSWERED)
        ]
        known = [change for change in by_rate if change is not None]
        if len(known) < len(by_rate):
            return None
        changes.append(mean_of(known))
    return tuple(changes) if len(changes) >= min(2, len(setting.points)) else None


def _change(
    setting: Setting,
    start: Point,
    dataset: str,
    rows: HeldOut,
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


def safety_data_of(point: Point) -> str:
    """The data set that its safety loss is on: the original where it was measured."""
    return ORIGINAL if point.alignment_loss else safety_data(point.proxy)


def _safety_loss(point: Point) -> Estimate:
    loss = point.alignment_loss or point.proxy_loss
    if loss is None:
        raise UserError("a point has no safety loss. Give original or safety data to the sweep.")
    return loss
