"""The comparison in worlds that nothing was fixed in, one order of rows in each.

    python docs/comparison/worlds.py OUT

Endpoint, as stated before any of these worlds was run: a method's hypervolume less Case I's in the
same world, Student's interval and Holm's p over worlds. A setting is beaten where one of another
method is better in both gaps, each beyond Student's interval of the difference over worlds. Worlds
and not seeds are what is drawn: three orders of rows in one world say how it is there.

Added once four worlds had been looked at: the dial with `safety_target: kl`, in the same worlds, as
the two methods that led there ask safety rows for the aligned model's distribution.

Goes on where it was interrupted. `write.py` puts the tables into the page.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from trimtab.cli.progress import TerminalWatcher
from trimtab.models import quiet_libraries
from trimtab.runner.comparison import DIAL_BLOCK, comparison_of, comparison_world
from trimtab.runner.sweep import sweep

HERE = Path(__file__).parent
UNSEEN = (30, 31, 32, 33, 34, 35)
DIAL_BY_KL = "dial-by-kl"


def main() -> None:
    quiet_libraries()
    for world in UNSEEN:
        folder = Path(sys.argv[1]) / f"world-{world}"
        folder.mkdir(parents=True, exist_ok=True)
        experiment, _ = comparison_of(comparison_world(folder, world))
        # The order of rows is of the world's number, which keeps the points of worlds apart.
        methods = replace(experiment, seeds=(world,))
        train = replace(methods.train, safety_target="kl")
        dial_by_kl = replace(methods, grid=(DIAL_BLOCK,), train=train)
        for grid, name in ((methods, folder.name), (dial_by_kl, f"{folder.name}-{DIAL_BY_KL}")):
            run = folder.with_name(name)
            with TerminalWatcher(Console(stderr=True)) as watcher:
                sweep(grid, run, watcher)
            own = HERE / "worlds" / name
            own.mkdir(parents=True, exist_ok=True)
            shutil.copy(run / "points.jsonl", own)


if __name__ == "__main__":
    main()
