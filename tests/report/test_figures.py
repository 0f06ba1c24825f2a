from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.report.reported_points import (
    PENALTIES,
    case_1,
    case_2,
    estimate,
    optima,
    point,
    sweep,
    with_spec,
    world,
)
from trimtab.analysis.limits import BOUND, EXACT, ORACLE, Limits
from trimtab.report import renderer
from trimtab.report.axes import gap_axis
from trimtab.report.chart import Figure, Mark, Panel
from trimtab.report.figures import DRIFT, figures
from trimtab.results.gaps import OVER_START
from trimtab.results.result import LocalGeometry, Point
from trimtab.theory import context_overlap

HOSTILE = "<script>alert('x')</script> & <b>\"a\"</b> $x_1$ _%{y}"


def panels(points: list[Point], limits: Limits | None = None) -> list[Panel]:
    return [panel for figure in figures(points, limits) for panel in figure.panels]


def marks(panel: Panel) -> Iterator[Mark]:
    for line in panel.lines:
        yield from line.marks
        yield from line.seeds


def rows(panel: Panel) -> list[dict[str, Any]]:
    """Every row of data in the drawing of a panel."""
    return [row for data in renderer.plot(panel)["datasets"].values() for row in data]


def hovers(panel: Panel) -> list[str]:
    return [row["hover"] for row in rows(panel) if "hover" in row]


def test_a_whole_sweep_fills_all_three_figures() -> None:
    drawn = figures(sweep(), None)
    assert [len(figure.panels) for figure in drawn] == [2, 2, 1]
    assert not any(figure.missing for figure in drawn)


def test_figure_1_has_a_line_per_proxy_on_the_task_with_the_most() -> None:
    left, right = figures(sweep(), None)[0].panels
    assert left.title.endswith("chat")
    assert [line.name for line in left.lines] == ["near", "far", "plain fine-tuning"]
    assert {line.name for line in right.lines} == {
        "near – chat",
        "far – chat",
        "near – news",
        "near – code",
        "plain fine-tuning",
        "aligned model θₛ",
    }


def test_each_start_of_a_plane_is_told_apart() -> None:
    starts = [
        point("aligned", task=task, capability=0.3 + 0.2 * place)
        for place, task in enumerate(("chat", "news", "a-task-with-a-very-long-name"))
    ]
    lines = [
        line
        for task in ("chat", "news", "a-task-with-a-very-long-name")
        for line in case_1("near", task)
    ]
    _, plane = figures([*starts, *lines], None)[0].panels
    line = plane.lines[-1]
    assert line.name == "aligned model θₛ, on each task"
    assert [mark.label for mark in line.marks] == ["θₛ, chat", "θₛ, news", "θₛ, a-task-…-long-name"]


def test_the_start_of_one_task_is_named_alone() -> None:
    _, plane = figures([point("aligned", capability=0.3), *case_1()], None)[0].panels
    assert plane.lines[-1].name == "aligned model θₛ"
    assert [mark.label for mark in plane.lines[-1].marks] == ["θₛ"]


def test_no_label_stands_out_of_its_axes() -> None:
    points = [point("aligned", capability=0.9, safety=0.0), *case_1(), *optima(world())]
    for panel in panels(points):
        for mark in (mark for line in panel.lines for mark in line.marks if mark.label):
            width = 0.019 * len(mark.label)
            end = panel.x.share(mark.x) + (width if mark.label_side.endswith("right") else -width)
            assert -0.01 < end < 1.1


def test_figure_2_has_a_line_per_task_and_sets_the_cases_side_by_side() -> None:
    left, right = figures(sweep(), None)[1].panels
    assert [line.name for line in left.lines] == ["chat", "news", "plain fine-tuning"]
    assert [line.name for line in right.lines] == [
        "Case I, chat",
        "Case II, chat",
        "Case I, news",
        "Case II, news",
        "plain fine-tuning",
        "aligned model θₛ",
    ]


def test_figure_3_orders_tasks_by_overlap() -> None:
    (panel,) = figures(sweep(), None)[2].panels
    names = [line.name for line in panel.lines]
    assert names[:3] == ["code, overlap 0 %", "chat, overlap 50 %", "news, overlap 100 %"]
    assert names[3:] == ["plain fine-tuning", "aligned model θₛ"]  # they stand in every plane


def test_an_estimated_overlap_is_called_about_that_much() -> None:
    points = [
        replace(model, context_overlap=replace(model.context_overlap, kind="estimate"))
        for model in sweep()
        if model.context_overlap is not None
    ]
    (panel,) = figures(points, None)[2].panels
    assert panel.lines[1].name == "chat, overlap ≈ 50 %"


def test_without_case_2_figure_2_says_what_would_make_it() -> None:
    _, second, _ = figures(case_1(), None)
    assert second.panels == ()
    assert "case: alignment-parameter" in second.missing[0]


def test_without_case_1_only_case_2_is_drawn() -> None:
    first, second, third = figures(case_2(), None)
    assert first.panels == third.panels == ()
    assert [panel.title for panel in second.panels] == ["Case II: safety"]
    assert "both cases" in second.missing[0]


def test_penalties_and_radii_get_an_axis_each() -> None:
    points = [*case_1(), *case_2(), *case_2(by="radius")]
    labels = [panel.x.label for panel in figures(points, None)[1].panels]
    assert labels == ["penalty λ", "radius ε", "alignment gap (nats per token)"]


def test_without_original_data_the_proxy_gap_is_drawn_and_named() -> None:
    points = [*case_1(original=False), *case_2(original=False)]
    for panel in panels(points):
        assert "proxy gap" in panel.x.label + panel.y.label
        assert "alignment gap" not in panel.x.label + panel.y.label
        assert "No original alignment data" in panel.note


def test_a_single_point_is_a_figure_of_one_mark() -> None:
    (first, *_) = figures([point(penalty=1.0)], None)
    assert [len(list(marks(panel))) for panel in first.panels] == [1]


def test_plain_fine_tuning_alone_has_no_place_on_an_axis_of_penalties() -> None:
    (first, *_) = figures([point(penalty=0.0)], None)
    assert [panel.x.label for panel in first.panels] == ["alignment gap (nats per token)"]
    assert "one above 0" in first.missing[0]


def test_zero_penalty_stands_past_a_break_left_of_all_others() -> None:
    left = figures(case_1(), None)[0].panels[0]
    assert left.x.strip is not None
    positive_marks, (first,) = (line.marks for line in left.lines)
    assert (
        first.x
        == left.x.strip.position
        < left.x.strip.break_at
        < min(mark.x for mark in positive_marks)
    )
    assert left.x.ticks[0] == (first.x, "0")


def test_infinite_radius_stands_past_a_break_right_of_all_others() -> None:
    left = figures(case_2(by="radius"), None)[1].panels[0]
    assert left.x.strip is not None
    finite_marks, (first,) = (line.marks for line in left.lines)
    assert (
        first.x
        == left.x.strip.position
        > left.x.strip.break_at
        > max(mark.x for mark in finite_marks)
    )
    assert left.x.ticks[-1] == (first.x, "∞")


def test_case_1_is_not_joined_to_plain_fine_tuning() -> None:
    for panel in figures(case_1(), None)[0].panels:
        near, plain = panel.lines
        assert [mark.joined for mark in near.marks] == [True, True, True]
        assert [mark.joined for mark in plain.marks] == [False]


def test_a_gap_of_plain_fine_tuning_that_dwarfs_the_others_stands_past_a_break() -> None:
    points = [point(penalty=0.0, safety=5.5), *case_1(penalties=(0.1, 1.0, 10.0))]
    plane = figures(points, None)[0].panels[1]
    assert plane.x.strip is not None
    assert plane.x.strip.label == "5.5\nplain"
    assert plane.lines[-1].marks[0].x == plane.x.strip.position < 1.0


def test_seeds_are_drawn_behind_their_mean() -> None:
    left = figures(case_1(seeds=(0, 1, 2)), None)[0].panels[0]
    line, plain = left.lines
    assert len(line.marks) + len(plain.marks) == len(PENALTIES)
    assert len(line.seeds) + len(plain.seeds) == 3 * len(PENALTIES)
    assert line.marks[1].y == pytest.approx(np.mean([seed.y for seed in line.seeds[3:6]]))
    assert line.marks[1].y_interval is None


def test_one_seed_has_error_bars_and_an_exact_loss_has_none() -> None:
    for half_width in (0.01, 0.0):
        panel = figures(case_1(half_width=half_width), None)[0].panels[0]
        for mark in marks(panel):
            assert bool(mark.y_interval) is bool(half_width)


def test_every_mark_and_bar_lies_on_its_axes() -> None:
    for points in (sweep(half_width=0.05), case_1(seeds=(0, 1)), optima(world())):
        for panel in panels(points):
            for mark in marks(panel):
                for axis, at, interval in (
                    (panel.x, mark.x, mark.x_interval),
                    (panel.y, mark.y, mark.y_interval),
                ):
                    assert axis.low <= at <= axis.high
                    assert interval is None or axis.low <= interval[0] <= at <= interval[1]


def test_many_lines_are_cut_to_what_can_be_told_apart() -> None:
    points = [model for task in "abcdefghij" for model in case_1(task=task)]
    right = figures(points, None)[0].panels[1]
    assert len(right.lines) == 9  # plain fine-tuning among them
    assert "8 of 10" in right.note


def test_a_world_puts_limits_behind_the_points() -> None:
    known_world = world()
    left, right = figures(optima(known_world), Limits(known_world))[0].panels
    assert {curve.name for curve in left.curves} == {EXACT, BOUND}
    assert {curve.name for curve in right.curves} == {EXACT, ORACLE}


def test_a_limit_is_shaded_where_it_is_the_only_one() -> None:
    known_world = world()
    points = optima(known_world)
    _, of_two_tasks = figures(points, Limits(known_world))[0].panels
    chat = [point for point in points if point.task == "chat"]
    _, of_one_task = figures(chat, Limits(known_world))[0].panels
    assert [curve.name for curve in of_one_task.curves if curve.shaded] == [ORACLE]
    assert not any(curve.shaded for curve in of_two_tasks.curves)
    assert "area" in {layer["mark"]["type"] for layer in renderer.plot(of_one_task)["layer"]}


def test_the_limit_of_a_task_that_shares_no_prompt_is_a_corner() -> None:
    known_world = world()
    points = optima(known_world)
    _, plane = figures(points, Limits(known_world))[0].panels
    corners = [curve for curve in plane.curves if curve.name == ORACLE and len(curve.x) == 3]
    shares_none = [
        task
        for task, data in known_world.task.items()
        if context_overlap(data, known_world.original) == 0
    ]
    assert len(corners) == len(shares_none) == 1
    (corner,) = corners
    assert (corner.x[1], corner.y[1]) == pytest.approx((0, 0), abs=1e-6)
    assert (corner.x[2], corner.y[0]) == (plane.x.high, plane.y.high)
    assert "shares no prompt" in plane.note


def test_exact_optima_lie_on_their_curve() -> None:
    known_world = world()
    left = figures(
        optima(known_world, (0.1, 1.0, 10.0), stray=0.0),
        Limits(known_world),
    )[0].panels[0]
    for line, curve in zip(
        left.lines, (curve for curve in left.curves if curve.name == EXACT), strict=True
    ):
        for mark in line.marks:
            assert mark.y == pytest.approx(np.interp(mark.x, curve.x, curve.y), rel=2e-3)


def test_no_mark_lies_below_the_oracle_in_the_plane() -> None:
    known_world = world()
    plane = figures(optima(known_world), Limits(known_world))[0].panels[1]
    front = next(curve for curve in plane.curves if curve.name == ORACLE)
    order = np.argsort(front.x)
    xs, ys = np.array(front.x)[order], np.array(front.y)[order]
    for line in plane.lines:
        for mark in line.marks:
            if line.name.endswith("chat") and xs[0] < mark.x < xs[-1]:
                assert mark.y >= np.interp(mark.x, xs, ys) - 1e-3


def test_curves_of_an_unknown_task_are_left_out() -> None:
    known_world = world()
    points = case_1(task="elsewhere")
    assert not any(panel.curves for panel in panels(points, Limits(known_world)))


def test_hover_tells_all_that_was_measured() -> None:
    (left, *_) = panels(case_1(half_width=0.01))
    text = hovers(left)[0]
    for word in (
        "Case I",
        "λ = 0.1",
        "near",
        "chat",
        "seed 0",
        "[",
        "loss",
        "gap",
        "distance",
        "s",
    ):
        assert word in text


def test_page_and_paper_draw_the_same_marks() -> None:
    for figure in figures(sweep(), None):
        on_paper = [row for data in renderer.sheet(figure)["datasets"].values() for row in data]
        on_page = [row for panel in figure.panels for row in rows(panel)]
        measured = [mark for panel in figure.panels for mark in marks(panel)]
        for drawn in (on_paper, on_page):
            places = {(row["x"], row["y"], row["hover"]) for row in drawn if "hover" in row}
            assert places == {(mark.x, mark.y, "\n".join(mark.hover)) for mark in measured}


def test_the_drawing_has_finite_numbers_and_names_letter_by_letter() -> None:
    points = [with_spec(model, task=HOSTILE, proxy=HOSTILE) for model in case_1(seeds=(0, 1))]
    points += [with_spec(model, task=HOSTILE, proxy=HOSTILE) for model in case_2(by="radius")]
    for panel in panels(points):
        json.dumps(renderer.plot(panel), allow_nan=False)
        assert any(HOSTILE in hover for hover in hovers(panel))


def test_only_the_hover_text_is_more_than_a_number_a_colour_or_a_name() -> None:
    """A name stands in data, which Vega shows literally; in an expression it would be run."""
    points = [with_spec(model, task=HOSTILE, proxy=HOSTILE) for model in case_1()]
    for panel in panels(points):
        drawn = renderer.plot(panel)
        del drawn["datasets"]
        assert "script" not in json.dumps(drawn)


def test_a_figure_is_written_as_png_and_as_svg_and_pdf_with_text(tmp_path: Path) -> None:
    (figure, *_) = figures([with_spec(model, proxy=HOSTILE) for model in case_1()], None)
    png, svg, pdf = renderer.save(figure, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/Font" in pdf.read_bytes()
    text = svg.read_text(encoding="utf-8")
    assert "alignment gap (nats per token)" in text
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert sorted(tmp_path.iterdir()) == sorted([png, svg, pdf])


def test_a_figure_is_the_same_file_when_drawn_again(tmp_path: Path) -> None:
    (figure, *_) = figures(case_1(), None)
    _, svg, _ = renderer.save(figure, tmp_path / "a")
    _, again, _ = renderer.save(figure, tmp_path / "b")
    assert svg.read_bytes() == again.read_bytes()


def test_a_panel_describes_itself() -> None:
    (left, *_) = panels(case_1())
    assert "alignment gap (nats per token) against penalty λ" in left.description
    assert Figure(1, "", (left,), ()).stem == "figure1"
    assert math.isfinite(left.y.low)


def test_plain_is_on_the_axis_where_no_other_gap_is_above_zero() -> None:
    axis = gap_axis("gap", [estimate(-0.1), estimate(0.0)], [estimate(3.0)], may_be_log=False)
    assert axis.strip is None
    assert axis.low <= -0.1 <= 3.0 <= axis.high


def test_one_penalty_is_no_curve_over_penalties() -> None:
    first, *_ = figures([point("aligned"), point(penalty=1.0)], None)
    assert [panel.title for panel in first.panels] == ["Case I: capability against safety"]
    assert "several penalties" in first.missing[0]


def test_one_radius_is_no_curve_over_radii() -> None:
    _, second, *_ = figures([point("aligned"), point(radius=0.5)], None)
    assert second.panels == ()
    assert "several values" in second.missing[0]


def test_theorem_3_is_drawn_from_where_the_axis_begins() -> None:
    """Over the start, as on real data, it is what slope and curvature add; else on top of it."""
    geometry = LocalGeometry(estimate(0.01), estimate(0.05))
    start = point("aligned", safety=0.05, capability=0.7)
    balls = [
        point("alignment-parameter", safety=0.2, capability=0.5, radius=radius)
        for radius in (1.0, 2.0)
    ]
    for begins in (0.0, 0.05):
        points = [start, *balls]
        if begins:
            points = [
                replace(
                    model,
                    alignment_gap=replace(model.alignment_gap.minus(begins), unit=OVER_START),
                )
                for model in points
                if model.alignment_gap is not None
            ]
        figure = figures(points, None, {"original": geometry, "task:chat": geometry})[1]
        (curve,) = [
            curve for panel in figure.panels for curve in panel.curves if curve.name == DRIFT
        ]
        reached = [ball.distance for ball in balls]
        assert sorted(curve.x) == [1.0, 2.0]
        added = [0.01 * far + 0.5 * 0.05 * far**2 for far in reached]
        assert curve.y == pytest.approx([0.05 - begins + more for more in added])
