"""Changes between two arms, their verdicts, and the change that could have been resolved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from perstep import stats
from perstep.errors import InputError
from perstep.stats import Verdict, invalid_change, paired_change, withhold

costs = st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 10**9)), min_size=6, max_size=60).map(
    lambda rows: np.array(rows, dtype=np.float64)
)


def noise(rounds: int, size: float, seed: int = 0) -> np.ndarray:
    """Log-ratios that hold the quantiles of a normal distribution, in an order without autocorrelation."""
    values = size * norm.ppf((np.arange(rounds) + 0.5) / rounds)
    rng = np.random.default_rng(seed)
    while abs(stats.rank_autocorrelation(values)) > 0.05:
        values = rng.permutation(values)
    return values


def changed(by: float, rounds: int = 40, size: float = 0.005, **arguments: float) -> stats.Change:
    """The change of a candidate that costs `by` more, in known noise."""
    reference = np.full(rounds, 1000.0)
    return stats.paired_change(reference, reference * (1 + by) * np.exp(noise(rounds, size)), **arguments)  # type: ignore[arg-type]


def test_estimate_and_interval_are_order_statistics_of_the_ratios() -> None:
    """Forty ratios: the median, and at 97 % the 13th from either end."""
    ratios = noise(40, 0.01)
    change = stats.paired_change(np.full(40, 7.0), 7.0 * np.exp(ratios))
    ordered = np.sort(ratios)
    rank = int(binom.ppf(0.015, 40, 0.5))
    assert rank == 13
    assert change.estimate == pytest.approx(np.expm1(np.median(ratios)), abs=1e-12)
    assert change.ci_low == pytest.approx(np.expm1(ordered[rank - 1]), abs=1e-12)
    assert change.ci_high == pytest.approx(np.expm1(ordered[-rank]), abs=1e-12)
    assert change.achieved == pytest.approx(1 - 2 * binom.cdf(rank - 1, 40, 0.5))
    assert (change.confidence, change.rounds, change.merged_by, change.ties) == (0.95, 40, 1, 0)


@pytest.mark.parametrize(
    ("by", "verdict", "label"),
    [
        (0.05, Verdict.SLOWER, "slower"),
        (-0.05, Verdict.FASTER, "faster"),
        (0.0, Verdict.SAME, "same (within ±1 %)"),
        (0.005, Verdict.SAME, "same (within ±1 %)"),  # without 0, but wholly inside the threshold
        (0.009, Verdict.SLOWER, "slower"),  # reaches beyond the threshold and excludes 0
    ],
)
def test_verdict_is_read_off_the_printed_interval(by: float, verdict: Verdict, label: str) -> None:
    """Inside ±1 % is the same, else without 0 is faster or slower; slower has a positive sign."""
    change = changed(by)
    assert (change.verdict, change.label) == (verdict, label)
    assert change.ci_low is not None
    assert change.ci_high is not None
    inside = change.ci_low >= -0.01 and change.ci_high <= 0.01
    without_zero = change.ci_low > 0 or change.ci_high < 0
    assert (verdict is Verdict.SAME) == inside
    assert (verdict in (Verdict.FASTER, Verdict.SLOWER)) == (without_zero and not inside)


def test_an_interval_with_zero_that_leaves_the_threshold_resolves_nothing() -> None:
    """No difference found is not the same speed; the detectable change is given."""
    change = changed(0.0, size=0.1)
    assert change.verdict is Verdict.NOT_RESOLVED
    assert "includes 0" in change.reason
    assert change.mde is not None
    assert change.mde > 0.05


def test_threshold_is_the_callers() -> None:
    """The same interval is the same at 5 % and slower at 0.1 %."""
    assert changed(0.02, threshold=0.05).label == "same (within ±5 %)"
    assert changed(0.02, threshold=0.001).verdict is Verdict.SLOWER


@pytest.mark.parametrize("rounds", [7, 19])
def test_fewer_than_twenty_rounds_have_an_interval_but_no_verdict(rounds: int) -> None:
    """However clear the change."""
    change = stats.paired_change(np.ones(rounds), np.full(rounds, 3.0))
    assert change.ci_low == change.ci_high == pytest.approx(2.0)
    assert change.verdict is Verdict.NOT_RESOLVED
    assert f"{rounds} rounds; a verdict needs 20" in change.reason


def test_fewer_rounds_than_an_interval_needs_have_null_intervals() -> None:
    """Six rounds at 97 %: the estimate stands alone, half-width infinite, no detectable change."""
    change = stats.paired_change(np.ones(6), np.full(6, 3.0))
    assert change.estimate == pytest.approx(2.0)
    assert change.ci_low is change.ci_high is change.mde is change.achieved is None
    assert change.half_width == np.inf
    assert change.reason == "6 rounds; an interval needs 7"


def test_rounds_in_which_both_take_the_same_time_are_counted_and_kept() -> None:
    """A tie is a ratio of 0 that counts in the rank: with it dropped, this interval would exclude 0."""
    ratios = np.array([0.0] * 7 + [0.02] * 13)
    ratios = np.random.default_rng(4).permutation(ratios)
    change = stats.paired_change(np.full(20, 100.0), 100.0 * np.exp(ratios))
    assert change.ties == 7
    assert change.rounds == 20
    assert change.ci_low == 0.0
    assert change.verdict is Verdict.NOT_RESOLVED


def test_a_majority_of_ties_is_mentioned() -> None:
    """The clock may be too coarse to tell, and the reason says how many rounds were equal."""
    change = stats.paired_change(np.full(20, 100), np.full(20, 100))
    assert change.verdict is Verdict.SAME
    assert change.reason.endswith("both arms took exactly the same time in 20 of 20 rounds")


def test_rounds_without_time_are_not_the_same_speed() -> None:
    """Zero against zero says that the clock saw nothing, not that nothing differs."""
    change = stats.paired_change(np.zeros(30), np.zeros(30))
    assert change.verdict is Verdict.NOT_RESOLVED
    assert change.ties == 30
    assert "the clock saw no time pass in 30 of 30 rounds" in change.reason


def test_a_single_zero_is_an_infinite_ratio_that_stays_in() -> None:
    """It is one extreme order statistic among others, with its sign, and never dropped."""
    reference, candidate = np.full(20, 100.0), 100 * np.exp(noise(20, 0.01))
    reference[3] = 0.0
    candidate[8] = 0.0
    change = stats.paired_change(reference, candidate)
    assert change.rounds == 20
    assert change.ci_low is not None
    assert np.isfinite([change.ci_low, change.ci_high, change.estimate]).all()
    ratios = stats.log_ratios(reference, candidate)
    assert ratios[3] == np.inf
    assert ratios[8] == -np.inf


def test_a_reference_that_takes_no_time_is_infinitely_slower_to_replace() -> None:
    """And the other way round, 100 % faster."""
    assert stats.paired_change(np.zeros(20), np.ones(20)).estimate == np.inf
    change = stats.paired_change(np.ones(20), np.zeros(20))
    assert (change.estimate, change.verdict) == (-1.0, Verdict.FASTER)


@settings(deadline=None)
@given(costs)
def test_exchanging_the_arms_mirrors_the_interval(rows: np.ndarray) -> None:
    """In logarithms: log(1 + change) changes its sign, so do the ends, and merging is the same."""
    one = stats.paired_change(rows[:, 0], rows[:, 1])
    other = stats.paired_change(rows[:, 1], rows[:, 0])
    assert one.merged_by == other.merged_by
    assert one.estimate is not None
    assert other.estimate is not None
    assert (1 + one.estimate) * (1 + other.estimate) == pytest.approx(1)
    assert (one.ci_low is None) == (other.ci_low is None)
    if one.ci_low is not None and one.ci_high is not None:
        assert other.ci_low is not None
        assert other.ci_high is not None
        assert (1 + one.ci_low) * (1 + other.ci_high) == pytest.approx(1)
        assert (1 + one.ci_high) * (1 + other.ci_low) == pytest.approx(1)


@settings(deadline=None)
@given(costs, st.sampled_from([2.0**-20, 0.5, 4.0, 2.0**10]))
def test_the_unit_of_the_costs_does_not_matter(rows: np.ndarray, scale: float) -> None:
    """Nanoseconds or seconds, sums or means: the same change."""
    one = stats.paired_change(rows[:, 0], rows[:, 1])
    other = stats.paired_change(scale * rows[:, 0], scale * rows[:, 1])
    assert one.estimate == pytest.approx(other.estimate)
    assert one.ci_low == pytest.approx(other.ci_low)
    assert one.ci_high == pytest.approx(other.ci_high)
    assert one.verdict == other.verdict


@settings(deadline=None)
@given(costs)
def test_the_estimate_lies_in_its_interval(rows: np.ndarray) -> None:
    """Whatever the costs and however they are merged."""
    change = stats.paired_change(rows[:, 0], rows[:, 1])
    if change.ci_low is not None:
        assert change.ci_low <= change.estimate <= change.ci_high  # type: ignore[operator]


def test_several_arms_share_the_error() -> None:
    """Eleven candidates have wider intervals than one, by Bonferroni's share of the error."""
    rng = np.random.default_rng(1)
    table = 1000 * np.exp(0.01 * rng.standard_normal((60, 12)))
    changes = stats.paired_changes(table, reference=2)
    assert list(changes) == [0, 1, *range(3, 12)]
    for arm, change in changes.items():
        alone = stats.paired_change(table[:, 2], table[:, arm])
        assert change.achieved is not None
        assert alone.achieved is not None
        assert change.achieved >= 1 - 0.03 / 11
        assert change.achieved > alone.achieved
        assert change == stats.paired_change(table[:, 2], table[:, arm], comparisons=11)


def test_rounds_that_resemble_each_other_are_merged() -> None:
    """Slow waves in the ratio: the interval is that of longer rounds and wider than without merging."""
    rng = np.random.default_rng(3)
    wave = np.repeat(rng.standard_normal(50), 4) * 0.02
    change = stats.paired_change(np.ones(200), np.exp(wave + 0.002 * rng.standard_normal(200)))
    assert change.merged_by >= 4
    assert change.merged_rounds == 200 // change.merged_by
    assert change.autocorrelation < 0.1
    unmerged = stats.median_interval(wave)
    assert unmerged is not None
    assert 2 * change.half_width > unmerged.high - unmerged.low


def test_an_invalid_comparison_has_no_numbers_and_says_why() -> None:
    """Its label carries the reason; nothing can be read off it."""
    change = stats.invalid_change("tokens differ", rounds=30)
    assert change.label == "invalid (tokens differ)"
    assert change.estimate is change.ci_low is change.mde is None
    assert change.half_width == np.inf


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ([], []),
        ([1.0, 2.0], [1.0]),
        ([1.0, np.nan], [1.0, 1.0]),
        ([1.0, -1.0], [1.0, 1.0]),
        ([1.0, np.inf], [1.0, 1.0]),
    ],
)
def test_costs_that_are_no_durations_are_refused(reference: list[float], candidate: list[float]) -> None:
    """Missing rounds, NaN, negative or infinite times are bad input, never a verdict."""
    with pytest.raises(InputError):
        stats.paired_change(reference, candidate)


def test_shapes_and_thresholds_out_of_range_are_refused() -> None:
    """One arm, a reference that is not there, a threshold in per cent."""
    for table, reference in ((np.ones((20, 1)), 0), (np.ones(20), 0), (np.ones((20, 2)), 2)):
        with pytest.raises(InputError):
            stats.paired_changes(table, reference=reference)
    with pytest.raises(InputError):
        stats.paired_change([1.0], [1.0], threshold=1.0)


def test_detectable_effect_is_the_distance_to_the_quantile_that_gives_80_percent() -> None:
    """Many normal ratios: the normal quantile at p with P[Bin(n, p) < rank] = 85 % before merging by chance."""
    n, size = 2000, 0.01
    ratios = noise(n, size)
    interval = stats.median_interval(ratios, confidence=0.97)
    assert interval is not None
    p = next(q for q in np.linspace(0.5, 0.4, 10001) if binom.cdf(interval.rank - 1, n, q) >= 0.85)
    expected = np.expm1(-size * norm.ppf(p))
    assert stats.minimum_detectable_effect(ratios, interval) == pytest.approx(expected, rel=1e-3)


def test_detectable_effect_beyond_the_sample_is_stretched_like_a_normal() -> None:
    """Seven values hold no quantile at 2.3 %: the one at 1/7 is stretched by the ratio of normal quantiles."""
    ratios = np.array([-0.03, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03])
    interval = stats.MedianInterval(-0.03, 0.03, 0.984, 1)
    p = 1 - 0.85 ** (1 / 7)
    quantile_at_seventh = 0.025  # Hazen: the first value stands at 1/14, the second at 3/14
    expected = np.expm1(quantile_at_seventh * norm.ppf(p) / norm.ppf(1 / 7))
    assert stats.minimum_detectable_effect(ratios, interval) == pytest.approx(expected)


def test_detectable_effect_is_resolved_in_80_percent_of_tries() -> None:
    """Injected into normal noise it is found in 72 to 88 % of 400 tries (four standard errors)."""
    rng = np.random.default_rng(11)
    found, tries, rounds = 0, 400, 60
    mdes = [run(rng, 0.0, rounds).mde for _ in range(100)]
    mde = float(np.median([m for m in mdes if m is not None]))
    for _ in range(tries):
        change = run(rng, mde, rounds)
        found += change.ci_low is not None and change.ci_low > 0
    assert 0.72 <= found / tries <= 0.88


def run(rng: np.random.Generator, by: float, rounds: int) -> stats.Change:
    """One comparison in normal noise of 1.5 %."""
    reference = np.exp(0.015 * rng.standard_normal(rounds))
    return stats.paired_change(reference, (1 + by) * np.ones(rounds))


def test_a_withheld_change_says_nothing_but_why():
    """No interval or verdict is left; without a reason, or of an invalid change, everything is."""
    found = paired_change(np.full(30, 100.0), np.full(30, 150.0))
    withheld = withhold(found, "the machine was busy: waited 61 %")
    assert withheld.label == "not resolved (the machine was busy: waited 61 %)"
    assert withheld.verdict is Verdict.NOT_RESOLVED
    assert (withheld.ci_low, withheld.ci_high, withheld.mde) == (None, None, None)
    assert withheld.estimate == found.estimate
    assert withheld.rounds == 30
    assert withhold(found, "") is found
    invalid = invalid_change("the clock stepped back")
    assert withhold(invalid, "busy") is invalid
