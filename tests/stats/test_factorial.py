"""Effects, interactions and Shapley shares of games whose answers are known."""

import itertools
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perstep import stats
from perstep.errors import InputError
from perstep.stats.bootstrap import estimate_cells, percentile_interval, rounds_to_draw
from perstep.stats.merging import rank_autocorrelation


def game(values: list[float], rounds: int = 30, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Costs [rounds, cells] of one game, with independent noise."""
    rng = np.random.default_rng(seed)
    return np.array(values) * np.exp(noise * rng.standard_normal((rounds, len(values))))


def effects(values: list[float], names: str) -> stats.Factorial:
    """The factorial of a game without noise."""
    return stats.factorial_effects(game(values), list(names), np.random.default_rng(0))


def test_an_additive_game_has_no_interaction() -> None:
    """Parts of 1, 2 and 4 on a base of 10: every way of asking gives the same."""
    found = effects([10 + 1 * (c & 1) + 2 * (c >> 1 & 1) + 4 * (c >> 2 & 1) for c in range(8)], "abc")
    for answers in (found.effect, found.shapley, found.leave_one_out, found.add_one_in):
        assert {name: e.estimate for name, e in answers.items()} == pytest.approx({"a": 1, "b": 2, "c": 4})
    assert [e.estimate for e in found.interaction.values()] == pytest.approx([0] * 4)
    assert found.total.estimate == pytest.approx(7)
    assert found.shapley_share["c"].estimate == pytest.approx(4 / 17)


def test_redundant_parts_hide_behind_each_other() -> None:
    """OR: either costs 6. Leave-one-out gives 0, add-one-in 6, Shapley 3 each, the interaction is -6."""
    found = effects([10, 16, 16, 16], "ab")
    assert found.leave_one_out["a"].estimate == pytest.approx(0)
    assert found.add_one_in["a"].estimate == pytest.approx(6)
    assert found.effect["a"].estimate == pytest.approx(3)
    assert found.shapley["a"].estimate == found.shapley["b"].estimate == pytest.approx(3)
    assert found.interaction["a", "b"].estimate == pytest.approx(-6)


def test_synergetic_parts_cost_only_together() -> None:
    """AND: both cost 6, one alone nothing. Leave-one-out gives 6, add-one-in 0, the interaction is +6."""
    found = effects([10, 10, 10, 16], "ab")
    assert found.leave_one_out["a"].estimate == pytest.approx(6)
    assert found.add_one_in["a"].estimate == pytest.approx(0)
    assert found.shapley["a"].estimate == pytest.approx(3)
    assert found.interaction["a", "b"].estimate == pytest.approx(6)


def test_an_interaction_of_three_is_not_one_of_two() -> None:
    """Only all three together cost 8: each pair takes half of it on average, the triple all."""
    found = effects([10] * 7 + [18], "abc")
    assert found.interaction["a", "b", "c"].estimate == pytest.approx(8)
    assert found.interaction["a", "c"].estimate == pytest.approx(4)
    assert found.effect["b"].estimate == pytest.approx(2)
    assert found.shapley["b"].estimate == pytest.approx(8 / 3)


def test_four_published_means_give_the_published_split() -> None:
    """Processor and criterion of a published report: 33.6 % and 29.9 %, interaction 0.126 s together below apart."""
    found = effects([1.1408, 2.2548, 2.1392, 3.1276], ["logits", "stop"])  # type: ignore[arg-type]
    assert found.shapley_share["logits"].estimate == pytest.approx(0.336, abs=5e-4)
    assert found.shapley_share["stop"].estimate == pytest.approx(0.299, abs=5e-4)
    assert found.leave_one_out["logits"].estimate / 3.1276 == pytest.approx(0.316, abs=5e-4)
    assert found.interaction["logits", "stop"].estimate == pytest.approx(-0.1256)
    assert found.cells[frozenset({"stop"})] == pytest.approx(2.1392)


def shapley_by_orders(values: np.ndarray, part: int, k: int) -> float:
    """The mean over all orders of arrival of what the part adds."""
    total = 0.0
    for order in itertools.permutations(range(k)):
        before = sum(1 << p for p in order[: order.index(part)])
        total += values[before | 1 << part] - values[before]
    return total / factorial(k)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_shapley_values_are_means_over_orders_and_add_up(k: int, seed: int) -> None:
    """The definition, and the efficiency axiom: they add up to the total, as do the shares."""
    values = np.random.default_rng(seed).uniform(1, 100, 2**k)
    found = effects(values.tolist(), "abcd"[:k])
    for i, name in enumerate(found.names):
        assert found.shapley[name].estimate == pytest.approx(shapley_by_orders(values, i, k), abs=1e-9)
    assert sum(e.estimate for e in found.shapley.values()) == pytest.approx(values[-1] - values[0], abs=1e-9)
    assert found.total.estimate == pytest.approx(values[-1] - values[0], abs=1e-9)


def test_shares_add_up_with_noise_too() -> None:
    """Cells are estimated first and combined linearly, so the axiom holds for any rounds."""
    found = stats.factorial_effects(game([10, 13, 12, 16], noise=0.05), ["a", "b"], np.random.default_rng(0))
    assert sum(e.estimate for e in found.shapley.values()) == pytest.approx(found.total.estimate)
    fraction = found.total.estimate / found.cells[frozenset({"a", "b"})]
    assert sum(e.estimate for e in found.shapley_share.values()) == pytest.approx(fraction)


def test_intervals_hold_the_truth_and_the_seed_repeats_them() -> None:
    """Sixty rounds of 1 % noise: no effect is far off, and the same generator gives the same interval."""
    costs = game([10, 13, 12, 14], rounds=60, noise=0.01, seed=1)
    found = stats.factorial_effects(costs, ["a", "b"], np.random.default_rng(7))
    assert found.reason == ""
    for effect, truth in ((found.shapley["a"], 2.5), (found.interaction["a", "b"], -1.0), (found.total, 4.0)):
        assert effect.ci_low is not None
        assert effect.ci_high is not None
        assert effect.ci_low < truth < effect.ci_high
        assert effect.ci_high - effect.ci_low < 0.25
    assert found == stats.factorial_effects(costs, ["a", "b"], np.random.default_rng(7))


def test_drift_between_rounds_cancels_in_the_shares() -> None:
    """Cells are paired inside the round: a machine that halves its speed leaves them as they are."""
    costs = game([10, 13, 12, 14]) * np.linspace(1, 2, 30)[:, None]
    found = stats.factorial_effects(costs, ["a", "b"], np.random.default_rng(0))
    assert found.shapley_share["a"].estimate == pytest.approx(2.5 / 14)
    assert found.shapley_share["a"].ci_high == pytest.approx(2.5 / 14)


def test_cells_are_paired_round_by_round() -> None:
    """A pace that varies by 30 % and cells that vary by 0.2 %: the interval knows only of the latter."""
    pace = np.exp(0.3 * np.random.default_rng(9).standard_normal((41, 1)))
    found = stats.factorial_effects(
        game([10, 15], rounds=41, noise=0.002, seed=2) * pace, ["a"], np.random.default_rng(0)
    )
    share = found.shapley_share["a"]
    assert found.merged_by == 1
    assert share.ci_low is not None
    assert share.ci_high is not None
    assert share.ci_high - share.ci_low < 0.0025


def test_effects_shown_together_share_the_error() -> None:
    """97 % of 10,001 even steps leaves 1.5 % on either side; of three shown together, 0.5 %."""
    steps = np.linspace(0, 1, 10_001)
    assert percentile_interval(steps) == pytest.approx((0.015, 0.985))
    assert percentile_interval(steps, comparisons=3) == pytest.approx((0.005, 0.995))


def test_too_few_rounds_give_no_interval_and_say_so() -> None:
    """The estimates stand alone."""
    found = stats.factorial_effects(game([10, 13], rounds=9), ["a"], np.random.default_rng(0))
    assert found.effect["a"] == stats.Effect(pytest.approx(3), None, None)
    assert found.reason == "9 independent rounds; an interval needs 10"


@pytest.mark.parametrize(
    ("rounds", "autocorrelation", "drawn"),
    [
        (9, 0.0, 0),
        (10, 0.0, 10),
        (13, 0.09, 13),
        (13, 0.1, 10),
        (12, 0.2, 8),
        (10, 0.49, 3),
        (10, 0.5, 0),
        (60, 0.3, 32),
    ],
)
def test_a_resample_has_as_many_rounds_as_independent_ones_would_tell(
    rounds: int, autocorrelation: float, drawn: int
) -> None:
    """That is n (1 - r) / (1 + r), from r = 0.1 on; none with fewer than 10 rounds, or from 0.5 on."""
    assert rounds_to_draw(rounds, autocorrelation) == drawn


def test_chance_withholds_few_intervals_of_twelve_independent_rounds() -> None:
    """Of 200 games three of ten look autocorrelated by more than 0.1, and one in 25 by 0.5; the others are wider."""
    widths: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(200):
        costs = game([10, 13], rounds=12, noise=0.01, seed=seed)
        cells = estimate_cells(costs, 0, np.random.default_rng(seed), resamples=200)
        if cells.resampled is not None:
            low, high = percentile_interval(cells.resampled[:, 1] - cells.resampled[:, 0])
            widths[rank_autocorrelation(costs[:, 1] / costs[:, 0]) < 0.1].append(high - low)
    assert len(widths[True]) + len(widths[False]) >= 192
    assert 0.2 < len(widths[False]) / 200 < 0.4
    assert np.median(widths[False]) > 1.1 * np.median(widths[True])


@pytest.mark.parametrize(("names", "cells"), [("", 1), ("abcde", 32), ("aa", 4), ("ab", 3), ("a", 4)])
def test_names_and_cells_must_fit(names: str, cells: int) -> None:
    """One to four different parts, two to the power of them cells."""
    with pytest.raises(InputError):
        stats.factorial_effects(np.ones((30, cells)), list(names), np.random.default_rng(0))


def test_cells_without_time_are_refused() -> None:
    """A ratio to nothing is no estimate."""
    with pytest.raises(InputError):
        stats.factorial_effects(game([0.0, 1.0]), ["a"], np.random.default_rng(0))


def one_at_a_time(value: object, k: int, noise: float = 0.001) -> stats.OneAtATime:
    """Leave-one-out and add-one-in of the game `value(present)` over k parts."""
    everything = frozenset(range(k))
    call = value if callable(value) else None
    assert call is not None
    cells = [call(everything), call(frozenset())]
    cells += [call(everything - {i}) for i in range(k)] + [call(frozenset({i})) for i in range(k)]
    costs = game(cells, rounds=60, noise=noise)
    return stats.one_at_a_time(
        costs[:, 0], costs[:, 1], costs[:, 2 : 2 + k], costs[:, 2 + k :], "abcdef"[:k], np.random.default_rng(0)
    )


def test_additive_parts_of_many_have_a_cost() -> None:
    """Five parts of 1 to 5 on 100: both ways agree, nothing is left over."""
    found = one_at_a_time(lambda present: 100 + sum(i + 1 for i in present), 5)
    for i, name in enumerate("abcde"):
        part = found.parts[name]
        assert part.reason == ""
        assert part.cost is not None
        assert part.share is not None
        assert part.cost.estimate == pytest.approx(i + 1, abs=0.1)
        assert part.share.estimate == pytest.approx((i + 1) / 115, abs=1e-3)
    assert found.total.estimate == pytest.approx(15, abs=0.2)
    assert found.unattributed.estimate == pytest.approx(0, abs=0.2)


def test_parts_that_interact_have_no_single_cost() -> None:
    """The first two of five cost 20 together or alone: null for both, with the reason; the others stand."""
    found = one_at_a_time(lambda present: 100 + 20 * bool(present & {0, 1}) + len(present & {2, 3, 4}), 5)
    for name in "ab":
        part = found.parts[name]
        assert part.cost is part.share is None
        assert part.reason.startswith("not additive")
        assert part.add_one_in.estimate == pytest.approx(20, abs=0.5)
        assert part.leave_one_out.estimate == pytest.approx(0, abs=0.5)
    assert all(found.parts[name].cost is not None for name in "cde")
    assert found.unattributed.estimate == pytest.approx(20, abs=0.5)


def test_agreement_has_to_be_shown_not_assumed() -> None:
    """In 10 % noise a difference of nothing is not resolved within 1 %, and no cost is claimed."""
    found = one_at_a_time(lambda present: 100 + len(present), 5, noise=0.1)
    assert all(part.cost is None and part.reason.startswith("not resolved") for part in found.parts.values())


def test_shapes_of_single_parts_must_fit() -> None:
    """One column per name."""
    ones = np.ones((30, 5))
    with pytest.raises(InputError):
        stats.one_at_a_time(ones[:, 0], ones[:, 0], ones, ones[:, :4], "abcde", np.random.default_rng(0))
    none = ones[:0]
    with pytest.raises(InputError):
        stats.one_at_a_time(none[:, 0], none[:, 0], none, none, "abcde", np.random.default_rng(0))


def test_single_parts_of_few_rounds_have_no_cost() -> None:
    """Nine rounds: the differences stand alone, and the reason says what is missing."""
    ones = np.ones((9, 2))
    found = stats.one_at_a_time(5 * ones[:, 0], ones[:, 0], 3 * ones, 3 * ones, "ab", np.random.default_rng(0))
    assert found.parts["a"].cost is None
    assert found.parts["a"].leave_one_out == stats.Effect(pytest.approx(2), None, None)
    assert found.parts["a"].reason == "9 independent rounds; an interval needs 10"


def test_percentile_intervals_are_at_95_percent_for_one_interval_unless_told() -> None:
    """The guarded confidence of 97 % leaves 1.5 % beyond each end, and several intervals share it."""
    x = np.linspace(0, 1, 100_001)
    low, high = percentile_interval(x)
    assert (low, high) == percentile_interval(x, comparisons=1, confidence=0.95)
    assert low == pytest.approx(0.015)
    assert high == pytest.approx(1 - low)
    assert percentile_interval(x, comparisons=4)[0] == pytest.approx(low / 4)
    assert percentile_interval(x, confidence=0.9)[0] > 0.015
