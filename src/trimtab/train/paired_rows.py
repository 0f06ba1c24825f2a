"""Safety rows on which a model is compared with the aligned model it started from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from trimtab.errors import UserError
from trimtab.measure.losses import Array


@dataclass(frozen=True)
class Change:
    """L_ŝ(θ) − L_ŝ(θ_s) on the same rows, nats per token, and its standard error over rows."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class PairedRows:
    """Safety rows beside what the aligned model loses on each; `counts` says how often each comes.

    Both models answer for the very same rows, so that what makes a row hard for either cancels in
    the difference: its error is that of a small change and not that of a loss.
    """

    rows: Dataset
    counts: Array
    aligned_surprise: Array
    tokens: Array

    @property
    def aligned_loss(self) -> float:
        """L_ŝ(θ_s), nats per token."""
        return float(self.counts @ self.aligned_surprise / (self.counts @ self.tokens))

    def change(self, surprise: Array) -> Change:
        """The change to a model of this surprise: a ratio of means, with its error over rows."""
        lost, tokens = surprise - self.aligned_surprise, float(self.counts @ self.tokens)
        value = float(self.counts @ lost) / tokens
        spread = float(self.counts @ np.square(lost - value * self.tokens))
        return Change(value, math.sqrt(spread) / tokens)


def set_aside(rows: Dataset, limit: int, drawn: int, seed: int) -> tuple[Dataset, Dataset]:
    """The rows to train on, and the rows to validate on: at most `limit` different ones.

    A fifth of all, or more where the run, which draws `drawn`, would leave more of them unread.

    Raises:
        UserError: there are too few rows for both.
    """
    if len(rows) < 5:
        raise UserError(
            f"{len(rows)} safety rows are too few for a budget, which keeps a fifth of them from "
            "training. Give at least 5."
        )
    count = max(len(rows) // 5, len(rows) - drawn)
    order = np.random.default_rng(seed).permutation(len(rows))
    kept = rows.select(order[:count])
    _, which = distinct_rows(kept)
    # Distinct rows are numbered as they first appear, so the running maximum counts them.
    within = int(np.searchsorted(np.maximum.accumulate(which), limit))
    return rows.select(np.sort(order[count:])), kept.select(range(within))


def distinct_rows(rows: Dataset) -> tuple[Dataset, NDArray[np.int64]]:
    """Each row once, and which of them every row is: rows that come again are measured once."""
    numbers: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    which = np.empty(len(rows), dtype=np.int64)
    first: list[int] = []
    for place, (ids, labels) in enumerate(zip(rows["input_ids"], rows["labels"], strict=True)):
        key = (tuple(ids), tuple(labels))
        if key not in numbers:
            numbers[key] = len(first)
            first.append(place)
        which[place] = numbers[key]
    return rows.select(first), which
