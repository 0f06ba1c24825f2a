"""The paper's findings as effect sizes with 95 % intervals, from a sweep's folder.

Each effect is a difference of held-out losses, in nats per token, computed for one seed at a time
with what every row contributes to it, so that what makes a row hard for all models cancels. Rows
are averaged over seeds, and Student's interval of the mean over seeds is added in quadrature. Which
proxy is the nearer and which task overlaps more is said beforehand, not read off the losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.analysis.verdicts import FindingVerdict, lies_above_zero
from trimtab.config.methods import ALIGNED, CASE_1, CASE_2, CASE_2_RADIUS
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.results.store import read_points
from trimtab.stats import (
    Estimate,
    Statistic,
    height_above,
    height_above_at_most,
    mean_of,
    statistic_over_seeds,
)


@dataclass(frozen=True)
class Roles:
    """What was called near and far, high and low before anything was trained."""

    near: str
    far: str
    high_overlap: str
    low_overlap: str


@dataclass(frozen=True)
class Effect:
    """One finding's effect; above 0 is what the paper found."""

    estimate: Estimate
    seeds: int

    @property
    def verdict(self) -> FindingVerdict:
        """Whether the interval lies above 0, below it, or holds it."""
        return lies_above_zero(self.estimate)


class Measured:
    """The points of one or more folders with the same roles, each folder's models by themselves."""

    def __init__(self, folders: Iterable[Path], roles: Roles) -> None:
        self.roles = roles
        self.runs = [
            (RowLosses(folder), [p for p in points if p.seed == seed])
            for folder in folders
            for points in [read_points(folder)]
            for seed in sorted({point.seed for point in points if point.method is not ALIGNED})
        ]

    def effect(self, of_one: Callable[[Run], Statistic | None]) -> Effect | None:
        """The effect over seeds; None where no seed has the points for it."""
        statistics = [
            statistic
            for rows, points in self.runs
            if (statistic := of_one(Run(rows, points, self.roles))) is not None
        ]
        if not statistics:
            return None
        return Effect(statistic_over_seeds(statistics, "nats/token"), len(statistics))


class Run:
    """The points of one seed."""

    def __init__(self, rows: RowLosses, points: list[Point], roles: Roles) -> None:
        self.rows, self.points, self.roles = rows, points, roles

    def safety(self, point: Point) -> Statistic:
        """L_s."""
        assert point.alignment_loss is not None
        return self._loss(point, "original", point.alignment_loss)

    def task(self, point: Point) -> Statistic:
        """L_f."""
        return self._loss(point, f"task:{point.task}", point.capability_loss)

    def case_1(self, proxy: str, task: str) -> list[Point]:
        """The models with λ > 0, from the smallest."""
        return sorted(
            (
                point
                for point in self.points
                if point.method is CASE_1
                and not point.spec.is_plain
                and (point.proxy, point.task) == (proxy, task)
            ),
            key=lambda point: float(point.spec.value or 0),
        )

    def case_2(self, task: str) -> list[Point]:
        """The constrained models, from the loosest."""
        return sorted(
            (
                point
                for point in self.points
                if point.method in (CASE_2, CASE_2_RADIUS)
                and point.task == task
                and not point.spec.is_plain
            ),
            key=lambda point: point.method.strength(point.spec.value),
        )

    def plain(self, task: str) -> Point | None:
        """λ = 0."""
        plain_points = (p for p in self.points if p.spec.is_plain and p.task == task)
        return next(plain_points, None)

    def _loss(self, point: Point, dataset: str, measured: Estimate) -> Statistic:
        of_rows = self.rows.loss(dataset, point.model or "")
        # Rows that enumerate a world, each with its probability, have no error.
        return of_rows or Statistic(measured.value, {})


def common_values(first: Iterable[float | None], second: Iterable[float | None]) -> list[float]:
    """The penalties of both lines, from the least; a plain run has none."""
    return sorted({value for value in first if value is not None} & set(second))


def nearer_proxy_is_safer(run: Run) -> Statistic | None:
    """Mean over λ > 0 of L_s(far proxy) − L_s(near proxy), the task with high overlap."""
    task = run.roles.high_overlap
    near = {p.spec.value: run.safety(p) for p in run.case_1(run.roles.near, task)}
    far = {p.spec.value: run.safety(p) for p in run.case_1(run.roles.far, task)}
    common = common_values(near, far)
    if not common:
        return None
    return mean_of([far[penalty] - near[penalty] for penalty in common])


def penalty_keeps_safety(run: Run) -> Statistic | None:
    """L_s at the smallest λ > 0 minus L_s at the largest, the near proxy."""
    return _ends(run.case_1(run.roles.near, run.roles.high_overlap), run.safety, falls=True)


def penalty_of_far_proxy(run: Run) -> Statistic | None:
    """The same with the far proxy."""
    return _ends(run.case_1(run.roles.far, run.roles.high_overlap), run.safety, falls=True)


def penalty_costs_capability(run: Run) -> Statistic | None:
    """L_f at the largest λ minus L_f at the smallest, the near proxy."""
    return _ends(run.case_1(run.roles.near, run.roles.high_overlap), run.task, falls=False)


def overlap_costs_capability(run: Run) -> Statistic | None:
    """That rise of L_f on the task with high overlap minus that on the task with low overlap."""
    rises = []
    lines = [
        {p.spec.value: p for p in run.case_1(run.roles.near, task)}
        for task in (run.roles.high_overlap, run.roles.low_overlap)
    ]
    common = common_values(*lines)
    for line in lines:
        risen = _ends([line[penalty] for penalty in common], run.task, falls=False)
        if risen is None:
            return None
        rises.append(risen)
    return rises[0] - rises[1]


def tightness_keeps_safety(run: Run) -> Statistic | None:
    """Case II: L_s under the loosest constraint minus L_s under the tightest."""
    return _ends(run.case_2(run.roles.high_overlap), run.safety, falls=True)


def tightness_costs_capability(run: Run) -> Statistic | None:
    """Case II: L_f under the tightest constraint minus L_f under the loosest."""
    return _ends(run.case_2(run.roles.high_overlap), run.task, falls=False)


def case_2_is_steeper(run: Run) -> Statistic | None:
    """L_f of Case II minus Case I's at the same L_s, mean over Case II models within its range.

    Case I's line is that of the near proxy with plain fine-tuning as its end, joined by straight
    lines from point to point; which Case II models lie within its range is decided once.
    """
    above = [height for height in _heights(run, height_above) if height is not None]
    return mean_of(above) if above else None


def case_2_is_steeper_at_most(run: Run) -> Statistic | None:
    """An upper bound of that over all Case II models: safer than all of Case I, it pays no less."""
    heights = _heights(run, height_above_at_most)
    known_heights = [height for height in heights if height is not None]
    return mean_of(known_heights) if heights and len(known_heights) == len(heights) else None


EffectOf = Callable[[Run], Statistic | None]

AT_MOST: dict[EffectOf, EffectOf] = {case_2_is_steeper: case_2_is_steeper_at_most}
"""Upper bounds of effects, of more models: below 0 they say that a finding does not hold."""

Finding = tuple[str, EffectOf]

FINDINGS: tuple[Finding, ...] = (
    (
        "The same-teacher (near) proxy keeps more safety: L_s far − near, mean over λ",
        nearer_proxy_is_safer,
    ),
    (
        "A larger λ lowers the alignment gap, near proxy: L_s smallest λ − largest",
        penalty_keeps_safety,
    ),
    ("The same with the far proxy", penalty_of_far_proxy),
    (
        "A larger λ raises the capability gap, near proxy: L_f largest λ − smallest",
        penalty_costs_capability,
    ),
    (
        "Safety costs more capability at high context overlap: rise of L_f, high − low overlap",
        overlap_costs_capability,
    ),
    (
        "Case II: a tighter constraint keeps more safety: L_s loosest − tightest",
        tightness_keeps_safety,
    ),
    (
        "Case II: a tighter constraint learns less: L_f tightest − loosest",
        tightness_costs_capability,
    ),
    ("Case II is steeper: L_f above Case I’s line at the same L_s", case_2_is_steeper),
)


def _heights(
    run: Run,
    height: Callable[
        [Sequence[tuple[Statistic, Statistic]], Statistic, Statistic], Statistic | None
    ],
) -> list[Statistic | None]:
    """Of each Case II model above Case I's line; none where there is no line."""
    task = run.roles.high_overlap
    plain = run.plain(task)
    line = [*([plain] if plain else []), *run.case_1(run.roles.near, task)]
    if len(line) < 2:
        return []
    ends = [(run.safety(point), run.task(point)) for point in line]
    return [height(ends, run.safety(p), run.task(p)) for p in run.case_2(task)]


def _ends(
    line: list[Point], loss: Callable[[Point], Statistic], *, falls: bool
) -> Statistic | None:
    if len(line) < 2:
        return None
    risen = loss(line[-1]) - loss(line[0])
    return risen * -1.0 if falls else risen
