"""Facts about the memory of measuring: one batch after another, never two at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from tests.live_tensors import before_each_forward
from tests.train import tiny
from trimtab.measure.hidden_states import read_through
from trimtab.measure.losses import response_nll
from trimtab.measure.token_loss import TokenLoss, all_weights, random_direction

TOKENS = 40
"""In a batch at most."""

INPUTS = 3 * 8 * TOKENS
"""Bytes of a batch's ids, mask and targets, which batches differ by."""

ROWS_READ = 8 * (3 * 96 + 1) * 4
"""Bytes of what is kept of a batch of 8 rows: three mean hidden states and a loss of each."""


def losses(model: Any, rows: Dataset) -> None:
    response_nll(model, rows, TOKENS)


def states(model: Any, rows: Dataset) -> None:
    read_through(model, rows, TOKENS)


def gradient(model: Any, rows: Dataset) -> None:
    with all_weights(model) as (_, weights):
        TokenLoss.over(model, weights, rows, TOKENS).gradient()


def hessian_times_vector(model: Any, rows: Dataset) -> None:
    with all_weights(model) as (_, weights):
        direction = random_direction(weights, seed=0)
        TokenLoss.over(model, weights, rows, TOKENS).curvature_along(direction)


@pytest.mark.parametrize(
    ("measure", "allowed"),
    [
        (losses, INPUTS),
        (states, INPUTS + ROWS_READ),
        (gradient, INPUTS),
        (hessian_times_vector, INPUTS),
    ],
)
def test_a_batch_is_gone_before_the_next_one_is_computed(
    measure: Callable[[Any, Dataset], None], allowed: int, tmp_path: Path
) -> None:
    model, _ = tiny.tiny_llama(tmp_path / "model")
    rows = tiny.rows(40, seed=3)
    with before_each_forward(model) as live:
        measure(model, rows)
    assert len(live) > 3
    assert max(live) - live[0] <= allowed
