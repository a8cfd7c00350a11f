"""The step and its parts as means over positions of medians over rounds (law "medians do not add")."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perstep import stats
from perstep.errors import InputError, InvalidMeasurement

durations = arrays(
    np.int64, st.tuples(st.integers(1, 7), st.integers(1, 6), st.just(3)), elements=st.integers(0, 10**9)
)


def test_medians_over_rounds_then_mean_over_positions() -> None:
    """Columns (1, 2, 9) and (10, 30, 20): medians 2 and 20, mean 11."""
    x = [[1, 10], [2, 30], [9, 20]]
    assert stats.position_medians(x).tolist() == [2, 20]
    assert stats.step_estimate(x) == 11


def test_a_rare_expensive_position_counts_and_a_burst_in_one_round_does_not() -> None:
    """One of 16 positions costs 256 each time: mean 17, where the median of all is 1; one burst leaves it."""
    x = np.ones((5, 16), dtype=np.int64)
    x[:, 7] = 257
    assert stats.step_estimate(x) == 17
    x[2, 3] = 10**9
    assert stats.step_estimate(x) == 17


def test_one_factor_brings_all_rows_to_the_step() -> None:
    """The shown columns add up although medians do not.

    Steps are 8 12, 12 8, 12 12; their medians 12 12, so the rounds' paces are 5/6, 5/6 and 1. The rows' own estimates
    are 6, 1.2 and 2.4, which is 9.6 of 12.
    """
    part = np.array([[5, 1], [1, 5], [9, 9]])
    other = np.array([[1, 9], [9, 1], [1, 1]])
    estimate = stats.ledger_estimate(part + other + 2, {"a": part, "b": other})
    assert estimate.scale_factor == pytest.approx(1.25)
    assert estimate.parts_ns == pytest.approx({"a": 7.5, "b": 1.5})
    assert estimate.step_ns == pytest.approx(12)
    assert estimate.residual_ns == pytest.approx(3)
    assert estimate.share("a") == pytest.approx(0.625)


def test_bursts_that_fall_now_here_now_there_are_no_residual() -> None:
    """Each step has one burst of 60, in another part: the step's median holds it, those of the parts do not."""
    parts = {name: np.full((3, 1), 20) for name in "abc"}
    for round_number, ns in enumerate(parts.values()):
        ns[round_number] += 60
    estimate = stats.ledger_estimate(np.full((3, 1), 120), parts)
    assert estimate.parts_ns == pytest.approx({"a": 40, "b": 40, "c": 40})
    assert estimate.residual_ns == 0
    assert estimate.scale_factor == pytest.approx(2)


def test_parts_whose_medians_exceed_the_step_leave_no_negative_residual() -> None:
    """Medians of 10 and 10, and of 0 for the rest, in steps of 20 of which 1 was once in no part."""
    a, b = np.array([[10], [10], [9]]), np.array([[9], [10], [10]])
    estimate = stats.ledger_estimate(np.full((3, 1), 20), {"a": a, "b": b})
    assert estimate.residual_ns >= 0
    assert sum(estimate.parts_ns.values()) + estimate.residual_ns == pytest.approx(20)


def test_where_no_row_has_time_in_most_rounds_the_step_is_in_none() -> None:
    """Three parts that take turns in having all of the step: nothing could be multiplied."""
    turns = {name: np.array([[10 * (name == here)] for here in "abc"]) for name in "abc"}
    estimate = stats.ledger_estimate(np.full((3, 1), 10), turns)
    assert (estimate.residual_ns, estimate.scale_factor, estimate.step_ns) == (10, 1, 10)


@given(durations)
def test_parts_and_residual_add_up_to_the_step(x: np.ndarray) -> None:
    """For any whole nanoseconds, up to the rounding of floats; and none is negative."""
    parts = {"a": x[:, :, 0], "b": x[:, :, 1]}
    estimate = stats.ledger_estimate(x.sum(axis=2), parts)
    assert min(estimate.residual_ns, *estimate.parts_ns.values()) >= 0
    assert sum(estimate.parts_ns.values()) + estimate.residual_ns == pytest.approx(
        estimate.step_ns, rel=1e-12, abs=1e-6
    )


def test_parts_longer_than_their_step_are_invalid() -> None:
    """The raw integers decide, and the first such step is named; nothing is clamped."""
    step = np.array([[10, 10], [10, 10]])
    part = np.array([[4, 4], [4, 7]])
    with pytest.raises(InvalidMeasurement, match=r"1 of 4 steps .* round 1, position 1"):
        stats.ledger_estimate(step, {"a": part, "b": part})


@pytest.mark.parametrize("x", [[], [1, 2], [[]], [[-1]], [[np.nan]], [[[1]]]])
def test_what_is_not_rounds_by_positions_is_refused(x: list[float]) -> None:
    """A missing position is bad input: every round replays the whole trace."""
    with pytest.raises(InputError):
        stats.step_estimate(x)


def test_parts_of_another_shape_and_unknown_names_are_refused() -> None:
    """A part is measured in the same rounds and positions as its step."""
    with pytest.raises(InputError, match="part 'a'"):
        stats.ledger_estimate([[1, 2]], {"a": [[1]]})
    estimate = stats.ledger_estimate([[0]], {"a": [[0]]})
    with pytest.raises(InputError, match="no part 'b'"):
        estimate.share("b")
    with pytest.raises(InputError, match="no time"):
        estimate.share("a")


def test_rounds_are_brought_to_one_pace():
    """A machine that slows down within the run does not change shares: each round is the first one times its pace."""
    first = {"a": np.array([100.0, 300.0, 200.0]), "b": np.array([300.0, 100.0, 200.0])}
    pace = np.array([1.0, 1.1, 1.3, 1.6, 2.0])[:, None]
    parts = {name: pace * ns for name, ns in first.items()}
    found = stats.ledger_estimate(sum(parts.values()), parts)
    assert found.share("a") == pytest.approx(0.5)
    assert found.step_ns == pytest.approx(1.3 * 400)
    np.testing.assert_allclose(stats.round_slowdown(sum(parts.values())), pace[:, 0] / 1.3)


def test_one_disturbed_step_does_not_move_the_pace():
    """The pace of a round is a median over its steps."""
    step = np.full((5, 9), 100.0)
    step[2, 4] = 10_000.0
    np.testing.assert_array_equal(stats.round_slowdown(step), np.ones(5))


def test_a_round_without_time_has_pace_one():
    """Nothing is divided by zero on a clock that saw nothing."""
    np.testing.assert_array_equal(stats.round_slowdown(np.zeros((3, 2))), np.ones(3))


def spells(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two arms that take turns on a machine that is 1.7 times as slow in spells; the second takes 3 % longer."""
    rows = np.zeros((2, 56, 1))
    slow = False
    for row in range(56):
        for arm in rng.permutation(2):
            slow ^= bool(rng.random() < 0.2)
            rows[arm, row] = (1.7 if slow else 1.0) * (1.03 if arm else 1.0) * np.exp(rng.normal(0, 0.05))
    return rows[0], rows[1]


def test_two_arms_at_one_pace_have_a_ratio_that_spells_do_not_move() -> None:
    """By more than 12 % (root mean square) the ratio of their own estimates errs, at one pace by 2 %."""
    rng = np.random.default_rng(0)
    errors: list[list[float]] = []
    for _ in range(200):
        plain, marked = spells(rng)
        reference, candidate = stats.paired_step_estimates(plain, marked)
        assert reference == stats.step_estimate(plain)
        own = stats.step_estimate(marked) / reference
        errors.append([np.log(own / 1.03), np.log(candidate / reference / 1.03)])
    apart, paired = np.sqrt(np.mean(np.square(errors), axis=0))
    assert apart > 0.12
    assert paired < 0.025


def test_at_one_pace_by_hand() -> None:
    """Paces of the reference 1/2, 1 and 2; the candidate half as long again in each row."""
    reference = np.array([[100, 20], [200, 40], [400, 80]])
    assert stats.paired_step_estimates(reference, 1.5 * reference) == pytest.approx((120, 180))
    with pytest.raises(InputError, match="shape"):
        stats.paired_step_estimates(reference, reference[:2])


def test_a_step_of_another_length_has_the_same_shares() -> None:
    """A step without time stays as it is."""
    made = stats.ledger_estimate([[10]], {"a": [[4]], "b": [[5]]}).at(20)
    assert (made.step_ns, made.parts_ns, made.residual_ns) == (20, {"a": 8, "b": 10}, 2)
    nothing = stats.ledger_estimate([[0]], {"a": [[0]]})
    assert nothing.at(20) is nothing
