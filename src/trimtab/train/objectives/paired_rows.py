"""Safety rows on which a model is compared with the aligned model it started from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from trimtab.data.encoding import IGNORED
from trimtab.errors import UserError
from trimtab.stats import Array, Statistic, paired_difference


@dataclass(frozen=True)
class PairedRows:
    """Safety rows beside what the aligned model loses on each; `counts` says how often each comes.

    Both models answer for the very same rows, so that what makes a row hard for either cancels in
    the difference: its error is that of a small change and not that of a loss.
    """

    rows: Dataset
    counts: Array
    aligned_nll: Array
    tokens: Array

    @property
    def aligned_loss(self) -> float:
        """L_ŝ(θ_s), nats per token."""
        return float(self.counts @ self.aligned_nll / (self.counts @ self.tokens))

    def change(self, nll: Array) -> Statistic:
        """L_ŝ(θ) − L_ŝ(θ_s) to a model of this nll, nats per token, paired by row."""
        times = self.counts.astype(int)
        after, before = (
            np.repeat(np.stack([nats, self.tokens]), times, axis=1)
            for nats in (nll, self.aligned_nll)
        )
        return paired_difference(after, before)


def set_aside(
    rows: Dataset, limit: int, drawn: int, seed: int, repeats: bool = False
) -> tuple[Dataset, Dataset]:
    """The rows to train on, and the rows to validate on: at most `limit` different ones.

    At most a fifth of all, or more where the run, which draws `drawn`, would leave more of them
    unread. Rows with one prompt stay together, so that no prompt is both trained and validated on;
    where even the prompt with the fewest rows has more of them than that, its rows are validated
    on all the same. With `repeats`, rows are draws that may come again, and each goes its own way.

    Raises:
        UserError: there are too few rows, or prompts, for both.
    """
    if len(rows) < 5:
        raise UserError(
            f"{len(rows)} safety rows are too few for a budget, which keeps a fifth of them from "
            "training. Give at least 5."
        )
    texts = _texts(rows)
    alike: dict[tuple[int, ...] | int, list[int]] = {}
    for place, text in enumerate(texts):
        prompt = () if repeats else _prompt(*text)
        alike.setdefault(prompt or place, []).append(place)
    if len(alike) == 1:
        raise UserError(
            f"all {len(rows)} safety rows have one prompt, and a budget keeps prompts from "
            "training. Give rows with other prompts; if they are draws that may come again, set "
            "repeats: true."
        )
    groups = list(alike.values())
    most = max(len(rows) // 5, len(rows) - drawn)
    validated: list[int] = []
    different: set[_Text] = set()
    for number in np.random.default_rng(seed).permutation(len(groups)):
        group = groups[number]
        new = {texts[place] for place in group} - different
        if len(validated) + len(group) <= most and len(different) + len(new) <= limit:
            validated += group
            different |= new
    validated = validated or min(groups, key=len)
    trained = np.setdiff1d(np.arange(len(rows)), validated)
    return rows.select(trained), rows.select(validated)


def distinct_rows(rows: Dataset) -> tuple[Dataset, NDArray[np.int64]]:
    """Each row once, and which of them every row is: rows that come again are measured once."""
    numbers: dict[_Text, int] = {}
    first: list[int] = []
    numbers_by_row = np.empty(len(rows), dtype=np.int64)
    for place, text in enumerate(_texts(rows)):
        if text not in numbers:
            numbers[text] = len(first)
            first.append(place)
        numbers_by_row[place] = numbers[text]
    return rows.select(first), numbers_by_row


_Text = tuple[tuple[int, ...], tuple[int, ...]]
"""A row's token ids, and its labels."""


def _texts(rows: Dataset) -> list[_Text]:
    pairs = zip(rows["input_ids"], rows["labels"], strict=True)
    return [(tuple(ids), tuple(labels)) for ids, labels in pairs]


def _prompt(ids: tuple[int, ...], labels: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(token for token, label in zip(ids, labels, strict=True) if label == IGNORED)
