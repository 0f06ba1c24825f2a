"""Models trained to a budget in the report: a line of their own, and whether they kept to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.report.reported_points import case_1, case_2, estimate, point, write_points
from trimtab.analysis.findings import findings
from trimtab.analysis.groups import lines_of
from trimtab.analysis.labels import budget_in_words
from trimtab.config.methods import CASE_1, CASE_1_BUDGET
from trimtab.report import write_report
from trimtab.report.figures import figures
from trimtab.report.tables import budgets_table
from trimtab.results.result import Point


def with_budget(budget: float, change: float, half_width: float = 0.0) -> Point:
    bare = point(
        "alignment-loss-budget", value=budget, safety=0.1 + change, capability=0.2 - change
    )
    return replace(bare, multiplier=0.8, safety_change=estimate(change, half_width))


def test_a_budget_line_stands_beside_its_case_and_in_no_finding() -> None:
    sweep = [*case_1(), *case_2()]
    budgets = [with_budget(0.05, 0.049), with_budget(0.1, 0.1)]
    points = [*sweep, *budgets]
    assert lines_of(points, CASE_1) == lines_of(sweep, CASE_1)
    assert findings(points) == findings(sweep)
    (line,) = lines_of(points, CASE_1_BUDGET).values()
    assert [setting.value for setting in line] == [0.1, 0.05]
    first, second, _ = figures(points, None)
    names = {line.name: line.ink for panel in first.panels for line in panel.lines}
    assert "near – chat, by budget" in names
    inks = {line.name: line.ink for line in second.panels[-1].lines}
    assert inks["Case I by budget, chat"] != inks["Case I, chat"]


def test_budgets_alone_fill_the_plane() -> None:
    first, *_ = figures([with_budget(0.05, 0.05), with_budget(0.1, 0.1)], None)
    (plane,) = first.panels
    labels = [mark.label for line in plane.lines for mark in line.marks]
    assert set(labels) == {"budget 0.05", "budget 0.1"}


def test_words_say_whether_and_by_how_much() -> None:
    assert budget_in_words(with_budget(0.05, 0.048)).endswith(
        "exact: within the budget; 96 % of it is spent"
    )
    assert budget_in_words(with_budget(0.05, 0.06)).endswith("beyond the budget")
    perhaps = budget_in_words(with_budget(0.05, 0.06, half_width=0.02))
    assert "0.0600 [0.0400, 0.0800] nats per token, an estimate" in perhaps
    assert perhaps.endswith(
        "undecided, as its interval holds the budget; 120 % [80 %, 160 %] of it is spent"
    )
    little = replace(with_budget(0.05, 0.02, half_width=0.01), validation_rows_wanted=270)
    allowed = "of it is spent, as validation rows allow: 270 would let four fifths be spent"
    assert budget_in_words(little).endswith(f"; 40 % [20 %, 60 %] {allowed}")
    surely_little = replace(with_budget(0.05, 0.02, half_width=0.004), validation_rows_wanted=270)
    assert budget_in_words(surely_little).endswith(f"only 40 % [32 %, 48 %] {allowed}")
    assert budget_in_words(with_budget(0.05, -0.01)).endswith(
        "within the budget; none of it is spent"
    )
    never = replace(with_budget(-0.5, -0.1), multiplier=300.0)
    assert budget_in_words(never).endswith("out of reach: at λ = 300 the task hardly counts")


def test_the_page_has_a_table_of_budgets(tmp_path: Path) -> None:
    points = [*case_1(), with_budget(0.05, 0.05), with_budget(0.05, 0.2)]
    table = budgets_table(points)
    assert table is not None
    assert [row.is_alarm for row in table.rows] == [False, True]
    text = write_report(write_points(tmp_path, points)).page.read_text(encoding="utf-8")
    assert "Models trained to a budget" in text
    assert "beyond" in text
    assert budgets_table(case_1()) is None
