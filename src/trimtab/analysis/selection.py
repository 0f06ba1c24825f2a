"""Which method and hyperparameter keep within a budget at the least capability loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trimtab.analysis.groups import Setting, all_settings
from trimtab.config.methods import ALIGNED
from trimtab.errors import UserError
from trimtab.results.result import Point
from trimtab.stats import Estimate, over_seeds


@dataclass(frozen=True)
class Candidate:
    """One setting: how much the safety loss rose above the aligned model's, and the task's loss."""

    setting: Setting
    rise: Estimate
    capability: Estimate
    kept_by: int
    """In how many of its seeds the rise is within the budget."""


@dataclass(frozen=True)
class LeftOut:
    """What came of choosing on all seeds but one, and measuring on that one."""

    choices: tuple[str, ...]
    rise: Estimate
    capability: Estimate
    kept: int
    seeds: int


@dataclass(frozen=True)
class Suggestion:
    """The best setting within a budget for one task and proxy, and how far it can be believed.

    `best` is None where no setting keeps the budget; `nearest` then rises least. The values of
    `best` are those it was chosen by, and so flattering; `left_out` are not, and need two seeds.
    """

    proxy: str | None
    task: str
    safety: str
    best: Candidate | None
    nearest: Candidate
    left_out: LeftOut | None


def suggestions(points: Sequence[Point], budget: float) -> tuple[Suggestion, ...]:
    """For every task and proxy, the setting of least capability loss whose rise keeps the budget.

    The rise is L(θ) − L(θ_s) in nats per token, a mean over seeds, on the original safety data
    where it was measured and else on the proxy.

    Raises:
        UserError: the budget is no number, or no point of the aligned model is there to rise from.
    """
    if budget != budget:
        raise UserError("the budget is no number. Give nats per token, such as 0.05.")
    settings = all_settings(points)
    starts = {(one.proxy, one.task): one.points[0] for one in settings if one.method is ALIGNED}
    if not starts:
        raise UserError(
            "no point of the aligned model is here, so what safety was lost cannot be told. Give a "
            "folder that 'trimtab sweep', 'compare', 'train' or 'demo' wrote."
        )
    found = []
    for pair, start in starts.items():
        line = [
            one for one in settings if (one.proxy, one.task) == pair and one.method is not ALIGNED
        ]
        if line:
            found.append(_suggestion(line, start, budget))
    return tuple(found)


def _suggestion(line: list[Setting], start: Point, budget: float) -> Suggestion:
    # In an unfinished sweep, a setting with fewer seeds than others could be chosen for its luck.
    most = max(len(one.points) for one in line)
    everything = [_candidate(one, start, budget) for one in line if len(one.points) == most]
    best = _best(everything, budget)
    return Suggestion(
        line[0].proxy,
        line[0].task,
        "original safety data" if start.alignment_loss else "proxy safety data",
        best,
        min(everything, key=lambda one: one.rise.value),
        _left_out(line, start, budget),
    )


def _left_out(line: list[Setting], start: Point, budget: float) -> LeftOut | None:
    seeds = sorted({point.seed for one in line for point in one.points})
    whole = [one for one in line if [point.seed for point in one.points] == seeds]
    if len(seeds) < 2 or not whole:
        return None
    chosen, measured = [], []
    for seed in seeds:
        others = [_candidate(_seeds(one, seed, False), start, budget) for one in whole]
        best = _best(others, budget)
        if best is None:
            return None
        place = others.index(best)
        chosen.append(best.setting.name)
        measured.append(_candidate(_seeds(whole[place], seed, True), start, budget))
    return LeftOut(
        tuple(chosen),
        over_seeds([one.rise for one in measured]),
        over_seeds([one.capability for one in measured]),
        sum(one.kept_by for one in measured),
        len(seeds),
    )


def _seeds(one: Setting, seed: int, alone: bool) -> Setting:
    points = tuple(point for point in one.points if (point.seed == seed) == alone)
    return replace(one, points=points)


def _candidate(one: Setting, start: Point, budget: float) -> Candidate:
    from_loss = _safety_loss(start).value
    rises = [_safety_loss(point).minus(from_loss) for point in one.points]
    return Candidate(
        one,
        over_seeds(rises),
        over_seeds([point.capability_loss for point in one.points]),
        sum(rise.value <= budget for rise in rises),
    )


def _best(candidates: Sequence[Candidate], budget: float) -> Candidate | None:
    within = [one for one in candidates if one.rise.value <= budget]
    return min(within, key=lambda one: one.capability.value) if within else None


def _safety_loss(point: Point) -> Estimate:
    loss = point.alignment_loss or point.proxy_loss
    if loss is None:
        raise UserError("a point has no safety loss. Give original or safety data to the sweep.")
    return loss
