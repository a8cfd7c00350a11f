"""The change between two runs that did not take turns: known answers, coverage by simulation, refusals."""

from math import exp, expm1, log, sqrt

import numpy as np
import pytest
from scipy.stats import t as student

from perstep.errors import InputError
from perstep.stats import (
    RunCost,
    Spread,
    Verdict,
    median_interval,
    pooled_spread,
    round_levels,
    run_interval,
    unpaired_change,
)
from perstep.stats.merging import guarded_confidence


def steady(estimate: float, rounds: int = 30) -> RunCost:
    """A run in which every round took the same time."""
    return RunCost(estimate, np.full(rounds, 7.0 * estimate))


def unlike_neighbours(values: np.ndarray) -> np.ndarray:
    """Low and high in turn, so that nothing is merged."""
    half = values.size // 2
    mixed = np.empty_like(values)
    mixed[0::2], mixed[1::2] = values[: values.size - half], values[values.size - half :]
    return mixed


# The spread of runs


def test_the_spread_of_one_group_is_the_standard_deviation_of_the_logarithms() -> None:
    """Three runs of one code have two degrees of freedom."""
    spread = pooled_spread([[100.0, 102.0, 101.0]])
    assert spread is not None
    assert spread.df == 2
    assert spread.sd_log == pytest.approx(np.std(np.log([100.0, 102.0, 101.0]), ddof=1), rel=1e-12)


def test_groups_are_pooled_about_their_own_means() -> None:
    """What differs between codes is no noise: squares are summed within groups, degrees of freedom added."""
    spread = pooled_spread([[1.0, exp(0.02)], [50.0, 50.0 * exp(0.04), 50.0 * exp(0.08)], [9.0]])
    assert spread is not None
    assert spread.df == 3
    assert spread.sd_log == pytest.approx(sqrt((2 * 0.01**2 + 2 * 0.04**2) / 3), rel=1e-12)


def test_single_runs_have_no_spread() -> None:
    """Groups of one run tell nothing."""
    assert pooled_spread([]) is None
    assert pooled_spread([[1.0], [2.0]]) is None


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_cost_that_took_no_time_has_no_spread(bad: float) -> None:
    """A logarithm needs numbers above 0."""
    with pytest.raises(InputError, match="not above 0"):
        pooled_spread([[1.0, bad]])


# How slow a round was


def test_a_rounds_level_is_its_steps_against_the_typical_ones() -> None:
    """Position by position, so that positions may differ in cost; a round twice as slow has twice the level."""
    typical = np.array([10.0, 200.0, 3000.0])
    slowness = np.array([1.0, 2.0, 1.0, 0.5, 1.0])
    x = slowness[:, None, None] * np.broadcast_to(typical, (5, 2, 3))
    assert round_levels(x).tolist() == slowness.tolist()


def test_a_burst_inside_a_round_does_not_move_its_level() -> None:
    """Unless it hits half of what the round costs."""
    x = np.full((20, 2, 9), 100.0)
    x[3, 0, :4] = 1e6
    assert round_levels(x).tolist() == [1.0] * 20
    x[3] = 1e6
    assert round_levels(x)[3] == 1e4


def test_rare_expensive_positions_count_by_what_they_cost() -> None:
    """One position in ten is 99 % of the cost: what it does is the level."""
    typical = np.where(np.arange(10) == 4, 1000.0, 1.0)
    x = np.tile(typical, (5, 2, 1))
    x[0, :, 4] *= 1.5
    assert round_levels(x).tolist() == [1.5, 1, 1, 1, 1]


def test_a_cost_that_takes_no_time_has_no_level() -> None:
    """Positions without it are left out; without any, the levels are 0."""
    x = np.zeros((5, 2, 3))
    assert round_levels(x).tolist() == [0.0] * 5
    x[:, :, 1] = 7.0
    assert round_levels(x).tolist() == [1.0] * 5


# The interval of a run from its own rounds


def test_a_runs_interval_is_the_sign_test_scaled_to_its_estimate() -> None:
    """The order statistics of the rounds, times estimate over their median."""
    rounds = unlike_neighbours(np.arange(100.0, 121.0))
    found = run_interval(RunCost(5.5, rounds))
    expected = median_interval(rounds, confidence=guarded_confidence(0.95))
    assert found is not None
    assert expected is not None
    assert found.merged_by == 1
    assert (found.low, found.high) == pytest.approx((5.5 * expected.low / 110, 5.5 * expected.high / 110))


def test_more_costs_shown_together_make_it_wider() -> None:
    """Bonferroni."""
    rounds = unlike_neighbours(np.arange(100.0, 141.0))
    one, many = (run_interval(RunCost(1.0, rounds), comparisons=k) for k in (1, 20))
    assert one is not None
    assert many is not None
    assert many.low < one.low < one.high < many.high


def test_too_few_rounds_have_no_interval() -> None:
    """Seven rounds are needed for one cost, more for many."""
    rounds = np.arange(1.0, 8.0)
    assert run_interval(RunCost(1.0, rounds[:6])) is None
    assert run_interval(RunCost(1.0, unlike_neighbours(rounds))) is not None
    assert run_interval(RunCost(1.0, rounds), comparisons=12) is None


def test_a_cost_of_zero_in_most_rounds_has_no_interval() -> None:
    """There is nothing to scale by."""
    assert run_interval(RunCost(1.0, np.zeros(30))) is None


def test_a_run_that_drifts_has_an_interval_all_the_same() -> None:
    """Drift is in the spread of runs; merging ends where an interval would be lost."""
    found = run_interval(RunCost(1.0, np.linspace(100, 200, 64)))
    assert found is not None
    assert found.merged_by == 8
    assert found.low < 1.0 < found.high


@pytest.mark.parametrize("bad", [np.array([]), np.array([[1.0]]), np.array([1.0, -1.0]), np.array([1.0, np.nan])])
def test_rounds_must_be_one_row_of_numbers(bad: np.ndarray) -> None:
    """Nothing else is a cost of rounds."""
    with pytest.raises(InputError, match="one row"):
        run_interval(RunCost(1.0, bad))


# The change


def test_without_noise_inside_runs_the_interval_is_students() -> None:
    """± t(df, 1 - α/2k) · s · √2 in logarithms, about the log-ratio."""
    change = unpaired_change(steady(100.0), steady(110.0), Spread(0.01, 5), comparisons=3)
    half = student.ppf(1 - 0.05 / 6, 5) * 0.01 * sqrt(2)
    assert change.estimate == pytest.approx(0.1)
    assert change.ci_low == pytest.approx(expm1(log(1.1) - half))
    assert change.ci_high == pytest.approx(expm1(log(1.1) + half))


def test_noise_inside_runs_is_added_in_quadrature() -> None:
    """Towards each side: the distance of the one run's end and of the other run's opposite end."""
    rng = np.random.default_rng(2)
    ref, new = (RunCost(x, x * np.exp(rng.normal(0, 0.02, 40))) for x in (100.0, 104.0))
    change = unpaired_change(ref, new, Spread(0.01, 8))
    assert change.reference is not None
    assert change.candidate is not None
    between = student.ppf(0.975, 8) * 0.01 * sqrt(2)
    down = sqrt(log(change.candidate.low / 104) ** 2 + log(change.reference.high / 100) ** 2 + between**2)
    up = sqrt(log(change.candidate.high / 104) ** 2 + log(change.reference.low / 100) ** 2 + between**2)
    assert change.ci_low == pytest.approx(expm1(log(1.04) - down))
    assert change.ci_high == pytest.approx(expm1(log(1.04) + up))


def test_exchanging_the_runs_turns_the_interval_round() -> None:
    """In logarithms only the sign changes."""
    rng = np.random.default_rng(3)
    a, b = (RunCost(x, x * np.exp(rng.normal(0, 0.02, 40))) for x in (100.0, 104.0))
    there, back = unpaired_change(a, b, Spread(0.01, 8)), unpaired_change(b, a, Spread(0.01, 8))
    assert there.ci_low is not None
    assert back.ci_high is not None
    assert (1 + there.ci_low) * (1 + back.ci_high) == pytest.approx(1)


@pytest.mark.parametrize("spread", [None, Spread(0.01, 2)])
def test_without_a_spread_there_is_no_interval_and_no_verdict(spread: Spread | None) -> None:
    """Nor with fewer than three degrees of freedom."""
    change = unpaired_change(steady(100.0), steady(200.0), spread)
    assert (change.ci_low, change.ci_high, change.mde) == (None, None, None)
    assert change.verdict is Verdict.NOT_RESOLVED
    assert change.estimate == pytest.approx(1.0)
    assert "spread of runs is not known" in change.reason


def test_fewer_rounds_than_an_interval_needs_give_none() -> None:
    """In either run."""
    for ref, new in ((6, 30), (30, 6)):
        change = unpaired_change(steady(100.0, ref), steady(200.0, new), Spread(0.01, 9))
        assert change.ci_low is None
        assert change.verdict is Verdict.NOT_RESOLVED
        assert change.reason == "6 rounds; an interval needs 7"


def test_fewer_than_twenty_rounds_give_an_interval_but_no_verdict() -> None:
    """In either run."""
    change = unpaired_change(steady(100.0, 30), steady(200.0, 19), Spread(0.001, 9))
    assert change.ci_low is not None
    assert change.ci_low > 0.9
    assert change.verdict is Verdict.NOT_RESOLVED
    assert change.reason == "19 rounds; a verdict needs 20"


@pytest.mark.parametrize(
    ("true", "verdict"),
    [(1.05, Verdict.SLOWER), (0.95, Verdict.FASTER), (1.0, Verdict.SAME), (1.006, Verdict.NOT_RESOLVED)],
)
def test_the_verdict_is_read_off_the_interval(true: float, verdict: Verdict) -> None:
    """Inside ± 1 %: same; without 0: faster or slower; otherwise not resolved."""
    change = unpaired_change(steady(100.0), steady(100.0 * true), Spread(0.003, 20))
    assert change.verdict is verdict


def test_a_cost_that_took_no_time_has_no_ratio() -> None:
    """Neither an estimate nor an interval."""
    change = unpaired_change(steady(0.0), steady(5.0), Spread(0.01, 9))
    assert (change.estimate, change.ci_low, change.verdict) == (None, None, Verdict.NOT_RESOLVED)


def test_a_threshold_is_a_fraction() -> None:
    """5 is not 5 %."""
    with pytest.raises(InputError, match="fraction"):
        unpaired_change(steady(1.0), steady(1.0), None, threshold=5)


def simulated_run(rng: np.random.Generator, true: float, between: float, within: float, rounds: int) -> RunCost:
    """A run whose level is off by `between` and whose rounds scatter by `within`."""
    x = true * np.exp(rng.normal(0, between) + rng.normal(0, within, rounds))
    return RunCost(float(np.median(x)), x)


@pytest.mark.parametrize(
    ("repeats", "between", "within", "rounds", "comparisons"),
    [(4, 0.01, 0.01, 20, 1), (6, 0.02, 0.005, 30, 1), (10, 0.01, 0.03, 30, 1), (5, 0.02, 0.005, 40, 4)],
)
def test_the_interval_holds_the_true_change(
    repeats: int, between: float, within: float, rounds: int, comparisons: int
) -> None:
    """In at least 93 % of simulated comparisons of a true +5 %, all shown together, learning the spread each time."""
    rng = np.random.default_rng(20)
    tries, held, widths = 1200, 0, []
    for _ in range(tries):
        all_hold = True
        for _ in range(comparisons):
            repeated = [simulated_run(rng, 1.0, between, within, rounds).estimate for _ in range(repeats)]
            ref, new = (simulated_run(rng, true, between, within, rounds) for true in (1.0, 1.05))
            change = unpaired_change(ref, new, pooled_spread([repeated]), comparisons=comparisons)
            assert change.ci_low is not None
            assert change.ci_high is not None
            all_hold &= change.ci_low <= 0.05 <= change.ci_high
            widths.append(change.ci_high - change.ci_low)
        held += all_hold
    assert held / tries >= 0.93
    # Not by being endless: within twice the width that a known spread would give.
    ideal = 2 * student.ppf(1 - 0.05 / (2 * comparisons), repeats - 1) * sqrt(2) * 1.05
    assert np.median(widths) < 2 * ideal * sqrt(between**2 + 1.57 * within**2 / rounds)


def test_intervals_without_the_spread_of_runs_would_miss() -> None:
    """What the rounds alone say covers far less than 95 %: the reason for all this."""
    rng = np.random.default_rng(21)
    held = 0
    for _ in range(400):
        ref, new = (simulated_run(rng, 1.0, 0.02, 0.01, 30) for _ in range(2))
        change = unpaired_change(ref, new, Spread(0.0, 9))
        assert change.ci_low is not None
        assert change.ci_high is not None
        held += change.ci_low <= 0 <= change.ci_high
    assert held / 400 < 0.5


@pytest.mark.parametrize(("sd_log", "scatter"), [(0.01, 0.0), (0.0, 0.02), (0.01, 0.02)])
def test_the_detectable_effect_adds_what_is_missed_one_time_in_five(sd_log: float, scatter: float) -> None:
    """The interval's reach, and 0.84 standard errors: of two runs' spread, and of their rounds (reach over 1.96)."""
    x = np.exp(np.random.default_rng(3).normal(0, scatter, 40))
    run = RunCost(float(np.median(x)), x)
    change = unpaired_change(run, run, Spread(sd_log, 9))
    assert change.ci_low is not None
    assert change.ci_high is not None
    down, up = -np.log1p(change.ci_low), np.log1p(change.ci_high)
    between = student.ppf(0.975, 9) * sd_log * sqrt(2)
    within = sqrt(max(down**2 - between**2, 0.0))
    expected = max(down, up) + 0.841621 * np.hypot(sd_log * sqrt(2), within / 1.959964)
    assert change.mde == pytest.approx(np.expm1(expected), rel=1e-4)


def test_the_detectable_effect_is_found_in_four_of_five_tries() -> None:
    """A true change of the median `mde` excludes 0 in 80 % of simulated comparisons, give or take."""
    rng = np.random.default_rng(22)
    spread = Spread(0.01, 12)
    mde = unpaired_change(*(simulated_run(rng, 1.0, 0.01, 0.002, 30) for _ in range(2)), spread).mde
    assert mde is not None
    found = 0
    for _ in range(600):
        ref, new = (simulated_run(rng, true, 0.01, 0.002, 30) for true in (1.0, 1 + mde))
        low = unpaired_change(ref, new, spread).ci_low
        assert low is not None
        found += low > 0
    assert 0.74 <= found / 600 <= 0.88
