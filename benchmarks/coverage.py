"""How often does a 95 % interval from 16, 48 or 160 rows hold the truth, and on which side not?

    python benchmarks/coverage.py > benchmarks/results/coverage.txt   # about two minutes on a core

Rows are drawn with replacement from a population whose loss, or difference of losses, is known, and
every interval is taken of the same draws. Populations: the committed row losses of every SmolLM2
(docs/**/row-losses, responses cut at 64 tokens), for a difference beside the aligned model's, one
model after another; and 20,000 synthetic responses that are not cut, lengths lognormal (σ = 1) and
nats per token gamma, with longer responses easier, as models find them. Told is how often the truth
lay above the interval and below it: nominal is 2.5 % each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from trimtab.report.markdown import markdown_table
from trimtab.stats import Array, loss_estimate, ratio, resampled_means

ROOT = Path(__file__).parent.parent
ROWS = (16, 48, 160)
DRAWS, RESAMPLES = 3000, 400
Interval = Callable[[Array, int], tuple[float, float]]


def percentile(rows: Array, seed: int) -> tuple[float, float]:
    """Quantiles of the resampled ratio."""
    means = resampled_means(rows.T, RESAMPLES, seed)
    low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
    return float(low), float(high)


def delta(rows: Array, _: int) -> tuple[float, float]:
    """The delta method with Student's t."""
    estimate = ratio(rows).estimate("")
    return estimate.low, estimate.high


def studentised(rows: Array, seed: int) -> tuple[float, float]:
    """The studentised bootstrap."""
    estimate = loss_estimate(rows[0], rows[1], "", seed, RESAMPLES)
    return estimate.low, estimate.high


METHODS: dict[str, Interval] = {
    "percentile bootstrap": percentile,
    "delta and t": delta,
    "studentised bootstrap": studentised,
}


def misses(populations: list[Array], count: int, method: Interval) -> tuple[float, float]:
    """Shares of draws whose interval lies below the truth, and above it."""
    generator = np.random.default_rng(count)
    below = above = 0
    for seed in range(DRAWS):
        population = populations[seed % len(populations)]
        truth = population[0].sum() / population[1].sum()
        rows = population[:, generator.integers(population.shape[1], size=count)]
        low, high = method(rows, seed)
        below += high < truth
        above += low > truth
    return below / DRAWS, above / DRAWS


def populations() -> Iterator[tuple[str, str, list[Array]]]:
    """What is measured, of which rows, and their nats (or differences of nats) and tokens."""
    for folder, dataset in (
        ("smollm2", "original"),
        ("smollm2", "task:alpaca"),
        ("smollm2", "task:code"),
        ("smollm2-safety", "safety:chatgpt"),
        ("smollm2-safety", "task:alpaca"),
    ):
        start, trained = committed(ROOT / "docs" / "reproduction" / folder, dataset)
        yield "loss", f"{folder}, {dataset}", trained
        differences = [np.stack([losses[0] - start[0], start[1]]) for losses in trained]
        yield "difference", f"{folder}, {dataset}", differences
    loss, difference = uncut()
    yield "loss", "synthetic, not cut", [loss]
    yield "difference", "synthetic, not cut", [difference]


def committed(folder: Path, dataset: str) -> tuple[Array, list[Array]]:
    """Losses of the aligned model, and of every trained one, each of shape (2, rows)."""
    losses = {}
    for path in sorted((folder / "row-losses").glob("*.npz")):
        with np.load(path) as arrays:
            if dataset in arrays:
                losses[path.stem] = arrays[dataset]
    return losses.pop("aligned"), list(losses.values())


def uncut(rows: int = 20_000) -> tuple[Array, Array]:
    """A loss and a difference of losses with heavy tails, each of shape (2, rows)."""
    generator = np.random.default_rng(0)
    tokens = np.ceil(generator.lognormal(4.5, 1.0, rows))
    easier = (tokens / 90) ** -0.2
    nats = generator.gamma(4.0, 0.4, rows) * easier * tokens
    lost = (0.05 + 0.3 * generator.standard_t(4, rows) / np.sqrt(tokens)) * easier * tokens
    return np.stack([nats, tokens]), np.stack([lost, tokens])


def main() -> None:
    lines = []
    for quantity, source, drawn_from in populations():
        for count in ROWS:
            cells = []
            for method in METHODS.values():
                below, above = (100 * missed for missed in misses(drawn_from, count, method))
                cells.append(f"{100 - below - above:.1f} ({below:.1f}, {above:.1f})")
            lines.append((quantity, source, str(count), *cells))
    print(
        "Coverage in percent, and in brackets how often the truth lay above and below, of "
        f"{DRAWS:,} draws with {RESAMPLES} resamples each; nominal is 95 (2.5, 2.5).\n"
    )
    print(markdown_table(("of", "rows from", "rows drawn", *METHODS), lines))


if __name__ == "__main__":
    main()
