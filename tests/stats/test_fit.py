"""Fits judged on points they did not see, local exponents, crossovers."""

import numpy as np
import pytest

from perstep import stats
from perstep.errors import InputError

SIZES = 2.0 ** np.arange(3, 12)  # 8 .. 2048


def test_every_second_point_and_the_last_octave_are_held_out() -> None:
    """Of 8 .. 2048, everything above 1024 lies beyond; the ends of the rest are fitted."""
    fit = stats.fit_cost(SIZES, 5 + SIZES)
    assert fit.beyond_x == (2048,)
    assert fit.interleaved_x == (16, 64, 256)
    assert fit.fitted_x == (8, 32, 128, 512, 1024)


def test_a_quadratic_law_is_found_and_predicts_the_octave_beyond() -> None:
    """5 + 0.1 x + 0.001 x^2 is recovered; the linear fit is chosen against, whatever its R^2."""
    cost = 5 + 0.1 * SIZES + 0.001 * SIZES**2
    fit = stats.fit_cost(SIZES, cost)
    assert fit.chosen is fit.quadratic
    assert fit.quadratic.coefficients == pytest.approx((5, 0.1, 0.001))
    assert fit.quadratic.beyond_error < 1e-9
    assert fit.quadratic.r_squared == pytest.approx(1)
    assert fit.linear.beyond_error > 0.3
    assert fit.quadratic.predict([0, 10]).tolist() == pytest.approx([5, 6.1])


def test_a_linear_law_keeps_the_simpler_fit() -> None:
    """The quadratic term has to earn its place on held-out points."""
    rng = np.random.default_rng(0)
    fit = stats.fit_cost(SIZES, (3 + 0.5 * SIZES) * np.exp(0.01 * rng.standard_normal(SIZES.size)))
    assert fit.chosen is fit.linear
    assert fit.linear.coefficients == pytest.approx((3, 0.5), rel=0.05)
    assert fit.linear.beyond_error < 0.03


def test_a_high_r_squared_does_not_hide_a_bad_prediction() -> None:
    """A cost that turns cubic: R^2 of the linear fit is above 0.9, its error in the octave beyond above 30 %."""
    sizes = np.arange(10.0, 210.0, 10.0)
    fit = stats.fit_cost(sizes, 100 + sizes + 1e-4 * sizes**3)
    assert fit.linear.r_squared > 0.9
    assert fit.linear.beyond_error > 0.3


def test_the_order_of_the_points_does_not_matter() -> None:
    """They are sorted by size."""
    cost = 5 + 0.1 * SIZES
    shuffled = np.random.default_rng(1).permutation(SIZES.size)
    assert stats.fit_cost(SIZES[shuffled], cost[shuffled]) == stats.fit_cost(SIZES, cost)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (SIZES[:6], SIZES[:6]),  # too few left to fit
        ([1, 1, 2, 3, 4, 5, 6, 7, 8, 16], np.ones(10)),
        (SIZES, -SIZES),
        (SIZES, SIZES[:-1]),
        ([-1, *SIZES], np.ones(10)),
    ],
)
def test_points_that_cannot_be_fitted_and_judged_are_refused(x: list[float], y: list[float]) -> None:
    """A fit without held-out points would be believed for its R^2."""
    with pytest.raises(InputError):
        stats.fit_cost(x, y)


BENT = 7 + 0.1 * SIZES + np.where(SIZES > 100, 0.4 * (SIZES - 100), 0.0)


def test_a_given_curve_is_scaled_and_judged_like_a_polynomial() -> None:
    """5 + 1.5 x a curve with a bend between held-out points is found exactly, and no polynomial follows it."""
    fit = stats.fit_scaled(SIZES, 5 + 1.5 * BENT, BENT)
    assert (fit.offset, fit.scale) == pytest.approx((5, 1.5))
    assert max(fit.interleaved_error, fit.beyond_error) < 1e-9
    assert fit.r_squared == pytest.approx(1)
    same = stats.fit_cost(SIZES, 5 + 1.5 * BENT)
    assert (fit.fitted_x, fit.interleaved_x, fit.beyond_x) == (same.fitted_x, same.interleaved_x, same.beyond_x)
    assert same.quadratic.interleaved_error > 0.1
    assert fit.predict([10, 20]).tolist() == pytest.approx([20, 35])


def test_a_scaled_fit_does_not_see_what_is_held_out() -> None:
    """Ten times the cost at 16 and 2,048 changes the errors there, 90 %, and nothing else."""
    cost = 5 + 1.5 * BENT
    fit = stats.fit_scaled(SIZES, np.where(np.isin(SIZES, [16, 2048]), 10 * cost, cost), BENT)
    assert (fit.offset, fit.scale) == pytest.approx((5, 1.5))
    assert (fit.interleaved_error, fit.beyond_error) == pytest.approx((0.9, 0.9))


def test_a_scaled_fit_does_not_depend_on_the_order_of_the_points() -> None:
    """Costs and curve are sorted with their sizes."""
    shuffled = np.random.default_rng(1).permutation(SIZES.size)
    cost = 5 + BENT**1.1
    assert stats.fit_scaled(SIZES[shuffled], cost[shuffled], BENT[shuffled]) == stats.fit_scaled(SIZES, cost, BENT)


@pytest.mark.parametrize(
    ("x", "y", "curve"),
    [
        (SIZES[:4], SIZES[:4], SIZES[:4]),  # two left to fit
        (SIZES, SIZES, SIZES[:-1]),
        (SIZES, SIZES, -SIZES),
        (SIZES, 0 * SIZES, SIZES),
    ],
)
def test_what_cannot_be_scaled_and_judged_is_refused(x: list[float], y: list[float], curve: list[float]) -> None:
    """Two terms want three points, and a curve above 0."""
    with pytest.raises(InputError):
        stats.fit_scaled(x, y, curve)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 1.37])
def test_local_exponents_of_powers(exponent: float) -> None:
    """D log cost / d log x, between neighbours, in the order of rising sizes."""
    found = stats.local_exponents(SIZES[::-1], 3 * SIZES[::-1] ** exponent)
    assert found.tolist() == pytest.approx([exponent] * (SIZES.size - 1))
    with pytest.raises(InputError):
        stats.local_exponents([0.0, 1.0], [1.0, 1.0])


def curves(first: np.ndarray, second: np.ndarray, noise: float, rounds: int = 40) -> stats.Crossover:
    """The crossover of two curves in noise."""
    rng = np.random.default_rng(2)
    a, b = (c * np.exp(noise * rng.standard_normal((rounds, SIZES.size))) for c in (first, second))
    return stats.find_crossover(SIZES, a, b, np.random.default_rng(3))


def test_a_crossover_is_found_with_its_interval() -> None:
    """100 against x: they meet at 100."""
    found = curves(np.full(SIZES.size, 100.0), SIZES, noise=0.02)
    assert found.at == pytest.approx(100, rel=0.02)
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low <= 100 <= found.ci_high
    assert found.ci_high / found.ci_low < 1.05
    assert found.reason == "one crossover from 8 to 2048"


def test_no_crossover_in_range_is_an_answer() -> None:
    """The curves are not extended to make them cross."""
    found = curves(np.full(SIZES.size, 5.0), SIZES, noise=0.02)
    assert found == stats.Crossover(None, None, None, "none in range from 8 to 2048")


def test_curves_too_close_to_tell_are_not_resolved() -> None:
    """Equal but for noise."""
    found = curves(SIZES, SIZES, noise=0.02)
    assert found.at is None
    assert found.reason.startswith("not resolved")


def test_touching_is_not_crossing_and_two_crossings_are_told() -> None:
    """A common point in the middle; and a curve that dips under the other and comes back."""
    touch = np.where(SIZES == 64, 1.0, 2.0)
    assert curves(touch, np.ones(SIZES.size), noise=0.0).reason.startswith("none in range")
    dip = np.where((SIZES > 30) & (SIZES < 300), 0.5, 2.0)
    assert curves(dip, np.ones(SIZES.size), noise=0.001).reason.endswith("the curves cross 2 times")


def test_too_few_rounds_give_a_crossover_without_interval() -> None:
    """The estimate stands alone and the reason says what is missing."""
    found = curves(np.full(SIZES.size, 100.0), SIZES, noise=0.001, rounds=5)
    assert found.at == pytest.approx(100, rel=0.01)
    assert found.ci_low is None
    assert "an interval needs 10" in found.reason


@pytest.mark.parametrize(
    ("x", "shape"), [([1.0], (5, 1)), ([0.0, 1.0], (5, 2)), ([1.0, 2.0], (5, 3)), ([1.0, 1.0], (5, 2))]
)
def test_curves_of_other_shapes_are_refused(x: list[float], shape: tuple[int, int]) -> None:
    """Two different sizes above 0, a column for each."""
    with pytest.raises(InputError):
        stats.find_crossover(x, np.ones(shape), np.ones(shape), np.random.default_rng(0))
    with pytest.raises(InputError):
        stats.find_crossover([1.0, 2.0], np.zeros((5, 2)), np.ones((5, 2)), np.random.default_rng(0))
