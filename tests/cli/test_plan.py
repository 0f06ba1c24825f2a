"""Facts about what a dry run prints of a plan."""

from __future__ import annotations

import re
from dataclasses import replace

from rich.console import Console

from trimtab.cli.progress import TerminalWatcher, plan_table
from trimtab.config.data_source import DataSource
from trimtab.config.experiment import Block, Experiment
from trimtab.config.grid import Plan, plan_of
from trimtab.runner.cost import Cost


def lines(plan: Plan, remaining: Plan) -> list[str]:
    cost = Cost(trainings=len(remaining.runs), train_tokens=100, memory=2**30, seconds=60.0)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(plan_table(plan, remaining, cost))
    return [re.sub(r" +", " ", line).strip() for line in capture.get().splitlines()]


ONE = Experiment(
    model="smollm2",
    task={"task": DataSource("task.jsonl")},
    safety={"near": DataSource("near.jsonl"), "far": DataSource("far.jsonl")},
    grid=(Block("alignment-loss", (1.0,), proxies=("near",)),),
)


def test_of_one_training_only_what_applies_is_told() -> None:
    plan = plan_of(ONE)
    assert lines(plan, plan)[:4] == [
        "points 2",
        "1 of the starting model itself",
        "1 of Case I (alignment loss)",
        "trainings 1",
    ]


def test_what_is_left_is_told_in_the_singular_and_in_the_plural() -> None:
    plan = plan_of(ONE)
    without_start = plan.without(set(plan.aligned))
    assert lines(plan, without_start)[0] == "points 2, of which 1 is still to be made"
    assert lines(plan, plan.without(set(plan.specs)))[0] == "points 2, all of them made"
    more = plan_of(replace(ONE, seeds=(0, 1)))
    assert (
        lines(more, more.without(set(more.aligned)))[0]
        == "points 3, of which 2 are still to be made"
    )
    assert "starting model" not in " ".join(lines(without_start, without_start))


def test_what_failed_is_told_apart_from_what_is_made() -> None:
    plan = plan_of(replace(ONE, seeds=(0, 1, 2)))
    second, third = plan.runs[1].specs[0], plan.runs[2].specs[0]
    all_tried = plan.without(set(plan.specs) - {second, third}, [second, third])
    assert lines(plan, all_tried)[0] == "points 4: 2 made, 2 failed (--retry)"
    one_left = plan.without(set(plan.aligned), [second])
    assert lines(plan, one_left)[0] == ("points 4: 1 made, 1 failed (--retry), 2 still to be made")
    console = Console(width=100)
    with console.capture() as capture:
        TerminalWatcher(console).planned(plan, one_left)
    assert capture.get().strip() == ("Going on: 1 of 4 points are there already, 1 failed before.")
    made_after_all = plan.without(set(plan.specs), [second])
    assert made_after_all.failed == ()


def test_that_points_share_a_training_is_told_where_they_do() -> None:
    two_points = replace(ONE, grid=(Block("alignment-loss", (0.0, 1.0)),))
    plan = plan_of(two_points)
    assert "trainings 3 (points without a constraint share one)" in lines(plan, plan)


def test_that_answers_are_not_counted_is_told_where_there_are_some() -> None:
    plan, cost = plan_of(ONE), Cost(trainings=1, train_tokens=1, memory=1, seconds=1.0)
    rows = [list(plan_table(plan, plan, cost, prompts).columns[1].cells) for prompts in (0, 200)]
    assert rows[1] == [*rows[0], "200 from each model, judged: not in this time and memory"]
