"""What each held-out row cost each model, so that two models are compared row by row."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

from trimtab.results.files import read_arrays, read_if_whole, write_arrays
from trimtab.stats import Array, Statistic, paired_difference, ratio

Value = TypeVar("Value")

ROW_LOSSES_FOLDER = "row-losses"


def known(value: Value | None) -> Value:
    """What must have been measured. Raises ValueError: it was not."""
    if value is None:
        raise ValueError("a loss that is compared here was not measured")
    return value


class RowLosses:
    """Nats and tokens of every held-out response, by model and data set; one file per model.

    Responses to one prompt are one row, with their sums, unless they are draws that may come again:
    they are like each other, and an interval over rows would be too narrow.

    Data sets go by the names that gaps are kept under: "original", "safety:NAME", "task:NAME".
    Under "answers:RATE" a prompt that the rate counts has 1 for nats and others 0, of one token,
    as the first judge has it; under "answers:RATE@JUDGE" as another has.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / ROW_LOSSES_FOLDER
        self._of = cache(self._read)

    def save(self, model: str, losses: Mapping[str, Array]) -> None:
        """Keep the losses of one model: arrays of shape (2, rows), nats and tokens by row."""
        if not losses:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays(self.folder / f"{model}.npz", losses)
        self._of.cache_clear()

    def add(self, model: str, losses: Mapping[str, Array]) -> None:
        """Keep more of one model, beside what is kept of it."""
        self.save(model, self._of(model) | dict(losses))

    def of(self, dataset: str, model: str) -> Array | None:
        """Nats and tokens by row, shape (2, rows); None where nothing is known of them."""
        return self._of(model).get(dataset)

    def loss(self, dataset: str, model: str) -> Statistic | None:
        """L_D(θ), nats per token, with what each row contributes to its error."""
        losses = self.of(dataset, model)
        return None if losses is None else ratio(losses, dataset)

    def difference(self, dataset: str, model: str, reference: str) -> Statistic | None:
        """L_D(θ) − L_D(θ_ref), in nats per token; None where one is unknown, or rows are others.

        What makes a row hard for both models cancels, so that its interval is far narrower than
        those of the two losses.
        """
        ours, theirs = self.of(dataset, model), self.of(dataset, reference)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            return None
        return paired_difference(ours, theirs, dataset)

    def _read(self, model: str) -> dict[str, Array]:
        cost = "differences from this model are not taken row by row"
        return read_if_whole(self.folder / f"{model}.npz", read_arrays, cost) or {}
