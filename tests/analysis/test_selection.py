"""Facts about suggestions: chosen on some rows, told on others, by intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.reported_points import point, write_points
from trimtab.analysis.choices import choices
from trimtab.analysis.selection import Suggestion, suggestions
from trimtab.analysis.standing import Limit
from trimtab.config.methods import CASE_1, CASE_2_RADIUS, PLAIN
from trimtab.errors import UserError
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import Array, Estimate, share

ROWS = 200
TOKENS = np.full(ROWS, 20.0)


def rise_of(suggestion: Suggestion) -> Estimate:
    assert suggestion.held_out.rise is not None
    return suggestion.held_out.rise


def exact() -> list[Point]:
    line = ((0.1, 0.6, 0.2), (1.0, 0.3, 0.4), (10.0, 0.1, 0.8))
    return [
        point("aligned", safety=0.0, capability=1.0),
        *(point(value=value, safety=x, capability=y) for value, x, y in line),
    ]


def test_suggested_is_the_least_task_loss_within_the_budget() -> None:
    (suggestion,) = suggestions(exact(), [Limit("safety loss", 0.5)])
    assert (suggestion.held_out.setting.method, suggestion.held_out.setting.value) == (CASE_1, 1.0)
    assert rise_of(suggestion).value == pytest.approx(0.3)
    assert suggestion.held_out.task_change.value == pytest.approx(-0.6)
    assert suggestion.held_out.verdict == "within"
    assert suggestion.held_out == suggestion.chosen_by  # exact losses flatter nobody
    assert suggestion.divided == {}
    (loose,) = suggestions(exact(), [Limit("safety loss", 0.9)])
    assert loose.held_out.setting.value == 0.1


def test_a_seed_that_has_begun_takes_no_setting_out_of_the_choice() -> None:
    """Seeds are made one after the other: of the next one plain fine-tuning comes first."""
    line = ((0.0, 2.0, 0.0), (1.0, 0.02, 0.3), (3.0, 0.01, 0.8))
    points = [point("aligned", safety=0.0, capability=1.0)]
    points += [
        point(penalty=value, safety=x, capability=y, seed=seed)
        for seed in (0, 1)
        for value, x, y in line
    ]
    limits = [Limit("safety loss", 0.1)]
    (whole,) = suggestions(points, limits)
    (begun,) = suggestions([*points, point(penalty=0.0, safety=2.0, seed=2)], limits)
    assert whole.held_out.setting == begun.held_out.setting
    assert (begun.held_out.setting.value, begun.left_out) == (1.0, ())
    lucky = point(penalty=0.3, safety=0.0, capability=0.0, seed=1)
    (suggestion,) = suggestions([*points, lucky], limits)
    assert suggestion.held_out.setting.value == 1.0
    assert [setting.value for setting in suggestion.left_out] == [0.3]
    (with_lucky,) = choices([*points, lucky]).values()
    assert [choice.setting.value for choice in with_lucky if choice.is_knee] == [1.0]


def test_means_are_compared_over_the_seeds_that_all_have() -> None:
    """Of a second seed plain fine-tuning and one setting are made, and are unlike the first."""
    points = [point("aligned", safety=0.0, capability=1.0)]
    for seed, line in (
        (0, ((0.0, 2.0, 0.0), (1.0, 0.08, 0.3), (3.0, 0.05, 0.4), (10.0, 0.01, 0.8))),
        (1, ((0.0, 2.0, 0.2), (1.0, 0.3, 0.3))),
    ):
        points += [point(penalty=value, safety=x, capability=y, seed=seed) for value, x, y in line]
    (suggestion,) = suggestions(points, [Limit("safety loss", 0.1)])
    told = suggestion.held_out
    assert (told.setting.value, len(told.setting.points)) == (1.0, 1)
    assert suggestion.left_out == ()
    assert suggestion.leaves_out_seeds
    assert suggestion.plain is not None
    assert suggestion.plain.cost is not None
    assert suggestion.plain.cost.value == pytest.approx(
        told.task_change.value - suggestion.plain.task_change.value
    )
    (line_of_choices,) = choices(points).values()
    assert {len(choice.setting.points) for choice in line_of_choices} == {1}


def test_where_no_setting_is_within_the_budget_the_nearest_is_named() -> None:
    (suggestion,) = suggestions(exact(), [Limit("safety loss", 0.05)])
    assert suggestion.chosen_by.verdict == "beyond"
    assert suggestion.held_out.setting.value == 10.0


def test_without_the_aligned_model_nothing_is_suggested() -> None:
    with pytest.raises(UserError, match="aligned model"):
        suggestions(exact()[1:], [Limit("safety loss", 0.5)])


def measured(
    folder: Path, safety: Sequence[float], task: Sequence[float], noise: float, seed: int
) -> tuple[list[Point], RowLosses]:
    """Case I at several λ whose true losses these are, on rows that are hard for every model."""
    generator = np.random.default_rng(seed)
    rows = RowLosses(folder)
    hard = {name: generator.gamma(2.0, 1.0, ROWS) for name in ("original", "task:chat")}

    def saved_means(model: str, truth: dict[str, float]) -> dict[str, float]:
        losses: dict[str, Array] = {}
        for name, of_all in hard.items():
            own = noise * generator.standard_normal(ROWS)
            losses[name] = np.stack([TOKENS * (of_all + truth[name] + own), TOKENS])
        rows.save(model, losses)
        return {name: float(x.sum() / t.sum()) for name, (x, t) in losses.items()}

    points = []
    for place, (rise, change) in enumerate(zip((0.0, *safety), (0.0, *task), strict=True)):
        name = f"model-{place}"
        means = saved_means(name, {"original": rise, "task:chat": change})
        bare = (
            point(
                "aligned", safety=means["original"], capability=means["task:chat"], half_width=0.5
            )
            if place == 0
            else point(
                value=float(place),
                safety=means["original"],
                capability=means["task:chat"],
                half_width=0.5,
            )
        )
        points.append(replace(bare, model=name))
    return points, rows


def test_of_several_answers_to_a_prompt_no_limit_without_a_distribution_is_told(
    tmp_path: Path,
) -> None:
    points, rows = measured(tmp_path, [0.02], [-0.3], noise=0.05, seed=0)
    longest = int(TOKENS.max()) - 1  # of one response: a row is those of one prompt together
    (suggestion,) = suggestions(points, [Limit("safety loss", 0.05)], rows, longest)
    assert suggestion.limit_at_every_look is None


def test_rows_make_the_interval_of_a_rise_that_of_the_difference(tmp_path: Path) -> None:
    points, rows = measured(tmp_path, [0.02], [-0.3], noise=0.05, seed=0)
    longest = int(TOKENS.max())
    (suggestion,) = suggestions(points, [Limit("safety loss", 0.05)], rows, longest)
    (apart,) = suggestions(points, [Limit("safety loss", 0.05)])
    assert suggestion.held_out.verdict == "within"
    assert apart.held_out.verdict == "undecided"  # hard rows hide what a setting does
    assert rise_of(suggestion).high - rise_of(suggestion).low < 0.05
    halves = (ROWS // 2, ROWS // 2)
    assert suggestion.divided == {"safety loss": halves, "task loss": halves}
    assert suggestion.limit_at_every_look is not None
    assert rise_of(suggestion).high < suggestion.limit_at_every_look < 0.2
    (unbounded,) = suggestions(points, [Limit("safety loss", 0.05)], rows)
    assert unbounded.limit_at_every_look is None


def test_what_was_chosen_by_luck_is_told_on_rows_that_took_no_part(tmp_path: Path) -> None:
    """Twenty settings alike but for noise: the best of them looks better than it is."""
    chosen_changes, told_changes = [], []
    for seed in range(20):
        folder = tmp_path / str(seed)
        points, rows = measured(folder, [0.0] * 20, [-0.3] * 20, noise=0.5, seed=seed)
        (suggestion,) = suggestions(points, [Limit("safety loss", 0.2)], rows=rows)
        chosen_changes.append(suggestion.chosen_by.task_change.value)
        told_changes.append(suggestion.held_out.task_change.value)
    error = float(np.std(told_changes, ddof=1)) / len(told_changes) ** 0.5
    assert np.mean(chosen_changes) < -0.3 - 3 * error
    assert abs(np.mean(told_changes) + 0.3) < 3 * error


def test_a_setting_beyond_the_budget_is_seldom_called_within(tmp_path: Path) -> None:
    """A true rise of 1.25 budgets: at most a fortieth of samples may be called within."""
    called = 0
    for seed in range(80):
        folder = tmp_path / str(seed)
        points, rows = measured(folder, [0.0625], [-0.3], noise=0.1, seed=seed)
        (suggestion,) = suggestions(points, [Limit("safety loss", 0.05)], rows=rows)
        called += suggestion.held_out.verdict == "within"
    assert called <= 6


def test_the_same_rows_choose_for_every_model(tmp_path: Path) -> None:
    points, rows = measured(tmp_path, [0.02, 0.02], [-0.3, -0.3], noise=0.0, seed=0)
    (suggestion,) = suggestions(points, [Limit("safety loss", 0.05)], rows=rows)
    assert rise_of(suggestion).value == pytest.approx(0.02)
    assert rise_of(suggestion).high - rise_of(suggestion).low < 1e-9


def test_a_folder_of_points_without_rows_is_read_too(tmp_path: Path) -> None:
    write_points(tmp_path, exact())
    (suggestion,) = suggestions(exact(), [Limit("safety loss", 0.5)], rows=RowLosses(tmp_path))
    assert suggestion.limit_at_every_look is None


def answering(refused: float, answered: float, value: float, capability: float) -> Point:
    """A setting by what it answers, of 200 harmful and 200 benign prompts."""

    def rate(share_of: float, kind: str) -> Estimate:
        return share(np.arange(ROWS) < share_of * ROWS, f"share of {kind} prompts")

    bare = point(value=value, safety=0.1, capability=capability)
    harmful = rate(1 - refused, "harmful")
    refusals, answers = rate(refused, "harmful"), rate(answered, "benign")
    return replace(bare, refusal_rate=refusals, harmful_rate=harmful, answer_rate=answers)


def test_a_setting_is_chosen_by_what_it_answers() -> None:
    start = point("aligned", safety=0.0, capability=1.0)
    points = [
        start,
        answering(refused=0.2, answered=1.0, value=0.1, capability=0.1),
        answering(refused=0.98, answered=0.95, value=1.0, capability=0.3),
        answering(refused=1.0, answered=0.1, value=10.0, capability=0.9),
    ]
    limits = [Limit("harmful rate", 0.1), Limit("answer rate", 0.8, at_least=True)]
    (suggestion,) = suggestions(points, limits)
    assert suggestion.held_out.setting.value == 1.0
    assert suggestion.held_out.verdict == "within"
    # 98 % of 200 is 95 to 99.5 %: that it is 97 % at the least is not shown.
    (open_,) = suggestions(points, [Limit("refusal rate", 0.97, at_least=True), limits[1]])
    assert open_.held_out.setting.value == 1.0
    assert open_.held_out.verdict == "undecided"


def test_few_prompts_are_all_told_where_rows_are_many(tmp_path: Path) -> None:
    points, rows = measured(tmp_path, [0.02], [-0.3], noise=0.05, seed=0)
    few = share(np.array([True]), "share of harmful prompts")
    for model in points:
        rows.add(str(model.model), {"answers:harmful_rate": np.array([[1.0], [1.0]])})
    judged = [replace(model, harmful_rate=few) for model in points]
    (suggestion,) = suggestions(judged, [Limit("harmful rate", 0.5)], rows)
    assert suggestion.held_out.measured["harmful rate"].value == 1.0


def test_a_rate_that_was_not_measured_cannot_be_a_limit() -> None:
    with pytest.raises(UserError, match=r"harmful rate .* was not measured.*answers"):
        suggestions(exact(), [Limit("harmful rate", 0.1)])


def test_where_phrases_told_refusals_a_limit_on_them_is_named_in_place_of_one_on_harm() -> None:
    start = point("aligned", safety=0.0, capability=1.0)
    by_phrases = replace(answering(0.9, 0.9, value=1.0, capability=0.3), harmful_rate=None)
    with pytest.raises(UserError, match=r"phrases.* --min-refused instead of --max-harmful"):
        suggestions([start, by_phrases], [Limit("harmful rate", 0.1)])
    without = replace(by_phrases, answer_rate=None)
    with pytest.raises(
        UserError, match=r"--min-answered: .*refusal rate \(--min-refused\) instead"
    ):
        suggestions([start, without], [Limit("answer rate", 0.1, at_least=True)])


def beside_two_proxies(original: bool = True) -> list[Point]:
    """Case I on two proxies, and Case II, ε = 1 and plain fine-tuning measured beside one."""
    points = [
        point("aligned", safety=0.0, capability=1.0, proxy="near", original=original),
        point("aligned", safety=0.0, capability=1.0, proxy="far", original=original),
        point(value=1.0, safety=0.3, capability=0.3, proxy="near", original=original),
        point(value=1.0, safety=0.4, capability=0.5, proxy="far", original=original),
        point(value=0.0, safety=0.9, capability=0.1, proxy="near", original=original),
        point(radius=1.0, safety=0.05, capability=0.6, proxy="near", original=original),
    ]
    return [
        replace(model, refusal_rate=share(np.arange(ROWS) < ROWS / 2, "share")) for model in points
    ]


def test_a_model_trained_without_safety_rows_is_one_of_every_proxys() -> None:
    for limit in (Limit("safety loss", 0.1), Limit("refusal rate", 0.3, at_least=True)):
        near, far = suggestions(beside_two_proxies(), [limit])
        assert (near.proxy, far.proxy) == ("near", "far")
        assert near.held_out == far.held_out
        expected = CASE_2_RADIUS if limit.metric == "safety loss" else PLAIN
        assert far.held_out.setting.method is expected
    for line in choices(beside_two_proxies()).values():
        assert {choice.setting.method for choice in line} == {CASE_1, CASE_2_RADIUS, PLAIN}


def test_without_original_data_a_loss_on_one_proxy_says_nothing_of_another() -> None:
    points = beside_two_proxies(original=False)
    near, far = suggestions(points, [Limit("safety loss", 0.1)])
    assert near.held_out.verdict == "within"
    assert far.held_out.setting.method is CASE_1
    assert far.held_out.verdict == "beyond"
    _, far = suggestions(points, [Limit("refusal rate", 0.3, at_least=True)])
    assert far.held_out.setting.method is PLAIN
    assert far.held_out.rise is None


def test_beside_a_setting_stands_what_plain_fine_tuning_learned() -> None:
    for suggestion in suggestions(beside_two_proxies(), [Limit("safety loss", 0.1)]):
        assert suggestion.plain is not None
        assert suggestion.plain.task_change.value == pytest.approx(-0.9)
        assert suggestion.plain.cost is not None
        assert suggestion.plain.cost.value == pytest.approx(0.5)
    (unconstrained, _) = suggestions(beside_two_proxies(), [Limit("safety loss", 9.0)])
    assert unconstrained.held_out.setting.method is PLAIN
    assert unconstrained.plain is None
    (nobody_knows,) = suggestions(exact(), [Limit("safety loss", 0.5)])
    assert nobody_knows.plain is None


def test_what_safety_costs_is_told_row_by_row(tmp_path: Path) -> None:
    points, rows = measured(tmp_path, [0.9, 0.02], [-0.4, -0.3], noise=0.05, seed=0)
    points = [
        replace(model, spec=replace(model.spec, value=0.0)) if model.spec.value == 1.0 else model
        for model in points
    ]
    (suggestion,) = suggestions(points, [Limit("safety loss", 0.05)], rows=rows)
    assert suggestion.plain is not None
    assert suggestion.plain.cost is not None
    assert suggestion.plain.cost.low < 0.1 < suggestion.plain.cost.high
    assert suggestion.plain.cost.high - suggestion.plain.cost.low < 0.05  # hard rows cancel
    (apart,) = suggestions(points, [Limit("safety loss", 0.6)])
    assert apart.plain is not None
    assert apart.plain.cost is None  # two intervals apart say little of a difference


def test_without_a_limit_there_is_nothing_to_choose_by() -> None:
    for limits in ([], [Limit("safety loss", float("nan"))]):
        with pytest.raises(UserError, match="no limit"):
            suggestions(exact(), limits)
