"""What each held-out row cost each model, so that two models are compared row by row."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
        unfinished = self.folder / f"{model}.tmp.npz"
        np.savez(unfinished, allow_pickle=False, **losses)
        unfinished.replace(self.folder / f"{model}.npz")
        self._of.cache_clear()

    def interval(self, dataset: str, model: str, reference: str) -> tuple[float, float] | None:
        """The 95 % interval of L_D(θ) − L_D(θ_ref), in nats per token; None where one is unknown.

        A percentile bootstrap over rows: what makes a row hard for both models cancels, so that
        the interval is far narrower than those of the two losses.
        """
        ours, theirs = self._of(model).get(dataset), self._of(reference).get(dataset)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            return None
        counts = _resampled_counts(ours.shape[1])
        differences = (counts @ (ours[0] - theirs[0])) / (counts @ ours[1])
        low, high = np.quantile(differences, [0.025, 0.975])
        return float(low), float(high)

    def _read(self, model: str) -> dict[str, Array]:
        path = self.folder / f"{model}.npz"
        if not path.exists():
            return {}
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}


@lru_cache(maxsize=8)
def _resampled_counts(rows: int) -> Array:
    """How often each row is drawn in each resample, shape (RESAMPLES, rows)."""
    generator = np.random.default_rng(0)
    return generator.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES).astype(np.float64)
