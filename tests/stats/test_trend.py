"""Rounds at different positions brought to the mean one."""

import numpy as np
import pytest

from perstep.stats import without_trend


def test_a_line_is_taken_out_and_what_is_beside_it_stays() -> None:
    """5 % more a position; the third of five rounds lies 10 % above the line."""
    at = np.arange(5.0)
    values = 100 * (1 + 0.05 * at) * np.array([1, 1, 1.1, 1, 1])
    assert without_trend(values, at, 2) == pytest.approx([110, 110, 121, 110, 110])


def test_a_burst_does_not_bend_the_line() -> None:
    """One round in nine takes ten times as long; the others are what they are without it."""
    at = np.arange(9.0)
    values = 100 + at
    values[7] *= 10
    found = without_trend(values, at, 4)
    assert np.delete(found, 7) == pytest.approx(104)


def test_repeated_positions_tell_the_slope_together() -> None:
    """Two calls of three pieces, the second slower: the pieces of each end alike, the calls do not."""
    found = without_trend(np.array([10.0, 11, 12, 20, 22, 24]), np.tile([0.0, 1, 2], 2), 1)
    assert found[:3] == pytest.approx(found[0], rel=0.04)
    assert found[3:] == pytest.approx(found[3], rel=0.04)
    assert found[3] > 1.5 * found[0]


@pytest.mark.parametrize(
    ("values", "at"),
    [([3.0, 5.0], [1.0, 1.0]), ([0.0, 0, 0, 7], [0.0, 1, 2, 3]), ([0.01, 10, 20], [0.0, 1, 2]), ([4.0], [0.0])],
)
def test_values_stay_as_they_are_where_no_line_fits(values: list[float], at: list[float]) -> None:
    """One position, mostly zeros, a line that falls to nothing, one value."""
    assert without_trend(np.array(values), np.array(at), 0.5).tolist() == values
