"""Points made up for the report: plausible, small, and clearly nobody's measurement."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.config.methods import CASE_1, CASE_2_RADIUS, METHODS
from trimtab.config.run_spec import RunSpec
from trimtab.data.synthetic import World, make_world
from trimtab.results.result import Estimate, Point
from trimtab.theory import context_overlap, gap, penalized_optimum

UNIT = "nats per token"
PENALTIES = (0.0, 0.1, 1.0, 10.0)
LOOSE_GAP = 0.5


def estimate(value: float, half_width: float = 0.0) -> Estimate:
    kind = "estimate" if half_width else "exact"
    return Estimate(value, value - half_width, value + half_width, UNIT, kind)


def point(
    method: str = "alignment-loss",
    *,
    value: float | None = None,
    safety: float | None = 0.2,
    capability: float = 0.1,
    half_width: float = 0.0,
    penalty: float | None = None,
    radius: float | None = None,
    proxy: str | None = "near",
    task: str = "chat",
    seed: int = 0,
    overlap: float | None = None,
    original: bool = True,
) -> Point:
    """A point with these gaps; each loss is its gap plus one.

    A radius is Case II's; of other hyperparameters, but for a penalty, `value` is the value.
    """

    def over(base: float, value: float | None) -> Estimate | None:
        return None if value is None else estimate(base + value, half_width)

    capability_loss = over(1.0, capability)
    assert capability_loss is not None
    made_by = METHODS[method] if radius is None else CASE_2_RADIUS
    strength = next((number for number in (value, penalty, radius) if number is not None), None)
    return Point(
        spec=RunSpec(made_by, strength, proxy, task, seed),
        alignment_loss=over(1.0, safety) if original else None,
        proxy_loss=over(1.0, safety),
        capability_loss=capability_loss,
        alignment_gap=over(0.0, safety) if original else None,
        proxy_gap=over(0.0, safety),
        capability_gap=over(0.0, capability),
        context_overlap=None if overlap is None else estimate(overlap),
        distance=1.5,
        relative_distance=0.05,
        train_tokens=76_800,
        wall_seconds=4.7,
    )


def with_spec(model: Point, **changes: Any) -> Point:
    """The point, made in another way: fields of its spec."""
    return replace(model, spec=replace(model.spec, **changes))


def case_1(
    proxy: str = "near",
    task: str = "chat",
    *,
    floor: float = 0.02,
    cost: float = 0.3,
    penalties: Sequence[float] = PENALTIES,
    seeds: Sequence[int] = (0,),
    half_width: float = 0.0,
    overlap: float | None = 0.5,
    original: bool = True,
) -> list[Point]:
    """A safety gap that falls towards `floor` and a capability gap that rises towards `cost`."""
    return [
        point(
            safety=floor + LOOSE_GAP / (1 + 10 * penalty) + 0.001 * seed,
            capability=cost * penalty / (1 + penalty) + 0.001 * seed,
            half_width=half_width,
            penalty=penalty,
            proxy=proxy,
            task=task,
            seed=seed,
            overlap=overlap,
            original=original,
        )
        for penalty in penalties
        for seed in seeds
    ]


def with_responses(
    points: Iterable[Point], tokens: float, task_tokens: float | None = None
) -> list[Point]:
    """The points with losses per response too, of responses that have `tokens` on average.

    Args:
        task_tokens: those of the task's, where they are of another length.
    """

    def per_response(loss: Estimate | None, tokens: float = tokens) -> Estimate | None:
        if loss is None:
            return None
        low, high = loss.low * tokens, loss.high * tokens
        return Estimate(loss.value * tokens, low, high, "nats per response", loss.kind)

    return [
        replace(
            model,
            proxy_loss_per_response=per_response(model.proxy_loss),
            capability_loss_per_response=per_response(model.capability_loss, task_tokens or tokens),
        )
        for model in points
    ]


def case_2(
    task: str = "chat", *, height: float = 0.6, by: str = "penalty", original: bool = True
) -> list[Point]:
    """The same, but `height` above Case I in capability for the safety it keeps."""
    points = []
    for penalty in PENALTIES:
        radius = math.inf if penalty == 0 else 2 / (1 + penalty)
        points.append(
            point(
                "alignment-parameter",
                safety=LOOSE_GAP / (1 + 4 * penalty),
                capability=height * penalty / (0.3 + penalty),
                penalty=penalty if by == "penalty" else None,
                radius=radius if by == "radius" else None,
                task=task,
                original=original,
            )
        )
    return points


def sweep(*, half_width: float = 0.0) -> list[Point]:
    """Enough for every figure and every finding."""
    return [
        point("aligned", safety=0.0, capability=0.7),
        *case_1("near", half_width=half_width),
        *case_1("far", floor=0.2, half_width=half_width),
        *case_1("near", "news", cost=0.6, overlap=1.0, half_width=half_width),
        *case_1("near", "code", cost=0.0, overlap=0.0, half_width=half_width),
        *case_2("chat"),
        *case_2("news", height=1.2),
    ]


def world() -> World:
    return make_world({"near": 0.1, "far": 0.6}, {"chat": 0.5, "code": 0.0})


def optima(of: World, penalties: Iterable[float] = PENALTIES, stray: float = 0.02) -> list[Point]:
    """Case I in a finite world: the exact optimum, with `stray` of its mass spread evenly."""
    points = []
    for proxy in of.safety:
        for task in of.task:
            for penalty in penalties:
                model = penalized_optimum(of.task[task], of.safety[proxy], penalty)
                model = (1 - stray) * model + stray / model.shape[1]
                gaps = [
                    estimate(gap(distribution, model) / of.tokens_per_response)
                    for distribution in (of.original, of.safety[proxy], of.task[task])
                ]
                points.append(
                    Point(
                        spec=RunSpec(CASE_1, penalty, proxy, task, 0),
                        alignment_loss=gaps[0],
                        proxy_loss=gaps[1],
                        capability_loss=gaps[2],
                        alignment_gap=gaps[0],
                        proxy_gap=gaps[1],
                        capability_gap=gaps[2],
                        context_overlap=estimate(context_overlap(of.task[task], of.safety[proxy])),
                        distance=float(np.linalg.norm(model)),
                        relative_distance=0.1,
                        train_tokens=1000,
                        wall_seconds=1.0,
                    )
                )
    return points


def write_points(folder: Path, points: Iterable[Point]) -> Path:
    lines = [json.dumps(model.to_json()) + "\n" for model in points]
    (folder / "points.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder
