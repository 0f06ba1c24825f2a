"""Take comparisons' points, figures and tables into the documents.

trimtab compare --out comparison
trimtab compare docs/comparison/smollm2.yaml --data-root DATA --out smollm2-comparison
python docs/comparison/write.py comparison [smollm2-comparison]
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.analysis.labels import estimate_in_words
from trimtab.analysis.methods import (
    Tried,
    dominates,
    method_and_knob,
    method_results,
    title,
    tried_settings,
)
from trimtab.report import write_report
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.report.tables import methods_table
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Estimate, Point
from trimtab.results.store import read_points
from trimtab.theory import hypervolume

HERE = Path(__file__).parent
PAGE = HERE.parent / "comparison.md"
OURS = ("alignment-loss", "alignment-parameter", "case-one-by-share", "dial")
WORLD, SMOLLM2 = "table", "smollm2"


def tables(folder: Path) -> str:
    """Every method's row, and every setting that has several seeds, as Markdown."""
    points = read_points(folder)
    told = methods_table(method_results(points))
    lines = [markdown_table(told.columns, [row.cells for row in told.rows])]
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
    lines += [markdown_table(columns, cells)]
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
        "Settings of ours (both cases, the dial) that lose in both gaps, each beyond its interval: "
        f"{'; '.join(lost) or 'none'}, of {len(ours)}.",
        "",
        f"Settings of other methods that lose so to one of ours: {len(won)} of "
        f"{len(theirs)}: {'; '.join(won) or 'none'}.",
    ]
    return "\n".join(lines)


def _named(one: Tried) -> str:
    return f"{title(one.method)} {one.knob:g}"


def smollm2_table(folder: Path) -> str:
    """Area and points of every method, with intervals over the held-out rows of the one seed.

    All models are taken under the same bootstrap draws of the rows, draw by draw.
    """
    points = read_points(folder)
    rows = RowLosses(folder)
    losses = {
        (point.model, *method_and_knob(point)): np.stack(
            [
                _drawn(rows, point, "original", point.alignment_loss),
                _drawn(rows, point, f"task:{point.task}", point.capability_loss),
            ]
        )
        for point in points
    }
    named = {key[1]: drawn for key, drawn in losses.items()}
    corner = np.stack([named["plain"][0], named["aligned"][1]])
    start = np.stack([named["aligned"][0], named["plain"][1]])
    lines: dict[str, list[np.ndarray[Any, Any]]] = {}
    for (_, method, _), drawn in losses.items():
        if method not in ("aligned", "plain"):
            lines.setdefault(method, []).append(drawn)
    areas = {
        method: np.array(
            [
                hypervolume([one[:, draw] for one in line], corner[:, draw])
                / float(np.prod(corner[:, draw] - start[:, draw]))
                for draw in range(corner.shape[1])
            ]
        )
        for method, line in lines.items()
    }
    case_1 = areas["alignment-loss"]
    cells = [
        (
            title(method),
            str(len(lines[method])),
            _with_interval(area),
            "–" if method == "alignment-loss" else _with_interval(area - case_1),
            "; ".join(
                f"{one[0, 0] - start[0, 0]:.3f}, {one[1, 0] - start[1, 0]:.3f}"
                for one in lines[method]
            ).replace("-", "−"),
        )
        for method, area in sorted(areas.items(), key=lambda item: -item[1][0])
    ]
    columns = (
        "method",
        "settings",
        "hypervolume, share",
        "less Case I’s",
        "L_s over θ_s, L_f over plain fine-tuning",
    )
    ends = (corner - start)[:, 0]
    told = (
        f"Plain fine-tuning raises L_s by {ends[0]:.3f} and lowers L_f by {ends[1]:.3f} nats per "
        "token: the rectangle that areas are shares of."
    )
    return f"{markdown_table(columns, cells)}\n\n{told}"


def _drawn(
    rows: RowLosses, point: Point, dataset: str, measured: Estimate | None
) -> np.ndarray[Any, Any]:
    resampled = rows.resampled(dataset, point.model or "")
    assert resampled is not None
    assert measured is not None
    return np.concatenate([[measured.value], resampled])


def _with_interval(draws: np.ndarray[Any, Any]) -> str:
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return f"{draws[0]:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")


def main() -> None:
    """Copy what comparisons left, and write their tables into the page."""
    given = [Path(folder) for folder in sys.argv[1:]]
    if given:
        write_report(given[0])
        for name in ("points.jsonl", "methods.json", "figures/figure5.png"):
            shutil.copy(given[0] / name, HERE)
    own = HERE / SMOLLM2
    if len(given) > 1:
        write_report(given[1])
        shutil.rmtree(own, ignore_errors=True)
        shutil.copytree(given[1] / "row-losses", own / "row-losses")
        for name in ("points.jsonl", "figures/figure5.png"):
            shutil.copy(given[1] / name, own)
    replace_between(PAGE, WORLD, tables(HERE))
    if own.exists():
        replace_between(PAGE, SMOLLM2, smollm2_table(own))


if __name__ == "__main__":
    main()
