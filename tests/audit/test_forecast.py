"""Facts about what an audit makes of its numbers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from trimtab.audit.forecast import OverlapBothWays, ranks, separable_pairs, suggested_penalty
from trimtab.audit.recommendations import make_forecast
from trimtab.audit.result import DataRead, Forecast, PairOverlap, ProxySimilarity
from trimtab.stats import Estimate

Interval = tuple[float, float]


def told(interval: Interval) -> Estimate:
    low, high = interval
    return Estimate((low + high) / 2, low, high, "share", "estimate")


def forecast(
    proxies: Mapping[str, Interval], tasks: Mapping[str, Interval], rows: int = 150
) -> Forecast:
    """What is made of the TV of proxies by words and of tasks' overlaps with every proxy."""
    nothing = told((-0.1, 0.1))
    labels = ["original", *(f"safety {name}" for name in proxies)]
    return make_forecast(
        0.1,
        "the original data",
        [DataRead(label, "rows.jsonl", 900, rows, 5.0, 1.0, 9.0) for label in labels],
        [
            ProxySimilarity(
                name, told((0.9, 1.0)), None, 0.0, nothing, nothing, nothing, "", told(by_words)
            )
            for name, by_words in proxies.items()
        ],
        [
            PairOverlap(task, proxy, told(overlap), told(overlap), ())
            for task, overlap in tasks.items()
            for proxy in proxies
        ],
        None,
    )


def test_what_touches_is_not_ordered() -> None:
    found = forecast(
        {"c": (0.5, 0.6), "b": (0.2, 0.35), "a": (0.1, 0.3)}, {"x": (0.3, 0.5), "y": (0.4, 0.6)}
    )
    assert found.proxies == ("a", "b", "c")
    assert found.alike_proxies == (("a", "b"),)
    assert found.alike_tasks == (("x", "y"),)
    text = " ".join(found.reasoning)
    assert "a (0.20 [0.10, 0.30]) or b (0.28 [0.20, 0.35]), then c (0.55 [0.50, 0.60])" in text
    assert "a and b cannot be told apart" in text
    assert "x and y cannot be told apart" in text
    assert "Nearest" in text
    assert "safest" not in text


def test_the_ends_of_a_chain_are_told_apart_all_the_same() -> None:
    values = {"a": told((0.1, 0.3)), "b": told((0.2, 0.5)), "c": told((0.4, 0.6))}
    (chain,) = ranks(values)
    assert list(separable_pairs(chain, values)) == [("a", ["c"])]
    found = forecast({"a": (0.1, 0.3), "b": (0.2, 0.5), "c": (0.4, 0.6)}, {"x": (0.3, 0.5)})
    assert "Told all the same: a is nearer than c." in found.reasoning


def test_few_rows_order_no_proxies_and_say_how_many_would() -> None:
    found = forecast({"far": (0.5, 0.6), "near": (0.1, 0.2)}, {"x": (0.3, 0.5)}, rows=149)
    assert found.proxies == found.alike_proxies == ()
    assert "149 rows were read" in found.reasoning[0]
    assert "150 of each are needed" in found.reasoning[0]


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ((0.0, 0.04), "expect next to no trade-off"),
        ((0.3, 0.5), "there they compete"),
        ((0.01, 0.2), "whether they compete cannot be told"),
    ],
)
def test_a_single_overlap_says_what_its_interval_allows(overlap: Interval, expected: str) -> None:
    found = forecast({"near": (0.1, 0.2)}, {"x": overlap})
    assert any(expected in line for line in found.reasoning)


@pytest.mark.parametrize(
    ("tokens", "overlap", "is_told"),
    [
        (5.0, (0.4, 0.5), True),
        (5.0, (0.0, 0.01), True),  # next to nothing: the smallest λ
        (5.0, (0.0, 0.5), False),
        (100.0, (0.3, 0.45), False),  # ten nats: λ from 10⁻¹⁵ to 10⁻¹⁰
    ],
)
def test_no_penalty_is_told_by_an_overlap_that_is_not(
    tokens: float, overlap: Interval, is_told: bool
) -> None:
    found = suggested_penalty(0.1, tokens, OverlapBothWays(told(overlap), told(overlap)))
    assert (found.value is not None) == is_told


def test_where_no_penalty_is_told_none_is_advised() -> None:
    found = forecast({"near": (0.1, 0.2)}, {"x": (0.0, 0.6)})
    assert found.penalties[0].penalty is None
    assert any("no λ can be advised" in line for line in found.reasoning)
    assert not any("try λ" in line for line in found.reasoning)
