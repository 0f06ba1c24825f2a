"""What an audit's numbers lead one to expect of training, and how far to trust that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trimtab.audit.result import NEARLY_NONE, SMALLEST_PENALTY, ProfileStep
from trimtab.measure.geometry import Landscape, largest_radius
from trimtab.stats import Estimate
from trimtab.theory import penalty_for_budget, penalty_per_token, theorem_3, theorem_4

_WIDEST = 10
"""How many times a λ at one end of the overlaps' intervals may be that at the other end."""


@dataclass(frozen=True)
class OverlapBothWays:
    """D_f(X_ŝ) and D_ŝ(X_f) of one task and one proxy."""

    task_on_safety: Estimate
    safety_on_task: Estimate


@dataclass(frozen=True)
class Suggestion:
    """A setting that the theory allows for a budget, and what that rests on."""

    value: float | None
    """Infinite where nothing limits it; None where it cannot be told."""
    reason: str


def in_order(values: Mapping[str, Estimate]) -> list[str]:
    """Names from the smallest value to the largest."""
    return sorted(values, key=lambda name: values[name].value)


def ranks(values: Mapping[str, Estimate]) -> list[tuple[str, ...]]:
    """Names from the smallest value to the largest, those together whose intervals touch.

    >>> share = lambda low, high: Estimate((low + high) / 2, low, high, "share", "estimate")
    >>> ranks({"c": share(0.5, 0.6), "a": share(0.1, 0.3), "b": share(0.2, 0.4)})
    [('a', 'b'), ('c',)]
    """
    groups: list[tuple[str, ...]] = []
    reach = -math.inf
    for name in in_order(values):
        if values[name].low <= reach:
            groups[-1] += (name,)
        else:
            groups.append((name,))
        reach = max(reach, values[name].high)
    return groups


def separable_pairs(
    group: Sequence[str], values: Mapping[str, Estimate]
) -> Iterator[tuple[str, list[str]]]:
    """Of a group held together by its members between: each, and those surely above it."""
    for name in group:
        above = [candidate for candidate in group if values[candidate].low > values[name].high]
        if above:
            yield name, above


def suggested_penalty(
    budget: float, task_tokens: float, safety_tokens: float, overlap: OverlapBothWays
) -> Suggestion:
    """λ for which Theorem 1 keeps the gap on the proxy itself to `budget`, nats per token.

    It weighs losses per token, as training does. Mean tokens are of a response of either data set.
    The shift from proxy to original comes on top and no λ removes it. Both overlaps are taken at
    the high end of their intervals. It is the λ of the exact minimiser: a network trained for a
    while may need more. The value is None where more than next to nothing overlaps and the low
    ends would give less than a tenth of it, or it is too small to differ from plain fine-tuning.
    """
    ends = [
        (overlap.task_on_safety.low, overlap.safety_on_task.low),
        (overlap.task_on_safety.high, overlap.safety_on_task.high),
    ]
    room = budget * safety_tokens
    least, most = (
        penalty_per_token(
            penalty_for_budget(room, shift=0.0, overlap=o, reverse_overlap=rho),
            task_tokens,
            safety_tokens,
        )
        for o, rho in ends
    )
    o, rho = ends[1]
    term = f"Theorem 1's overlap term is {budget:g} nats per token ({room:.3g} per response)"
    taken = f"with overlaps of at most {o:.1%} and {rho:.1%}"
    if most < SMALLEST_PENALTY:
        below = f"{term} at a λ below {SMALLEST_PENALTY:g}, {taken}"
        if o < NEARLY_NONE:
            return Suggestion(most, below)
        return Suggestion(None, f"{below}: that is plain fine-tuning, though prompts compete")
    if most >= _WIDEST * least and o >= NEARLY_NONE:
        return Suggestion(
            None,
            f"{term} at a λ anywhere from {least:.2g} to {most:.2g} within the overlaps' intervals",
        )
    return Suggestion(most, f"there {term}, {taken}")


def suggested_radius(
    budget: float, landscape: Landscape, task: str
) -> tuple[Suggestion, Suggestion]:
    """ε by Theorem 3 from slope and curvature, and as the walk down the task's gradient has it."""
    local = largest_radius(
        budget, landscape.safety_slope.value, abs(landscape.safety_curvature.value)
    )
    walk = landscape.loss_profile_down(task)
    walked = walk.reaches(budget)
    walk_reason = (
        f"the distance at which the safety loss had risen by {budget:g} on the walk down the "
        "gradient of the task"
        if math.isfinite(walked)
        else f"the safety loss did not rise by {budget:g} within {walk.distances[-1]:.3g}"
    )
    return (
        Suggestion(
            local,
            f"the largest ε with gε + ½Hε² ≤ {budget:g} nats per token, in the worst direction; H "
            "is local",
        ),
        Suggestion(walked, walk_reason),
    )


def along_the_walk(landscape: Landscape, task: str) -> tuple[ProfileStep, ...]:
    """At each distance walked down the task's gradient: the rise measured and Theorems 3 and 4."""
    walk = landscape.loss_profile_down(task)
    side = landscape.tasks[task]
    rows = []
    for distance, loss in zip(walk.distances[1:], walk.losses[1:], strict=True):
        rise = theorem_3(
            gap_at_start=0.0,
            gradient_norm=landscape.safety_slope.value,
            smoothness=abs(landscape.safety_curvature.value),
            radius=distance,
        ).value
        fall = theorem_4(
            gap_at_start=side.loss,
            gradient_norm=side.slope.value,
            smoothness=abs(side.curvature.value),
            radius=distance,
        )
        rows.append(
            ProfileStep(distance, loss - walk.losses[0], rise, -fall.term("progress").value)
        )
    return tuple(rows)
