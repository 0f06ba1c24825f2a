"""Take the runs' measurements into the repository, and write this folder's table.

    python experiments/growth/write.py [RUNS/growth]

Given the folder of the runs, whole or so far, what was measured while training is copied here; the
table of README.md is made from what lies here.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trimtab.report.markdown import markdown_table, replace_between
from trimtab.results.metrics import METRICS_FOLDER, read_metrics
from trimtab.stats import Estimate, student_mean

HERE = Path(__file__).parent
MEASURED = HERE / METRICS_FOLDER
NAMES = {
    "world-sgd": "built-in worlds, gradient descent",
    "world-adamw": "built-in worlds, AdamW",
    "smollm2": "SmolLM2, AdamW",
}
Array = NDArray[np.float64]


def main() -> None:
    if len(sys.argv) > 1:
        take(Path(sys.argv[1]))
    lines = []
    for kind, name in NAMES.items():
        files = sorted(MEASURED.glob(f"{kind}-*.jsonl"))
        if not files:
            continue
        steps, rises = rises_of(files)
        window = risen(rises)
        if window.sum() < 4:
            lines.append((name, str(len(files)), "–", "not told from 0", "–", "–"))
            continue
        early, late = halves(window)
        lines.append(
            (
                name,
                str(len(files)),
                f"{steps[window][0]:g} to {steps[window][-1]:g}",
                "{:.4f} to {:.4f}".format(*rises[:, window].mean(axis=0)[[0, -1]]),
                exponent_text(exponents(steps, rises, early)),
                exponent_text(exponents(steps, rises, late)),
            )
        )
    columns = ("training", "runs", "steps", "rise of L_s", "exponent, first half", "second half")
    text = markdown_table(columns, lines)
    replace_between(HERE / "README.md", "results", text)
    print(text)


def take(runs: Path) -> None:
    """Copy what the plain trainings measured, a file a run, named by kind and number."""
    shutil.rmtree(MEASURED, ignore_errors=True)
    MEASURED.mkdir()
    counts: Counter[str] = Counter()
    for folder in [*sorted(runs.glob("world-*/*")), runs / "smollm2"]:
        kind = folder.name if folder.name == "smollm2" else f"world-{folder.name}"
        for path in sorted((folder / METRICS_FOLDER).glob("*.jsonl")):
            if was_measured_to_the_end(path):
                shutil.copy(path, MEASURED / f"{kind}-{counts[kind]}.jsonl")
                counts[kind] += 1


def was_measured_to_the_end(path: Path) -> bool:
    """Not so of θ_s's own training, which measures nothing while it goes on."""
    lines = read_metrics(path)
    return (
        bool(lines) and lines[-1].step == lines[-1].of and lines[-1].change("original") is not None
    )


def rises_of(files: list[Path]) -> tuple[Array, Array]:
    """The steps that were measured, shape (k,), and L_s − L_s(θ_s) at them, shape (runs, k)."""
    runs = [
        {
            metrics.step: change.value
            for metrics in read_metrics(path)
            if (change := metrics.change("original"))
        }
        for path in files
    ]
    steps = sorted(set.intersection(*map(set, runs)))
    return np.array(steps, float), np.array([[run[step] for step in steps] for run in runs], float)


def risen(rises: Array) -> NDArray[np.bool_]:
    """The steps from which on the rise is above 0 in every run."""
    below = np.flatnonzero((rises <= 0).any(axis=0))
    first = below[-1] + 1 if len(below) else 0
    return np.arange(rises.shape[1]) >= first


def halves(window: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    places = np.flatnonzero(window)
    middle = (len(places) + 1) // 2
    return places[:middle], places[middle - 1 :]


def exponents(steps: Array, rises: Array, places: NDArray[np.intp]) -> Estimate:
    """The slope of log rise on log step by least squares; over runs, Student's."""
    logs = np.log(steps[places])
    slopes = [float(np.polyfit(logs, np.log(run[places]), 1)[0]) for run in rises]
    return student_mean(slopes, "exponent")


def exponent_text(slope: Estimate) -> str:
    return f"{slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]"


if __name__ == "__main__":
    main()
