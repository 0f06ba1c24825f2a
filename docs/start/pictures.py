"""Pictures of a report's first screen, on a desk and on a phone, for docs/start.md.

    pip install playwright        # and Chromium, under one of the names below
    python docs/start/pictures.py

The page is made from the points of experiments/conflict.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from trimtab.report import write_report

HERE = Path(__file__).parent
POINTS = HERE.parents[1] / "experiments" / "conflict"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"page.png": (1280, 900), "phone.png": (390, 900)}


def main() -> None:
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


if __name__ == "__main__":
    main()
