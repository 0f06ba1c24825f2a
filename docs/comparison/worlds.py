"""The comparison in worlds that nothing was fixed in, one order of rows in each.

    python docs/comparison/worlds.py OUT

Endpoint, as stated before any of these worlds was run: a method's hypervolume less Case I's in the
same world, Student's interval and Holm's p over worlds. A setting is beaten where one of another
method is better in both gaps, each beyond Student's interval of the difference over worlds. Worlds
and not seeds are what is drawn: three orders of rows in one world say how it is there.

Added once four worlds had been looked at: the dial with `safety_target: kl`, in the same worlds, as
the two methods that led there ask safety rows for the aligned model's distribution.

Added once all six had been looked at: worlds 36 to 41, with the published methods that have more
hypervolume than Case I there, Case I with rows by weight, and WiSE-FT, which is free. A hypervolume
counts where a method's five settings lie on its frontier, and how far apart they are; the area
above their chords counts where that frontier lies, and the rest far less. The aligned model and
plain fine-tuning, which every method lies between, join the settings: without them the chord area
still counts how wide a range the settings cover. Endpoint, as stated before the points of any of
these worlds were looked at: the chord area of the dial's five settings less that of each other
method, Student's interval and Holm's p over worlds. Beside it: the hypervolume of 21 settings of
the dial and 19 shares of WiSE-FT, which cost no training, less that of SafeGrad's five runs; and
the chord area of the dial with `safety_target: kl` less the dial's.

Goes on where it was interrupted. `write.py` puts the tables into the page.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from trimtab.cli.progress import TerminalWatcher
from trimtab.config.experiment import Block, Experiment
from trimtab.models import quiet_libraries
from trimtab.runner.comparison import CASES, comparison_of, comparison_world
from trimtab.runner.sweep import sweep

HERE = Path(__file__).parent
UNSEEN = (30, 31, 32, 33, 34, 35)
CONFIRMING = (36, 37, 38, 39, 40, 41)
DIAL_BY_KL = "dial-by-kl"
RIVALS = ("safegrad", "pcgrad", "kl-anchor", "kl-anchor-on-task", "mixing", "case-one-by-share")
LEADING = (
    CASES[0],
    Block("dial", values=tuple(place / 20 for place in range(21))),
    *(Block("method", method=name) for name in RIVALS),
    Block("method", method="wise-ft", values=tuple(place / 20 for place in range(1, 20))),
)
"""What is run in the worlds to confirm in, beside the dial by KL."""


def main() -> None:
    quiet_libraries()
    for world in (*UNSEEN, *CONFIRMING):
        folder = Path(sys.argv[1]) / f"world-{world}"
        folder.mkdir(parents=True, exist_ok=True)
        experiment, _ = comparison_of(comparison_world(folder, world))
        # The order of rows is of the world's number, which keeps the points of worlds apart.
        methods = replace(experiment, seeds=(world,))
        if world in CONFIRMING:
            methods = replace(methods, grid=LEADING)
        train = replace(methods.train, safety_target="kl")
        dial = next(block for block in methods.grid if block.case == "dial")
        run(methods, folder)
        run(
            replace(methods, grid=(dial,), train=train),
            folder.with_name(f"{folder.name}-{DIAL_BY_KL}"),
        )


def run(experiment: Experiment, folder: Path) -> None:
    """Make what the folder lacks of a sweep, and keep its points here."""
    with TerminalWatcher(Console(stderr=True)) as watcher:
        sweep(experiment, folder, watcher)
    own = HERE / "worlds" / folder.name
    own.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "points.jsonl", own)


if __name__ == "__main__":
    main()
