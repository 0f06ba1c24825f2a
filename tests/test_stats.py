"""Facts about the statistics: values by hand or by SciPy, and coverage by simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from sklearn.metrics import cohen_kappa_score

from trimtab.stats import (
    Estimate,
    Statistic,
    bounded_mean,
    cohen_kappa,
    exact_share,
    heights_above_means,
    holm,
    jackknife,
    limit_at_every_look,
    loss_estimate,
    note_on_rows,
    over_seeds,
    p_value_over_seeds,
    paired_difference,
    ratio,
    resampled_means,
    share,
    share_change,
    share_change_over_seeds,
    share_over_seeds,
    share_with_variance,
    statistic_over_seeds,
    student_mean,
    student_p_value,
    summed,
    verdict,
)

Array = NDArray[np.float64]


def rows(count: int, seed: int = 0) -> Array:
    """Nats and tokens of responses of very different lengths and difficulty."""
    generator = np.random.default_rng(seed)
    tokens = np.ceil(generator.lognormal(3.0, 1.0, count))
    return np.stack([generator.gamma(2.0, 0.8, count) * tokens, tokens])


def test_a_paired_difference_by_hand() -> None:
    tokens = np.array([1.0, 2.0, 3.0])
    before = np.array([5.0, 9.0, 1.0])
    difference = paired_difference(
        np.stack([before + np.array([1.0, 1.0, 4.0]), tokens]), np.stack([before, tokens])
    )
    # θ = 6/6; x − θt = 0, −1, 1, of standard deviation 1; t̄ = 2 and t₂ = 4.3027 at 97.5 %.
    estimate = difference.estimate("nats per token")
    assert estimate.value == pytest.approx(1.0)
    assert estimate.high - 1.0 == pytest.approx(4.302653 / (np.sqrt(3) * 2))
    assert estimate.low + estimate.high == pytest.approx(2.0)
    assert estimate.kind == "estimate"


def test_with_tokens_alike_a_paired_difference_is_the_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    after, before = generator.gamma(2.0, 1.0, (2, 30))
    ones = np.ones(30)
    estimate = paired_difference(np.stack([after, ones]), np.stack([before, ones])).estimate("nats")
    expected = scipy_stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))


def test_two_samples_with_tokens_alike_are_welchs_t_test() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(0, 1, 12), generator.normal(1, 3, 30)
    difference = ratio(np.stack([first, np.ones(12)]), "one") - ratio(
        np.stack([second, np.ones(30)]), "other"
    )
    expected = scipy_stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    estimate = difference.estimate("nats")
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))


def test_the_error_of_a_ratio_is_the_jackknifes_to_first_order() -> None:
    nats, tokens = rows(200)
    quotient = ratio(np.stack([nats, tokens]))
    value, half = jackknife(lambda weights: float(weights @ nats / (weights @ tokens)), 200)
    assert value == pytest.approx(quotient.value)
    assert half == pytest.approx(quotient.half_width, rel=0.1)


def test_a_loss_has_scipys_studentised_interval_where_tokens_are_alike() -> None:
    nats = np.random.default_rng(0).lognormal(0, 1, 60)
    estimate = loss_estimate(nats, np.ones(60), "nats", resamples=20_000)
    generator = np.random.default_rng(1)
    drawn = nats[generator.integers(60, size=(20_000, 60))]
    pivots = (drawn.mean(axis=1) - nats.mean()) / scipy_stats.sem(drawn, axis=1)
    low, high = nats.mean() - scipy_stats.sem(nats) * np.quantile(pivots, [0.975, 0.025])
    assert estimate.value == pytest.approx(nats.mean())
    assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=0.02)
    assert estimate.high - estimate.value > 1.2 * (
        estimate.value - estimate.low
    )  # skewed, as losses are


@pytest.mark.parametrize("rows", [30, 50, 200])
def test_a_loss_that_few_rows_carry_has_an_interval_that_means_something(rows: int) -> None:
    """Resamples without these rows have next to no spread, which a quotient makes endless."""
    nats = np.random.default_rng(0).exponential(1e-5, rows)
    nats[:2] = 4.0, 9.0
    estimate = loss_estimate(nats, np.ones(rows), "nats")
    assert 0 <= estimate.low < estimate.value < estimate.high < nats.max()
    nats[:] = 0.0
    nats[0] = 30.0
    one_row = loss_estimate(nats, np.full(rows, 5.0), "nats")
    assert 0 <= one_row.low < one_row.value < one_row.high < 6


def test_a_loss_has_the_same_interval_whenever_it_is_taken() -> None:
    nats, tokens = rows(40)
    assert loss_estimate(nats, tokens, "nats") == loss_estimate(nats, tokens, "nats")
    assert loss_estimate(nats, tokens, "nats", 1) != loss_estimate(nats, tokens, "nats", 2)


def test_many_rows_are_resampled_in_blocks_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = rows(30).T
    whole = resampled_means(columns, 100, seed=3)
    monkeypatch.setattr("trimtab.stats.resampling._BLOCK", 30 * 7)
    np.testing.assert_allclose(resampled_means(columns, 100, seed=3), whole)
    assert whole.mean(axis=0) == pytest.approx(columns.mean(axis=0), rel=0.1)


def test_few_rows_have_students_interval_and_one_has_none() -> None:
    nats, tokens = rows(6)
    few = loss_estimate(nats, tokens, "nats")
    assert few == ratio(np.stack([nats, tokens])).estimate("nats").cut(0.0, np.inf)
    single = loss_estimate(nats[:1], tokens[:1], "nats")
    assert single.low == single.value == single.high


def test_students_mean_is_scipys() -> None:
    values = [0.3, 0.5, 0.1, 0.9]
    estimate = student_mean(values, "share")
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))


def test_over_seeds_of_exact_numbers_is_students_mean() -> None:
    values = [0.3, 0.5, 0.1, 0.9]
    estimate = over_seeds([Estimate.exact(value, "nats") for value in values])
    assert estimate == student_mean(values, "nats")


def test_rows_are_averaged_over_seeds_before_their_spread_is_taken() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 1, 40)
    noises = generator.normal(0, 1, (5, 40))
    noises -= noises.mean(axis=1, keepdims=True)
    seeds = [ratio(np.stack([hard + noise, np.ones(40)])) for noise in noises]
    estimate = statistic_over_seeds(seeds, "nats")
    # All seeds have one mean, so what is left is the interval of the averaged rows.
    alone = ratio(np.stack([hard + noises.mean(axis=0), np.ones(40)])).estimate("nats")
    assert (estimate.low, estimate.high) == pytest.approx((alone.low, alone.high))
    apart = over_seeds([seed.estimate("nats") for seed in seeds])
    assert estimate.high - estimate.low < 0.9 * (apart.high - apart.low)
    assert statistic_over_seeds(seeds[:1], "nats") == seeds[0].estimate("nats")


def test_seeds_that_differ_widen_the_interval() -> None:
    shared = {"rows": np.array([-1.0, 0.0, 1.0])}
    seeds = [Statistic(value, shared) for value in (0.0, 1.0, 2.0)]
    half = statistic_over_seeds(seeds, "nats").high - 1.0
    of_rows, of_seeds = seeds[0].half_width, student_mean([0.0, 1.0, 2.0], "").high - 1.0
    assert half == pytest.approx(np.hypot(of_rows, of_seeds))


def test_a_share_has_wilsons_interval() -> None:
    estimate = share([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], "share")
    z, n, p = 1.959964, 10, 0.3
    centre, width = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert estimate.low == pytest.approx((centre - width) / (1 + z**2 / n), abs=1e-6)
    assert estimate.high == pytest.approx((centre + width) / (1 + z**2 / n), abs=1e-6)


def test_a_share_of_all_or_none_has_the_exact_interval() -> None:
    all_ones, all_zeros = share(np.ones(20), "share"), share(np.zeros(20), "share")
    assert all_ones.low == pytest.approx(0.025 ** (1 / 20))
    assert all_zeros.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert (all_zeros.low, all_ones.high) == (0.0, 1.0)
    assert all_ones == exact_share(20, 20, "share")


def test_a_share_of_few_clusters_is_covered_by_their_degrees_of_freedom() -> None:
    clusters, size, draws = 8, 30, 1000
    generator = np.random.default_rng(0)
    shares = generator.binomial(size, generator.beta(3, 3, (draws, clusters))) / size
    values, variances = shares.mean(axis=1), shares.var(axis=1, ddof=1) / clusters

    def coverage(freedom: int) -> float:
        estimates = [
            share_with_variance(value, variance, clusters * size, "share", freedom)
            for value, variance in zip(values, variances, strict=True)
        ]
        return float(np.mean([estimate.low <= 0.5 <= estimate.high for estimate in estimates]))

    # Of 1000 intervals that cover 95 %, fewer than 0.93 hold in 0.3 % of runs.
    assert 0.93 <= coverage(clusters - 1) <= 0.97
    assert coverage(10_000) < 0.93


def test_a_share_that_did_not_change_may_still() -> None:
    flags = np.array([1.0, 0.0, 1.0, 1.0] * 10)
    unchanged = share_change(flags, flags, "share")
    assert unchanged.value == 0
    assert unchanged.high == pytest.approx(-unchanged.low)
    assert unchanged.high == pytest.approx(1.96**2 / (40 + 1.96**2), abs=1e-4)
    changed = share_change(1 - flags, flags, "share")
    assert changed.value == -0.5
    assert -1 <= changed.low < -0.5 < changed.high


@pytest.mark.parametrize("count", [24, 96])
def test_a_change_of_a_share_is_covered_where_few_items_change(count: int) -> None:
    cleared = np.arange(count + 1)
    items = np.arange(count)
    intervals = [share_change(items >= k, np.ones(count), "share") for k in cleared]
    for truth in (0.01, 0.03, 0.06, 0.1, 0.2):
        chances = scipy_stats.binom.pmf(cleared, count, truth)
        covers = [interval.low <= -truth <= interval.high for interval in intervals]
        misses_above = [interval.high < -truth for interval in intervals]
        # Student's interval covers as little as 0.85 here, and all it misses lies above it.
        assert chances @ covers > 0.93
        assert chances @ misses_above < 0.055


def test_shares_over_seeds_stay_shares() -> None:
    rates = [share(np.arange(60) < hits, "share") for hits in (57, 60, 40)]
    over = share_over_seeds(rates)
    assert (over.high, over.value) == (1.0, pytest.approx(157 / 180))
    changes = [share_change(np.zeros(60), np.arange(60) < hits, "share") for hits in (57, 60, 40)]
    assert share_change_over_seeds(changes).low == -1.0


def test_a_p_value_over_seeds_is_that_of_its_interval() -> None:
    generator = np.random.default_rng(3)
    for spread in (0.0, 0.1, 1.0):
        for _ in range(20):
            shared = generator.normal(0.1, 1, 40)
            seeds = [
                Statistic(shared.mean() + drawn, {"rows": shared - shared.mean()})
                for drawn in generator.normal(0, spread, 3)
            ]
            interval, p_value = statistic_over_seeds(seeds, ""), p_value_over_seeds(seeds)
            assert (p_value < 0.05) == (interval.low > 0 or interval.high < 0)
    assert p_value_over_seeds(seeds[:1]) == pytest.approx(seeds[0].p_value)
    # With three seeds that differ, as large as a normal error would have it is not large enough.
    far = [Statistic(value, {"rows": np.zeros(40)}) for value in (1.0, 1.5, 2.0)]
    assert p_value_over_seeds(far) > 0.03


def test_a_mean_at_the_end_of_its_range_is_no_point() -> None:
    top, bottom = bounded_mean(np.ones(20), -1, 1, "τ"), bounded_mean(-np.ones(20), -1, 1, "τ")
    assert (top.low, top.high) == pytest.approx((1 - 2 * (1 - 0.025 ** (1 / 20)), 1))
    assert (bottom.low, bottom.high) == pytest.approx((-top.high, -top.low))
    assert bounded_mean([1.0, 1.0, 0.9], -1, 1, "τ").high == 1.0


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.array([1.0, 4.0, 2.0, 7.0])
    value, half = jackknife(lambda weights: float(weights @ values / weights.sum()), 4)
    assert value == 3.5
    assert half == pytest.approx(student_mean(values, "").high - 3.5)


def test_holms_adjustment_by_hand() -> None:
    adjusted = holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]


def test_a_p_value_agrees_with_its_interval() -> None:
    generator = np.random.default_rng(0)
    for shift in (0.0, 0.3, 0.6):
        rows = generator.normal(shift, 1.0, 30)
        difference = paired_difference(
            np.stack([rows, np.ones(30)]), np.stack([0 * rows, np.ones(30)])
        )
        assert difference.p_value == pytest.approx(scipy_stats.ttest_1samp(rows, 0).pvalue)
        assert student_p_value(rows) == pytest.approx(difference.p_value)
        assert (difference.p_value < 0.05) == (abs(difference.value) > difference.half_width)


def test_as_many_rows_as_it_says_narrow_an_interval_so_far() -> None:
    generator = np.random.default_rng(0)
    population = generator.gamma(0.5, 1.0, 4000)
    tokens = np.ones(4000)
    few = ratio(np.stack([population[:400], tokens[:400]]))
    rows_needed = few.rows_for(0.1)
    many = ratio(np.stack([population[:rows_needed], tokens[:rows_needed]]))
    assert many.half_width == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.0, 0.05, "within"),
        (0.0, 0.06, "undecided"),
        (0.0501, 0.06, "beyond"),
        (0.05, 0.05, "within"),
    ],
)
def test_a_verdict_goes_by_the_interval(low: float, high: float, told: str) -> None:
    change = Estimate((low + high) / 2, low, high, "nats per token", "estimate")
    assert verdict(change, 0.05) == told


def test_a_limit_at_every_look_is_passed_by_a_twentieth_at_most() -> None:
    """Skewed changes, looked at after every 40 rows: the least limit ever seen must hold."""
    generator = np.random.default_rng(0)
    passed, truth = 0, 0.05
    for _ in range(150):
        tokens = generator.integers(5, 60, 240).astype(float)
        per_token = np.clip(generator.exponential(0.2, 240) - 0.15, -1.0, 1.0)
        per_token += truth - (0.2 * (1 - np.exp(-5.75)) - 0.15)
        after, before = np.stack([tokens * per_token, tokens]), np.stack([0 * tokens, tokens])
        limits = [limit_at_every_look(after[:, :n], before[:, :n], 59) for n in range(40, 241, 40)]
        passed += min(limits) < truth
    assert passed <= 12  # of 150, at 5 %: more would come in 7 of 1,000 samples


def test_a_limit_at_every_look_holds_where_few_rows_are_long() -> None:
    """Two rows in a hundred rise and are long: most samples of 50 rows hold one or none."""
    generator = np.random.default_rng(2)
    long, short = 0.02 * 50, 0.98 * 1
    truth = 0.9 * (long - short) / (long + short)
    passed = 0
    for _ in range(200):
        is_long = generator.random(50) < 0.02
        tokens = np.where(is_long, 50.0, 1.0)
        before = np.stack([0 * tokens, tokens])
        after = np.stack([np.where(is_long, 0.9, -0.9) * tokens, tokens])
        passed += limit_at_every_look(after, before, longest=50) < truth
    assert passed <= 16  # of 200, at 5 %
    with pytest.raises(ValueError, match="a row has 50 tokens, and the longest may have 49"):
        limit_at_every_look(np.array([[0.0], [50.0]]), np.array([[0.0], [50.0]]), longest=49)


def test_a_limit_at_every_look_is_wider_than_students_and_narrows_with_rows() -> None:
    generator = np.random.default_rng(1)
    limits = []
    for count in (100, 400, 1600):
        tokens = np.full(count, 30.0)
        change = generator.normal(0.03, 0.1, count) * tokens
        after, before = np.stack([change, tokens]), np.stack([0 * change, tokens])
        difference = paired_difference(after, before)
        limits.append(limit_at_every_look(after, before, 30) - difference.value)
        assert limits[-1] > difference.half_width
    assert limits[0] > limits[1] > limits[2]
    assert limits[2] < 0.02


def test_a_rows_change_counts_up_to_the_clip() -> None:
    tokens = np.full(50, 10.0)
    huge = np.stack([tokens * 100, tokens])
    assert limit_at_every_look(huge, 0 * huge + [[0.0], [10.0]], 10) == pytest.approx(1.0, abs=1e-6)


def test_few_rows_are_noted() -> None:
    assert note_on_rows(48) == "48 rows: intervals are approximate"
    assert note_on_rows(50) is None


@pytest.fixture(scope="module")
def population() -> Array:
    """Differences of losses with heavy tails, of responses that are not cut."""
    generator = np.random.default_rng(0)
    tokens = np.ceil(generator.lognormal(4.5, 1.0, 20_000))
    lost = (0.05 + 0.3 * generator.standard_t(4, 20_000) / np.sqrt(tokens)) * tokens
    return np.stack([lost * (tokens / 90) ** -0.2, tokens])


@pytest.mark.parametrize("count", [16, 48, 160])
def test_a_paired_difference_misses_a_fortieth_on_each_side(count: int, population: Array) -> None:
    truth = population[0].sum() / population[1].sum()
    generator = np.random.default_rng(1)
    draws = 4000
    below = above = 0
    for _ in range(draws):
        drawn = population[:, generator.integers(population.shape[1], size=count)]
        estimate = ratio(drawn).estimate("nats")
        below += estimate.high < truth
        above += estimate.low > truth
    assert below / draws == pytest.approx(0.025, abs=0.015)
    assert above / draws == pytest.approx(0.025, abs=0.015)


REPRODUCTION = Path(__file__).parent.parent / "docs" / "reproduction" / "smollm2" / "row-losses"


@pytest.mark.skipif(not REPRODUCTION.exists(), reason="no row losses here")
@pytest.mark.parametrize("count", [16, 48, 160])
@pytest.mark.parametrize("dataset", ["original", "task:alpaca"])
def test_it_does_so_on_measured_rows(dataset: str, count: int) -> None:
    start: Array = np.load(REPRODUCTION / "aligned.npz")[dataset]
    apart = [
        np.stack([arrays[dataset][0] - start[0], start[1]])
        for path in sorted(REPRODUCTION.glob("alignment-*.npz"))
        if dataset in (arrays := np.load(path))
    ]
    generator = np.random.default_rng(1)
    draws = 3000
    sides = np.zeros(2)
    for draw in range(draws):
        measured = apart[draw % len(apart)]
        truth = measured[0].sum() / measured[1].sum()
        estimate = ratio(measured[:, generator.integers(measured.shape[1], size=count)]).estimate(
            ""
        )
        sides += [estimate.high < truth, estimate.low > truth]
    assert sides / draws == pytest.approx([0.025, 0.025], abs=0.015)


def test_a_loss_covers_more_often_than_by_percentiles() -> None:
    population = rows(20_000)
    truth = population[0].sum() / population[1].sum()
    generator = np.random.default_rng(1)
    covered = by_percentiles = 0
    for seed in range(400):
        nats, tokens = population[:, generator.integers(20_000, size=32)]
        estimate = loss_estimate(nats, tokens, "nats", seed, resamples=400)
        covered += estimate.low <= truth <= estimate.high
        means = resampled_means(np.stack([nats, tokens], axis=1), 400, seed)
        low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
        by_percentiles += low <= truth <= high
    assert covered > by_percentiles
    assert covered / 400 == pytest.approx(0.95, abs=0.05)


def raters(generator: np.random.Generator, count: int) -> tuple[list[str], list[str]]:
    """Two raters of three labels, the second of whom says another at random 3 times in 10."""
    first = generator.choice(list("abc"), p=[0.6, 0.3, 0.1], size=count)
    guesses = generator.choice(list("abc"), p=[0.4, 0.3, 0.3], size=count)
    second = np.where(generator.random(count) < 0.3, guesses, first)
    return first.tolist(), second.tolist()


def test_kappa_is_sklearns() -> None:
    generator = np.random.default_rng(0)
    for count in (5, 20, 300):
        first, second = raters(generator, count)
        kappa = cohen_kappa(first, second, "κ")
        assert kappa is not None
        assert kappa.value == pytest.approx(cohen_kappa_score(first, second))
        assert -1 <= kappa.low <= kappa.value <= kappa.high <= 1


@pytest.mark.parametrize("count", [60, 200])
def test_kappas_interval_covers(count: int) -> None:
    generator = np.random.default_rng(1)
    truth = cohen_kappa(*raters(generator, 200_000), "κ")
    assert truth is not None
    held = [cohen_kappa(*raters(generator, count), "κ") for _ in range(400)]
    covered = np.mean(
        [kappa is not None and kappa.low <= truth.value <= kappa.high for kappa in held]
    )
    assert 0.92 <= covered <= 0.98


def test_answers_to_few_prompts_that_all_agree_tell_kappa_as_much_as_the_prompts() -> None:
    labels = list("abab" * 2)
    few = cohen_kappa(labels, labels, "κ")
    many = cohen_kappa(labels * 5, labels * 5, "κ", [str(n) for n in range(8)] * 5)
    apart = cohen_kappa(labels * 5, labels * 5, "κ")
    assert few == many
    assert few is not None
    assert apart is not None
    assert few.low < apart.low


def test_a_row_that_is_there_twice_tells_kappa_no_more() -> None:
    first, second = list("aabbab" * 10), list("aababb" * 10)
    rows = [str(row) for row in range(60)]
    once = cohen_kappa(first, second, "κ", rows)
    assert once == cohen_kappa(first, second, "κ")
    twice = cohen_kappa(2 * first, 2 * second, "κ", 2 * rows)
    assert once is not None
    assert twice is not None
    assert (twice.value, twice.low, twice.high) == pytest.approx((once.value, once.low, once.high))


def test_kappa_of_raters_who_agree_on_all_still_has_a_width() -> None:
    kappa = cohen_kappa(list("aabb"), list("aabb"), "κ")
    assert kappa is not None
    assert kappa.value == kappa.high == 1
    assert kappa.low < 0.5


def test_kappa_of_a_rater_with_one_label_is_zero_and_of_two_is_unknown() -> None:
    kappa = cohen_kappa(list("aabb"), list("aaaa"), "κ")
    assert kappa is not None
    assert kappa.value == 0
    assert kappa.low < 0 < kappa.high
    assert cohen_kappa(list("aaaa"), list("aaaa"), "κ") is None


def test_heights_by_seed_add_up_to_that_of_the_means() -> None:
    def at(x: float, y: float) -> tuple[Statistic, Statistic]:
        return Statistic(x, {}), Statistic(y, {})

    lines = [[at(0.0, 2.0), at(1.0, 0.0)], [at(0.2, 1.0), at(0.6, 0.4)]]
    places = [at(1.2, 1.0), at(0.4, 0.9)]  # the first alone lies beyond its line
    heights = heights_above_means(lines, places)
    assert heights is not None
    # The means: from (0.1, 1.5) to (0.8, 0.2), and (0.8, 0.95).
    assert np.mean([height.value for height in heights]) == pytest.approx(0.75)
    assert heights_above_means(lines, [at(1.2, 1.0), at(0.5, 0.9)]) is None


def test_answers_to_one_prompt_are_one_draw() -> None:
    """What a prompt is like all its answers share: an interval by row would be half as wide."""
    generator = np.random.default_rng(0)
    prompts, answers, held, by_row = 30, 8, 0, 0
    for _ in range(400):
        shared = generator.normal(0.1, 1.0, prompts).repeat(answers)
        change = (shared + generator.normal(0.0, 1.0, prompts * answers)) / np.sqrt(2)
        tokens = generator.integers(5, 20, prompts * answers).astype(float)
        rows = np.stack([change * tokens, tokens])
        numbers = np.arange(prompts).repeat(answers)
        for is_summed in (True, False):
            estimate = ratio(summed(rows, numbers if is_summed else None)).estimate("nats")
            covers = estimate.low <= 0.1 / np.sqrt(2) <= estimate.high
            held, by_row = held + (covers and is_summed), by_row + (covers and not is_summed)
    assert 0.92 < held / 400 < 0.98
    assert by_row / 400 < 0.75
