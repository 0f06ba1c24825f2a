"""How fast is `trimtab.theory.exact_frontier`, beside what memory and CVXPY allow?

    python benchmarks/exact_frontier.py

Memory: a world of 10⁵ contexts × 64 responses, 50 penalties. The yardstick is NumPy reading, once
per penalty and in order, the three arrays D_f(y|x), D_ŝ(y|x) and D_s(y|x), of 8 N V bytes each
(`ndarray.sum`; the context masses are 1/64 of that and left out): what an algorithm that looks at
every pair for every penalty cannot beat. `exact_frontier` may, because it reads them once for all
penalties. The two are timed in turn, one thread each, and the medians compared.

CVXPY: the same optimum as a convex program over exponential cones (Clarabel), on worlds small
enough for it. It is compiled once; only solving is timed, penalty after penalty. The part is left
out where CVXPY is not installed.
"""

# ruff: noqa: E402
from __future__ import annotations

import os

# Before NumPy is imported: one core against one core.
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from trimtab.theory import Distribution, Frontier, exact_frontier, gap, penalized_optimum

CONTEXTS, RESPONSES, PENALTIES = 100_000, 64, np.geomspace(1e-3, 1e3, 50)
SMALL_WORLDS = ((10, 8), (100, 16), (200, 32))
CVXPY_PENALTIES = np.geomspace(1e-2, 1e2, 50)
REPEATS = 5
World = tuple[Distribution, Distribution, Distribution]


def main() -> None:
    """Both comparisons, as one table."""
    print(f"{'':<58} {'aim':>9} {'obtained':>10}")
    against_memory()
    if find_spec("cvxpy"):
        for contexts, responses in SMALL_WORLDS:
            against_cvxpy(contexts, responses)
    else:
        print("CVXPY is not installed: that part is left out.")


def against_memory() -> None:
    """The large world beside streaming through it."""
    world = random_world(CONTEXTS, RESPONSES)
    arrays = [d.responses for d in world]

    def stream() -> None:
        for _ in PENALTIES:
            for array in arrays:
                array.sum()

    streaming, computing = [], []
    for _ in range(REPEATS):
        streaming.append(seconds(stream))
        computing.append(seconds(lambda: exact_frontier(*world, PENALTIES)))
    passes, ours = statistics.median(streaming), statistics.median(computing)
    size = len(PENALTIES) * sum(array.nbytes for array in arrays)

    heading(f"{CONTEXTS} contexts x {RESPONSES} responses x {len(PENALTIES)} penalties")
    row("exact_frontier, all penalties", f"{ours:.2f} s")
    row("one streaming pass per penalty", f"{passes:.2f} s")
    row("  its bandwidth", f"{size / passes / 1e9:.1f} GB/s")
    row("exact_frontier / one streaming pass per penalty", f"{ours / passes:.2f}", "<= 5")
    row("exact_frontier / a single streaming pass", f"{ours / passes * len(PENALTIES):.0f}")
    row("largest difference to the gaps of P_λ at λ = 1, nats", f"{error(world):.0e}")
    row("peak memory, world included", f"{peak_memory():.2f} GiB", "< 2 GiB")


def against_cvxpy(contexts: int, responses: int) -> None:
    """A small world beside a general solver."""
    world = random_world(contexts, responses)
    solve = convex_program(world)
    solve(1.0)  # compiles
    gaps: list[float] = []
    theirs = seconds(lambda: gaps.extend(solve(float(p)) for p in CVXPY_PENALTIES))
    frontiers: list[Frontier] = []
    ours = statistics.median(
        seconds(lambda: frontiers.append(exact_frontier(*world, CVXPY_PENALTIES)))
        for _ in range(REPEATS)
    )
    difference = np.abs(np.array(gaps) - frontiers[0].capability_gap).max()

    heading(f"{contexts} contexts x {responses} responses x {len(CVXPY_PENALTIES)} penalties")
    row("exact_frontier", f"{1e3 * ours:.2f} ms")
    row("CVXPY with Clarabel, solving only", f"{1e3 * theirs:.0f} ms")
    row("CVXPY / exact_frontier", f"{theirs / ours:.0f}", ">= 1000")
    row("largest difference in the capability gap, nats", f"{difference:.0e}")


def convex_program(world: World) -> Callable[[float], float]:
    """λ ↦ G_f at the minimiser of L_f + λ L_ŝ that Clarabel finds."""
    cvxpy: Any = import_module("cvxpy")
    task, proxy, _ = world
    model = cvxpy.Variable(task.shape)
    penalty = cvxpy.Parameter(nonneg=True)
    logs = cvxpy.log(model)
    task_loss = -cvxpy.sum(cvxpy.multiply(task.joint(), logs))
    proxy_loss = -cvxpy.sum(cvxpy.multiply(proxy.joint(), logs))
    problem = cvxpy.Problem(
        cvxpy.Minimize(task_loss + penalty * proxy_loss), [cvxpy.sum(model, axis=1) == 1]
    )

    def solve(value: float) -> float:
        penalty.value = value
        problem.solve(solver=cvxpy.CLARABEL)
        rows = np.maximum(model.value, 0.0)
        return gap(task, rows / rows.sum(axis=1, keepdims=True))

    return solve


def random_world(contexts: int, responses: int) -> World:
    """Task, proxy and original, each uniform on its simplices."""
    rng = np.random.default_rng(0)

    def distribution() -> Distribution:
        masses = rng.exponential(size=contexts)
        rows = rng.exponential(size=(contexts, responses))
        rows /= rows.sum(axis=1, keepdims=True)
        return Distribution(masses / masses.sum(), rows)

    return distribution(), distribution(), distribution()


def error(world: World) -> float:
    """How far the frontier at λ = 1 is from the gaps of P_1, in nats per response."""
    task, proxy, original = world
    model = penalized_optimum(task, proxy, 1.0)
    frontier = exact_frontier(*world, [1.0])
    exact = (frontier.alignment_gap[0], frontier.proxy_gap[0], frontier.capability_gap[0])
    pairs = zip(exact, (original, proxy, task), strict=True)
    return max(abs(float(value) - gap(d, model)) for value, d in pairs)


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_memory() -> float:
    """Of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def heading(text: str) -> None:
    """Start a part of the table."""
    print(f"\n{text}")


def row(name: str, obtained: str, aim: str = "") -> None:
    """One line of the table."""
    print(f"  {name:<56} {aim:>9} {obtained:>10}")


if __name__ == "__main__":
    main()
