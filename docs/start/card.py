"""A model's card, for docs/start.md, from the points of experiments/conflict.

python docs/start/card.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trimtab.analysis.results import read_results
from trimtab.config.yaml_io import EXPERIMENT_FILE, plain_values, read_experiment
from trimtab.report.model_card import points_card
from trimtab.results.files import write_atomically

CARD = Path(__file__).parent / "model-card.md"
POINTS = Path(__file__).parents[2] / "experiments" / "conflict"
MODEL = "alignment-loss-penalty-0.3--judging--alpaca--seed-0"


def card() -> str:
    """That of one model, whose own files are not in the repository."""
    settings = plain_values(read_experiment(POINTS / EXPERIMENT_FILE))
    results = replace(read_results(POINTS), settings=settings)
    points = [point for point in results.points if point.model == MODEL]
    return points_card(points, results, Path(MODEL))


if __name__ == "__main__":
    write_atomically(CARD, card())
