"""Summaries, percentiles that the sample supports, Tukey's census."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep import stats
from perstep.errors import InputError


def test_a_summary_of_known_values() -> None:
    """1..5: median and mean 3, standard deviation sqrt(2.5) with n - 1, MAD 1."""
    summary = stats.summarise([5, 1, 4, 2, 3])
    assert (summary.n, summary.median, summary.mean, summary.min, summary.max, summary.mad) == (5, 3, 3, 1, 5, 1)
    assert summary.std == pytest.approx(2.5**0.5)
    assert stats.summarise([7]).std is None


@pytest.mark.parametrize(
    ("percent", "needed"), [(50, 1), (75, 40), (90, 100), (95, 200), (99, 1000), (99.9, 10_000), (5, 200), (1, 1000)]
)
def test_a_percentile_needs_ten_values_beyond_it(percent: float, needed: int) -> None:
    """One value fewer and it is null, with the number it would need."""
    assert stats.values_needed(percent) == needed
    values = np.arange(needed, dtype=float)
    assert stats.percentile(values, percent).value == pytest.approx(np.percentile(values, percent))
    if needed > 1:
        without = stats.percentile(values[1:], percent)
        assert without.value is None
        assert without.reason == f"P{percent:g} needs {needed:,} values, this sample has {needed - 1:,}"


def test_p99_of_999_values_is_null_and_says_why() -> None:
    """Through the summary; P95 stands beside it."""
    summary = stats.summarise(np.arange(999))
    assert summary.percentile(99).value is None
    assert "1,000" in summary.percentile(99).reason
    assert summary.percentile(95).value == pytest.approx(948.1)
    with pytest.raises(InputError, match="it holds P50, P95, P99"):
        summary.percentile(90)


def test_outliers_are_counted_by_side_and_severity_and_stay_in() -> None:
    """Quartiles 25 and 75: fences at -50 and 150 (mild), -125 and 225 (severe)."""
    assert stats.count_outliers(np.arange(101)) == stats.Outliers(0, 0, 0, 0)
    body = [*[25.0] * 20, *[75.0] * 20]
    assert stats.count_outliers([*body, -50, -125 - 1e-9, 150, 225]) == stats.Outliers(1, 0, 1, 0)
    census = stats.count_outliers([*body, -51, -130, 151, 152, 226])
    assert census == stats.Outliers(low_severe=1, low_mild=1, high_mild=2, high_severe=1)
    assert census.total == 5
    assert stats.summarise([*body, 10_000]).max == 10_000


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=80))
def test_a_summary_lies_within_its_extremes(values: list[float]) -> None:
    """And the census never counts more than there is."""
    summary = stats.summarise(values)
    assert summary.min <= summary.median <= summary.max
    assert 0 <= summary.outliers.total <= summary.n
    assert summary.mad >= 0


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf], [[1.0]]])
def test_what_is_no_row_of_numbers_is_refused(values: list[float]) -> None:
    """An empty sample has no summary, not a zero."""
    with pytest.raises(InputError):
        stats.summarise(values)


@pytest.mark.parametrize("percent", [0, 100, -1])
def test_percentiles_outside_0_to_100_are_refused(percent: float) -> None:
    """They are the extremes, which have their own names."""
    with pytest.raises(InputError):
        stats.percentile([1.0], percent)
