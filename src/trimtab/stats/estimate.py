"""A number with its 95 % interval, and whether that keeps to a limit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Kind = Literal["exact", "bound", "estimate"]
LimitVerdict = Literal["within", "beyond", "undecided"]

FEW_ROWS = 50
"""Below it, intervals from rows with heavy tails cover less than they say."""
TAIL = 0.025
"""What a 95 % interval leaves out on either side."""
NORMAL = 1.959964
"""The quantile of the normal distribution for that tail."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Estimate:
    """A number that knows its 95 % interval, its unit and what it may be called.

    `kind` is "exact" (computed over a whole finite distribution), "estimate" (from a sample) or
    "bound" (no true value lies beyond it).

    >>> Estimate(1.5, 1.4, 1.7, "nats per token", "estimate").minus(1.0)
    Estimate(value=0.5, low=0.3999999999999999, high=0.7, unit='nats per token', kind='estimate')
    """

    value: float
    low: float
    high: float
    unit: str
    kind: Kind

    @classmethod
    def exact(cls, value: float, unit: str) -> Estimate:
        """A number without error."""
        return cls(value, value, value, unit, "exact")

    def minus(self, reference: float) -> Estimate:
        """The estimate shifted down by a reference in the same unit."""
        return replace(
            self,
            value=self.value - reference,
            low=self.low - reference,
            high=self.high - reference,
        )

    def __neg__(self) -> Estimate:
        return replace(self, value=-self.value, low=-self.high, high=-self.low)

    def cut(self, lowest: float, highest: float) -> Estimate:
        """With an interval that ends where the number itself has to.

        >>> Estimate(0.9, 0.7, 1.1, "share", "estimate").cut(0, 1).high
        1
        """
        return replace(self, low=max(lowest, self.low), high=min(highest, self.high))


def verdict(change: Estimate, limit: float) -> LimitVerdict:
    """Whether a change keeps to a limit, by its 95 % interval: a point alone tells nothing.

    "within" where all of the interval does, so that a change beyond the limit is called within in
    2.5 % of samples at most, as far as the interval covers what it says (`FEW_ROWS`); "beyond"
    where none of it does.

    >>> rise = Estimate(0.04, 0.01, 0.07, "nats per token", "estimate")
    >>> verdict(rise, 0.1), verdict(rise, 0.05), verdict(rise, 0.0)
    ('within', 'undecided', 'beyond')
    """
    if change.high <= limit + _ROUNDING:
        return "within"
    return "beyond" if change.low > limit + _ROUNDING else "undecided"


def note_on_rows(rows: int) -> str | None:
    """What to tell of intervals from few rows, or None.

    >>> note_on_rows(48), note_on_rows(50)
    ('48 rows: intervals are approximate', None)
    """
    return f"{rows} rows: intervals are approximate" if rows < FEW_ROWS else None
