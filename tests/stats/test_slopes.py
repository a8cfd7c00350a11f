"""The slope of a cost along a call: known answers, bursts, drift inside the noise, and its coverage."""

import numpy as np
import pytest

from perstep.errors import InputError
from perstep.stats import half_slopes


def line(points: int, slope: float, start: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Positions and a cost that rises by `slope` at each."""
    x = np.arange(points, dtype=float)
    return x, start + slope * x


def test_a_line_gives_its_slope_exactly() -> None:
    """In one call and over several, whatever their lengths."""
    for calls in ([line(40, 3.0)], [line(20, 3.0), line(31, 3.0), line(1, 9.0)]):
        slope = half_slopes(calls)
        assert slope is not None
        assert (slope.estimate, slope.low, slope.high) == pytest.approx((3.0, 3.0, 3.0))


def test_a_burst_does_not_move_it() -> None:
    """One step in ten takes a thousand times as long."""
    x, y = line(60, 2.0)
    y[::10] *= 1000
    slope = half_slopes([(x, y)])
    assert slope is not None
    assert slope.estimate == pytest.approx(2.0)


def test_a_curve_has_an_interval() -> None:
    """A cost that grows with the square has the slope of its middle."""
    x = np.arange(60.0)
    slope = half_slopes([(x, 5 * x**2)])
    assert slope is not None
    assert slope.low is not None
    assert slope.estimate == pytest.approx(2 * 5 * 29.5, rel=0.02)


def test_too_few_steps_have_no_interval_and_one_has_no_slope() -> None:
    """Nothing is made up."""
    slope = half_slopes([line(6, 1.0)])
    assert slope is not None
    assert (slope.low, slope.high) == (None, None)
    assert half_slopes([line(1, 1.0)]) is None
    assert half_slopes([]) is None


def test_positions_that_do_not_rise_are_refused() -> None:
    """They would divide by nothing."""
    with pytest.raises(InputError, match="they must rise"):
        half_slopes([(np.zeros(4), np.zeros(4))])


def test_noise_alone_is_seldom_taken_for_growth() -> None:
    """In at most 5 % of 400 calls without any growth the interval excludes 0, and it holds a true slope as often."""
    rng = np.random.default_rng(0)
    wrong = missed = 0
    for _ in range(400):
        x, y = line(64, 0.0)
        y = y * rng.lognormal(0, 0.2, 64)
        flat = half_slopes([(x, y)])
        rising = half_slopes([(x, y + 2.0 * x)])
        assert flat is not None
        assert rising is not None
        wrong += flat.low is not None and flat.high is not None and not flat.low <= 0 <= flat.high
        missed += rising.low is not None and rising.high is not None and not rising.low <= 2 <= rising.high
    assert wrong <= 20
    assert missed <= 20
