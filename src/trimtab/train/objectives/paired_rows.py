"""Safety rows on which a model is compared with the aligned model it started from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from trimtab.data.encoding import IGNORED
from trimtab.errors import UserError
from trimtab.stats import (
    Array,
    Statistic,
    first_of_each,
    group_numbers,
    paired_difference,
    summed,
)

_FEWEST_VALIDATED = 2
"""Prompts to validate on; one alone says nothing of how prompts differ."""


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
    prompts: NDArray[np.intp] | None = None
    """The number of each row's prompt, whose responses are one draw; None where rows are draws that
    may come again."""

    @property
    def aligned_loss(self) -> float:
        """L_ŝ(θ_s), nats per token."""
        return float(self.counts @ self.aligned_nll / (self.counts @ self.tokens))

    def change(self, nll: Array) -> Statistic:
        """L_ŝ(θ) − L_ŝ(θ_s) to a model of this nll, nats per token, paired by row."""
        pair = (np.stack([nats, self.tokens]) for nats in (nll, self.aligned_nll))
        if self.prompts is None:
            times = self.counts.astype(int)
            after, before = (np.repeat(rows, times, axis=1) for rows in pair)
        else:
            after, before = (summed(self.counts * rows, self.prompts) for rows in pair)
        return paired_difference(after, before)

    def rows_for(self, change: Statistic, half_width: float) -> int:
        """How many rows like these would bring a change's interval to this half-width."""
        (draws,) = change.influence.values()
        return math.ceil(change.rows_for(half_width) * self.counts.sum() / len(draws))


def set_aside(
    rows: Dataset, limit: int, drawn: int, seed: int, repeats: bool = False
) -> tuple[Dataset, Dataset]:
    """The rows to train on, and the rows to validate on: at most `limit` different ones.

    At most a fifth of all, or more where the run, which draws `drawn`, would leave more of them
    unread. Rows with one prompt stay together, so that no prompt is both trained and validated on.
    An interval needs two prompts: where they do not fit in, those with the fewest rows are
    validated on all the same. With `repeats`, rows are draws that may come again, and each goes its
    own way.

    Raises:
        UserError: there are too few rows, or prompts, for both.
    """
    if len(rows) < 5:
        raise UserError(
            f"{len(rows)} safety rows are too few for a budget, which keeps a fifth of them from "
            "training. Give at least 5."
        )
    texts = _texts(rows)
    alike: dict[_Text | tuple[int, ...] | int, list[int]] = {}
    for place, text in enumerate(texts):
        alike.setdefault(place if repeats else _prompt(*text), []).append(place)
    if len(alike) <= _FEWEST_VALIDATED:
        prompts = "one prompt" if len(alike) == 1 else f"{len(alike)} prompts"
        raise UserError(
            f"all {len(rows)} safety rows have {prompts}, and a budget keeps "
            f"{_FEWEST_VALIDATED} or more from training. Give rows with other prompts; if they are "
            "draws that may come again, set repeats: true."
        )
    groups = list(alike.values())
    most = max(len(rows) // 5, len(rows) - drawn)
    validated_groups: list[list[int]] = []
    validated: list[int] = []
    different: set[_Text] = set()
    for number in np.random.default_rng(seed).permutation(len(groups)):
        group = groups[number]
        new = {texts[place] for place in group} - different
        if len(validated) + len(group) <= most and len(different) + len(new) <= limit:
            validated_groups.append(group)
            validated += group
            different |= new
    if len(validated_groups) < _FEWEST_VALIDATED:
        left = [group for group in groups if group not in validated_groups]
        fewest = sorted(left, key=len)[: _FEWEST_VALIDATED - len(validated_groups)]
        validated += chain.from_iterable(fewest)
    trained = np.setdiff1d(np.arange(len(rows)), validated)
    return rows.select(trained), rows.select(validated)


def prompt_numbers(rows: Dataset) -> NDArray[np.intp]:
    """Which prompt each encoded row has, numbered as they first come."""
    return group_numbers(_prompt(*text) for text in _texts(rows))


def distinct_rows(rows: Dataset) -> tuple[Dataset, NDArray[np.int64]]:
    """Each row once, and which of them every row is: rows that come again are measured once."""
    numbers = group_numbers(_texts(rows))
    return rows.select(first_of_each(numbers)), numbers


_Text = tuple[tuple[int, ...], tuple[int, ...]]
"""A row's token ids, and its labels."""


def _texts(rows: Dataset) -> list[_Text]:
    pairs = zip(rows["input_ids"], rows["labels"], strict=True)
    return [(tuple(ids), tuple(labels)) for ids, labels in pairs]


def _prompt(ids: tuple[int, ...], labels: tuple[int, ...]) -> _Text | tuple[int, ...]:
    """The tokens before a response; a text that is all response has itself for one."""
    prompt = tuple(token for token, label in zip(ids, labels, strict=True) if label == IGNORED)
    return prompt or (ids, labels)
