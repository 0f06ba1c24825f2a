"""What each held-out row cost each model, so that two models are compared row by row."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trimtab.results.files import read_arrays, read_if_whole, write_arrays

Array = NDArray[np.float64]

ROW_LOSSES_FOLDER = "row-losses"
RESAMPLES = 2000


class RowLosses:
    """Nats and tokens of every held-out response, by model and data set; one file per model.

    Data sets go by the names that gaps are kept under: "original", "safety:NAME", "task:NAME".
    Under "refusals:harmful" and "refusals:benign" a refused prompt has 1 for nats, others 0.
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

    def interval(self, dataset: str, model: str, reference: str) -> tuple[float, float] | None:
        """The 95 % interval of L_D(θ) − L_D(θ_ref), in nats per token; None where one is unknown.

        A percentile bootstrap over rows: what makes a row hard for both models cancels, so that
        the interval is far narrower than those of the two losses.
        """
        ours, theirs = self.resampled(dataset, model), self.resampled(dataset, reference)
        if ours is None or theirs is None or not self._same_rows(dataset, model, reference):
            return None
        low, high = np.quantile(ours - theirs, [0.025, 0.975])
        return float(low), float(high)

    def resampled(self, dataset: str, model: str) -> Array | None:
        """L_D(θ) under each of RESAMPLES bootstrap draws of the rows, the same for every model.

        So whatever is computed of several models, draw by draw, has the distribution that the
        choice of rows gives it. None where nothing is known of that model and data set.
        """
        losses = self._of(model).get(dataset)
        if losses is None:
            return None
        counts = _resampled_counts(dataset, losses.shape[1])
        return np.asarray((counts @ losses[0]) / (counts @ losses[1]))

    def _same_rows(self, dataset: str, model: str, reference: str) -> bool:
        return self._of(model)[dataset].shape == self._of(reference)[dataset].shape

    def _read(self, model: str) -> dict[str, Array]:
        cost = "differences from this model are not taken row by row"
        return read_if_whole(self.folder / f"{model}.npz", read_arrays, cost) or {}


@lru_cache(maxsize=8)
def _resampled_counts(dataset: str, rows: int) -> Array:
    """How often each row of a data set is drawn in each resample, shape (RESAMPLES, rows)."""
    generator = np.random.default_rng(list(dataset.encode()))
    return generator.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES).astype(np.float64)
