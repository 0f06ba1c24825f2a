"""Facts about one data set's prompts among another's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import spearmanr

from tests.measure.worlds_read import drawn
from trimtab.data.synthetic import make_world
from trimtab.measure import nearest as search
from trimtab.measure.nearest import nearest
from trimtab.measure.overlap import context_overlap
from trimtab.theory import context_overlap as exact_overlap

KITCHEN = ["bread", "soup", "rice", "beans", "cake", "tea", "fish", "plum"]


def kitchen(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [f"how do I cook {' and '.join(generator.choice(KITCHEN, 2))}" for _ in range(count)]


def test_overlap_follows_the_exact_one_both_ways() -> None:
    exact, told, backward = [], [], []
    for place, overlap in enumerate((0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)):
        world = make_world({"proxy": 0.2}, {"task": overlap}, seed=place)
        safety, apart, task = (
            [row.prompt[0].content for row in drawn(distribution, 300, place + offset)]
            for distribution, offset in (
                (world.safety["proxy"], 100),
                (world.safety["proxy"], 200),
                (world.task["task"], 300),
            )
        )
        found = context_overlap(task, safety, apart).share
        exact.append(exact_overlap(world.task["task"], world.safety["proxy"]))
        told.append(found.value)
        assert found.low - 0.02 <= exact[-1] <= found.high + 0.02
        backward.append(context_overlap(safety, task[:200], task[200:]).share.value)
    assert spearmanr(exact, told).statistic >= 0.95
    assert backward[0] == 0
    assert min(backward[1:]) > 0.5  # directional: any task among them covers every safety prompt


def test_a_data_set_overlaps_itself_and_not_an_unrelated_one() -> None:
    sums = [f"what is {number} times {number + 1}" for number in range(100)]
    own = context_overlap(kitchen(150, 1), kitchen(150, 2), kitchen(80, 3)).share
    assert own.value > 0.9
    assert context_overlap(sums, kitchen(150, 2), kitchen(80, 3)).share.value == 0


def test_hidden_states_stand_in_for_words() -> None:
    generator = np.random.default_rng(0)
    offset, topics = 5 * generator.standard_normal(16), 6 * np.eye(16)

    def about(which: list[int], count: int) -> np.ndarray:
        topic = topics[generator.choice(which, count)]
        states = offset + topic + 0.5 * generator.standard_normal((count, 16))
        return states.astype(np.float32)

    here, there = about([0, 1, 2], 200), about([3, 4], 80)
    texts = [f"prompt {number}" for number in range(200)]
    states = (here[:80], here[80:150], here[150:])
    own = context_overlap(texts[:80], texts[80:150], texts[150:], states)
    other = context_overlap(texts[:80], texts[80:150], texts[150:], (there, *states[1:]))
    assert own.share.value > 0.8
    assert other.share.value < own.share.value - 0.3


def test_nearest_pairs_are_the_nearest_and_differ() -> None:
    found = context_overlap(
        ["cook tea", "cook fish", "add two"], ["cook tea", "add one"], ["cook tea"]
    )
    assert found.pairs[0].prompt == found.pairs[0].nearest == "cook tea"
    assert [pair.nearest for pair in found.pairs] == ["cook tea", "add one"]


@pytest.mark.parametrize("sparse", [False, True])
def test_blocks_change_nothing(sparse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    points, known = (
        generator.standard_normal((count, 12)).astype(np.float32) for count in (301, 977)
    )
    best = (points @ known.T).argmax(axis=1)
    monkeypatch.setattr(search, "BLOCK_BYTES", 4 * 32 * 100)
    given = (csr_matrix(points), csr_matrix(known)) if sparse else (points, known)
    found = nearest(*given, threads=2)
    assert found.places.tolist() == best.tolist()
    np.testing.assert_allclose(found.cosines, (points * known[best]).sum(axis=1), rtol=1e-4)
