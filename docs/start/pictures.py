"""What a run leaves behind, for docs/start.md: its page on a desk and on a phone, a model's card.

    pip install playwright        # and Chromium, under one of the names below
    python docs/start/pictures.py

All of it is made from the points of experiments/conflict.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import sync_playwright

from trimtab.analysis.results import read_results
from trimtab.config.yaml_io import EXPERIMENT_FILE, plain_values, read_experiment
from trimtab.report import write_report
from trimtab.report.model_card import points_card
from trimtab.results.files import write_atomically

HERE = Path(__file__).parent
POINTS = HERE.parents[1] / "experiments" / "conflict"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"page.png": (1280, 900), "phone.png": (390, 900)}
CARD = HERE / "model-card.md"
CARDED = "alignment-loss-penalty-0.3--judging--alpaca--seed-0"


def main() -> None:
    write_atomically(CARD, card())
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page_file = write_report(Path(shutil.copytree(POINTS, Path(folder) / "run"))).page
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(page_file.as_uri())
            page.wait_for_selector("svg")
            page.screenshot(path=HERE / name)
        browser.close()


def card() -> str:
    """That of one model, whose own files are not in the repository."""
    settings = plain_values(read_experiment(POINTS / EXPERIMENT_FILE))
    results = replace(read_results(POINTS), settings=settings)
    points = [point for point in results.points if point.model == CARDED]
    return points_card(points, results, Path(CARDED))


if __name__ == "__main__":
    main()
