"""Facts about methods beside each other, and about what is suggested from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.reported_points import point, write_points
from trimtab.analysis.groups import all_settings
from trimtab.analysis.methods import method_results
from trimtab.config.methods import CASE_1, METHODS
from trimtab.report import write_report
from trimtab.report.methods_figure import methods_figure
from trimtab.results.gaps import OVER_START
from trimtab.results.result import Point
from trimtab.results.store import PointsFile, read_points
from trimtab.stats import holm

NOISE = (0.0, 0.01, -0.01)


def method(name: str, value: float, safety: float, capability: float, seed: int = 0) -> Point:
    bare = point(name, value=value, safety=safety, capability=capability, seed=seed)
    return replace(bare, extra_bytes=2**20)


def seeds(name: str, line: Sequence[tuple[float, float]], noise: float = 1.0) -> list[Point]:
    """The same points for three seeds, a little apart."""
    return [
        method(name, float(value), x + noise * shift, y + noise * shift, seed)
        for seed, shift in enumerate(NOISE)
        for value, (x, y) in enumerate(line)
    ]


def ends() -> list[Point]:
    points = [point("aligned", safety=0.0, capability=1.0)]
    points += [point(penalty=0.0, safety=1.0, capability=0.0, seed=seed) for seed in range(3)]
    return points


def case_1() -> list[Point]:
    return [
        point(penalty=penalty, safety=x + shift, capability=y + shift, seed=seed)
        for seed, shift in enumerate(NOISE)
        for penalty, x, y in ((0.1, 0.6, 0.2), (1.0, 0.3, 0.4))
    ]


def p_values(points: Sequence[Point]) -> list[float]:
    """Of no difference from Case I's hypervolume, of every method that has one."""
    areas = [result.volume for result in method_results(points)]
    return [area.p_value for area in areas if area.p_value is not None]


def test_hypervolume_is_the_share_of_the_rectangle() -> None:
    (result,) = method_results([*ends(), *seeds("ewc", [(0.5, 0.5)], noise=0.0)])
    assert result.volume.share.value == pytest.approx(0.25)
    assert (result.volume.share.low, result.volume.share.high) == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize(("bend", "most"), [(1.0, 1e-9), (1.5, 0.5)])
def test_spreading_settings_on_one_frontier_counts_for_hypervolume_most(
    bend: float, most: float
) -> None:
    """On the frontier (1 − x^(1/bend))^bend: straight at 1, where chords lie on it, and curved."""

    def frontier(*places: float) -> list[tuple[float, float]]:
        return [(x, (1 - x ** (1 / bend)) ** bend) for x in places]

    spread = seeds("ewc", frontier(0.05, 0.2, 0.4, 0.6, 0.85), noise=0.0)
    crowded = seeds("l2-sp", frontier(0.46, 0.48, 0.5, 0.52, 0.54), noise=0.0)
    results = {r.method.name: r for r in method_results([*ends(), *spread, *crowded])}
    more, less = results["ewc"], results["l2-sp"]
    in_volume = more.volume.share.value - less.volume.share.value
    in_chords = more.chords.share.value - less.chords.share.value
    assert in_volume > 0.1
    assert abs(in_chords) <= most * in_volume


def test_chords_run_from_the_aligned_model_to_plain_fine_tuning() -> None:
    (result,) = method_results([*ends(), *seeds("ewc", [(0.25, 0.25)], noise=0.0)])
    assert result.chords.share.value == pytest.approx(0.75)  # 1 less two triangles of 1/8


def test_each_area_is_set_beside_case_1s_and_adjusted_apart() -> None:
    others = {"ewc": [(0.5, 0.5)], "l2-sp": [(0.2, 0.3)], "mixing": [(0.4, 0.4)]}
    points = [
        *ends(),
        *case_1(),
        *(point for name in others for point in seeds(name, others[name])),
    ]
    results = {result.method.name: result for result in method_results(points)}
    case_1s = results["alignment-loss"]
    assert case_1s.chords.difference is None
    assert case_1s.chords.p_value is None
    raw: dict[str, list[float]] = {"volume": [], "chords": []}
    for name in others:
        own = results[name].chords
        assert own.difference is not None
        assert own.difference.value == pytest.approx(own.share.value - case_1s.chords.share.value)
        alone = [*ends(), *case_1(), *seeds(name, others[name])]
        (of_one,) = [r for r in method_results(alone) if r.method.name == name]
        for area, p_values_of_area in raw.items():
            p_values_of_area.append(getattr(of_one, area).p_value)
    for area, p_values_of_area in raw.items():
        together = [getattr(results[name], area).p_value for name in others]
        assert together == pytest.approx(list(holm(p_values_of_area)))


def test_a_method_that_is_worse_everywhere_is_beaten_and_stands_below() -> None:
    points = [*ends(), *case_1(), *seeds("ewc", [(0.65, 0.3), (0.4, 0.5)])]
    best, worst = method_results(points)
    assert (best.method.name, worst.method.name) == ("alignment-loss", "ewc")
    assert (best.dominated, worst.dominated) == (0, 2)
    assert worst.beaten_by == (CASE_1,)
    assert worst.volume.difference is not None
    assert worst.volume.difference.high < 0


def test_a_setting_of_one_seed_measured_exactly_is_neither_judged_nor_beaten() -> None:
    points = [*ends(), *case_1(), *seeds("ewc", [(0.65, 0.3)]), method("ewc", 3.0, 0.9, 0.9)]
    (ewc,) = [result for result in method_results(points) if result.method.name == "ewc"]
    assert (ewc.dominated, ewc.judged) == (1, 1)


def test_a_difference_within_the_noise_beats_nothing() -> None:
    noisy = seeds("ewc", [(0.6, 0.2), (0.3, 0.4)])
    for place, shift in enumerate((0.02, -0.04, 0.01, 0.05, -0.03, 0.03)):
        gap = noisy[place].alignment_gap
        assert gap is not None
        noisy[place] = replace(noisy[place], alignment_gap=gap.minus(shift))
    assert [result.dominated for result in method_results([*ends(), *case_1(), *noisy])] == [0, 0]


def test_without_a_published_method_there_is_nothing_to_compare() -> None:
    assert method_results([*ends(), *case_1()]) == ()


def test_cases_and_methods_are_told_apart_by_what_made_them() -> None:
    points = [*case_1(), *seeds("ewc", [(0.6, 0.2)]), point("alignment-parameter", radius=2.0)]
    names = {(setting.method.name, setting.value) for setting in all_settings(points)}
    assert ("alignment-loss", 0.1) in names
    assert ("ewc", 0.0) in names
    assert ("alignment-parameter-radius", 2.0) in names


def test_the_report_has_the_section_the_figure_and_the_table(tmp_path: Path) -> None:
    write_points(tmp_path, [*ends(), *case_1(), *seeds("ewc", [(0.65, 0.3), (0.4, 0.5)])])
    written = write_report(tmp_path)
    page = written.page.read_text()
    assert "Methods beside each other" in page
    assert any(path.name == "figure5.png" for path in written.figures)
    records = json.loads((tmp_path / "methods.json").read_text())
    assert [record["method"] for record in records] == ["alignment-loss", "ewc"]


def test_a_method_point_comes_back_from_its_file(tmp_path: Path) -> None:
    points = seeds("wise-ft", [(0.5, 0.5)])
    PointsFile(tmp_path, {}).add(points)
    specs = [model.spec for model in read_points(tmp_path)]
    assert specs == [model.spec for model in points]
    assert len(set(specs)) == 3


def test_a_family_of_comparisons_is_adjusted_for_being_many() -> None:
    line = [(0.5, 0.3), (0.25, 0.45)]
    alone = [*ends(), *case_1(), *seeds("ewc", line)]
    (p_alone,) = p_values(alone)
    together = [*alone, *seeds("l2-sp", line), *seeds("mixing", line)]
    of_three = p_values(together)
    assert of_three == pytest.approx([min(1.0, 3 * p_alone)] * 3)


def test_the_family_is_all_that_one_table_shows() -> None:
    line = [(0.5, 0.3), (0.25, 0.45)]
    here = [*ends(), *case_1(), *seeds("ewc", line)]
    elsewhere = [replace(model, spec=replace(model.spec, task="other")) for model in here]
    (alone,) = p_values(here)
    both = p_values([*here, *elsewhere])
    assert both == pytest.approx([min(1.0, 2 * alone)] * 2)


def over_start(points: Sequence[Point], field: str, start: float) -> list[Point]:
    """The points where the least loss of one gap is not known: it is a change from the start."""

    def shifted(model: Point) -> Point:
        gap = getattr(model, field)
        return replace(model, **{field: replace(gap.minus(start), unit=OVER_START)})

    return [shifted(model) for model in points]


@pytest.mark.parametrize(("field", "start"), [("capability_gap", 1.0), ("alignment_gap", 0.0)])
def test_each_axis_begins_where_its_own_gap_does(field: str, start: float) -> None:
    points = [*ends(), *seeds("ewc", [(0.5, 0.5)], noise=0.0)]
    (result,) = method_results(over_start(points, field, start))
    assert result.volume.share.value == pytest.approx(0.25)


def test_every_method_of_a_comparison_finds_its_place_in_the_figure() -> None:
    points = [*ends(), *case_1()]
    names = [name for name in METHODS if name not in ("aligned", "plain", "alignment-loss")]
    for name in names:
        points += seeds(name, [(0.3, 0.3), (0.2, 0.4)])
    figure = methods_figure(points, method_results(points), None)
    assert figure is not None
    drawn = {line.name for panel in figure.panels for line in panel.lines}
    assert {method.title for method in METHODS.values()} == drawn
    for panel in figure.panels:
        assert len({line.ink for line in panel.lines}) == len(panel.lines), panel.title


def test_a_dial_costs_one_training_and_separate_runs_each_their_own() -> None:
    of_dial = [
        replace(point("dial", value=alpha, safety=0.2), train_tokens=200)
        for alpha in (0.0, 0.5, 1.0)
    ]
    runs = [replace(run, train_tokens=100) for run in case_1()]
    points = [*ends(), *runs, *seeds("ewc", [(0.3, 0.3)]), *of_dial]
    tokens = {result.method.name: result.tokens for result in method_results(points)}
    assert tokens["dial"] == 200
    assert tokens["alignment-loss"] == 100 * len(runs) / len({run.seed for run in runs})
