"""Rows drawn from a finite world, and a small model's view of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trimtab.config.data_source import Lengths
from trimtab.data.encoding import encode
from trimtab.data.rows import Message, Row
from trimtab.data.synthetic import CONTEXTS, RESPONSES
from trimtab.measure.hidden_states import read_through
from trimtab.measure.similarity import Sample
from trimtab.models import load_model, save_tiny_llama
from trimtab.theory import Distribution


def drawn(distribution: Distribution, count: int, seed: int) -> list[Row]:
    joint = distribution.joint().ravel()
    pairs = np.random.default_rng(seed).choice(joint.size, size=count, p=joint / joint.sum())
    return [
        Row((Message("user", CONTEXTS[pair // len(RESPONSES)]),), RESPONSES[pair % len(RESPONSES)])
        for pair in pairs
    ]


class Reader:
    """An untrained model: its hidden states tell every pair from every other all the same."""

    def __init__(self, folder: Path) -> None:
        save_tiny_llama([*CONTEXTS, *RESPONSES], folder, seed=0)
        self.model, self.tokenizer = load_model(str(folder))

    def sample(self, distribution: Distribution, count: int, seed: int) -> Sample:
        rows = drawn(distribution, count, seed)
        encoded = encode(rows, self.tokenizer, Lengths())
        return Sample(
            [row.prompt[0].content for row in rows],
            read_through(self.model, encoded, 8192),
            repeats=True,
        )
