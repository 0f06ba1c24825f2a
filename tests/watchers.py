"""Who looks on at a sweep, a dial or a training in the tests."""

from __future__ import annotations

from trimtab.config.grid import Plan
from trimtab.results.metrics import Metrics
from trimtab.results.result import Point
from trimtab.results.store import Failure


class Watcher:
    """Counts what it is told of, and says nothing."""

    def __init__(self) -> None:
        self.trainings: list[str] = []
        self.steps: list[int] = []
        self.metrics: list[Metrics] = []
        self.warnings: list[str] = []
        self.points: list[Point] = []
        self.failures: list[Failure] = []

    def planned(self, plan: Plan, left: Plan) -> None: ...

    def warned(self, warning: str) -> None:
        self.warnings.append(warning)

    def doing(self, what: str, steps: int | None = None) -> None: ...

    def training(self, name: str, steps: int) -> None:
        self.trainings.append(name)

    def stepped(self, steps: int) -> None:
        self.steps.append(steps)

    def logged(self, metrics: Metrics) -> None:
        self.metrics.append(metrics)

    def measured(self, points: list[Point]) -> None:
        self.points += points

    def failed(self, failure: Failure) -> None:
        self.failures.append(failure)
