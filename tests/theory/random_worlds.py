"""Worlds for property tests: small, and full of zeros and of very small probabilities."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from trimtab.theory import Distribution
from trimtab.theory.world import Array

many = settings(max_examples=150, deadline=None)
some = settings(max_examples=30, deadline=None)

PENALTIES = [0.0, 1e-12, 1e-3, 0.3, 1.0, 4.0, 1e3, 1e12, math.inf]
penalties = st.sampled_from(PENALTIES) | st.floats(1e-6, 1e6)
World = tuple[Distribution, Distribution, Distribution]

_MAGNITUDES = np.array([0.0, 1.0, 0.0, 1e-300, 1e-9, 0.05, 0.4, 3.0])
_FULL = np.array([1.0, 0.02, 0.1, 0.3, 0.7, 1.5, 2.0, 4.0])


@st.composite
def worlds(draw: st.DrawFn, full: bool = False, max_contexts: int = 4) -> World:
    """(task, proxy, original); with full, every pair has mass."""
    contexts = draw(st.integers(1, max_contexts))
    responses = draw(st.integers(1 + full, 4))
    levels = draw(_levels(3, contexts, responses + 1))
    task, proxy, original = (_distribution(x) for x in (_FULL if full else _MAGNITUDES)[levels])
    return task, proxy, original


@st.composite
def models(draw: st.DrawFn, like: Distribution) -> Array:
    """Any conditional distribution of that shape."""
    levels = draw(_levels(*like.shape))
    return _distribution(np.hstack([np.ones((len(levels), 1)), _MAGNITUDES[levels]])).responses


def random_world(seed: int, contexts: int, responses: int) -> World:
    rng = np.random.default_rng(seed)
    task, proxy, original = (
        Distribution(
            rng.dirichlet(np.ones(contexts)), rng.dirichlet(np.ones(responses), size=contexts)
        )
        for _ in range(3)
    )
    return task, proxy, original


def relabelled(d: Distribution, contexts: Array, responses: Array) -> Distribution:
    return Distribution(d.contexts[contexts], d.responses[contexts][:, responses])


def _levels(*shape: int) -> st.SearchStrategy[Array]:
    size = math.prod(shape)
    # One draw of bytes takes a twentieth of the time of a draw per number.
    return st.binary(min_size=size, max_size=size).map(
        lambda drawn: np.frombuffer(drawn, dtype=np.uint8).reshape(shape) % 8
    )


def _distribution(table: Array) -> Distribution:
    contexts, responses = table[:, 0].copy(), table[:, 1:].copy()
    contexts[0] += contexts.sum() == 0
    responses[responses.sum(axis=1) == 0, 0] = 1.0
    return Distribution(contexts / contexts.sum(), responses / responses.sum(axis=1, keepdims=True))
