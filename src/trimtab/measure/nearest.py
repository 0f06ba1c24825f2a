"""The nearest of many known points to each of many others, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

Vectors: TypeAlias = NDArray[np.float32] | csr_matrix
"""One unit vector per row, so that a dot product is a cosine."""

BLOCK_BYTES = 2**27
"""What one block of cosines may take, per thread."""

_FEWEST, _MOST = 32, 4096


@dataclass(frozen=True)
class Nearest:
    """For each of n points the largest cosine to a known point, and which one: shapes (n,)."""

    cosines: NDArray[np.float32]
    places: NDArray[np.intp]


def nearest(points: Vectors, known: Vectors, threads: int | None = None) -> Nearest:
    """argmax over known k of ⟨p, k⟩ for every point p; exact, O(n·m) time and O(n) memory.

    Sparse blocks are multiplied on several threads; dense ones are left to the BLAS, which has its
    own. FAISS's exact index does the same products in about the same time, and approximate ones
    would put an error into a share that is then called an overlap: see
    benchmarks/overlap_search.py.

    >>> nearest(np.eye(3, dtype=np.float32)[[2, 0]], np.eye(3, dtype=np.float32)).places
    array([2, 0])
    """
    count = points.shape[0]
    rows = int(np.clip(BLOCK_BYTES // (4 * max(1, known.shape[0])), _FEWEST, _MOST))
    # Known points beyond this many at once would not fit in a block of the fewest rows.
    columns = max(1, BLOCK_BYTES // (4 * rows))
    cosines = np.full(count, -np.inf, dtype=np.float32)
    places = np.zeros(count, dtype=np.intp)

    def one_block(block: slice) -> None:
        for first in range(0, known.shape[0], columns):
            products = _products(points[block], known[first : first + columns])
            best = products.argmax(axis=1)
            largest = products[np.arange(len(best)), best]
            better = largest > cosines[block]
            cosines[block] = np.where(better, largest, cosines[block])
            places[block] = np.where(better, best + first, places[block])

    if not issparse(points):
        for block in _blocks(count, rows):
            one_block(block)
    else:
        with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
            list(pool.map(one_block, _blocks(count, rows)))
    return Nearest(cosines, places)


def _blocks(count: int, rows: int) -> Iterator[slice]:
    for first in range(0, count, rows):
        yield slice(first, min(count, first + rows))


def _products(points: Any, known: Any) -> NDArray[np.float32]:
    product = points @ known.T
    return product.toarray() if issparse(product) else product
