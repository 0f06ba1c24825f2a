"""What people see, for docs/start.md and CONTRIBUTING.md: the terminal, a page and the site.

    pip install playwright        # and Chromium, under one of the names below
    make docs                     # the site, which is looked at too
    python docs/start/pictures.py

The page is made from the points of experiments/conflict, the terminal's answer from those of
docs/reproduction. Page and site are looked at on a desk and on a phone.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console

from trimtab.report import write_report

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
POINTS = ROOT / "experiments" / "conflict"
SITE = ROOT / "site" / "start.html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESK, PHONE, TERMINAL = (1280, 900), (390, 900), (1000, 10)
COMMANDS = ("trimtab --help", "trimtab suggest docs/reproduction/smollm2 --budget 0.05")
COLUMNS = 100


def main() -> None:
    if not SITE.exists():
        raise SystemExit(f"There is no {SITE}: make it first, with 'make docs'.")
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        report = write_report(Path(shutil.copytree(POINTS, Path(folder) / "run"))).page
        terminal = Path(folder) / "terminal.html"
        terminal.write_text(f'<body style="margin: 0">{terminal_svg()}')
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        photograph(browser, report.as_uri(), "page.png", DESK)
        photograph(browser, report.as_uri(), "phone.png", PHONE)
        with served(SITE.parent) as address:
            photograph(browser, f"{address}/{SITE.name}", "site.png", DESK)
            photograph(browser, f"{address}/{SITE.name}", "site-phone.png", PHONE)
        photograph(browser, terminal.as_uri(), "terminal.png", TERMINAL, is_whole=True)
        browser.close()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder's address on a server of this machine: the site's search needs one."""
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("localhost", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


def photograph(
    browser: Browser, address: str, name: str, size: tuple[int, int], *, is_whole: bool = False
) -> None:
    """The first screen of what lies at an address, or all of it, into a picture here."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(address)
    page.wait_for_selector("svg", state="attached")
    page.screenshot(path=HERE / name, full_page=is_whole)


def terminal_svg() -> str:
    """What the commands print, with what was typed."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    for command in COMMANDS:
        console.print(f"$ {command}", style="bold", highlight=False)
        printed = subprocess.run(
            shlex.split(command), cwd=ROOT, env={**os.environ, "COLUMNS": str(COLUMNS)},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        console.print(printed, markup=False, highlight=False)
    return console.export_svg(title="trimtab")


if __name__ == "__main__":
    main()
