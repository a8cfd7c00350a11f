"""A change of slope: found where one was planted, and not where none was."""

import numpy as np
import pytest

from perstep.errors import InputError
from perstep.stats import Knee, beyond_knee, find_knee

X = np.arange(1.0, 17.0)


def bent(x: np.ndarray, at: float = 6.0) -> np.ndarray:
    """1.5 + 0.4 x, and 0.6 for one more beyond."""
    return 1.5 + 0.4 * x + 0.2 * np.maximum(x - at, 0.0)


@pytest.mark.parametrize("at", [4.0, 6.0, 7.5, 12.0])
def test_a_planted_knee_is_found_exactly(at: float) -> None:
    """Without noise: its place, both slopes, the intercept, and no error on points left out."""
    knee = find_knee(X, bent(X, at))
    assert knee is not None
    assert (knee.at, knee.ci_low, knee.ci_high) == pytest.approx((at, at, at))
    assert (knee.intercept, knee.slope_before, knee.slope_beyond) == pytest.approx((1.5, 0.4, 0.6))
    assert knee.heldout_error == pytest.approx(0, abs=1e-9)
    assert knee.line_heldout_error > 0.02
    np.testing.assert_allclose(knee.predict(X), bent(X, at))


def test_the_order_of_points_is_no_matter() -> None:
    """Neither are repeated sizes."""
    order = np.random.default_rng(0).permutation(X.size)
    assert find_knee(X[order], bent(X)[order]) == find_knee(X, bent(X))
    twice = find_knee(np.repeat(X, 2), np.repeat(bent(X), 2))
    assert twice is not None
    assert twice.at == 6.0


@pytest.mark.parametrize("noise", [0.003, 0.01, 0.03])
def test_noise_does_not_bend_a_line(noise: float) -> None:
    """In at least 95 of 100 draws; with tails, too."""
    rng = np.random.default_rng(1)
    line = 1.25 + 0.6 * X
    for draw in (rng.standard_normal, lambda size: rng.standard_t(3, size)):
        false = sum(find_knee(X, line * np.exp(noise * draw(X.size))) is not None for _ in range(100))
        assert false <= 5


@pytest.mark.parametrize("points", [8, 10, 12])
def test_few_points_do_not_bend_a_line(points: int) -> None:
    """Where every knee has little beside it."""
    rng, x = np.random.default_rng(2), np.arange(1.0, points + 1)
    false = sum(find_knee(x, (1 + x) * np.exp(0.01 * rng.standard_normal(points))) is not None for _ in range(200))
    assert false <= 10


def test_a_knee_in_noise_is_found_and_its_interval_holds_it() -> None:
    """With 1 % of noise: always found, and the profile interval holds its place in about 95 % of draws."""
    rng = np.random.default_rng(3)
    found = [find_knee(X, bent(X) * np.exp(0.01 * rng.standard_normal(X.size))) for _ in range(60)]
    knees = [knee for knee in found if knee is not None]
    assert len(knees) >= 57
    assert sum(knee.ci_low <= 6 <= knee.ci_high for knee in knees) >= 0.87 * len(knees)
    assert np.median([knee.at for knee in knees]) == pytest.approx(6, abs=0.5)


def test_depths_that_a_line_is_wrong_about() -> None:
    """16 depths as they were measured: a line of R² 0.994 is 17.6 % off, one with a change of slope 2.9 %."""
    measured = [
        2.040, 2.474, 2.934, 3.443, 3.971, 4.557, 5.304, 5.968, 6.757, 7.528, 8.093, 8.739, 9.401, 9.966, 10.524, 11.117
    ]  # fmt: skip
    line = np.polyval(np.polyfit(X, measured, 1, w=1 / np.array(measured)), X)  # by relative errors, as fits are made
    assert 1 - np.mean((measured - line) ** 2) / np.var(measured) == pytest.approx(0.994, abs=0.0005)
    knee = find_knee(X, measured)
    assert knee is not None
    assert 3.5 < knee.ci_low < knee.at < knee.ci_high < 5.5
    assert knee.line_heldout_error == pytest.approx(0.176, abs=0.001)
    assert knee.heldout_error == pytest.approx(0.029, abs=0.001)


def test_a_change_that_is_not_worth_telling_is_not_told() -> None:
    """A slope that changes by 5 %, and one whose place lies before the points that could tell it."""
    assert find_knee(X, 1.5 + 0.4 * X + 0.02 * np.maximum(X - 6, 0)) is None
    assert find_knee(X, bent(X, 2.0)) is None


def test_too_few_points_have_no_knee() -> None:
    """Eight are needed, and three on either side."""
    assert find_knee(X[:7], bent(X[:7], 4.0)) is None
    assert find_knee(X[:8], bent(X[:8], 4.0)) is not None
    assert find_knee(np.repeat([1.0, 2.0, 3.0], 4), np.repeat([1.0, 2.0, 9.0], 4)) is None


def test_what_lies_far_beyond_is_predicted_from_before() -> None:
    """Above half the range, or above the third point after the knee; nothing where none lies there."""
    early, late = find_knee(X, bent(X)), find_knee(X, bent(X, 12.0))
    assert early is not None
    assert late is not None
    assert beyond_knee(X, bent(X), early) == pytest.approx((9.0, 0.0), abs=1e-9)
    assert beyond_knee(X, bent(X, 12.0), late) == pytest.approx((15.0, 0.0), abs=1e-9)
    last = Knee(14.0, 14.0, 14.0, 0.4, 0.6, 1.5, 20.0, 0.0, 0.1)
    assert beyond_knee(X, bent(X, 14.0), last) is None
    wrong = bent(X)
    wrong[-1] *= 1.1
    assert beyond_knee(X, wrong, early) == pytest.approx((9.0, 1 - 1 / 1.1), abs=1e-6)


@pytest.mark.parametrize(("x", "cost"), [([1, 2], [1]), ([1, 2], [0, 1]), ([1, np.nan], [1, 1]), ([[1]], [[1]])])
def test_wrong_curves_are_refused(x: list[float], cost: list[float]) -> None:
    """Shapes that differ, costs that are not above 0, sizes that are no numbers."""
    with pytest.raises(InputError):
        find_knee(x, cost)
