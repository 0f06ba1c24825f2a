"""The comparison in worlds that nothing was fixed in, one order of rows in each.

    python docs/comparison/worlds.py OUT

Endpoint, as stated before any of these worlds was run: a method's hypervolume less Case I's in the
same world, Student's interval and Holm's p over worlds. A setting is beaten where one of another
method is better in both gaps, each beyond Student's interval of the difference over worlds. Worlds
and not seeds are what is drawn: three orders of rows in one world say how it is there.

Goes on where it was interrupted. `write.py` puts the tables into the page.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from trimtab.cli.progress import TerminalWatcher
from trimtab.models import quiet_libraries
from trimtab.runner.comparison import comparison_of, comparison_world
from trimtab.runner.sweep import sweep

HERE = Path(__file__).parent
UNSEEN = (30, 31, 32, 33, 34, 35)


def main() -> None:
    quiet_libraries()
    points = []
    for world in UNSEEN:
        folder = Path(sys.argv[1]) / f"world-{world}"
        folder.mkdir(parents=True, exist_ok=True)
        experiment, _ = comparison_of(comparison_world(folder, world))
        # The seed of the rows is the world's number, which keeps the points of worlds apart.
        with TerminalWatcher(Console(stderr=True)) as watcher:
            sweep(replace(experiment, seeds=(world,)), folder, watcher)
        points.append((folder / "points.jsonl").read_text(encoding="utf-8"))
    own = HERE / "worlds"
    own.mkdir(exist_ok=True)
    (own / "points.jsonl").write_text("".join(points), encoding="utf-8")


if __name__ == "__main__":
    main()
