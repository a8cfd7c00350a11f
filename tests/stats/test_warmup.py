"""Where a series becomes steady."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep import stats
from perstep.errors import InputError


def test_a_steady_series_has_no_warmup() -> None:
    """Noise alone drops nothing."""
    series = 100 + np.random.default_rng(0).standard_normal(200)
    assert stats.find_steady_state(series) == stats.Warmup(
        0, True, "steady from the start: the first two windows of 10 agree"
    )


def test_a_series_that_settles_loses_the_windows_before() -> None:
    """Fifteen values at twice the cost touch two windows of ten."""
    series = np.full(100, 100.0)
    series[:15] = 200.0
    found = stats.find_steady_state(series)
    assert (found.dropped, found.steady) == (20, True)
    assert "2.00 times" in found.reason


def test_noise_inside_the_windows_decides_how_much_they_may_differ() -> None:
    """Medians 5 % apart are a step in a quiet series, and nothing in a noisy one."""
    quiet = np.r_[np.full(10, 105.0), np.full(60, 100.0)]
    noisy = quiet + np.tile([-30.0, 30.0, -20.0, 20.0, 0.0], 14)
    assert stats.find_steady_state(quiet).dropped == 10
    assert stats.find_steady_state(noisy).dropped == 0


def test_a_series_that_never_settles_is_drift_and_the_cap_holds() -> None:
    """Half of it at most, and no more than the cap."""
    series = np.linspace(100.0, 1100.0, 100)
    found = stats.find_steady_state(series)
    assert (found.dropped, found.steady) == (50, False)
    assert "drift" in found.reason
    assert stats.find_steady_state(series, max_dropped=25).dropped == 20


def test_too_short_a_series_is_not_judged() -> None:
    """Nothing is dropped and nothing is claimed."""
    assert stats.find_steady_state(np.ones(19)) == stats.Warmup(
        0, False, "19 values are too few to judge; 20 are needed"
    )


@given(st.lists(st.floats(0, 1e9), max_size=120), st.integers(4, 12), st.integers(0, 60))
def test_the_answer_is_a_number_of_whole_windows_within_the_cap(
    series: list[float], window: int, max_dropped: int
) -> None:
    """And the same each time."""
    found = stats.find_steady_state(series, window=window, max_dropped=max_dropped)
    assert found.dropped % window == 0
    assert found.dropped <= min(max_dropped, len(series) // 2)
    assert found == stats.find_steady_state(series, window=window, max_dropped=max_dropped)


@pytest.mark.parametrize("arguments", [{"window": 3}, {"tolerance": -0.1}, {"max_dropped": -1}])
def test_arguments_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    """So are negative or missing durations."""
    with pytest.raises(InputError):
        stats.find_steady_state(np.ones(50), **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        stats.find_steady_state([1.0, -1.0])
    with pytest.raises(InputError):
        stats.find_steady_state([1.0, np.nan])
