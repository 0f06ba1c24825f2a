"""The settings of a dial, each with what was measured there and what theory says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.analysis.groups import measured_of, safety_gap_of
from trimtab.analysis.labels import estimate_in_words, nats
from trimtab.analysis.optimality_gap import optimality_gap
from trimtab.config.methods import DIAL, number
from trimtab.data.synthetic import World
from trimtab.results.result import Point
from trimtab.results.samples import Answer, Sample
from trimtab.stats import Estimate
from trimtab.theory import capability_bound, exact_frontier, safety_bound

Line = tuple[str, str, str]
"""A quantity, its value in nats per token, and what it may be called."""


@dataclass(frozen=True)
class DialSetting:
    """One setting of the dial: where it lies in the plane, and all that is known of it."""

    alpha: float
    penalty: float
    place: tuple[float, float]
    measured: tuple[Line, ...]
    theory: tuple[Line, ...]
    answers: tuple[Answer, ...]
    """One for each sample, at the sampled setting that lies nearest."""
    seed: int
    """Of the training that it is of."""
    is_of_several: bool
    """Whether there are trainings of other seeds."""


def dial_settings(
    points: Sequence[Point], world: World | None, samples: Sequence[Sample]
) -> tuple[DialSetting, ...]:
    """The settings of the first dial among the points, from the safest to the most capable."""
    safety = safety_gap_of(points)
    of_dial = [point for point in points if point.method is DIAL]
    own = [point for point in of_dial if _dial_of(point) == _dial_of(of_dial[0])]
    settings = []
    for point in sorted(own, key=lambda point: point.spec.value or 0.0):
        alpha, penalty = point.spec.value, point.multiplier
        safety_gap = measured_of(point, safety) if safety is not None else None
        if alpha is None or penalty is None or safety_gap is None or point.capability_gap is None:
            continue
        settings.append(
            DialSetting(
                alpha,
                penalty,
                (safety_gap.value, point.capability_gap.value),
                tuple(_measured(point)),
                tuple(_theory(point, penalty, world)),
                tuple(_nearest_answer(sample, alpha) for sample in samples),
                point.seed,
                len({other.seed for other in of_dial}) > 1,
            )
        )
    return tuple(settings)


def _dial_of(point: Point) -> tuple[int, str | None, str]:
    """What tells the training that a setting is of from others."""
    return point.seed, point.proxy, point.task


def _measured(point: Point) -> list[Line]:
    losses: list[tuple[str, Estimate | None]] = [
        ("loss on the original safety data", point.alignment_loss),
        ("loss on the safety data trained on", point.proxy_loss),
        ("loss on the task", point.capability_loss),
    ]
    lines = [
        (name, estimate_in_words(loss), loss.kind) for name, loss in losses if loss is not None
    ]
    return [*lines, ("distance from θₛ (no unit)", number(point.distance), "exact")]


def _theory(point: Point, penalty: float, world: World | None) -> list[Line]:
    known = world is not None and point.task in world.task and point.proxy in world.safety
    if world is None or not known:
        return []
    lines: list[Line] = []
    (point_gap,) = optimality_gap([point], world)
    for name, beside in (("original", point_gap.on_original), ("proxy", point_gap.on_proxy)):
        if beside is not None:
            lines.append(
                (
                    f"least capability gap of any model this safe on the {name} data; "
                    f"this one has {nats(beside.capability_gap.value)}",
                    nats(beside.limit),
                    "exact",
                )
            )
    task, proxy = world.task[point.task], world.safety[str(point.proxy)]
    optimum = exact_frontier(task, proxy, world.original, [penalty])
    tokens = world.tokens_per_response
    safety = safety_bound(task, proxy, world.original, penalty)
    capability = capability_bound(task, proxy, penalty)
    for theorem, gap, best, bound in (
        ("1", "alignment", optimum.alignment_gap, safety),
        ("2", "capability", optimum.capability_gap, capability),
    ):
        at_optimum = nats(float(best[0]) / tokens)
        lines.append((f"{gap} gap of the optimum at λ", at_optimum, "exact"))
        lines.append((f"Theorem {theorem} on it", nats(bound.value / tokens), "bound"))
    return lines


def _nearest_answer(sample: Sample, alpha: float) -> Answer:
    return min(sample.answers, key=lambda answer: abs(answer.alpha - alpha))
