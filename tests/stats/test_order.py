"""The sign-test interval of a median, against SciPy's binomial and printed tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from perstep import stats
from perstep.errors import InputError

finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("n", "rank"),
    # Conover, table A3 / the usual table of sign-test ranks at a two-sided 5 %.
    [(5, 0), (6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (17, 5), (20, 6), (23, 7), (25, 8), (30, 10), (50, 18)],
)
def test_rank_is_that_of_the_printed_table(n: int, rank: int) -> None:
    """At 95 % the rank is the tabulated one; below six values there is none."""
    assert rank == stats.sign_test_rank(n)


@pytest.mark.parametrize("comparisons", [1, 2, 3, 11, 12])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.97, 0.99])
def test_rank_is_the_largest_that_keeps_the_confidence(comparisons: int, confidence: float) -> None:
    """The rank keeps its share of the error and the next one does not, by SciPy's binomial, for 1 to 200 values."""
    alpha = (1 - confidence) / comparisons
    for n in range(1, 201):
        rank = stats.sign_test_rank(n, comparisons=comparisons, confidence=confidence)
        assert rank == 0 or 2 * binom.cdf(rank - 1, n, 0.5) <= alpha * (1 + 1e-12)
        assert 2 * binom.cdf(rank, n, 0.5) > alpha * (1 - 1e-12) or rank == (n + 1) // 2


def test_a_tail_equal_to_the_error_is_enough() -> None:
    """2 / 2^6 = 1 / 32 exactly meets an error of 1 / 32: no rounding may take the rank away."""
    assert stats.sign_test_rank(6, confidence=1 - 1 / 32) == 1


@pytest.mark.parametrize(
    ("comparisons", "rounds"), [(1, 6), (2, 7), (3, 7), (4, 8), (6, 8), (11, 9), (12, 9), (13, 10)]
)
def test_rounds_needed_grows_with_the_parts_shown(comparisons: int, rounds: int) -> None:
    """One interval needs six values, twelve need nine: 2 / 2^n <= 5 % / k."""
    assert rounds == stats.rounds_needed(comparisons)
    assert stats.median_interval(np.arange(rounds - 1), comparisons=comparisons) is None
    assert stats.median_interval(np.arange(rounds), comparisons=comparisons) is not None


def test_interval_holds_the_values_at_its_rank() -> None:
    """For 20 values the 6th from either end; the achieved confidence is the binomial's."""
    values = np.random.default_rng(0).permutation(20) * 10.0
    assert stats.median_interval(values) == stats.MedianInterval(
        50.0, 140.0, pytest.approx(1 - 2 * binom.cdf(5, 20, 0.5), abs=1e-15), 6
    )
    assert stats.achieved_confidence(20, 6) == pytest.approx(0.95861, abs=1e-5)


def test_many_values_keep_exact_ranks() -> None:
    """At 5,000 values, where floats of 2^n overflow, the rank is SciPy's."""
    assert stats.sign_test_rank(5000) == binom.ppf(0.025, 5000, 0.5)


def test_ties_widen_and_never_narrow() -> None:
    """Equal values stay in: with 15 of 20 equal, the interval is that value, and coverage is not lost."""
    interval = stats.median_interval([0.0] * 15 + [1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 0.0)
    interval = stats.median_interval([-1.0] * 6 + [0.0] * 8 + [1.0] * 6)
    assert interval is not None
    assert (interval.low, interval.high) == (-1.0, 1.0)


def test_infinities_are_values_like_others() -> None:
    """A median is not disturbed by infinities, and between two opposite ones it is 0."""
    assert stats.median([-np.inf, 1.0, np.inf]) == 1.0
    assert stats.median([np.inf, np.inf]) == np.inf
    assert stats.median([-np.inf, np.inf]) == 0.0
    interval = stats.median_interval([*range(14), *[np.inf] * 6])
    assert interval is not None
    assert (interval.low, interval.high) == (5.0, np.inf)


@given(st.lists(finite, min_size=6, max_size=60), st.integers(1, 4))
def test_interval_holds_the_median_and_narrows_with_fewer_comparisons(values: list[float], comparisons: int) -> None:
    """The median lies inside; the interval of one comparison lies inside that of several."""
    one = stats.median_interval(values)
    assert one is not None
    assert one.low <= stats.median(values) <= one.high
    assert one.confidence >= 0.95
    several = stats.median_interval(values, comparisons=comparisons)
    if several is not None:
        assert several.low <= one.low
        assert one.high <= several.high


@given(st.lists(finite, min_size=6, max_size=40), st.randoms(use_true_random=False))
def test_interval_does_not_depend_on_the_order_of_the_values(values: list[float], random: object) -> None:
    """Permutation changes nothing; changing all signs mirrors the interval."""
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other, mirrored = (stats.median_interval(v) for v in (values, shuffled, [-x for x in values]))
    assert one == other
    assert one is not None
    assert mirrored is not None
    assert (mirrored.low, mirrored.high) == (-one.high, -one.low)


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, np.nan]])
def test_values_that_are_no_row_of_numbers_are_refused(values: list[float]) -> None:
    """Nothing, a table or NaN is bad input, not an interval."""
    with pytest.raises(InputError):
        stats.median_interval(values)


@pytest.mark.parametrize(
    "arguments", [{"comparisons": 0}, {"confidence": 0.0}, {"confidence": 1.0}, {"confidence": 95}]
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    """A confidence in per cent or no comparison at all is bad input."""
    with pytest.raises(InputError):
        stats.sign_test_rank(20, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        stats.rounds_needed(**{"comparisons": 1, **arguments})  # type: ignore[arg-type]
    with pytest.raises(InputError):
        stats.achieved_confidence(20, 11)
    with pytest.raises(InputError):
        stats.sign_test_rank(-1)
