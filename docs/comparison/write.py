"""Take a comparison's points, figure and table into the documents.

trimtab compare --out comparison
python docs/comparison/write.py comparison
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from trimtab.records import read_points
from trimtab.report import write_report
from trimtab.report.methods import (
    Tried,
    dominates,
    method_results,
    title,
    tried_settings,
)
from trimtab.report.tables import methods_table
from trimtab.report.wording import estimate_in_words

HERE = Path(__file__).parent
PAGE = HERE.parent / "comparison.md"
OURS = ("alignment-loss", "alignment-parameter", "case-one-by-share")
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"


def tables(folder: Path) -> str:
    """Every method's row, and every setting that has several seeds, as Markdown."""
    points = read_points(folder)
    told = methods_table(method_results(points))
    lines = _lines(told.columns, [row.cells for row in told.rows])
    several = [one for one in tried_settings(points) if len(one.points) > 2]
    cells = [
        (
            title(one.method),
            "–" if one.knob is None else f"{one.knob:g}",
            str(len(one.points)),
            estimate_in_words(one.measured("alignment gap")),
            estimate_in_words(one.measured("capability gap")),
        )
        for one in several
    ]
    columns = ("method", "knob", "seeds", "alignment gap", "capability gap")
    lines += ["", "Settings with three seeds, nats per token, estimates with 95 % intervals:", ""]
    lines += _lines(columns, cells)
    ours = [one for one in several if one.method.startswith(OURS)]
    theirs = [one for one in several if one.knob is not None and one not in ours]
    lost = [
        f"{_named(one)} to {_named(other)}"
        for one in ours
        for other in theirs
        if dominates(other, one, "alignment gap")
    ]
    won = [
        _named(other)
        for other in theirs
        if any(dominates(one, other, "alignment gap") for one in ours)
    ]
    lines += [
        "",
        f"Settings of the two cases that lose in both gaps, each beyond its interval: "
        f"{'; '.join(lost) or 'none'}, of {len(ours)}.",
        "",
        f"Settings of other methods that lose so to one of the two cases: {len(won)} of "
        f"{len(theirs)}: {'; '.join(won) or 'none'}.",
    ]
    return "\n".join(lines) + "\n"


def _named(one: Tried) -> str:
    return f"{title(one.method)} {one.knob:g}"


def _lines(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def main() -> None:
    """Copy what a comparison left, and write its table into the page."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    if folder != HERE:
        write_report(folder)
        for name in ("points.jsonl", "methods.json", "figures/figure5.png"):
            shutil.copy(folder / name, HERE)
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + tables(HERE) + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
