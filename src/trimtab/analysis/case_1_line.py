"""Case I's line in the plane of the two gaps, and where a Case II model lies beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trimtab.analysis.groups import SafetyGap, Setting
from trimtab.analysis.labels import nats
from trimtab.analysis.verdicts import Order, compare
from trimtab.stats import Estimate


@dataclass(frozen=True)
class Case1Line:
    """Case I in the plane, by rising safety gap, read between its points along straight lines.

    The true front is convex, so the straight line overstates what Case I costs: a Case II model
    above it is above the front.
    """

    safety_gaps: tuple[Estimate, ...]
    capability_gaps: tuple[Estimate, ...]
    safety: SafetyGap

    @classmethod
    def of(cls, settings: Sequence[Setting], safety: SafetyGap) -> Case1Line | None:
        """The line through settings of Case I; None where none has both gaps."""
        pairs = [
            (at, height)
            for setting in settings
            if (at := setting.measured(safety)) and (height := setting.measured("capability gap"))
        ]
        pairs.sort(key=lambda pair: pair[0].value)
        if not pairs:
            return None
        return cls(tuple(at for at, _ in pairs), tuple(height for _, height in pairs), safety)

    def order(self, setting: Setting) -> Order | None:
        """Where a Case II model lies: by the line in its range, by dominance outside it."""
        at, height = setting.measured(self.safety), setting.measured("capability gap")
        if at is None or height is None:
            return None
        if self._reaches(at):
            above = replace(height, low=self._read(at.low).high, high=self._read(at.low).high)
            below = replace(height, low=self._read(at.high).low, high=self._read(at.high).low)
            if compare(height, above) == "above":
                return "above"
            return "below" if compare(height, below) == "below" else "within"
        for one, its_height in zip(self.safety_gaps, self.capability_gaps, strict=True):
            orders = {compare(at, one), compare(height, its_height)}
            if len(orders) == 1 and "within" not in orders:
                return orders.pop()
        return None

    def example(self, settings: Sequence[Setting]) -> str:
        """The height of one Case II model in the line's range beside Case I's."""
        for setting in settings[::-1]:
            at, height = setting.measured(self.safety), setting.measured("capability gap")
            if at and height and self._reaches(at):
                return (
                    f" (at a gap of {nats(at.value)}: {nats(height.value)} against "
                    f"{nats(self._read(at.value).value)} {at.unit})"
                )
        return ""

    def _reaches(self, safety_gap: Estimate) -> bool:
        return self.safety_gaps[0].value <= safety_gap.value <= self.safety_gaps[-1].value

    def _read(self, at: float) -> Estimate:
        gaps = [gap.value for gap in self.safety_gaps]
        value, low, high = (
            float(np.interp(at, gaps, heights))
            for heights in (
                [height.value for height in self.capability_gaps],
                [height.low for height in self.capability_gaps],
                [height.high for height in self.capability_gaps],
            )
        )
        return replace(self.capability_gaps[0], value=value, low=low, high=high)
