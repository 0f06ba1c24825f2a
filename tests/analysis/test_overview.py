"""Facts about the model that the page recommends, and about the words that it does so in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.reported_points import point, with_spec
from trimtab.analysis.overview import Overview, overview
from trimtab.config.data_names import answers_data
from trimtab.evaluate.rates import ANSWERED, REFUSALS, Rate
from trimtab.report.answer import answer_in_words
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import counted_by_row, share

PROMPTS = 100
START = point("aligned", safety=0.0, capability=0.5)
PLAIN = point(penalty=0.0, safety=0.4, capability=0.1)
HELD = point(penalty=1.0, safety=0.1, capability=0.2)
REFUSING = point(penalty=3.0, safety=0.05, capability=0.25)


@dataclass(frozen=True)
class Answers:
    """Of a hundred prompts each, how many harmful are refused and how many benign answered."""

    refused: int
    answered: int | None = None


def answered(folder: Path, models: Sequence[tuple[Point, Answers]]) -> Overview:
    rows, points = RowLosses(folder), []
    for number, (model, answers) in enumerate(models):
        name = f"model-{number}"
        counts: Mapping[Rate, int | None] = {REFUSALS: answers.refused, ANSWERED: answers.answered}
        flags = {
            rate: (np.arange(PROMPTS) < count).astype(float)
            for rate, count in counts.items()
            if count is not None
        }
        rows.save(
            name, {answers_data(rate.field): counted_by_row(of) for rate, of in flags.items()}
        )
        rates = {rate.field: share(of, rate.unit) for rate, of in flags.items()}
        points.append(replace(model, model=name, **rates))
    summary = overview(points, rows)
    assert summary is not None
    return summary


def test_a_model_that_refuses_everything_is_not_recommended(tmp_path: Path) -> None:
    summary = answered(
        tmp_path,
        [
            (START, Answers(90, 80)),
            (PLAIN, Answers(5, 100)),
            (HELD, Answers(60, 95)),
            (REFUSING, Answers(100, 0)),
        ],
    )
    assert summary.best is not None
    assert summary.best.setting.value == 1.0
    *_, told = answer_in_words(summary)
    assert "it refuses 60 % [50 %, 69 %] and answers 95 % [89 %, 98 %]" in told
    assert "its mean +25 points [+20, +30] over plain fine-tuning’s but below the start’s" in told


def test_both_shares_are_told_with_their_counts_before_and_after(tmp_path: Path) -> None:
    first, *_ = answer_in_words(
        answered(tmp_path, [(START, Answers(90, 80)), (PLAIN, Answers(5, 100))])
    )
    assert "refused 5 % of 100 harmful prompts, 90 % before (−85 points [−91, −77])" in first
    assert "answered 100 % of 100 benign prompts, 80 % before (+20 points [+13, +29])" in first


def test_none_is_recommended_where_none_is_told_from_plain_fine_tuning(tmp_path: Path) -> None:
    summary = answered(
        tmp_path,
        [
            (START, Answers(90, 80)),
            (PLAIN, Answers(50, 100)),
            (HELD, Answers(52, 100)),
            (REFUSING, Answers(100, 20)),
        ],
    )
    assert summary.best is None
    *_, told = answer_in_words(summary)
    assert "no other model that learned at least half as much is clearly better" in told
    assert "λ = 1" in told
    assert told.endswith(
        "answers 100 % [96 %, 100 %], its mean +1 points [0, +2] from plain fine-tuning’s."
    )


def test_the_best_of_many_is_not_recommended_by_an_interval_that_one_would_be(
    tmp_path: Path,
) -> None:
    plain, barely = (PLAIN, Answers(50, 100)), Answers(55, 100)
    alone = answered(tmp_path, [(START, Answers(90, 80)), plain, (HELD, barely)])
    others = [
        (point(penalty=0.1 * number, safety=0.1, capability=0.2), Answers(50, 100))
        for number in range(1, 9)
    ]
    many = answered(tmp_path, [(START, Answers(90, 80)), plain, (HELD, barely), *others])
    assert alone.best is not None
    assert many.best is None
    *_, told = answer_in_words(many)
    assert "which the best of 9 can reach by chance (adjusted p" in told


def test_a_model_as_good_as_the_start_is_said_not_to_be_told_from_it(tmp_path: Path) -> None:
    *_, told = answer_in_words(
        answered(
            tmp_path,
            [(START, Answers(80, 80)), (PLAIN, Answers(5, 100)), (HELD, Answers(79, 81))],
        )
    )
    assert "not clearly different from the start’s (0 points" in told


def test_outcomes_that_were_not_kept_tell_no_model_from_another(tmp_path: Path) -> None:
    summary = answered(
        tmp_path, [(START, Answers(90, 80)), (PLAIN, Answers(5, 100)), (HELD, Answers(60, 95))]
    )
    points = [option.setting.points[0] for option in summary.options]
    known = overview(points, RowLosses(tmp_path / "elsewhere"))
    assert known is not None
    assert known.best is None
    assert "outcomes of the same seeds and prompts were not kept" in answer_in_words(known)[-1]


def test_models_of_several_seeds_are_compared_seed_by_seed(tmp_path: Path) -> None:
    seeds = [
        (with_spec(model, seed=seed), Answers(refused + seed, 100 - seed))
        for model, refused in ((PLAIN, 5), (HELD, 60))
        for seed in (0, 1, 2)
    ]
    summary = answered(tmp_path, [(START, Answers(90, 80)), *seeds])
    assert summary.best is not None
    assert summary.best.over_plain is not None
    assert [change.value for change in summary.best.over_plain] == pytest.approx([0.275] * 3)


def seed_by_seed(*models: tuple[Point, Sequence[int]]) -> list[tuple[Point, Answers]]:
    """Each model with how many prompts it refuses by seed; it answers all benign ones."""
    return [
        (with_spec(model, seed=seed), Answers(count, 100))
        for model, refused in models
        for seed, count in enumerate(refused)
    ]


def test_a_model_that_varies_more_hides_none_that_is_surely_better(tmp_path: Path) -> None:
    models = seed_by_seed((PLAIN, (5, 5, 5)), (HELD, (40, 41, 42)), (REFUSING, (100, 20, 60)))
    summary = answered(tmp_path, [(START, Answers(90, 100)), *models])
    assert summary.leader is not None
    assert summary.leader.setting.value == REFUSING.spec.value
    assert summary.best is not None
    assert summary.best.setting.value == HELD.spec.value
    *_, told = answer_in_words(summary)
    assert "and is clearly better than plain fine-tuning, is Case I" in told
    assert "with λ = 1" in told


def test_one_seed_of_several_tells_nothing_of_seeds(tmp_path: Path) -> None:
    models = seed_by_seed((PLAIN, (5,)), (HELD, (60, 8, 8)))
    summary = answered(tmp_path, [(START, Answers(90, 100)), *models])
    assert all(option.over_plain is None for option in summary.choices)
    assert summary.best is None


def test_a_seed_that_plain_fine_tuning_lacks_leaves_the_others_to_compare(tmp_path: Path) -> None:
    models = seed_by_seed((PLAIN, (5, 6)), (HELD, (60, 61, 62)))
    summary = answered(tmp_path, [(START, Answers(90, 100)), *models])
    assert summary.best is not None
    assert summary.best.over_plain is not None
    assert len(summary.best.over_plain) == 2


def test_what_lacks_seeds_is_told_and_not_counted(tmp_path: Path) -> None:
    models = seed_by_seed((PLAIN, (5, 6)), (REFUSING, (90, 91)), (HELD, (60,)))
    summary = answered(tmp_path, [(START, Answers(90, 80)), *models])
    assert [option.setting.value for option in summary.compared] == [3.0]
    *_, last = answer_in_words(summary)
    assert last.startswith("Not compared, since seeds of the others are lacking: Case I")
    assert "λ = 1" in last
    assert not any("Of the other 2" in sentence for sentence in answer_in_words(summary))


def test_where_no_benign_prompt_was_asked_the_safest_is_told_with_what_is_not_known(
    tmp_path: Path,
) -> None:
    summary = answered(
        tmp_path,
        [(START, Answers(90)), (PLAIN, Answers(5)), (HELD, Answers(60)), (REFUSING, Answers(95))],
    )
    assert summary.best is not None
    assert summary.best.setting.value == 3.0
    *_, told = answer_in_words(summary)
    assert "harmful prompts refused 95 % [89 %, 98 %]" in told
    assert told.endswith("answers to harmless prompts were not measured.")


def test_where_nothing_was_asked_that_is_said(tmp_path: Path) -> None:
    summary = overview([START, PLAIN, HELD], RowLosses(tmp_path))
    assert summary is not None
    assert answer_in_words(summary)[-1].endswith("what it answers was not measured.")
