"""Points: what one measured model gave up and gained, and the file that holds many of them."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from trimtab.errors import UserError
from trimtab.row_losses import RowLosses

Kind = Literal["exact", "bound", "estimate"]
Case = Literal["aligned", "alignment-loss", "alignment-parameter", "dial", "method"]

_ADDED_LATER = (
    "model",
    "budget",
    "multiplier",
    "safety_change",
    "alpha",
    "method",
    "knob",
    "extra_bytes",
)
"""Fields that points written by an earlier version lack."""

POINTS_FILE = "points.jsonl"
FAILURES_FILE = "failures.jsonl"
LANDSCAPE_FILE = "landscape.json"

BUDGET_TOLERANCE = 0.05
"""A change beyond its budget by this share of it still counts as within the budget."""
OUT_OF_REACH = 100.0
"""A multiplier at which the task hardly counts: a budget still missed cannot be had."""


@dataclass(frozen=True)
class Estimate:
    """A number that knows its 95 % interval, its unit and what it may be called.

    `kind` is "exact" (computed over a whole finite distribution), "estimate" (from a sample; the
    interval is a bootstrap over held-out rows) or "bound" (no true value lies beyond it).

    >>> Estimate(1.5, 1.4, 1.7, "nats per token", "estimate").minus(1.0)
    Estimate(value=0.5, low=0.3999999999999999, high=0.7, unit='nats per token', kind='estimate')
    """

    value: float
    low: float
    high: float
    unit: str
    kind: Kind

    def minus(self, reference: float) -> Estimate:
        """The estimate shifted down by a reference in the same unit."""
        return replace(
            self,
            value=self.value - reference,
            low=self.low - reference,
            high=self.high - reference,
        )


@dataclass(frozen=True)
class Terrain:
    """Slope ‖∇L‖ and curvature, the Hessian's norm, of one data set's loss at the aligned model.

    Per token, over the weights that are trained. Both are estimates from a sample of rows, and the
    curvature is local: away from the aligned model it may be larger.
    """

    slope: Estimate
    curvature: Estimate


class PointKey(NamedTuple):
    """What makes two points the same point of a plan; the fields are those of `Point`."""

    case: Case
    penalty: float | None
    radius: float | None
    proxy: str | None
    task: str
    seed: int
    budget: float | None = None
    alpha: float | None = None
    method: str | None = None
    knob: float | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured model: how it was made, and L_s, L_ŝ, L_f and ‖θ − θ_s‖ afterwards.

    Losses are held-out means in nats per completion token (`…_per_response`: nats per response).
    `case` "aligned" is the starting model itself, untrained. In Case I `penalty` is λ and `proxy`
    the safety data trained on; in Case II `penalty` is λ or `radius` is ε, and `proxy` only names
    the safety data that `proxy_loss` was measured on. In case "dial" `alpha` is the setting of the
    dial, from 0 (safest) to 1 (most capable), and `penalty` is λ(α); all settings are one training.
    Case "method" is a published method by its name, at its `knob`; `extra_bytes` is what it held in
    memory beyond plain fine-tuning. `alignment_loss` is None where no original alignment data was
    given. `model` names the trained model; points of one model share it.

    In place of λ or ε a point may have a `budget` for `safety_change`, the held-out
    L_ŝ(θ) − L_ŝ(θ_s). What was learned is `multiplier`, the λ of Case I, or `distance`, the ε of
    Case II.
    """

    case: Case
    penalty: float | None = None
    radius: float | None = None
    proxy: str | None = None
    task: str
    seed: int
    alignment_loss: Estimate | None = None
    proxy_loss: Estimate | None = None
    capability_loss: Estimate
    alignment_loss_per_response: Estimate | None = None
    proxy_loss_per_response: Estimate | None = None
    capability_loss_per_response: Estimate | None = None
    alignment_gap: Estimate | None = None
    proxy_gap: Estimate | None = None
    capability_gap: Estimate | None = None
    context_overlap: Estimate | None = None
    distance: float
    relative_distance: float
    train_tokens: int
    wall_seconds: float
    model: str | None = None
    budget: float | None = None
    multiplier: float | None = None
    safety_change: Estimate | None = None
    alpha: float | None = None
    method: str | None = None
    knob: float | None = None
    extra_bytes: int | None = None

    @property
    def key(self) -> PointKey:
        """What makes two points the same point of a plan."""
        return PointKey(
            self.case,
            self.penalty,
            self.radius,
            self.proxy,
            self.task,
            self.seed,
            self.budget,
            self.alpha,
            self.method,
            self.knob,
        )

    @property
    def over_budget(self) -> float | None:
        """How far the held-out change of L_ŝ lies above the budget; below 0 it is within."""
        if self.budget is None or self.safety_change is None:
            return None
        return self.safety_change.value - self.budget

    @property
    def is_feasible(self) -> bool | None:
        """Whether the held-out change of L_ŝ is within the budget, to 5 % of it."""
        if self.over_budget is None or self.budget is None:
            return None
        return self.over_budget <= BUDGET_TOLERANCE * abs(self.budget)

    def to_json(self) -> dict[str, Any]:
        """A flat record: an estimate `x` becomes `x` and `x_interval`, `x_unit`, `x_kind`."""
        record: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Estimate):
                record[field.name] = value.value
                record[f"{field.name}_interval"] = [value.low, value.high]
                record[f"{field.name}_unit"] = value.unit
                record[f"{field.name}_kind"] = value.kind
            else:
                record[field.name] = "inf" if value == math.inf else value  # JSON has no infinity
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Point:
        """The inverse of `to_json`. Raises KeyError or TypeError on a record that is no point."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in _ADDED_LATER and field.name not in record:
                continue
            value = record[field.name]
            if f"{field.name}_interval" in record:
                low, high = record[f"{field.name}_interval"]
                unit, kind = record[f"{field.name}_unit"], record[f"{field.name}_kind"]
                if kind not in get_args(Kind):
                    raise TypeError(f"kind {kind!r} is none of {', '.join(get_args(Kind))}")
                value = Estimate(value, low, high, unit, kind)
            values[field.name] = math.inf if value == "inf" else value
        return cls(**values)


def with_gaps(
    points: Iterable[Point], known: Mapping[str, float], rows: RowLosses | None = None
) -> list[Point]:
    """The points with G = L − L* and, under a budget, L_ŝ(θ) − L_ŝ(θ_s), in nats per token.

    L* is the data set's entropy where `known` has it, and then the gap's interval is the loss's.
    Elsewhere it is the lowest loss that any of the points reached, so that gaps are relative and
    too small, and with `rows` the interval is that of the difference on the same held-out rows.
    Data sets go by the names "original", "safety:NAME" and "task:NAME".

    >>> loss = lambda v: Estimate(v, v, v, "nats per token", "exact")
    >>> make = lambda v, p: Point(case="alignment-loss", penalty=p, task="t", seed=0, distance=0.0,
    ...     capability_loss=loss(v), relative_distance=0.0, train_tokens=1, wall_seconds=0.0)
    >>> [p.capability_gap.value for p in with_gaps([make(2.0, 0.1), make(1.5, 1.0)], {})]
    [0.5, 0.0]
    """
    points = list(points)
    aligned = {(point.proxy, point.task): point for point in points if point.case == "aligned"}
    lowest: dict[str, Point] = {}
    for point in points:
        for name, loss in _losses(point).items():
            best = _losses(lowest[name])[name] if name in lowest else None
            if loss is not None and (best is None or loss.value < best.value):
                lowest[name] = point

    def gap(point: Point, name: str) -> Estimate | None:
        loss = _losses(point)[name]
        if loss is None:
            return None
        if name in known:
            return loss.minus(known[name])
        return difference(point, lowest[name], name)

    def difference(point: Point, other: Point, name: str) -> Estimate:
        loss, reference = _losses(point)[name], _losses(other)[name]
        assert loss is not None
        assert reference is not None
        between = loss.minus(reference.value)
        if rows is None or point.model is None or other.model is None:
            return between
        interval = rows.interval(name, point.model, other.model)
        return between if interval is None else replace(between, low=interval[0], high=interval[1])

    def safety_change(point: Point, name: str) -> Estimate | None:
        start = aligned.get((point.proxy, point.task))
        if point.budget is None or start is None or point.proxy_loss is None:
            return None
        return difference(point, start, name)

    filled = []
    for point in points:
        original, safety, task = _losses(point)
        filled.append(
            replace(
                point,
                alignment_gap=gap(point, original),
                proxy_gap=gap(point, safety),
                capability_gap=gap(point, task),
                safety_change=safety_change(point, safety),
            )
        )
    return filled


def read_points(folder: Path) -> list[Point]:
    """The points of a folder, in the order they were made.

    Raises:
        UserError: there is no points file, or a line of it is not a point.
    """
    path = folder / POINTS_FILE
    if not path.exists():
        raise UserError(
            f"{path}: no such file. Give the folder that 'trimtab sweep', 'train' or 'demo' wrote."
        )
    return list(_parse(path))


class PointsFile:
    """`points.jsonl` of one experiment: every write leaves a complete file or the one before.

    The file is small, so each addition writes it anew beside itself and renames it into place:
    a kill at any moment loses at most the point being made, and gaps are always over all points.
    """

    def __init__(self, folder: Path, known_entropies: Mapping[str, float]) -> None:
        self.folder = folder
        self.known_entropies = known_entropies
        self.row_losses = RowLosses(folder)
        path = folder / POINTS_FILE
        self.points: list[Point] = list(_parse(path)) if path.exists() else []

    def add(self, points: Iterable[Point]) -> None:
        self.points = with_gaps([*self.points, *points], self.known_entropies, self.row_losses)
        lines = [json.dumps(point.to_json()) + "\n" for point in self.points]
        write_atomically(self.folder / POINTS_FILE, "".join(lines))

    def has(self, key: PointKey) -> bool:
        return any(point.key == key for point in self.points)


@dataclass(frozen=True)
class Failure:
    """A planned point that could not be made, and why."""

    key: PointKey
    reason: str


def read_failures(folder: Path) -> list[Failure]:
    """The failures of a folder; none where there is no such file."""
    path = folder / FAILURES_FILE
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Failure(PointKey(**record["key"]), record["reason"]) for record in records]


def write_failures(folder: Path, failures: Iterable[Failure]) -> None:
    """Replace the failures of a folder."""
    lines = [
        json.dumps({"key": failure.key._asdict(), "reason": failure.reason}) + "\n"
        for failure in failures
    ]
    write_atomically(folder / FAILURES_FILE, "".join(lines))


def write_landscape(folder: Path, terrains: Mapping[str, Terrain]) -> None:
    """Keep the terrain at the aligned model, by the data set's name as for gaps."""
    record = {name: asdict(terrain) for name, terrain in terrains.items()}
    write_atomically(folder / LANDSCAPE_FILE, json.dumps(record, indent=1) + "\n")


def read_landscape(folder: Path) -> dict[str, Terrain]:
    """The terrains of a folder; none where there is no such file. Raises UserError."""
    path = folder / LANDSCAPE_FILE
    if not path.exists():
        return {}
    try:
        return {
            name: Terrain(Estimate(**one["slope"]), Estimate(**one["curvature"]))
            for name, one in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: not a landscape ({error}). Restore the file, or remove it."
        ) from None


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` against a second sweep writing into it; freed by the system on any exit."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another trimtab is writing here. Wait for it, or give another --out."
            ) from None
        yield


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either its old or its new content, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _losses(point: Point) -> dict[str, Estimate | None]:
    return {
        "original": point.alignment_loss,
        f"safety:{point.proxy}": point.proxy_loss,
        f"task:{point.task}": point.capability_loss,
    }


def _parse(path: Path) -> Iterator[Point]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            yield Point.from_json(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} line {number}: not a point of this version of trimtab "
                f"({type(error).__name__}: {error}). Restore the file, or start anew: --restart."
            ) from None
