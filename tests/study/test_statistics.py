"""Estimates against scipy's own, in degenerate cases, and by simulation: do intervals cover?"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from replicata.study import statistics
from replicata.study.schema import Region
from replicata.study.statistics import Estimate

numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


# The rule -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "low", "high", "verdict"),
    [
        (Region(0, above=True, closed=False), 0.1, 0.2, "holds"),
        (Region(0, above=True, closed=False), 0.0, 0.2, "inconclusive"),
        (Region(0, above=True, closed=False), 0.0, 0.0, "fails"),
        (Region(0, above=True, closed=False), -0.2, 0.0, "fails"),
        (Region(0.8, above=True, closed=True), 0.8, 0.9, "holds"),
        (Region(0.8, above=True, closed=True), 0.8, 0.8, "holds"),
        (Region(0.8, above=True, closed=True), 0.7, 0.8, "inconclusive"),
        (Region(0.8, above=True, closed=True), 0.7, 0.79, "fails"),
        (Region(0.5, above=False, closed=True), 0.5, 0.5, "holds"),
        (Region(0.5, above=False, closed=True), 0.4, math.inf, "inconclusive"),
        (Region(0.5, above=False, closed=False), 0.5, 0.6, "fails"),
    ],
)
def test_the_rule(region: Region, low: float, high: float, verdict: str) -> None:
    assert region.decide(low, high) == verdict


@given(numbers, st.lists(numbers, min_size=3, max_size=3), st.booleans(), st.booleans())
def test_a_narrower_interval_never_turns_a_verdict_round(
    boundary: float, ends: list[float], above: bool, closed: bool
) -> None:
    low, inner, high = sorted(ends)
    region = Region(boundary, above, closed)
    outer = region.decide(low, high)
    assert outer == "inconclusive" or region.decide(low, inner) == outer == region.decide(inner, high)


@given(numbers, numbers, numbers, st.booleans(), st.booleans())
def test_the_rule_is_the_same_seen_from_the_other_side(
    boundary: float, low: float, high: float, above: bool, closed: bool
) -> None:
    low, high = sorted((low, high))
    mirrored = Region(-boundary, not above, closed).decide(-high, -low)
    assert mirrored == Region(boundary, above, closed).decide(low, high)
    swap = {"holds": "fails", "fails": "holds", "inconclusive": "inconclusive"}
    assert Region(boundary, not above, not closed).decide(low, high) == swap[mirrored]


# Means --------------------------------------------------------------------------------------


@given(st.lists(numbers, min_size=3, max_size=7))
def test_below_eight_it_is_students_interval(values: list[float]) -> None:
    estimate = statistics.mean(values)
    assume(estimate.method != "all equal")
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert estimate.method == "t"
    assert estimate.interval == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-9)


def test_from_eight_it_is_the_bootstrap_at_the_expanded_level_and_no_end_inside_students() -> None:
    values = np.random.default_rng(0).exponential(size=12)
    estimate = statistics.mean(values.tolist())
    assert estimate.method == "BCa bootstrap"
    assert estimate == statistics.mean(values.tolist())
    level = 1 - 2 * scipy.stats.norm.cdf(-math.sqrt(12 / 11) * scipy.stats.t.ppf(0.975, 11))
    assert 0.96 < level < 0.99
    own = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=9999, confidence_level=level, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert own.low > statistics.student(values)[0]  # skewed to the right: t reaches further down, the bootstrap up
    assert own.high > statistics.student(values)[1]
    assert estimate.interval == pytest.approx((statistics.student(values)[0], own.high))


@pytest.mark.parametrize("n", [8, 9, 30])
def test_the_bootstrap_is_that_of_scipy(n: int) -> None:
    """Of skewed values and of one that stands alone, in rows and in a row of its own (whose sums round otherwise)."""
    x = np.random.default_rng(n).exponential(size=(4, n))
    x[3] = np.arange(n) == 0
    level = 1 - 2 * scipy.stats.norm.cdf(-math.sqrt(n / (n - 1)) * scipy.stats.t.ppf(0.975, n - 1))
    for values in (x, *x):
        rng = np.random.default_rng(0)
        oracle = scipy.stats.bootstrap((values,), np.mean, axis=-1, n_resamples=999, confidence_level=level, rng=rng)
        low, high = statistics.bca(values, resamples=999)
        assert low == pytest.approx(oracle.confidence_interval.low, rel=1e-9)
        assert high == pytest.approx(oracle.confidence_interval.high, rel=1e-9)


def test_equal_values_have_no_bootstrap() -> None:
    assert np.isnan(statistics.bca(np.ones(9), resamples=99)).all()


def test_on_many_values_the_expanded_level_is_the_plain_one() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    expanded = statistics.bca(values, resamples=999)
    plain = scipy.stats.bootstrap((values,), np.mean, n_resamples=999, rng=np.random.default_rng(0)).confidence_interval
    assert expanded == pytest.approx((plain.low, plain.high), abs=0.004)


@given(st.lists(numbers, min_size=2, max_size=7), st.floats(0.01, 100), numbers)
def test_units_and_order_do_not_matter(values: list[float], unit: float, shift: float) -> None:
    b = [round(shift + value / 7, 3) for value in values[::-1]]
    estimate = statistics.difference(values, b)
    scaled = statistics.difference([value * unit for value in values], [value * unit for value in b])
    turned = statistics.difference(values[::-1], b[::-1])
    mirrored = statistics.difference(b, values)
    assert estimate.method == scaled.method == turned.method == mirrored.method
    if estimate.interval is None:
        return
    low, high = estimate.interval
    tolerance = {"rel": 1e-6, "abs": 1e-6 * max(1.0, unit)}
    assert scaled.interval == pytest.approx((low * unit, high * unit), **tolerance)
    assert turned.interval == pytest.approx((low, high), **tolerance)
    assert mirrored.interval == pytest.approx((-high, -low), **tolerance)


# Degenerate cases ---------------------------------------------------------------------------


def test_no_value_and_one_value_decide_nothing() -> None:
    assert statistics.mean([]).interval is None
    one = statistics.mean([0.9])
    assert (one.effect, one.interval, one.n) == (0.9, None, 1)
    assert "exact: true" in one.why


def test_one_value_decides_where_it_is_exact() -> None:
    assert statistics.mean([0.9], exact=True) == Estimate(0.9, 0.9, 0.9, 1, "exact")
    assert statistics.ratio([3.0], [6.0], exact=True).interval == pytest.approx((0.5, 0.5))


def test_what_is_called_exact_must_agree() -> None:
    estimate = statistics.mean([0.9, 0.8, 0.9], exact=True)
    assert estimate.interval is None
    assert "called exact, yet the values range from 0.8 to 0.9" in estimate.why


def test_two_values_decide_nothing_and_three_equal_ones_are_exact() -> None:
    assert statistics.mean([0.9, 0.9]).interval is None
    assert statistics.mean([0.9, 0.91]).why.startswith("two seeds decide nothing")
    assert statistics.mean([0.9, 0.9], exact=True).interval == (0.9, 0.9)
    assert statistics.mean([0.9, 0.9, 0.9]).interval == (0.9, 0.9)
    assert statistics.mean([0.0, 0.0, 0.0]).interval == (0.0, 0.0)
    assert statistics.mean([0.5] * 20).interval == (0.5, 0.5)


def test_equal_up_to_float32_is_equal() -> None:
    a = [float(np.float32(value)) for value in (0.84, 0.86, 0.9)]
    b = [float(np.float32(value)) for value in (0.82, 0.84, 0.88)]
    assert len({x - y for x, y in zip(a, b, strict=True)}) > 1
    assert statistics.difference(a, b).method == "all equal"
    assert statistics.mean([1e-9, 2e-9, 3e-9]).method == "t"  # small numbers are not rounding


def test_a_bootstrap_without_an_interval_gives_way_to_t(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(9.0)
    monkeypatch.setattr(statistics, "bca", lambda x, level, resamples: (math.nan, math.nan))
    assert statistics.mean(values.tolist()).interval == pytest.approx(statistics.student(values))


def test_nearly_equal_values_have_a_bootstrap_interval() -> None:
    low, high = statistics.mean([0.0] * 9 + [1.0]).interval or (math.nan, math.nan)
    assert low <= 0.1 <= high


# Ratios -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=3, max_size=7))
def test_a_ratio_turned_round_is_the_inverse(pairs: list[tuple[float, float]]) -> None:
    a, b = zip(*pairs, strict=True)
    estimate, inverse = statistics.ratio(a, b), statistics.ratio(b, a)
    assert estimate.interval is not None
    assert inverse.interval is not None
    assert estimate.effect == pytest.approx(1 / float(inverse.effect or 0))
    assert estimate.interval == pytest.approx((1 / inverse.interval[1], 1 / inverse.interval[0]), rel=1e-6)


def test_a_ratio_needs_values_above_zero() -> None:
    assert statistics.ratio([1.0, 0.0, 1.0], [1.0, 1.0, 1.0]).why == "a ratio needs values above 0"


# Binary outcomes ----------------------------------------------------------------------------


def test_outcomes_are_recognised_when_both_occur() -> None:
    assert statistics.is_binary([1.0, 0.0], [1.0, 1.0])
    assert statistics.is_binary([1.0, 1.0], [0.0, 0.0])
    assert not statistics.is_binary([1.0, 1.0], [1.0, 1.0])  # two accuracies of 100 %, as likely
    assert not statistics.is_binary([0.5, 1.0], [0.0, 1.0])


def test_a_share_has_clopper_pearsons_interval() -> None:
    estimate = statistics.share([1.0] * 14 + [0.0])  # 14 of 15
    assert estimate.interval == pytest.approx((scipy.stats.beta.ppf(0.025, 14, 2), scipy.stats.beta.ppf(0.975, 15, 1)))
    assert statistics.share([0.5]).interval is None


def test_five_of_five_against_none_is_decided_as_by_fishers_test() -> None:
    estimate = statistics.odds([1.0] * 5, [0.0] * 5)
    assert estimate.low is not None
    assert estimate.low > 1
    low = statistics.odds([1.0] * 3, [0.0] * 3).low
    assert low is not None
    assert low < 1
    assert statistics.odds([0.0] * 5, [0.0] * 5).interval is None


@settings(max_examples=30)
@given(st.integers(1, 8), st.data())
def test_odds_agree_with_fishers_test(n: int, data: st.DataObject) -> None:
    ones = [data.draw(st.integers(0, n)) for _ in range(2)]
    a, b = ([1.0] * k + [0.0] * (n - k) for k in ones)
    estimate = statistics.odds(a, b)
    if estimate.low is None:
        assert ones[0] == ones[1]
        return
    table = [[ones[0], n - ones[0]], [ones[1], n - ones[1]]]
    p = scipy.stats.fisher_exact(table, alternative="greater").pvalue
    assume(abs(p - 0.025) > 1e-6)
    assert (estimate.low > 1) == (p < 0.025)


# Correlations and trends --------------------------------------------------------------------


@given(st.lists(st.tuples(numbers, numbers), min_size=5, max_size=12))
def test_coefficients_are_scipys(pairs: list[tuple[float, float]]) -> None:
    x, y = zip(*pairs, strict=True)
    assume(np.ptp(x) > 0.1 and np.ptp(y) > 0.1)
    assert statistics.coefficient(x, y, "pearson") == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-9)
    assert statistics.coefficient(x, y, "spearman") == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-9)


def test_pearsons_interval_is_scipys() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20))
    expected = scipy.stats.pearsonr(x, y).confidence_interval(0.95)
    estimate = statistics.correlation(x.tolist(), y.tolist(), "pearson")
    assert estimate.interval == pytest.approx((expected.low, expected.high))


def test_a_constant_column_and_few_points_decide_nothing() -> None:
    assert statistics.coefficient([1, 1, 1], [1, 2, 3], "spearman") == 0
    assert statistics.correlation([1.0] * 6, [1, 2, 3, 4, 5, 6], "spearman").interval is None
    assert statistics.correlation([1, 2, 3, 4], [1, 2, 3, 4], "pearson").interval is None
    assert statistics.mean_correlation([([1, 2, 3], [1, 2, 3])] * 5, "pearson").interval is None


def test_the_trend_is_the_change_per_step() -> None:
    estimate = statistics.trend([[3.0, 2.0, 1.1], [3.1, 2.0, 1.0], [2.9, 2.1, 0.9]])
    assert estimate.effect == pytest.approx(-1.0)
    assert estimate.interval is not None
    assert estimate.interval[1] < 0


def test_a_step_that_turns_back_is_found() -> None:
    rows = [[10.0, 1.0, 3.0, 5.0 + seed / 10] for seed in range(5)]
    assert statistics.trend(rows).interval is not None
    assert [step for step, _ in statistics.wrong_steps(rows, rising=False)] == [1, 2]
    assert statistics.wrong_steps([[3.0, 2.0, 1.0]] * 3, rising=False) == []
    assert [step for step, _ in statistics.wrong_steps([[1.0, 2.0, 1.5]], rising=True, exact=True)] == [1]


# Simulations: how often does an interval miss the truth, and on which side ------------------

STUDIES = 2000
MONTE_CARLO = 2 * math.sqrt(0.05 * 0.95 / STUDIES)


def paired_normal(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    common = rng.normal(0.8, 0.02, n)
    return common + rng.normal(0, 0.01, n), common + rng.normal(0, 0.01, n)


def accuracies(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    share = np.clip(rng.normal(0.85, 0.02, n), 0, 1)
    return rng.binomial(100, share) / 100, rng.binomial(100, share) / 100


def saturated(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.binomial(200, 0.995, n) / 200, rng.binomial(200, 0.995, n) / 200


def heavy_tails(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_t(3, n), rng.standard_t(3, n)


def _collapsed(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    return np.where(rng.random(n) < share, 0.1, 0.8) + rng.normal(0, 0.01, n)


def collapsed_at_times(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return _collapsed(rng, n, 0.5), _collapsed(rng, n, 0.5)


def rarely_collapsed(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return _collapsed(rng, n, 0.1), _collapsed(rng, n, 0.1)


@pytest.mark.parametrize(
    "draw", [paired_normal, accuracies, saturated, heavy_tails, collapsed_at_times, rarely_collapsed]
)
@pytest.mark.parametrize("n", [3, 5, 7])
def test_with_no_effect_t_rarely_holds_and_covers(draw: Callable[..., tuple[np.ndarray, np.ndarray]], n: int) -> None:
    rng = np.random.default_rng(n)
    estimates = [statistics.difference(*draw(rng, n)) for _ in range(STUDIES)]
    intervals = [estimate.interval for estimate in estimates if estimate.interval is not None]
    assert sum(low > 0 for low, _ in intervals) / STUDIES <= 0.05
    assert sum(high < 0 for _, high in intervals) / STUDIES <= 0.05
    assert sum(low <= 0 <= high for low, high in intervals) / len(intervals) >= 0.95 - 2 * MONTE_CARLO


@pytest.mark.parametrize("n", [8, 12])
@pytest.mark.parametrize(
    "draw", [paired_normal, accuracies, saturated, heavy_tails, collapsed_at_times, rarely_collapsed]
)
def test_with_no_effect_the_bootstrap_rarely_holds_and_covers(
    draw: Callable[..., tuple[np.ndarray, np.ndarray]], n: int
) -> None:
    # All studies in one call, with fewer resamples than a verdict takes.
    rng = np.random.default_rng(n)
    low, high = statistics.interval(np.stack([np.subtract(*draw(rng, n)) for _ in range(STUDIES)]), resamples=999)
    assert (low > 0).mean() <= 0.05
    assert (high < 0).mean() <= 0.05
    assert ((low <= 0) & (high >= 0)).mean() >= 0.95 - 2 * MONTE_CARLO


def test_one_arm_alone_is_covered_though_skewed() -> None:
    rng = np.random.default_rng(0)
    for n in (8, 20):
        accuracy = rng.beta(20, 2, (STUDIES, n))
        low, high = statistics.interval(accuracy, resamples=999)
        assert ((low <= 20 / 22) & (high >= 20 / 22)).mean() >= 0.95 - 2 * MONTE_CARLO


def test_the_bootstrap_alone_would_be_too_narrow() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(STUDIES, 8))
    plain = scipy.stats.bootstrap((normal,), np.mean, axis=-1, n_resamples=999, rng=rng).confidence_interval
    assert ((plain.low <= 0) & (plain.high >= 0)).mean() < 0.91
    differences = np.stack([np.subtract(*rarely_collapsed(rng, 12)) for _ in range(STUDIES)])
    assert (statistics.bca(differences, resamples=999)[0] > 0).mean() > 0.05 + MONTE_CARLO


@pytest.mark.parametrize("n", [5, 8])
def test_shares_and_odds_err_on_the_safe_side(n: int) -> None:
    # Every possible outcome of a study, weighted by how likely it is.
    outcomes = [[1.0] * ones + [0.0] * (n - ones) for ones in range(n + 1)]
    shares = [statistics.share(some).interval or (0.0, 1.0) for some in outcomes]
    odds = np.array([[(statistics.odds(a, b).low or 0) > 1 for b in outcomes] for a in outcomes])
    for share in (0.1, 0.5, 0.65, 0.9):
        likely = scipy.stats.binom.pmf(range(n + 1), n, share)
        assert sum(p for p, (low, high) in zip(likely, shares, strict=True) if low <= share <= high) >= 0.95
        assert likely @ odds @ likely <= 0.05


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_unrelated_columns_rarely_correlate(method: str) -> None:
    rng = np.random.default_rng(0)
    for n in (6, 20):
        lows = [statistics.correlation(*rng.normal(size=(2, n)).tolist(), method).low for _ in range(STUDIES)]
        assert sum(low is not None and low > 0 for low in lows) / STUDIES <= 0.05
    samples = rng.normal(size=(STUDIES // 2, 3, 2, 6)).tolist()
    lows = [statistics.mean_correlation(sample, method).low for sample in samples]
    assert sum(low is not None and low > 0 for low in lows) / len(lows) <= 0.05


def test_the_interval_of_a_correlation_covers_it() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, STUDIES, 20))
    y = 0.74 * x + math.sqrt(1 - 0.74**2) * noise
    truth = {"pearson": 0.74, "spearman": 6 / math.pi * math.asin(0.74 / 2)}
    for method, r in truth.items():
        estimates = [statistics.correlation(a, b, method) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        assert sum(low <= r <= high for low, high in (e.interval or (1, -1) for e in estimates)) / STUDIES >= 0.93


def test_flat_sweeps_rarely_have_a_trend() -> None:
    rng = np.random.default_rng(0)
    for seeds, levels in ((3, 3), (3, 7), (5, 4)):
        sweeps = rng.binomial(50, 0.8, (STUDIES, seeds, levels)) / 50
        lows = [statistics.trend(sweep.tolist()).low for sweep in sweeps]
        assert sum(low is not None and low > 0 for low in lows) / STUDIES <= 0.05


def test_monotone_sweeps_are_rarely_called_broken() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(STUDIES, 5, 4))
    wrong = sum(bool(statistics.wrong_steps(sweep.tolist(), rising=True)) for sweep in flat)
    assert wrong / STUDIES <= 0.05


def test_power_grows_with_the_number_of_seeds() -> None:
    rng = np.random.default_rng(0)
    power = []
    for n in (3, 5, 8, 20):
        low, _ = statistics.interval(rng.normal(1.0, 1.0, (500, n)), resamples=1999)
        power.append((low > 0).mean())
    assert all(after > before for before, after in pairwise(power))
    assert power[0] < 0.3
    assert power[-1] > 0.95
