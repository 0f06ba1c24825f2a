"""One colour and shape mean one thing through all plots of a page, and no mark hides another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from tests.report.reported_points import case_1, case_2, optima, point, sweep, world
from trimtab.analysis.groups import all_settings
from trimtab.analysis.limits import Limits
from trimtab.analysis.methods import method_results
from trimtab.analysis.overview import overview
from trimtab.config.methods import ALIGNED, CASE_1, METHODS, PLAIN
from trimtab.report import renderer
from trimtab.report.answers import answers_figure
from trimtab.report.axes import linear_axis
from trimtab.report.chart import Figure, Line, Mark, Panel
from trimtab.report.choices import picture
from trimtab.report.figures import figures
from trimtab.report.methods_figure import methods_figure
from trimtab.report.palette import PLAIN_INK, START_INK, Palette
from trimtab.report.panels import SEVERAL_LIMITS, labelled
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point


def compared() -> list[Point]:
    """Every method there is, two settings each, on one task."""
    published = [
        point(name, value=value, safety=0.3 + 0.1 * value, capability=0.3 - 0.1 * value)
        for name, method in METHODS.items()
        if method not in (ALIGNED, PLAIN, CASE_1)
        for value in (0.5, 1.0)
    ]
    start = point("aligned", safety=0.0, capability=0.7)
    return [start, point("plain", safety=0.6, capability=0.1), *case_1(), *published]


def of_methods(points: Sequence[Point]) -> Figure:
    figure = methods_figure(points, method_results(points), None)
    assert figure is not None
    return figure


def all_panels(points: Sequence[Point], tmp_path: Path) -> list[Panel]:
    """Every panel of a page."""
    drawn = [*figures(points, None), methods_figure(points, method_results(points), None)]
    drawn.append(answers_figure(points))
    summary = overview(points, RowLosses(tmp_path))
    assert summary is not None
    first = picture(summary, points, RowLosses(tmp_path))
    assert first is not None
    return [first.panel, *(panel for figure in drawn if figure for panel in figure.panels)]


def of_many_kinds() -> list[Point]:
    """Two sets of safety data, tasks, both cases, budgets and a dial."""
    return [
        *sweep(),
        *case_2(by="radius"),
        *(point("alignment-loss-budget", value=value) for value in (0.1, 0.2)),
        *(point("dial", value=value, capability=value) for value in (0.0, 0.5, 1.0)),
    ]


def test_every_line_of_the_palette_has_an_ink_of_its_own() -> None:
    for points in (compared(), of_many_kinds()):
        palette = Palette.of(points)
        assert palette.suffices
        lines = {
            (setting.method, setting.proxy if setting.method.reads_safety else None, setting.task)
            for setting in all_settings(points)
            if setting.method is not ALIGNED
        }
        inks = [palette.of_method(*line) for line in lines if line[0] is not PLAIN]
        inks += [palette.of_task(task) for task in palette.tasks]
        pairs = Counter((each.colour, each.marker) for each in inks)
        assert max(pairs.values()) == 1
        assert all(each.colour != PLAIN_INK.colour for each in inks)


def test_a_method_has_one_ink_in_every_panel_of_figure_5_and_none_shares_it() -> None:
    inks: dict[str, set[Any]] = {}
    for line in chain.from_iterable(panel.lines for panel in of_methods(compared()).panels):
        inks.setdefault(line.name, set()).add((line.ink.colour, line.ink.marker))
    assert len(inks) > 25
    assert all(len(of_one) == 1 for of_one in inks.values())
    assert len(set.union(*inks.values())) == len(inks)


def test_what_has_no_room_for_a_colour_of_its_own_is_not_said_to_have_one() -> None:
    points = [model for task in "abcdefg" for model in case_1(task=task)]
    assert not Palette.of(points).suffices
    assert figures(points, None)


def test_the_dial_and_the_runs_beside_it_are_drawn_as_in_every_other_figure() -> None:
    points = of_many_kinds()
    first, _, _, fourth = figures(points, None)
    dial, runs, *_ = fourth.panels[0].lines
    (same,) = (line for line in first.panels[1].lines if line.name == "near – chat")
    assert runs.ink == same.ink
    drawn = {line.ink for figure in (first,) for panel in figure.panels for line in panel.lines}
    assert dial.ink not in drawn


def test_plain_fine_tuning_and_the_start_look_the_same_in_every_plot(tmp_path: Path) -> None:
    for points in (of_many_kinds(), compared(), [point("aligned"), *case_1()]):
        for panel in all_panels(points, tmp_path):
            for line in panel.lines:
                for mark in line.marks:
                    words = " ".join(mark.hover)
                    is_plain = bool(re.search(r"λ = 0(?![.\d])|ε = ∞|plain fine", words))
                    is_plain |= mark.label is not None and mark.label.startswith("plain")
                    assert is_plain <= (line.ink == PLAIN_INK), (panel.title, line.name, words)
                assert (line.ink == START_INK) == ("θₛ" in line.name)


def test_a_penalty_of_zero_alone_is_the_black_square() -> None:
    left, plane = figures(case_1(), None)[0].panels
    for panel in (left, plane):
        near, plain = panel.lines
        assert plain.ink == PLAIN_INK
        assert len(plain.marks) == 1
        assert len(near.marks) == 3


def test_plain_models_of_several_tasks_are_told_apart() -> None:
    unlike = point("alignment-parameter", penalty=0.0, safety=0.8, task="news")
    (left,) = figures([*case_2("chat"), unlike], None)[1].panels
    assert {mark.label for mark in left.lines[-1].marks} == {"plain, chat", "plain, news"}


def drawn_marks(panel: Panel) -> list[dict[str, Any]]:
    spec = renderer.plot(panel)
    (layer,) = (layer for layer in spec["layer"] if layer.get("name") == renderer.MEASURED)
    marks: list[dict[str, Any]] = spec["datasets"][layer["data"]["name"]]
    return marks


def test_no_mark_lies_under_another_of_its_shape_and_size() -> None:
    panels = [panel for figure in figures(of_many_kinds(), None) for panel in figure.panels]
    for panel in [*panels, *of_methods(compared()).panels]:
        sizes: dict[tuple[str, str], float] = {}
        for row in drawn_marks(panel):
            sizes[row["shape"], row["color"]] = row["size"]
        of_shape: dict[str, list[float]] = {}
        for (shape, _), size in sizes.items():
            of_shape.setdefault(shape, []).append(size)
        for order in of_shape.values():  # as drawn: the later lie above
            assert order == sorted(order, reverse=True)
            assert len(set(order)) == len(order)


def test_what_lies_below_a_mark_shows_through_it() -> None:
    spec = renderer.plot(figures(sweep(), None)[0].panels[1])
    (layer,) = (layer for layer in spec["layer"] if layer.get("name") == renderer.MEASURED)
    assert layer["mark"]["fillOpacity"] < 0.5
    assert all(row["outline"] > 1 for row in drawn_marks(figures(sweep(), None)[0].panels[1]))


def test_the_start_and_plain_fine_tuning_lie_over_all() -> None:
    for panel in (figures(sweep(), None)[0].panels[1], of_methods(compared()).panels[0]):
        *below, plain, start = drawn_marks(panel)
        assert (plain["shape"], plain["color"]) == ("square", PLAIN_INK.colour)
        assert start["shape"] == renderer.SYMBOLS["star"]
        assert not any(row["color"] == PLAIN_INK.colour for row in below[:-1])


def test_a_label_stands_clear_of_seeds() -> None:
    def mark(x: float, y: float, label: str | None = None) -> Mark:
        return Mark(x, y, None, None, (), False, label)

    axis = linear_axis("", (0.0, 1.0), 0.2)
    for seed, side in (((0.58, 0.53), "left"), ((0.42, 0.53), "right")):
        line = Line("plain", PLAIN_INK, (mark(0.5, 0.5, "plain"),), (mark(*seed),))
        ((drawn,),) = (each.marks for each in labelled((line,), axis, axis))
        assert drawn.label_side == side


def test_the_limit_of_each_of_several_tasks_is_named_at_its_end() -> None:
    def named(panel: Panel) -> set[str]:
        found = (row["name"] for row in rows(renderer.plot(panel)) if "top" in row)
        return set(found)

    known_world = world()
    plane = figures(optima(known_world), Limits(known_world))[0].panels[1]
    assert named(plane) == {"code, chat"}  # whose ends are at one place, as seen
    lower = [
        replace(curve, x=(0.0, 0.3), y=(0.2 * plane.y.high, 0.0))
        if curve.label == "chat"
        else curve
        for curve in plane.curves
    ]
    assert named(replace(plane, curves=tuple(lower))) == {"chat", "code"}
    only = [model for model in optima(known_world) if model.task == "chat"]
    assert not named(figures(only, Limits(known_world))[0].panels[1])


def rows(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for data in spec["datasets"].values() for row in data]


def test_an_image_stands_alone_with_the_note_that_the_page_has_below_it() -> None:
    known_world = world()
    figure = figures(optima(known_world), Limits(known_world))[0]
    plane = figure.panels[1]
    (noted,) = (row["note"] for row in rows(renderer.sheet(figure)) if "note" in row)
    assert SEVERAL_LIMITS in " ".join(noted)
    assert not any("note" in row for row in rows(renderer.plot(plane)))
