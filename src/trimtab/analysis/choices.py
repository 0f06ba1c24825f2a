"""Every trained setting to choose from, and the knee of their frontier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.analysis.groups import Setting, all_settings, on_common_seeds
from trimtab.analysis.row_changes import HeldOut, safety_change, task_change
from trimtab.config.methods import ALIGNED
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import Estimate, front


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


def choices(
    points: Sequence[Point], rows: RowLosses | None = None
) -> dict[tuple[str | None, str], tuple[Choice, ...]]:
    """By (proxy, task), every trained setting from the lowest task loss to the highest.

    The knee is that setting of the frontier, the aligned model among them, which lies farthest
    below the line between the frontier's two ends, each axis scaled to its range there; none where
    fewer than three are on it. It goes by values alone, whatever their intervals, and by settings
    that lack no seeds of the others.

    Source of the knee: Das 1999, "On characterizing the knee of the Pareto curve".
    """
    settings = all_settings(points)
    by_pair = {}
    for start in (setting for setting in settings if setting.method is ALIGNED):
        whole_line = settings_beside(settings, start.points[0])
        compared = on_common_seeds(whole_line)
        line = [compared.get(setting, setting) for setting in whole_line]
        held_out, point = HeldOut(rows), start.points[0]
        changes = [
            (safety_change(setting, point, held_out), task_change(setting, point, held_out))
            for setting in line
        ]
        candidates = list(compared.values())  # in the order of the line
        places = [
            (safety.value, task.value)
            for setting, (safety, task) in zip(whole_line, changes, strict=True)
            if setting in compared
        ]
        place = _knee([*places, (0.0, 0.0)])
        knee = candidates[place] if place is not None and place < len(candidates) else None
        pair_choices = [
            Choice(setting, safety, task, setting is knee)
            for setting, (safety, task) in zip(line, changes, strict=True)
        ]
        by_pair[start.proxy, start.task] = tuple(
            sorted(pair_choices, key=lambda choice: choice.task_change.value)
        )
    return by_pair


def settings_beside(
    settings: Sequence[Setting], start: Point, by_safety_loss: bool = True
) -> list[Setting]:
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
