"""Autocorrelation of ranks, and the merging of rounds that are autocorrelated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep import stats
from perstep.errors import InputError


def first(costs: np.ndarray) -> np.ndarray:
    """The value of a round is the cost of its only arm."""
    return costs[:, 0]


def test_autocorrelation_of_a_known_row() -> None:
    """1..5: sum of neighbouring products of -2..2 is 4, over 10, plus 1/5."""
    assert stats.rank_autocorrelation([1, 2, 3, 4, 5]) == pytest.approx(4 / 10 + 1 / 5)
    assert stats.rank_autocorrelation([1, 5, 2, 4]) == pytest.approx((-2.25 - 0.75 - 0.25) / 5 + 1 / 4)


def test_autocorrelation_has_mean_zero_for_independent_values() -> None:
    """The correction by 1/n removes the bias: 4,000 rows of 20 average 0 within four standard errors."""
    rng = np.random.default_rng(0)
    mean = np.mean([stats.rank_autocorrelation(rng.standard_normal(20)) for _ in range(4000)])
    assert abs(mean) < 4 * 0.22 / np.sqrt(4000)


def test_autocorrelation_sees_ranks_only() -> None:
    """One enormous burst changes nothing but its own rank, infinities count, ties share a rank."""
    values = np.random.default_rng(1).standard_normal(30)
    burst = np.where(values == values.max(), 1e12, values)
    assert stats.rank_autocorrelation(burst) == stats.rank_autocorrelation(values)
    assert stats.rank_autocorrelation(np.where(values == values.max(), np.inf, values)) == pytest.approx(
        stats.rank_autocorrelation(values)
    )
    assert stats.rank_autocorrelation([1, 1, 2, 2]) == pytest.approx((1 - 1 + 1) / 4 + 1 / 4)
    assert stats.rank_autocorrelation([3.0] * 10) == 0.0
    with pytest.raises(InputError):
        stats.rank_autocorrelation([1.0])


def test_merged_rounds_are_means_of_neighbours() -> None:
    """Pairs of six rounds; of seven, no round is dropped: one block holds three."""
    assert stats.merge_rounds([1, 3, 5, 7, 9, 11], 2).tolist() == [2, 6, 10]
    assert stats.merge_rounds([1, 3, 5, 7, 9, 11, 13], 2).tolist() == [2, 6, 11]
    assert stats.merge_rounds([[1, 10], [3, 30]], 2).tolist() == [[2, 20]]


@given(st.integers(1, 60), st.integers(1, 10))
def test_merging_drops_no_round(rounds: int, factor: int) -> None:
    """Blocks differ by at most one round, so the mean of merged rounds is within a round of the mean."""
    if factor > rounds:
        with pytest.raises(InputError):
            stats.merge_rounds(np.arange(rounds), factor)
        return
    marks = np.eye(rounds)  # each round is its own arm: what is left of it after merging?
    merged = stats.merge_rounds(marks, factor)
    sizes = (merged > 0).sum(axis=1)
    assert merged.shape == (rounds // factor, rounds)
    assert sizes.sum() == rounds
    assert sizes.max() - sizes.min() <= 1
    assert ((merged > 0).sum(axis=0) == 1).all()


def test_independent_rounds_are_left_as_they_are() -> None:
    """An alternating row is not positively autocorrelated."""
    merged = stats.merge_until_independent(np.tile([1.0, 2.0], 15)[:, None], first)
    assert (merged.merged_by, merged.values.size, merged.independent) == (1, 30, True)


def test_rounds_are_merged_by_doubling_until_independent() -> None:
    """A row of pairs of equal values is independent once the pairs are merged."""
    pairs = np.repeat(np.tile([1.0, 4.0, 2.0, 3.0], 10), 2)
    merged = stats.merge_until_independent(pairs[:, None], first)
    assert (merged.merged_by, merged.independent) == (2, True)
    assert merged.values.tolist() == pairs[::2].tolist()


def test_merging_ends_where_no_interval_would_be_left() -> None:
    """Thirty rising rounds: by 4 leaves seven, the fewest that have an interval; by 8 would leave three."""
    merged = stats.merge_until_independent(np.arange(30.0)[:, None], first)
    assert (merged.merged_by, merged.values.size, merged.independent) == (4, 7, False)
    assert stats.merged_interval(merged) is None
    twelve = stats.merge_until_independent(np.arange(30.0)[:, None], first, comparisons=12)
    assert (twelve.merged_by, twelve.values.size) == (2, 15)


def test_the_widest_interval_stands_in_where_rounds_run_out() -> None:
    """Between 0.1 and 0.5 the interval runs from the smallest to the largest merged value; from 0.5 there is none."""
    values = np.array([5.0, 1.0, 2.0, 3.0, 4.0, 9.0, 7.0, 8.0, 6.0, 0.0])
    for autocorrelation, expected in ((0.09, (1.0, 8.0)), (0.3, (0.0, 9.0))):
        found = stats.merged_interval(stats.Merged(values, 4, autocorrelation, autocorrelation < 0.1))
        assert found is not None
        assert (found.low, found.high) == expected
    assert stats.merged_interval(stats.Merged(values, 4, 0.5, independent=False)) is None
    assert stats.merged_interval(stats.Merged(values[:6], 4, 0.3, independent=False)) is None


def test_what_is_shown_at_95_is_asked_of_the_sign_test_at_97() -> None:
    """The rest of the error is left to looking more than once."""
    assert stats.guarded_confidence(0.95) == pytest.approx(0.97)
