"""The interval about a part's share of the step."""

import numpy as np
import pytest

from perstep import stats
from perstep.errors import InputError


def ratios(rounds: int) -> np.ndarray:
    """Shares about 0.3, in an order without autocorrelation."""
    return shuffled(0.3 * (1 + 0.02 * np.linspace(-1, 1, rounds)))


def shuffled(values: np.ndarray) -> np.ndarray:
    """The values in an order without autocorrelation."""
    rng = np.random.default_rng(5)
    values = rng.permutation(values)
    while abs(stats.rank_autocorrelation(values)) > 0.05:
        values = rng.permutation(values)
    return values


def test_the_interval_stands_about_the_estimate_with_the_longer_reach() -> None:
    """Both arms are the longer one of the sign-test interval, over the ratios' median."""
    q = ratios(31) ** 3  # not symmetric
    step = np.full(31, 1000.0)
    found = stats.share_interval(q * step, step, estimate=0.5)
    inner = stats.median_interval(q, confidence=0.97)
    assert found is not None
    assert inner is not None
    middle = float(np.median(q))
    factor = max(inner.high / middle, middle / inner.low)
    assert (found.low, found.high) == pytest.approx((0.5 / factor, 0.5 * factor))
    assert (found.rounds, found.merged_by, found.achieved) == (31, 1, inner.confidence)


def test_a_machine_that_slows_down_between_rounds_does_not_widen_it() -> None:
    """Part and step are paired inside the round: a pace that triples cancels."""
    q = ratios(40)
    pace = np.linspace(1000, 3000, 40)
    steady = stats.share_interval(q * 1000, np.full(40, 1000.0), estimate=0.3)
    slowing = stats.share_interval(q * pace, pace, estimate=0.3)
    assert steady is not None
    assert slowing is not None
    assert (slowing.low, slowing.high) == pytest.approx((steady.low, steady.high))


def test_more_parts_shown_make_it_wider_and_need_more_rounds() -> None:
    """Twelve parts at 97 % need ten rounds."""
    q, step = ratios(40), np.full(40, 1000.0)
    one = stats.share_interval(q * step, step, estimate=0.3)
    twelve = stats.share_interval(q * step, step, estimate=0.3, comparisons=12)
    assert one is not None
    assert twelve is not None
    assert twelve.low < one.low < 0.3 < one.high < twelve.high
    flat = np.full(10, 300.0)
    assert stats.share_interval(flat[:9], step[:9], estimate=0.3, comparisons=12) is None
    assert stats.share_interval(flat, step[:10], estimate=0.3, comparisons=12) is not None


def test_a_part_that_most_rounds_do_not_hold() -> None:
    """Its median is 0; the interval of the ratios is widened to hold the estimate."""
    part = np.zeros(40)
    part[::5] = 100.0
    found = stats.share_interval(part, np.full(40, 1000.0), estimate=0.02)
    assert found is not None
    assert found.low == 0.0
    assert found.high >= 0.02


def test_an_interval_never_reaches_below_zero() -> None:
    """A long arm upwards, nine times the median, is mirrored in logarithms: to a ninth, not below nothing."""
    q = shuffled(np.r_[np.full(16, 0.9), np.full(23, 0.1)])
    found = stats.share_interval(q, np.ones(39), estimate=0.2)
    assert found is not None
    assert found.low == pytest.approx(0.2 / 9)
    assert found.high == pytest.approx(0.2 * 9)


def test_rounds_without_the_part_reach_down_to_nothing() -> None:
    """Where the lower end is a round that did not hold the part, the share may be 0; upwards it is finite."""
    q = shuffled(np.r_[np.full(18, 0.0), np.full(8, 0.1), np.full(14, 0.2)])
    found = stats.share_interval(q, np.ones(40), estimate=0.15)
    assert found is not None
    assert found.low == 0.0
    assert np.isfinite(found.high)


@pytest.mark.parametrize(
    ("part", "step"),
    [
        (np.ones((20, 1)), np.full((20, 1), 2.0)),
        (np.array(1.0), np.array(2.0)),
        (np.ones(20), np.full(21, 2.0)),
        (np.ones(0), np.ones(0)),
    ],
)
def test_totals_have_one_value_a_round(part: np.ndarray, step: np.ndarray) -> None:
    """The shapes are named."""
    with pytest.raises(InputError, match="one value per round is needed"):
        stats.share_interval(part, step, estimate=0.5)


@pytest.mark.parametrize(
    ("part", "step", "estimate"),
    [([1.0], [0.0], 0.1), ([-1.0], [1.0], 0.1), ([1.0, 2.0], [1.0], 0.1), ([], [], 0.1), ([1.0], [2.0], -0.1)],
)
def test_totals_without_meaning_are_refused(part: list[float], step: list[float], estimate: float) -> None:
    """No share of nothing, no negative times, no negative shares."""
    with pytest.raises(InputError):
        stats.share_interval(part, step, estimate=estimate)
