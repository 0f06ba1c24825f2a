"""Take comparisons' points, figures and tables into the documents.

trimtab compare --out comparison
trimtab compare docs/comparison/smollm2.yaml --data-root DATA --out smollm2-comparison
python docs/comparison/worlds.py worlds            # takes its points here by itself
python docs/comparison/write.py comparison [smollm2-comparison]
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from worlds import CONFIRMING, DIAL_BY_KL, UNSEEN

from trimtab.analysis.groups import Setting, all_settings
from trimtab.analysis.labels import estimate_in_words
from trimtab.analysis.methods import (
    Area,
    MethodResult,
    Rectangle,
    adjusted_areas,
    areas_beside,
    dominates,
    method_results,
)
from trimtab.config.methods import ALIGNED, CASE_1, DIAL, METHODS, OWN, PLAIN, Method
from trimtab.report import write_report
from trimtab.report.markdown import markdown_table, replace_between
from trimtab.report.tables import area_cells, methods_table
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.results.store import read_points
from trimtab.runner.comparison import DIAL_BLOCK
from trimtab.stats import Array, jackknife

HERE = Path(__file__).parent
PAGE = HERE.parent / "comparison.md"
OURS = {*OWN, "case-one-by-share", DIAL_BY_KL}
WORLD, WORLDS, CONFIRMED, SMOLLM2 = "table", "worlds", "confirming worlds", "smollm2"

BY_KL = replace(DIAL, name=DIAL_BY_KL, title="dial, `safety_target: kl`")
WISE = METHODS["wise-ft"]
FIVE = {DIAL: DIAL_BLOCK.values, BY_KL: DIAL_BLOCK.values, WISE: WISE.grid}
ALL_SETTINGS = {
    DIAL: replace(DIAL, name="dial-21", title="dial, 21 settings"),
    BY_KL: replace(BY_KL, name="dial-by-kl-21", title=f"{BY_KL.title}, 21 settings"),
    WISE: replace(WISE, name="wise-ft-19", title=f"{WISE.title}, 19 shares"),
}


def world_tables(folder: Path) -> str:
    """Every method's row, and every setting that has several seeds, as Markdown."""
    points = read_points(folder)
    several = [setting for setting in all_settings(points) if len(setting.points) > 2]
    cells = [
        (
            setting.method.title,
            setting.label,
            str(len(setting.points)),
            estimate_in_words(setting.measured("alignment gap")),
            estimate_in_words(setting.measured("capability gap")),
        )
        for setting in several
    ]
    columns = ("method", "hyperparameter", "seeds", "alignment gap", "capability gap")
    lines = [_of_methods(method_results(points)), ""]
    lines += ["Settings with three seeds, nats per token, estimates with 95 % intervals:", ""]
    lines += [markdown_table(columns, cells), "", *_won_and_lost(several)]
    return "\n".join(lines)


def worlds_tables(folder: Path) -> str:
    """Every method's row, its intervals over worlds, whose numbers the points have for seeds."""
    worlds = [_of_world(folder, world) for world in UNSEEN]
    points = list(chain.from_iterable(worlds))
    volumes, chords = (_beside(shares, CASE_1) for shares in _shares_by_world(worlds))
    results = [
        replace(result, volume=volumes[result.method], chords=chords[result.method])
        for result in method_results(points)
    ]
    results.sort(key=lambda result: -result.volume.share.value)
    return "\n".join([_of_methods(results), "", *_won_and_lost(all_settings(points))])


def confirming_table(folder: Path) -> str:
    """Where the leading methods' frontiers lie in the worlds run for that, beside the dial's."""
    worlds = [_with_five_settings(_of_world(folder, world)) for world in CONFIRMING]
    tokens = {result.method: result.tokens for result in method_results([*chain(*worlds)])}
    volumes, chords = _shares_by_world(worlds)
    rival = METHODS["safegrad"]
    beside_dial, chords_beside, volumes_beside = (
        _beside(shares, one) for shares, one in ((chords, DIAL), (chords, rival), (volumes, rival))
    )
    cells = [
        (
            method.title,
            *area_cells(beside_dial[method]),
            area_cells(chords_beside[method])[1],
            *area_cells(volumes_beside[method]),
            f"{tokens[method]:,.0f}",
        )
        for method in sorted(chords, key=lambda method: -beside_dial[method].share.value)
    ]
    columns = (
        "method",
        "chord area",
        "chord area less the dial’s",
        "chord area less SafeGrad’s",
        "hypervolume",
        "hypervolume less SafeGrad’s",
        "tokens",
    )
    return markdown_table(columns, cells)


Shares = dict[Method, dict[int, float]]
"""A method's share of the rectangle in each world, by its number."""


def _shares_by_world(worlds: Sequence[Sequence[Point]]) -> tuple[Shares, Shares]:
    """Hypervolumes and chord areas, of each world's own rectangle."""
    volumes: Shares = {}
    chords: Shares = {}
    for points in worlds:
        for result in method_results(points):
            volumes.setdefault(result.method, {})[points[0].seed] = result.volume.share.value
            chords.setdefault(result.method, {})[points[0].seed] = result.chords.share.value
    return volumes, chords


def _beside(shares: Shares, one: Method) -> dict[Method, Area]:
    """Each method's share over worlds, and its difference from that of one of them."""
    areas = areas_beside(one, shares)
    return dict(zip(areas, adjusted_areas(list(areas.values())), strict=True))


def _of_world(folder: Path, world: int) -> list[Point]:
    """A world's points, with the world's number for their seed, the dial by KL a method of its own.

    The point of the aligned model has that seed too, which no order of rows made.
    """
    by_kl = read_points(folder / f"world-{world}-{DIAL_BY_KL}")
    points = read_points(folder / f"world-{world}")
    points += [_made_by(BY_KL, point) for point in by_kl if point.method is DIAL]
    return [replace(point, spec=replace(point.spec, seed=world)) for point in points]


def _with_five_settings(points: Sequence[Point]) -> list[Point]:
    """Methods with more settings than five stand in once with five, and once with all."""
    few = []
    for point in points:
        all_of = ALL_SETTINGS.get(point.method)
        if all_of is not None:
            few.append(_made_by(all_of, point))
        if all_of is None or point.spec.value in FIVE[point.method]:
            few.append(point)
    return few


def _made_by(method: Method, point: Point) -> Point:
    return replace(point, spec=replace(point.spec, method=method))


def _of_methods(results: Sequence[MethodResult]) -> str:
    table = methods_table(results)
    return markdown_table(table.columns, [row.cells for row in table.rows])


def _won_and_lost(settings: Sequence[Setting]) -> list[str]:
    """Which settings of ours lose to one of others', and the other way round."""
    valued = [setting for setting in settings if setting.value is not None]
    ours = [setting for setting in valued if setting.method.name in OURS]
    theirs = [setting for setting in valued if setting.method.name not in OURS]
    lost = [
        f"{setting.name} to {rival.name}"
        for setting in ours
        for rival in theirs
        if dominates(rival, setting, "alignment gap")
    ]
    won = [
        rival.name
        for rival in theirs
        if any(dominates(setting, rival, "alignment gap") for setting in ours)
    ]
    return [
        "Settings of ours (both cases, the dial) that lose in both gaps, each beyond its interval: "
        f"{'; '.join(lost) or 'none'}, of {len(ours)}.",
        "",
        f"Settings of other methods that lose so to one of ours: {len(won)} of "
        f"{len(theirs)}: {'; '.join(won) or 'none'}.",
    ]


def smollm2_table(folder: Path) -> str:
    """Area and points of every method, with intervals over the held-out rows of the one seed.

    The interval of an area is the jackknife's: each row is left out of all models in turn.
    """
    points = read_points(folder)
    rows = RowLosses(folder)
    losses = {
        (point.model, PLAIN if point.spec.is_plain else point.method): (
            _rows(rows, point, "original"),
            _rows(rows, point, f"task:{point.task}"),
        )
        for point in points
    }
    by_method = {key[1]: arrays for key, arrays in losses.items()}
    lines: dict[Method, list[tuple[Array, Array]]] = {}
    for (_, method), arrays in losses.items():
        if method not in (ALIGNED, PLAIN):
            lines.setdefault(method, []).append(arrays)

    def area(method: Method, masks: Masks) -> float:
        plain, aligned = _losses(by_method[PLAIN], masks), _losses(by_method[ALIGNED], masks)
        rectangle = Rectangle((aligned[0], plain[1]), aligned, plain)
        return rectangle.share(_losses(arrays, masks) for arrays in lines[method])

    areas = {method: _jackknifed(partial(area, method), by_method[PLAIN]) for method in lines}

    def lead(method: Method, masks: Masks) -> float:
        return area(method, masks) - area(CASE_1, masks)

    aligned, plain = (
        _losses(by_method[name], _all_rows(by_method[name])) for name in (ALIGNED, PLAIN)
    )
    start = (aligned[0], plain[1])
    cells = [
        (
            method.title,
            str(len(lines[method])),
            _with_interval(*estimate),
            "–"
            if method is CASE_1
            else _with_interval(*_jackknifed(partial(lead, method), by_method[PLAIN])),
            "; ".join(
                f"{safety - start[0]:.3f}, {task - start[1]:.3f}"
                for safety, task in (_losses(arrays, _all_rows(arrays)) for arrays in lines[method])
            ).replace("-", "−"),
        )
        for method, estimate in sorted(areas.items(), key=lambda item: -item[1][0])
    ]
    columns = (
        "method",
        "settings",
        "hypervolume, share",
        "less Case I’s",
        "L_s over θ_s, L_f over plain fine-tuning",
    )
    ends = (plain[0] - start[0], aligned[1] - start[1])
    note = (
        f"Plain fine-tuning raises L_s by {ends[0]:.3f} and lowers L_f by {ends[1]:.3f} nats per "
        "token: the rectangle that areas are shares of."
    )
    return f"{markdown_table(columns, cells)}\n\n{note}"


Masks = tuple[Array, Array]
"""Which rows of the safety and the task data are kept, ones and zeros."""


def _rows(rows: RowLosses, point: Point, dataset: str) -> Array:
    losses = rows.of(dataset, point.model or "")
    assert losses is not None
    return losses


def _losses(arrays: tuple[Array, Array], masks: Masks) -> tuple[float, float]:
    safety, task = (
        float(nats @ mask / (tokens @ mask))
        for (nats, tokens), mask in zip(arrays, masks, strict=True)
    )
    return safety, task


def _all_rows(arrays: tuple[Array, Array]) -> Masks:
    return np.ones(arrays[0].shape[1]), np.ones(arrays[1].shape[1])


def _jackknifed(value: Callable[[Masks], float], like: tuple[Array, Array]) -> tuple[float, float]:
    """The value, and its half-width from the rows of both data sets, which are independent."""
    safety, task = _all_rows(like)
    result, of_safety = jackknife(lambda mask: value((mask, task)), len(safety))
    _, of_task = jackknife(lambda mask: value((safety, mask)), len(task))
    return result, math.hypot(of_safety, of_task)


def _with_interval(value: float, half: float) -> str:
    return f"{value:.2f} [{value - half:.2f}, {value + half:.2f}]".replace("-", "−")


def main() -> None:
    """Copy what comparisons left, and write their tables into the page."""
    folders = [Path(folder) for folder in sys.argv[1:]]
    if folders:
        write_report(folders[0])
        for name in ("points.jsonl", "methods.json", "figures/figure5.png"):
            shutil.copy(folders[0] / name, HERE)
    own = HERE / SMOLLM2
    if len(folders) > 1:
        write_report(folders[1])
        shutil.rmtree(own, ignore_errors=True)
        shutil.copytree(folders[1] / "row-losses", own / "row-losses")
        for name in ("points.jsonl", "figures/figure5.png"):
            shutil.copy(folders[1] / name, own)
    replace_between(PAGE, WORLD, world_tables(HERE))
    if (HERE / WORLDS).exists():
        replace_between(PAGE, WORLDS, worlds_tables(HERE / WORLDS))
        replace_between(PAGE, CONFIRMED, confirming_table(HERE / WORLDS))
    if own.exists():
        replace_between(PAGE, SMOLLM2, smollm2_table(own))


if __name__ == "__main__":
    main()
