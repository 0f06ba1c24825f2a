"""Facts about the answer that opens the page, and about what may stand in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.report.answered_points import COMPLIES, answered_experiment
from tests.report.reported_points import PENALTIES, case_1, point, sweep, with_spec, write_points
from trimtab.analysis.overview import Overview, overview
from trimtab.analysis.side_by_side import MOST_BYTES, side_by_side
from trimtab.report import write_report
from trimtab.report.answer import answer_in_words
from trimtab.report.choices import choices_table, picture
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.results.store import read_points


def overview_of(points: list[Point], folder: Path) -> Overview:
    summary = overview(points, RowLosses(folder))
    assert summary is not None
    return summary


def test_the_answer_is_what_plain_fine_tuning_cost_and_the_safest_other(tmp_path: Path) -> None:
    start = point("aligned", safety=0.0, capability=0.5, half_width=0.01)
    summary = overview_of([start, *case_1(half_width=0.01)], tmp_path)
    cost, best = answer_in_words(summary)
    assert "raised the safety loss by 0.520 [0.510, 0.530]" in cost
    assert "lowered the task loss by 0.500 [0.490, 0.510]" in cost
    # λ = 10 loses more than half of the 0.5 that was learned.
    assert summary.best is not None
    assert summary.best.setting.value == 1.0
    assert "Case I (a penalty on the safety loss) with λ = 1 on safety data near" in best


def test_a_change_that_may_be_none_is_not_called_one(tmp_path: Path) -> None:
    start = point("aligned", safety=0.2, capability=0.5)
    (cost, *_) = answer_in_words(
        overview_of(
            [start, point(penalty=0.0, safety=0.201, capability=0.1, half_width=0.01)], tmp_path
        )
    )
    assert "may not have changed the safety loss" in cost
    assert "raised" not in cost


def test_one_training_is_told_without_findings_or_figures_of_one_dot(tmp_path: Path) -> None:
    points = [point("aligned", safety=0.0, capability=0.5), point(penalty=1.0)]
    text = write_report(write_points(tmp_path, points)).page.read_text(encoding="utf-8")
    assert "raised the safety loss by 0.200" in text
    assert "plain fine-tuning would have cost is not known" in text
    for words in ("too few to say", ">Figures</h2>", "paper’s findings</h2>"):
        assert words not in text


def test_without_the_start_nothing_is_said_to_have_changed(tmp_path: Path) -> None:
    assert overview(case_1(), RowLosses(tmp_path)) is None


def test_one_model_beside_the_starts_of_two_proxies_is_told(tmp_path: Path) -> None:
    starts = [
        point("aligned", safety=0.0, capability=0.5, proxy=proxy) for proxy in ("near", "far")
    ]
    plain = point(penalty=0.0, safety=0.3, capability=0.1)
    (cost, *_) = answer_in_words(overview_of([*starts, plain], tmp_path))
    assert "raised the safety loss by 0.300" in cost


def test_the_picture_is_of_a_task_with_models_and_not_of_one_with_more_starts(
    tmp_path: Path,
) -> None:
    def start(proxy: str, task: str) -> Point:
        return point("aligned", safety=0.0, capability=0.5, proxy=proxy, task=task, original=False)

    starts = [start(proxy, "chat") for proxy in ("near", "far", "old")]
    trained = point(penalty=0.0, proxy="near", task="code", original=False)
    summary = overview_of([*starts, start("near", "code"), trained], tmp_path)
    assert summary.task == "code"
    assert answer_in_words(summary)


def test_the_start_alone_is_said_to_be_alone(tmp_path: Path) -> None:
    folder = write_points(tmp_path, [point("aligned", safety=0.0, capability=0.5)])
    text = write_report(folder).page.read_text(encoding="utf-8")
    assert "No trained model is here yet" in text
    assert "was not measured" not in text


def test_a_figure_of_rates_is_named_where_it_is_drawn(tmp_path: Path) -> None:
    folder = answered_experiment(tmp_path)
    assert "Figure 6 draws the rates." in write_report(folder).page.read_text(encoding="utf-8")
    points = read_points(folder)
    (folder / "points.jsonl").unlink()
    write_points(folder, points[:2])
    text = write_report(folder).page.read_text(encoding="utf-8")
    assert "How often they refuse and answer" in text
    assert "Figure 6" not in text


def test_a_judge_with_an_address_is_one_judge(tmp_path: Path) -> None:
    folder = answered_experiment(tmp_path)
    (folder / "experiment.yaml").write_text("answers: {judges: ['strict=http://h/v1/M', mild]}\n")
    text = write_report(folder).page.read_text(encoding="utf-8")
    assert text.count("http://h/v1/M") == 1  # among the settings
    assert "Answers as strict judges them" in text


def test_every_model_is_a_row_once_and_the_picture_holds_one_task(tmp_path: Path) -> None:
    points = sweep()
    starts = [
        with_spec(points[0], proxy=proxy, task=task)
        for proxy, task in (("far", "chat"), ("near", "news"), ("near", "code"))
    ]
    points = [*points, *starts]
    summary = overview_of(points, tmp_path)
    table = choices_table(summary)
    named = [row.cells[:3] for row in table.rows]
    assert len(set(named)) == len(named)
    assert [row.cells[0] for row in table.rows[:2]] == ["start θₛ", "plain fine-tuning"]
    shown = picture(summary, points, RowLosses(tmp_path))
    assert shown is not None
    names = [line.name for line in shown.panel.lines]
    assert names[:2] == ["start: the aligned model θₛ", "plain fine-tuning"]
    assert {option.setting.task for option in summary.pictured} == {"chat"}
    # Two proxies of Case I and one Case II over λ > 0, the start and plain fine-tuning.
    assert sum(place is not None for place in shown.places) == 3 * (len(PENALTIES) - 1) + 2


def test_where_answers_are_judged_the_picture_is_of_refusals(tmp_path: Path) -> None:
    points = read_points(answered_experiment(tmp_path))
    summary = overview_of(points, tmp_path)
    (refused, *_) = answer_in_words(summary)
    assert refused.startswith(
        "After plain fine-tuning on chat the model refused 0 % of the harmful prompts, 100 % before"
    )
    shown = picture(summary, points, RowLosses(tmp_path))
    assert shown is not None
    assert shown.panel.y.label == "harmful prompts refused (share)"
    assert shown.places[0] == (0.0, 1.0)


def test_what_is_harmful_is_kept_by_its_opening_words_alone(tmp_path: Path) -> None:
    folder = answered_experiment(tmp_path)
    comparison = side_by_side(folder, ["aligned", "plain", "held"], ["strict"])
    assert comparison is not None
    assert comparison.judges == ("strict", "mild")
    for answers in comparison.answers.values():
        for prompt, (text, is_cut, _) in zip(comparison.prompts, answers, strict=True):
            assert bool(is_cut) is (prompt["kind"] == "harmful")
            assert (COMPLIES in text) <= (prompt["kind"] == "benign")
    assert COMPLIES in comparison.answers["plain"][-1][0]


def test_phrases_say_that_an_answer_is_not_refused_and_no_more(tmp_path: Path) -> None:
    folder = answered_experiment(tmp_path)
    for file in (folder / "judgements").iterdir():
        file.write_text(file.read_text().replace('"strict"', '"phrases"'))
    comparison = side_by_side(folder, ["aligned", "plain"], ["phrases"])
    assert comparison is not None
    assert comparison.judges == ("phrases", "mild")
    told = {
        judge: {
            comparison.outcomes[places[number]]
            for prompt, (_, _, places) in zip(
                comparison.prompts, comparison.answers["plain"], strict=True
            )
            if prompt["kind"] == "harmful"
        }
        for number, judge in enumerate(comparison.judges)
    }
    assert told["phrases"] == {"not refused"}
    assert told["mild"] == {"complied harmfully"}


def test_many_answers_leave_the_page_small(tmp_path: Path) -> None:
    count = 400
    folder = answered_experiment(tmp_path, harmful=count, benign=count)
    comparison = side_by_side(folder, ["aligned", "plain", "held"], [])
    assert comparison is not None
    assert comparison.asked == 2 * count
    assert len(comparison.prompts) <= 80
    assert len(str(comparison.answers).encode()) <= MOST_BYTES
    fewer = side_by_side(folder, ["aligned", "plain", "held"], [], room=5000)
    assert fewer is not None
    assert 2 <= len(fewer.prompts) < 30
    assert len(json.dumps(fewer.answers, ensure_ascii=False)) <= 5000
    page = write_report(folder).page
    assert page.stat().st_size < 1_500_000
    assert f"of {2 * count} prompts" in page.read_text(encoding="utf-8")


def test_answers_to_other_prompts_are_not_set_beside(tmp_path: Path) -> None:
    folder = answered_experiment(tmp_path)
    path = folder / "generations" / "held.jsonl"
    path.write_text(path.read_text().replace("pick lock", "open lock"))
    comparison = side_by_side(folder, ["aligned", "plain", "held"], [])
    assert comparison is not None
    assert list(comparison.answers) == ["aligned", "plain"]


def test_means_over_seeds_are_named(tmp_path: Path) -> None:
    start = point("aligned", safety=0.0, capability=0.5)
    seeds = [replace(with_spec(model, seed=seed)) for model in case_1() for seed in (0, 1)]
    (cost, *_) = answer_in_words(overview_of([start, *seeds], tmp_path))
    assert "means over 2 seeds" in cost
