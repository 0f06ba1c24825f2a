"""Facts about what an audit makes of its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from trimtab.audit.forecast import OverlapBothWays, ranks, separable_pairs, suggested_penalty
from trimtab.audit.in_short import InShort, in_short
from trimtab.audit.recommendations import make_forecast
from trimtab.audit.result import AuditResult, DataRead, Forecast, PairOverlap, ProxySimilarity
from trimtab.stats import Estimate

Interval = tuple[float, float]


def share(interval: Interval) -> Estimate:
    low, high = interval
    return Estimate((low + high) / 2, low, high, "share", "estimate")


def data_of(proxies: Iterable[str], tasks: Iterable[str], rows: int) -> tuple[DataRead, ...]:
    labels = ["original", *(f"safety {name}" for name in proxies)]
    labels += [f"task {name}" for name in tasks]
    return tuple(DataRead(label, "rows.jsonl", 900, rows, 5.0, 1.0, 9.0) for label in labels)


def forecast_of(
    proxies: Mapping[str, Interval], tasks: Mapping[str, Interval], rows: int = 150
) -> Forecast:
    """What is made of the TV of proxies by words and of tasks' overlaps with every proxy."""
    nothing = share((-0.1, 0.1))
    return make_forecast(
        0.1,
        "the original data",
        data_of(proxies, tasks, rows),
        [
            ProxySimilarity(
                name, share((0.9, 1.0)), None, 0.0, nothing, nothing, nothing, "", share(by_words)
            )
            for name, by_words in proxies.items()
        ],
        [
            PairOverlap(task, proxy, share(overlap), share(overlap), ())
            for task, overlap in tasks.items()
            for proxy in proxies
        ],
        None,
    )


def short_of(
    proxies: Mapping[str, Interval], tasks: Mapping[str, Interval], rows: int = 150
) -> InShort:
    """The same as an audit puts it in short, with no landscape."""
    overlaps = tuple(
        PairOverlap(task, proxy, share(overlap), share(overlap), ())
        for task, overlap in tasks.items()
        for proxy in proxies
    )
    nothing = share((-0.1, 0.1))
    similarity = tuple(
        ProxySimilarity(name, nothing, None, 0.0, nothing, nothing, nothing, "", share(by_words))
        for name, by_words in proxies.items()
    )
    forecast = forecast_of(proxies, tasks, rows)
    settings = {"budget": 0.1}
    return in_short(
        AuditResult(
            "m",
            "the original data",
            settings,
            {},
            data_of(proxies, tasks, rows),
            "",
            similarity,
            "",
            overlaps,
            None,
            None,
            forecast,
        )
    )


def test_in_short_it_says_what_to_expect_and_what_cannot_be_told() -> None:
    short = short_of(
        {"b": (0.5, 0.6), "a": (0.1, 0.3)},
        {"apart": (0.0, 0.001), "shared": (0.4, 0.6), "unclear": (0.0, 0.2)},
    )
    nearest, apart, shared = short.expected
    assert nearest.startswith("a is the safety data most like the original data")
    assert apart.startswith("apart: next to no trade-off")
    assert shared.startswith("shared: a trade-off, as 50% of its prompts")
    assert "begin with λ = " in shared
    assert [line.split(":")[0] for line in short.untold] == [
        "unclear",
        "How many harmful prompts it will refuse",
        "What keeping safety costs the task",
        "Which task rows endanger safety",
    ]


@pytest.mark.parametrize(("rows", "why"), [(150, "touch"), (149, "too few")])
def test_in_short_no_nearest_is_named_where_none_is_known(rows: int, why: str) -> None:
    short = short_of({"b": (0.2, 0.35), "a": (0.1, 0.3)}, {"x": (0.3, 0.5)}, rows)
    assert not any("most like" in line for line in short.expected)
    assert "Which safety data are the most like" in short.untold[0]
    assert why in short.untold[0]


def test_what_touches_is_not_ordered() -> None:
    forecast = forecast_of(
        {"c": (0.5, 0.6), "b": (0.2, 0.35), "a": (0.1, 0.3)}, {"x": (0.3, 0.5), "y": (0.4, 0.6)}
    )
    assert forecast.proxies == ("a", "b", "c")
    assert forecast.alike_proxies == (("a", "b"),)
    assert forecast.alike_tasks == (("x", "y"),)
    text = " ".join(forecast.reasoning)
    assert "a (0.20 [0.10, 0.30]) or b (0.28 [0.20, 0.35]), then c (0.55 [0.50, 0.60])" in text
    assert "a and b cannot be told apart" in text
    assert "x and y cannot be told apart" in text
    assert "Nearest" in text
    assert "safest" not in text


def test_the_ends_of_a_chain_are_told_apart_all_the_same() -> None:
    values = {"a": share((0.1, 0.3)), "b": share((0.2, 0.5)), "c": share((0.4, 0.6))}
    (chain,) = ranks(values)
    assert list(separable_pairs(chain, values)) == [("a", ["c"])]
    forecast = forecast_of({"a": (0.1, 0.3), "b": (0.2, 0.5), "c": (0.4, 0.6)}, {"x": (0.3, 0.5)})
    assert "Told all the same: a is nearer than c." in forecast.reasoning


def test_few_rows_order_no_proxies_and_say_how_many_would() -> None:
    forecast = forecast_of({"far": (0.5, 0.6), "near": (0.1, 0.2)}, {"x": (0.3, 0.5)}, rows=149)
    assert forecast.proxies == forecast.alike_proxies == ()
    assert "149 rows were read" in forecast.reasoning[0]
    assert "150 of each are needed" in forecast.reasoning[0]


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ((0.0, 0.04), "expect next to no trade-off"),
        ((0.3, 0.5), "there they compete"),
        ((0.01, 0.2), "whether they compete cannot be told"),
    ],
)
def test_a_single_overlap_says_what_its_interval_allows(overlap: Interval, expected: str) -> None:
    forecast = forecast_of({"near": (0.1, 0.2)}, {"x": overlap})
    assert any(expected in line for line in forecast.reasoning)


@pytest.mark.parametrize(
    ("tokens", "overlap", "is_told"),
    [
        (5.0, (0.4, 0.5), True),
        (5.0, (0.0, 0.01), True),  # next to nothing: the smallest λ
        (100.0, (0.0, 0.04), True),
        (5.0, (0.0, 0.5), False),
        (100.0, (0.3, 0.45), False),  # ten nats: λ from 10⁻¹⁵ to 10⁻¹⁰
    ],
)
def test_no_penalty_is_told_by_an_overlap_that_is_not(
    tokens: float, overlap: Interval, is_told: bool
) -> None:
    both = OverlapBothWays(share(overlap), share(overlap))
    suggested = suggested_penalty(0.1, tokens, tokens, both)
    assert (suggested.value is not None) == is_told


def test_where_no_penalty_is_told_none_is_advised() -> None:
    forecast = forecast_of({"near": (0.1, 0.2)}, {"x": (0.0, 0.6)})
    assert forecast.penalties[0].penalty is None
    assert any("no λ can be advised" in line for line in forecast.reasoning)
    assert not any("try λ" in line for line in forecast.reasoning)
