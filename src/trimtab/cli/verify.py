"""trimtab verify."""

from __future__ import annotations

from trimtab.cli.command import end, say
from trimtab.cli.options import DataRoot, Folder


def verify(folder: Folder, data_root: DataRoot = None) -> None:
    """Check that data, models, losses and numbers are still those that were recorded."""
    from collections import Counter

    from trimtab.models import quiet_libraries
    from trimtab.runner.verify import verify as verified

    quiet_libraries()
    words = {True: "ok", False: "FAILED", None: "not known"}
    counted: Counter[str] = Counter()
    for check in verified(folder, data_root):
        word = words[check.passed]
        counted[word] += 1
        say(f"{word:9}  {check.what}: {check.finding}")
    summary = ", ".join(f"{counted[word]} {word}" for word in words.values())
    if counted["FAILED"]:
        end(f"{folder} is not as it was recorded: {summary}.", 1)
    say(f"{summary}.")
