"""Facts about what the report shows of refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.report.reported_points import point
from trimtab.config.methods import CASE_1, CASE_2_RADIUS
from trimtab.report.answers import answers_figure, answers_table
from trimtab.report.palette import PLAIN_INK
from trimtab.results.result import Estimate, Point


def rate(value: float, of: str) -> Estimate:
    return Estimate(value, value - 0.05, value + 0.05, f"share of {of} prompts", "estimate")


def counted(model: Point, refused: float) -> Point:
    answered = rate(1 - refused / 2, "benign")
    return replace(model, refusal_rate=rate(refused, "harmful"), answer_rate=answered)


@pytest.fixture
def points() -> list[Point]:
    start = counted(point("aligned", safety=0.0, capability=0.5), 0.8)
    near = [
        counted(point(penalty=penalty, capability=0.1 * penalty), 0.2 + 0.2 * penalty)
        for penalty in (0.0, 1.0, 2.0)
    ]
    far = [counted(point(penalty=penalty, proxy="far"), 0.2) for penalty in (0.0, 1.0, 2.0)]
    case_2 = [counted(point("alignment-parameter", radius=1.0), 0.5)]
    return [start, *near, *far, *case_2]


def test_without_refusals_nothing_is_drawn(points: list[Point]) -> None:
    uncounted = [replace(model, refusal_rate=None, answer_rate=None) for model in points]
    assert answers_figure(uncounted) is None
    assert answers_table(uncounted, "phrases") is None


def test_every_proxy_is_a_line_beside_the_aligned_model(points: list[Point]) -> None:
    figure = answers_figure(points)
    assert figure is not None
    against_penalty, against_capability, against_answers = figure.panels
    near, far, plain = against_penalty.lines
    assert (plain.name, near.name, far.name) == ("plain fine-tuning", "near", "far")
    assert [mark.y for mark in plain.marks] == pytest.approx([0.2])  # of both, and drawn once
    assert [mark.y for mark in near.marks] == pytest.approx([0.4, 0.6])
    (level,) = against_penalty.curves
    assert set(level.y) == {0.8}
    assert {line.name for line in against_capability.lines} >= {"Case II", "aligned model θₛ"}
    near, *_, plain, start = against_answers.lines
    assert start.name == "aligned model θₛ"  # drawn over all
    assert [mark.x for mark in (*plain.marks, *near.marks)] == pytest.approx([0.9, 0.8, 0.7])
    assert plain.ink == PLAIN_INK


def test_case_2_is_there_by_whichever_it_was_asked_for(points: list[Point]) -> None:
    by_penalty = [counted(point("alignment-parameter", penalty=1.0), 0.6)]
    without_radius = [model for model in points if model.method is not CASE_2_RADIUS]
    for given, names in (
        ([*without_radius, *by_penalty], {"Case II"}),
        ([*points, *by_penalty], {"Case II by λ", "Case II by ε"}),
    ):
        figure = answers_figure(given)
        assert figure is not None
        drawn = {line.name for line in figure.panels[1].lines}
        assert {name for name in drawn if name.startswith("Case II")} == names


def test_the_table_tells_both_rates_with_intervals(points: list[Point]) -> None:
    table = answers_table(points, "phrases")
    assert table is not None
    assert len(table.rows) == len(points)
    assert table.rows[0].cells[-2:] == ("80 % [75 %, 85 %]", "60 % [55 %, 65 %]")


def test_without_case_1_the_plane_alone_is_drawn(points: list[Point]) -> None:
    figure = answers_figure([model for model in points if model.method is not CASE_1])
    assert figure is not None
    titles = ["Refusals against capability", "Refusals against answers"]
    assert [panel.title for panel in figure.panels] == titles
    uncounted = [replace(model, answer_rate=None) for model in points]
    figure = answers_figure(uncounted)
    assert figure is not None
    assert len(figure.panels) == 2
