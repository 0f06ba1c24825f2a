"""How a training went: a line of JSON at every log of it, written as it goes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from trimtab.results.files import parsed_lines, write_atomically
from trimtab.stats import Estimate

METRICS_FOLDER = "metrics"
"""In an experiment's folder: NAME.jsonl for each training."""

Role = Literal["task", "safety", "original"]

HELD_OUT = "held_out/"
"""What trackers find before the name of a change: `held_out/task_loss_change`."""
_OF_LIBRARY = {"lr": "learning_rate"}


@dataclass(frozen=True)
class Metrics:
    """One line: a training at one step; what is not known or not finite is left out.

    Losses are in nats per token. A change is L(θ) − L(θ_s) on the same held-out rows, `low` and
    `high` the ends of its 95 % interval, paired by row; a dial's is that of α = ½,
    with a budget of α = 0.
    """

    step: int
    """Optimizer steps that are done."""
    of: int
    """Those of the whole training."""
    seconds: float
    """Since the first step; of an interrupted training, those up to its checkpoint included."""
    lr: float | None = None
    """The learning rate of the last step."""
    loss: float | None = None
    """What is minimised, a mean over the steps since the last line."""
    task_loss: float | None = None
    """L_f on the rows trained on, where the objective tells the roles apart."""
    safety_loss: float | None = None
    """L_ŝ on them."""
    task_loss_change: float | None = None
    task_loss_change_low: float | None = None
    task_loss_change_high: float | None = None
    safety_loss_change: float | None = None
    safety_loss_change_low: float | None = None
    safety_loss_change_high: float | None = None
    original_loss_change: float | None = None
    original_loss_change_low: float | None = None
    original_loss_change_high: float | None = None
    distance: float | None = None
    """‖θ − θ_s‖, where the objective asks for it."""

    @classmethod
    def of_log(cls, step: int, of: int, seconds: float, logged: Mapping[str, Any]) -> Metrics:
        """The line of what a trainer has logged, by the names that trackers have for it."""
        values = {field.name: logged.get(_name_in_log(field.name)) for field in fields(cls)[3:]}
        finite = {
            name: float(value)
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        }
        return cls(step, of, round(seconds, 3), **finite)

    def change(self, role: Role) -> Estimate | None:
        """How far the loss of a role has moved; None where it was not measured at this step."""
        name = f"{role}_loss_change"
        value, low, high = (getattr(self, f"{name}{end}") for end in ("", "_low", "_high"))
        if value is None:
            return None
        return Estimate(value, low, high, "nats per token", "estimate")


def logged_change(role: Role, change: Estimate) -> dict[str, float]:
    """A change and its interval, by the names that trackers have for them."""
    name = f"{HELD_OUT}{role}_loss_change"
    return {name: change.value, f"{name}_low": change.low, f"{name}_high": change.high}


class MetricsFile:
    """The lines of one training, from where it was begun or taken up again."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / METRICS_FOLDER / f"{name}.jsonl"

    def begin(self, step: int) -> float:
        """Keep the lines up to a step, as it will go on from there; the seconds until then."""
        lines = [line for line in read_metrics(self.path) if line.step <= step] if step else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, "".join(map(_line, lines)))
        return lines[-1].seconds if lines else 0.0

    def add(self, metrics: Metrics) -> None:
        """Write one more line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(metrics))


def read_metrics(path: Path) -> list[Metrics]:
    """The lines of a file; none where there is no file. Raises UserError where it is damaged."""
    if not path.exists():
        return []
    return list(
        parsed_lines(path, lambda record: Metrics(**record), "a line of metrics", "remove it")
    )


def _name_in_log(name: str) -> str:
    return f"{HELD_OUT}{name}" if "_loss_change" in name else _OF_LIBRARY.get(name, name)


def _line(metrics: Metrics) -> str:
    values = {name: value for name, value in asdict(metrics).items() if value is not None}
    return json.dumps(values) + "\n"
