from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.reported_points import (
    case_1,
    case_2,
    estimate,
    optima,
    point,
    sweep,
    with_spec,
    world,
)
from trimtab.analysis.findings import distances_in, findings, no_model_passes_the_limit
from trimtab.analysis.optimality_gap import optimality_gap
from trimtab.config.methods import ALIGNED, CASE_1, CASE_2
from trimtab.report import Finding
from trimtab.results.per_row_losses import RowLosses
from trimtab.results.result import Point
from trimtab.stats import Estimate, over_seeds

NEARER = {
    "near": Estimate.exact(0.1, "total variation"),
    "far": Estimate.exact(0.6, "total variation"),
}


def findings_over_seeds(
    points: Iterable[Point],
    rows: RowLosses | None = None,
    distances: Mapping[str, Estimate] = NEARER,
) -> tuple[Finding, ...]:
    """The findings of points of one seed, had a second seed come out the same."""
    points = list(points)
    second = [with_spec(model, seed=1) for model in points if model.method is not ALIGNED]
    return findings([*points, *second], rows, distances)


def finding_with(points: list[Point], word: str) -> Finding:
    (match,) = [finding for finding in findings_over_seeds(points) if word in finding.statement]
    return match


def test_a_sweep_that_follows_the_theory_bears_every_finding_out() -> None:
    results = findings_over_seeds(sweep())
    assert len(results) == 7
    assert {finding.verdict for finding in results} == {"holds"}


def test_wide_intervals_leave_everything_about_case_1_undecided() -> None:
    wide = [model for model in sweep(half_width=2.0) if model.method is CASE_1]
    assert {finding.verdict for finding in findings_over_seeds(wide)} == {"undecided"}


def test_one_point_speaks_to_no_finding() -> None:
    assert findings([point(penalty=1.0)]) == ()


def test_few_settings_or_one_seed_are_too_few_to_say() -> None:
    two_settings = [model for model in sweep() if model.spec.value in (None, 0.1, 10.0)]
    assert {finding.verdict for finding in findings_over_seeds(two_settings)} == {"too few to say"}
    assert {finding.verdict for finding in findings(sweep(), None, NEARER)} == {"too few to say"}


def test_no_points_speak_to_no_finding() -> None:
    assert findings_over_seeds([]) == ()


def test_the_proxy_with_the_higher_gap_at_one_penalty_is_not_the_nearer() -> None:
    crossing = [
        *case_1("near"),
        *(
            replace(model, alignment_gap=Estimate(0.0, 0.0, 0.0, "nats per token", "exact"))
            if model.spec.value == 10
            else model
            for model in case_1("far", floor=0.2)
        ),
    ]
    assert finding_with(crossing, "nearer").verdict == "does not hold"


def test_a_known_world_says_which_proxy_is_nearer() -> None:
    swapped = [
        with_spec(model, proxy={"near": "far", "far": "near"}[model.proxy or ""])
        for model in sweep()[1:9]
    ]
    assert findings_over_seeds(swapped)[0].verdict == "does not hold"
    known = findings_over_seeds(swapped, distances=distances_in(world()))[0]
    assert known.verdict == "does not hold"
    assert "total variation" in known.evidence


def test_exchanged_proxies_do_not_say_the_same() -> None:
    """The gaps that a finding is to explain must not tell it which proxy is nearer."""
    exchanged = {"near": NEARER["far"], "far": NEARER["near"]}
    assert findings_over_seeds(sweep())[0].verdict == "holds"
    assert findings_over_seeds(sweep(), distances=exchanged)[0].verdict == "does not hold"


def test_which_proxy_is_nearer_is_left_open_where_nobody_says() -> None:
    for distances in (
        {},
        {"near": NEARER["near"]},
        {"near": estimate(0.3, 0.2), "far": estimate(0.4, 0.2)},
    ):
        open_ = findings_over_seeds(sweep(), distances=distances)[0]
        assert open_.verdict == "undecided"
        assert "not known" in open_.evidence


def test_proxies_are_compared_at_the_penalties_both_were_given() -> None:
    unequal = [*case_1("near"), *case_1("far", floor=0.2, penalties=(0.1, 1.0, 3.0, 10.0))]
    assert "3 of 3 penalties" in finding_with(unequal, "nearer").evidence


def test_proxies_without_a_common_penalty_are_not_compared() -> None:
    apart = [*case_1("near", penalties=(1.0,)), *case_1("far", penalties=(2.0,))]
    assert not [finding for finding in findings_over_seeds(apart) if "nearer" in finding.statement]


def test_proxy_gaps_of_two_proxies_are_not_compared() -> None:
    points = [*case_1("near", original=False), *case_1("far", original=False)]
    results = findings_over_seeds(points)
    assert not [finding for finding in results if "nearer" in finding.statement]
    assert any("lowers the proxy gap" in finding.statement for finding in results)


def test_a_penalty_that_raises_the_alignment_gap_is_told() -> None:
    backwards = [with_spec(model, value=10 - (model.spec.value or 0)) for model in case_1()]
    assert finding_with(backwards, "lowers the alignment gap").verdict == "does not hold"


def test_without_overlap_no_trend_is_asked_for() -> None:
    results = findings_over_seeds(case_1(cost=0.0, overlap=0.0))
    assert not [finding for finding in results if "λ raises" in finding.statement]


def test_plain_fine_tuning_is_no_part_of_case_1s_trend() -> None:
    jump = [
        replace(model, alignment_gap=Estimate(0.0, 0.0, 0.0, "nats per token", "exact"))
        if model.spec.is_plain
        else model
        for model in case_1()
    ]
    assert finding_with(jump, "lowers the alignment gap").verdict == "holds"


def test_overlap_that_costs_less_is_told() -> None:
    points = [*case_1(task="a", cost=0.6, overlap=0.1), *case_1(task="b", cost=0.1, overlap=0.9)]
    assert finding_with(points, "overlap the proxy's").verdict == "does not hold"


def test_overlaps_that_may_be_the_same_order_nothing() -> None:
    points = [*case_1(task="a", cost=0.1, overlap=0.94), *case_1(task="b", cost=0.6, overlap=0.95)]
    assert finding_with(points, "overlap the proxy's").verdict == "holds"
    unsure = [
        replace(model, context_overlap=estimate(model.context_overlap.value, 0.03))
        for model in points
        if model.context_overlap
    ]
    unclear = finding_with(unsure, "overlap the proxy's")
    assert unclear.verdict == "undecided"
    assert "cannot be told apart" in unclear.evidence


def test_case_2_below_case_1_is_told() -> None:
    points = [*case_1(cost=0.9), *case_2(height=0.01)]
    assert finding_with(points, "steeper").verdict == "does not hold"


def test_a_minority_of_models_beyond_case_1s_line_leaves_it_open() -> None:
    """Case II at four more strengths, which cost what Case I costs."""
    line = case_1()
    steep = [model for model in case_2() if not model.spec.is_plain]
    alike = [
        with_spec(model, method=CASE_2, value=(model.spec.value or 0) * 7)
        for model in case_1(penalties=(0.1, 1.0, 10.0, 30.0))
    ]
    assert finding_with([*line, *steep], "steeper").verdict == "holds"
    finding = finding_with([*line, *steep, *alike], "steeper")
    assert finding.verdict == "undecided"
    assert "of 7 Case II models 2 cost more" in finding.evidence


def test_a_setting_that_another_beats_in_both_is_no_part_of_case_1s_line() -> None:
    """Or a penalty that is too large would make Case II look the cheaper one."""
    beaten = replace(
        with_spec(case_1()[-1], value=77.0),
        alignment_gap=estimate(9.0),
        capability_gap=estimate(9.0),
    )
    points = [*case_1(), *case_2(), beaten]
    assert finding_with(points, "steeper").verdict == "holds"


def test_on_every_task_case_2_has_to_be_steeper() -> None:
    news = [
        *case_1(task="news"),
        *(with_spec(model, method=CASE_2) for model in case_1(task="news")),
    ]
    assert finding_with([*case_1(), *case_2()], "steeper").verdict == "holds"
    assert finding_with([*case_1(), *case_2(), *news], "steeper").verdict == "undecided"


def test_a_ball_is_compared_like_a_penalty() -> None:
    points = [*case_1(), *case_2(by="radius")]
    assert finding_with(points, "steeper").verdict == "holds"
    assert "at ε = ∞" in finding_with(points, "smaller ε) lowers").evidence


def test_evidence_carries_numbers_with_their_unit() -> None:
    for finding in findings_over_seeds(sweep()):
        assert "nats per token" in finding.evidence
        assert any(digit in finding.evidence for digit in "123456789")


def test_one_seed_keeps_its_own_interval() -> None:
    alone = Estimate(1.0, 0.9, 1.2, "nats per token", "estimate")
    assert over_seeds([alone]) == alone


def test_the_interval_over_seeds_covers_the_mean_it_should() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        values = generator.normal(1.0, 0.1, size=4)
        mean = over_seeds([Estimate(v, v, v, "nats per token", "exact") for v in values])
        covered += mean.low <= 1.0 <= mean.high
    assert 0.92 <= covered / 400 <= 0.98


def test_models_are_compared_row_by_row_where_the_rows_are_known(tmp_path: Path) -> None:
    """Rows differ by far more than the models do, and every row says the same of the models."""
    generator = np.random.default_rng(0)
    tokens = np.full(60, 10.0)
    hard = generator.gamma(2.0, 5.0, 60)
    rows, points = RowLosses(tmp_path), []
    for model in case_1(half_width=0.5, penalties=(0.1, 1.0, 10.0)):
        assert model.alignment_gap is not None
        assert model.capability_gap is not None
        name = f"lambda-{model.spec.value:g}"
        losses = {
            "original": np.stack([hard + 10 * model.alignment_gap.value, tokens]),
            "task:chat": np.stack([hard + 10 * model.capability_gap.value, tokens]),
        }
        rows.save(name, losses)
        points.append(replace(model, model=name))
    apart = {finding.statement: finding.verdict for finding in findings_over_seeds(points)}
    paired = {
        finding.statement: finding.verdict for finding in findings_over_seeds(points, rows=rows)
    }
    assert set(apart.values()) == {"undecided"}
    assert set(paired.values()) == {"holds"}
    # Rows that are not the same tell nothing of the difference.
    rows.save("lambda-10", {name: losses[:, :30] for name, losses in losses.items()})
    assert "undecided" in {finding.verdict for finding in findings_over_seeds(points, rows=rows)}


def test_what_a_seed_does_to_both_models_cancels() -> None:
    shifted = [
        replace(
            model,
            alignment_gap=model.alignment_gap.minus(-0.5 * model.seed),
            capability_gap=model.capability_gap.minus(-0.5 * model.seed),
        )
        for model in case_1(seeds=(0, 1, 2))
        if model.alignment_gap and model.capability_gap
    ]
    assert {finding.verdict for finding in findings(shifted)} == {"holds"}


def test_exact_optima_reach_the_limit() -> None:
    known_world = world()
    for gap in optimality_gap(optima(known_world, (0.1, 1.0, 10.0), stray=0.0), known_world):
        assert gap.on_proxy is not None
        assert gap.on_proxy.capability_gap.value == pytest.approx(gap.on_proxy.limit, abs=1e-9)
        assert not gap.is_impossible


def test_strayed_optima_lie_above_both_limits() -> None:
    known_world = world()
    near = optimality_gap(optima(known_world), known_world)
    assert all(gap.on_proxy and gap.on_proxy.excess >= -1e-9 for gap in near)
    assert all(gap.on_original and gap.on_original.excess >= -1e-9 for gap in near)
    finding = no_model_passes_the_limit(near)
    assert finding is not None
    assert finding.verdict == "holds"


def test_a_point_below_the_limit_is_a_mistake_somewhere() -> None:
    known_world = world()
    impossible = [
        replace(optimum, capability_gap=optimum.capability_gap.minus(0.1))
        for optimum in optima(known_world, (10.0,))
        if optimum.capability_gap is not None and optimum.task == "chat"
    ]
    near = optimality_gap(impossible, known_world)
    assert all(gap.is_impossible for gap in near)
    broken = no_model_passes_the_limit(near)
    assert broken is not None
    assert broken.verdict == "does not hold"
    assert "mistake" in broken.evidence


def test_a_point_below_the_limit_within_its_interval_is_no_mistake() -> None:
    known_world = world()
    (optimum, *_) = [p for p in optima(known_world, (10.0,)) if p.task == "chat"]
    assert optimum.capability_gap is not None
    value = optimum.capability_gap.value - 0.1
    wide = replace(optimum.capability_gap, value=value, low=value - 0.2, high=value + 0.2)
    (near,) = optimality_gap([replace(optimum, capability_gap=wide)], known_world)
    assert near.on_proxy is not None
    assert near.on_proxy.excess < 0
    assert not near.is_impossible
