"""The nearest safety prompt to every task prompt: time, peak memory and agreement, side by side.

    python benchmarks/overlap_search.py                   # 10^4 x 10^4 prompts, under a minute
    python benchmarks/overlap_search.py --prompts 100000  # 10^5 x 10^5, minutes

Words: `measure.nearest` on sparse TF-IDF against scikit-learn's brute-force neighbours on the same
vectors, the obvious alternative. Hidden states (256 numbers a prompt): `measure.nearest` against
FAISS's exact index, where faiss-cpu is installed. Prompts are words drawn by Zipf's law. Ratios
matter, not seconds; each method runs in a process of its own, so that memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
from collections.abc import Callable
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np

WORDS, DIMENSIONS = 30_000, 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--alternatives", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    methods = {"words, trimtab": words, "states, trimtab": states}
    if arguments.alternatives:
        methods["words, scikit-learn"] = words_by_scikit_learn
        if find_spec("faiss"):
            methods["states, FAISS exact"] = states_by_faiss
    results = {name: _in_a_process(method, arguments.prompts) for name, method in methods.items()}
    for name, result in results.items():
        own = results[f"{name.split(',')[0]}, trimtab"]
        print(
            f"{name:<22} {result['seconds']:8.1f} s ({result['seconds'] / own['seconds']:.2f}x)  "
            f"{result['memory'] / 2**20:8.0f} MiB above the data "
            f"({result['memory'] / max(own['memory'], 1):.2f}x)  "
            f"mean cosine {result['mean_cosine']:.6f}"
        )
    print(json.dumps({"prompts": arguments.prompts, **results}))


def words(count: int) -> dict[str, float]:
    from trimtab.measure.nearest import nearest

    points, references = _sparse(count)
    return _measured(lambda: nearest(points, references).cosines)


def words_by_scikit_learn(count: int) -> dict[str, float]:
    from sklearn.neighbors import NearestNeighbors

    points, references = _sparse(count)
    neighbours = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(references)
    return _measured(lambda: 1 - neighbours.kneighbors(points)[0][:, 0])


def states(count: int) -> dict[str, float]:
    from trimtab.measure.nearest import nearest

    points, references = _dense(count)
    return _measured(lambda: nearest(points, references).cosines)


def states_by_faiss(count: int) -> dict[str, float]:
    import faiss  # type: ignore[import-not-found]

    points, references = _dense(count)

    def search() -> np.ndarray:
        index = faiss.IndexFlatIP(DIMENSIONS)
        index.add(references)
        return index.search(points, 1)[0][:, 0]

    return _measured(search)


def _measured(search: Callable[[], np.ndarray]) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = perf_counter()
    cosines = search()
    seconds = perf_counter() - started
    memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return {"seconds": seconds, "memory": memory, "mean_cosine": float(np.mean(cosines))}


def _sparse(count: int) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    generator = np.random.default_rng(0)
    shares = 1 / np.arange(1, WORDS + 1)
    shares /= shares.sum()
    texts = [
        " ".join(
            f"w{word}" for word in generator.choice(WORDS, generator.integers(6, 20), p=shares)
        )
        for _ in range(2 * count)
    ]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
    references = vectorizer.fit_transform(texts[count:])
    return vectorizer.transform(texts[:count]), references


def _dense(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((2 * count, DIMENSIONS)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [rows[:count], rows[count:]]


def _in_a_process(method: Callable[[int], dict[str, float]], count: int) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(method, (count,))


if __name__ == "__main__":
    main()
