"""The ledger: rows by hand (law "medians do not add"), exact sums, and what makes it say less or nothing."""

from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from perstep.errors import InvalidMeasurement
from perstep.measure import FakeClock, Ledger, LedgerSamples, build_ledger, measure_mark_ns
from perstep.measure.ledger import COST_UNKNOWN
from perstep.report.ledger import share_words
from perstep.stats import paired_change

Ints = NDArray[np.int64]


def samples(
    parts: dict[str, Any], residual_ns: Any, plain_ns: Any = None, marks: dict[str, float] | None = None
) -> LedgerSamples:
    """Samples of one pass a round, given as [rounds, positions]; steps without instruments are as long by default."""
    columns = {name: np.array(ns, np.int64)[:, None, :] for name, ns in parts.items()}
    residual = np.array(residual_ns, np.int64)[:, None, :]
    step = sum(columns.values(), start=residual)
    plain = step if plain_ns is None else np.array(plain_ns, np.int64)[:, None, :]
    return LedgerSamples(plain, step, columns, residual, marks or dict.fromkeys(parts, 1.0))


def constant(part_ns: int, residual_ns: int, plain_ns: int, rounds: int = 3) -> LedgerSamples:
    """Rounds of one step that are all alike."""
    return samples({"mlp": [[part_ns]] * rounds}, [[residual_ns]] * rounds, [[plain_ns]] * rounds)


@pytest.fixture
def by_hand() -> Ledger:
    """Three rounds of three positions; what must come out is worked out in the tests below.

    In each round at least two steps are as long as their position's median, so that all rounds are at pace 1.
    """
    made = samples(
        parts={"attn.qkv": [[10, 1, 3], [20, 1, 3], [20, 100, 3]], "mlp": [[5, 9, 5], [5, 9, 5], [5, 8, 5]]},
        residual_ns=[[1, 4, 2], [2, 4, 2], [2, 4, 2]],
        plain_ns=[[10, 10, 10], [20, 10, 10], [20, 90, 10]],
        marks={"attn.qkv": 2.0, "mlp": 1.0},
    )
    return build_ledger("decode", made, mark_ns=0.5)


def test_a_row_is_the_mean_over_positions_of_the_medians_over_rounds(by_hand: Ledger) -> None:
    """attn.qkv: medians 20, 1 and 3, mean 8. mlp: 5, 9 and 5, 19/3. Step: 27, 14 and 10, 17."""
    assert by_hand.parts["attn.qkv"].ns_per_step == 8
    assert by_hand.parts["mlp"].ns == pytest.approx(19 / 3)
    assert by_hand.step_ns == 17
    assert by_hand.residual_ns == pytest.approx(17 - 8 - 19 / 3, abs=1e-3)
    assert by_hand.plain_step_ns == pytest.approx((20 + 10 + 10) / 3)


def test_shares_are_of_the_instrumented_step(by_hand: Ledger) -> None:
    """Shown columns add up."""
    assert by_hand.parts["attn.qkv"].share == 8 / 17
    assert by_hand.residual_share == pytest.approx((17 - 8 - 19 / 3) / 17, abs=1e-4)
    assert sum(part.share for part in by_hand.parts.values()) + by_hand.residual_share == pytest.approx(1, abs=1e-4)


def test_totals_are_integers_that_add_up_exactly(by_hand: Ledger) -> None:
    """161 + 56 + 23 = 240."""
    totals = [part.ns_total for part in by_hand.parts.values()]
    assert totals == [161, 56]
    assert by_hand.residual_ns_total == 23
    assert by_hand.step_ns_total == 240
    assert all(type(total) is int for total in [*totals, by_hand.residual_ns_total, by_hand.step_ns_total])


def test_a_percentile_is_over_all_steps(by_hand: Ledger) -> None:
    """attn.qkv: 1 1 3 3 3 10 20 20 100, so 3; the mean of medians beside it is 8."""
    assert by_hand.parts["attn.qkv"].p50_ns == 3
    assert by_hand.parts["mlp"].p50_ns == 5


def test_the_overhead_is_the_median_of_the_rounds_ratios(by_hand: Ledger) -> None:
    """40 / 30, 51 / 40 and 149 / 120: the middle one is 51 / 40."""
    assert by_hand.overhead == pytest.approx(11 / 40, rel=1e-12)


def test_counts_are_of_forwards_steps_and_rounds(by_hand: Ledger) -> None:
    """Three positions are three forwards a pass, nine steps in three rounds."""
    assert (by_hand.kind, by_hand.forwards, by_hand.steps, by_hand.rounds) == ("decode", 3, 9, 3)


def test_a_part_of_which_marks_are_more_than_5_percent_is_flagged(by_hand: Ledger) -> None:
    """Two marks of 0.5 ns are 12.5 % of 8 ns and one is 7.9 % of 19/3; at 5 % none is flagged."""
    assert by_hand.parts["attn.qkv"].marks_share == 1 / 8
    assert by_hand.parts["mlp"].marks_share == pytest.approx(0.5 / (19 / 3))
    assert "Marks may make up more than 5% of: attn.qkv, mlp." in by_hand.notes
    exactly = build_ledger("decode", constant(100, 0, 100, rounds=8), mark_ns=5.0)
    assert exactly.parts["mlp"].marks_share == 0.05
    assert exactly.notes == []
    more = build_ledger("decode", constant(100, 0, 100, rounds=8), mark_ns=5.1)
    assert more.notes == ["Marks make up more than 5% of: mlp."]


def test_that_marks_make_up_a_part_is_sure_only_throughout_its_interval() -> None:
    """5.5 of 100 ns, but a part of which the interval reaches to 125 ns may be 4.4 %."""
    made = samples({"a": [[2 * a] for a in ALTERNATING], "b": [[100]] * 8}, [[200 - 2 * a] for a in ALTERNATING])
    notes = build_ledger("decode", made, mark_ns=5.5).notes
    assert notes.pop(0) == "33.3% of the decode step is unattributed: no part covers it."
    assert notes == ["Marks make up more than 5% of: b.", "Marks may make up more than 5% of: a."]


def test_a_mark_share_never_exceeds_the_part() -> None:
    """A part shorter than its marks consists of them; one that took no time has none."""
    made = samples({"sample": [[1]] * 3, "stop": [[0]] * 3}, [[99]] * 3)
    parts = build_ledger("decode", made, mark_ns=50.0).parts
    assert parts["sample"].marks_share == 1
    assert parts["stop"].marks_share == 0


def test_roll_ups_are_sums_of_their_parts() -> None:
    """A part stands in `forward` and in its own sum; inputs, sampling and stopping are no part of the forward."""
    names = [
        "inputs",
        "embed",
        "norm",
        "attn.qkv",
        "kv.append",
        "mlp",
        "lm_head",
        "mask.fill",
        "logits/X",
        "logits/X#2",
    ]
    names += ["sample", "stop/Word"]
    made = samples({name: [[2**index]] * 3 for index, name in enumerate(names)}, [[0]] * 3)
    ledger = build_ledger("decode", made, mark_ns=0)
    value = {name: 2**index for index, name in enumerate(names)}
    assert {name: total.ns for name, total in ledger.tree.items()} == {
        "forward": sum(value[name] for name in names[1:7]),
        "attn": value["attn.qkv"] + value["kv.append"],
        "mask": value["mask.fill"],
        "logits": value["logits/X"] + value["logits/X#2"],
        "stop": value["stop/Word"],
    }
    assert ledger.tree["attn"].ns_total == 3 * (value["attn.qkv"] + value["kv.append"])
    assert ledger.tree["attn"].share == ledger.tree["attn"].ns / ledger.step_ns


ALTERNATING = [40, 60, 42, 58, 44, 56, 46, 54]


def test_an_interval_is_the_exact_sign_test_of_the_shares() -> None:
    """Two parts at 97 % need eight rounds; then from the smallest share, 40 of 100, to 62.5, as far in logarithms."""
    made = samples({"attn.qkv": [[a] for a in ALTERNATING], "mlp": [[95 - a] for a in ALTERNATING]}, [[5]] * 8)
    ledger = build_ledger("decode", made, mark_ns=0)
    assert (ledger.parts["attn.qkv"].ci_low, ledger.parts["attn.qkv"].ci_high) == pytest.approx((40, 62.5))
    assert (ledger.parts["mlp"].ci_low, ledger.parts["mlp"].ci_high) == pytest.approx((35, 45**2 / 35))
    assert (ledger.plain_step_ci_low, ledger.plain_step_ci_high) == (100, 100)
    assert (ledger.overhead_ci_low, ledger.overhead_ci_high) == (0, 0)
    assert ledger.merged_rounds == 8
    assert ledger.resolved().half_width == pytest.approx((45**2 / 35 - 35) / 2 / 100)


def spells(rounds: int = 24, *, factor: float = 1.03, seed: int = 0) -> LedgerSamples:
    """A prefill of 1 ms on a machine that is 1.7 times as slow in spells; marks make it `factor` times as long."""
    rng = np.random.default_rng(seed)
    plain, step = np.zeros((rounds, 2, 1), np.int64), np.zeros((rounds, 2, 1), np.int64)
    slow = False
    for number in range(rounds):
        for turn in range(2):
            slow ^= bool(rng.random() < 0.4)
            pace = 1_000_000 * (1.7 if slow else 1.0) * np.exp(rng.normal(0, 0.01, 2))
            plain[number, turn, 0], step[number, turn, 0] = pace[0], factor * pace[1]
    part = step * 9 // 10
    return LedgerSamples(plain, step, {"mlp": part}, step - part, {"mlp": 1.0})


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 5, 6, 7])  # with 2 the rounds are too autocorrelated
def test_the_step_and_the_overhead_make_the_instrumented_step(seed: int) -> None:
    """On a machine that is slow in spells too: both steps are taken at one pace, and 3 % is found to 1 %."""
    made = spells(seed=seed)
    ledger = build_ledger("prefill", made, mark_ns=0)
    assert ledger.plain_step_ns is not None
    assert ledger.overhead is not None
    assert ledger.plain_step_ns == np.median(made.plain_ns)
    assert ledger.plain_step_ns * (1 + ledger.overhead) == pytest.approx(ledger.step_ns, rel=1e-9)
    assert ledger.overhead == pytest.approx(0.03, abs=0.01)
    assert ledger.parts["mlp"].ns + ledger.residual_ns == pytest.approx(ledger.step_ns)
    assert ledger.parts["mlp"].share == pytest.approx(0.9)
    assert ledger.notes == ["10.0% of the prefill step is unattributed: no part covers it."]


def test_two_steps_that_the_marks_do_not_explain_are_told_apart() -> None:
    """Each round has a burst in another of 21 marked steps: rounds are 1.5 times as long, medians equal."""
    plain = np.full((21, 1, 21), 100)
    burst = 1_050 * np.eye(21, dtype=np.int64)[:, None, :]
    made = LedgerSamples(plain, plain + burst, {"mlp": plain + burst}, np.zeros_like(plain), {"mlp": 1.0})
    ledger = build_ledger("decode", made, mark_ns=0)
    assert (ledger.plain_step_ns, ledger.step_ns) == (100, 100)
    assert (ledger.overhead, ledger.overhead_ci_low, ledger.overhead_ci_high) == pytest.approx((0.5, 0.5, 0.5))
    [note] = [note for note in ledger.notes if note.startswith("The two steps shown differ")]
    assert "the instrumented one is 1.000 times the uninstrumented one, in the median round it was 1.500 times" in note


def test_the_share_of_a_sum_is_never_said_to_exceed_the_step() -> None:
    """Intervals are symmetric in logarithms: that of 95 of 100 ns may reach beyond."""
    made = samples({"mlp": [[ns] for ns in (80, 99, 85, 98, 82, 97, 84, 99)]}, [[1]] * 8, [[100]] * 8)
    made.residual_ns[:, 0, 0] += 100 - made.step_ns[:, 0, 0]
    made.step_ns[:] = 100
    ledger = build_ledger("decode", made, mark_ns=0)
    assert (ledger.tree["forward"].ci_high or 0) > 100
    assert share_words(ledger.tree["forward"], ledger).endswith(", 100.0 %]")


def test_without_an_interval_no_factor_is_named() -> None:
    """Neither as what the marks did nor as a difference between the two steps."""
    ledger = build_ledger("decode", constant(140, 0, 100), mark_ns=0)
    assert ledger.notes == [f"{COST_UNKNOWN} The two steps shown are not to be compared."]


@pytest.mark.parametrize(
    ("others", "largest"),
    [
        ({"b": [50] * 12}, ["a"]),  # 100 against 50 in each round
        ({"b": [99] * 12}, ["a"]),  # by 1 % in each round: their intervals overlap, their paired ratio is below 1
        ({"b": [99, 98, 101] * 4}, ["a", "b"]),  # now this, now that
        ({"b": [99] * 3}, ["a", "b"]),  # three rounds tell nothing
        ({"b": [50] * 12, "c": [100] * 12}, ["a", "c"]),
    ],
)
def test_a_part_is_the_largest_where_the_rounds_tell_it_from_the_others(
    others: dict[str, list[int]], largest: list[str]
) -> None:
    """By an interval below its own, or a paired ratio below 1; the pace of rounds changes by 30 %."""
    rounds = len(others["b"])
    pace = np.array([10, 11, 12, 13] * 3)[:rounds, None]
    parts = {"a": [[100]] * rounds} | {name: [[ns] for ns in column] for name, column in others.items()}
    made = samples({name: np.array(ns) * pace for name, ns in parts.items()}, pace)
    assert build_ledger("decode", made, mark_ns=0).largest == largest


def test_a_part_whose_interval_lies_below_is_smaller_whatever_its_ratio() -> None:
    """Two bursts lie side by side: the ratio's widest interval holds them, the merged shares do not."""
    a = [109, 104, 94, 122, 102, 116, 119, 117, 126, 117, 125, 119, 127, 109]
    b = [55, 35, 28, 48, 54, 31, 34, 23, 150, 150, 47, 42, 42, 45]
    rest = [1, 18, 22, 5, 20, 23, 19, 7, 19, 17, 4, 20, 19, 25]
    made = samples({"a": [[ns] for ns in a], "b": [[ns] for ns in b]}, [[ns] for ns in rest])
    ledger = build_ledger("decode", made, mark_ns=0)
    assert ledger.largest == ["a"]
    assert ledger.parts["b"].ci_high is not None
    assert ledger.parts["b"].ci_high < 95 < (ledger.parts["a"].ci_low or 0)
    ratio = paired_change(a, b)
    assert ratio.ci_high is None or ratio.ci_high > 0


def test_what_costs_most_outside_the_forward_is_judged_among_the_others() -> None:
    """`a` and `mlp` cannot be told apart, and need not be."""
    made = samples({"mlp": [[100]] * 12, "logits/A": [[100]] * 12, "sample": [[50]] * 12}, [[1]] * 12)
    ledger = build_ledger("decode", made, mark_ns=0)
    assert (ledger.largest, ledger.largest_outside) == (["mlp", "logits/A"], ["logits/A"])


def test_a_sum_of_parts_has_an_interval_of_its_own() -> None:
    """Of the parts together: 40 + 55 of 100 in each round, though each alone goes up and down."""
    made = samples({"attn.qkv": [[a] for a in ALTERNATING], "mlp": [[95 - a] for a in ALTERNATING]}, [[5]] * 8)
    ledger = build_ledger("decode", made, mark_ns=0)
    assert (ledger.tree["forward"].ci_low, ledger.tree["forward"].ci_high) == pytest.approx((95, 95))
    assert ledger.tree["attn"].ci_low == ledger.parts["attn.qkv"].ci_low


def test_fewer_rounds_than_an_interval_needs_give_null_intervals() -> None:
    """Seven rounds are one too few for two parts, though not for one; the ledger is then not resolved at all."""
    made = samples({"attn.qkv": [[a] for a in ALTERNATING[:7]], "mlp": [[95 - a] for a in ALTERNATING[:7]]}, [[5]] * 7)
    ledger = build_ledger("decode", made, mark_ns=0)
    assert all(part.ci_low is None and part.ci_high is None for part in ledger.parts.values())
    assert ledger.overhead_ci_low is not None
    assert ledger.resolved().half_width == inf
    one = build_ledger("decode", constant(1, 1, 2, rounds=1), mark_ns=0)
    assert one.plain_step_ci_low is one.plain_step_ci_high is one.overhead_ci_low is one.overhead_ci_high is None


def test_the_interval_of_a_part_that_is_mostly_absent_is_in_nanoseconds() -> None:
    """Present in one of eight rounds, with 50 of 100 ns: the median is 0 and the interval reaches to 50 ns."""
    rare = [[0], [0], [0], [50], [0], [0], [0], [0]]
    made = samples({"mask.fill": rare, "mlp": [[100 - ns] for [ns] in rare]}, [[0]] * 8)
    part = build_ledger("decode", made, mark_ns=0).parts["mask.fill"]
    assert part.ns_per_step == 0
    assert (part.ci_low, part.ci_high) == (0, 50)


@pytest.mark.parametrize(("step_ns", "said", "invalid"), [(104, 0, ""), (106, 1, ""), (149, 1, ""), (151, 1, "1.51")])
def test_overhead_is_said_above_5_percent_and_invalid_above_50(step_ns: int, said: int, invalid: str) -> None:
    """The step to quote stays the uninstrumented one."""
    ledger = build_ledger("decode", constant(step_ns, 0, 100, rounds=8), mark_ns=0)
    assert ledger.plain_step_ns == 100
    assert len(ledger.notes) == said
    assert bool(ledger.invalid) == bool(invalid)
    assert invalid in ledger.invalid


def test_parts_that_do_not_add_up_are_refused() -> None:
    """One nanosecond in one step is enough."""
    made = constant(90, 10, 100)
    made.parts["mlp"][1, 0, 0] += 1
    with pytest.raises(InvalidMeasurement, match="do not add up"):
        build_ledger("decode", made, mark_ns=0)


@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_a_negative_part_or_residual_is_refused_by_name(name: str) -> None:
    """It is never clamped, even if the sums are right."""
    made = constant(90, 10, 100)
    column = made.residual_ns if name == "residual" else made.parts[name]
    column[0] -= 200
    made.step_ns[0] -= 200
    with pytest.raises(InvalidMeasurement, match=f"{name} is negative in a decode step"):
        build_ledger("decode", made, mark_ns=0)


@pytest.mark.parametrize("arm", ["plain_ns", "step_ns"])
def test_a_step_that_took_no_time_is_refused(arm: str) -> None:
    """On a clock too coarse for it nothing has a share."""
    made = constant(0, 0, 100) if arm == "step_ns" else constant(90, 10, 0)
    with pytest.raises(InvalidMeasurement, match="too coarse"):
        build_ledger("prefill", made, mark_ns=0)


def test_medians_of_parts_that_exceed_the_steps_make_it_invalid() -> None:
    """Parts that take turns in being long have medians that do not fit into the step: 30 of 20 ns."""
    made = samples({"a": [[10], [10], [0]], "b": [[10], [0], [10]], "c": [[0], [10], [10]]}, [[0]] * 3)
    ledger = build_ledger("decode", made, mark_ns=0)
    assert ledger.residual_ns == 0
    assert sum(part.ns_per_step for part in ledger.parts.values()) == pytest.approx(ledger.step_ns)
    assert "exceed that of the step by 10 ns" in ledger.invalid


def test_bursts_in_most_steps_are_said() -> None:
    """Medians of 20, 20 and 20 in a step of 120 whose burst falls on each part in turn: doubled, and so it is told."""
    rounds = np.full((3, 3), 20) + 60 * np.eye(3, dtype=np.int64)
    made = samples({name: rounds[:, [part]] for part, name in enumerate("abc")}, [[0]] * 3)
    ledger = build_ledger("decode", made, mark_ns=0)
    assert [part.ns_per_step for part in ledger.parts.values()] == [40, 40, 40]
    assert (ledger.residual_ns, ledger.scale_factor, ledger.invalid) == (0, 2, "")
    assert "are 50% of the step's, and every row is multiplied by 2.00" in ledger.notes[-1]


def test_medians_that_exceed_the_steps_by_a_little_leave_no_negative_residual() -> None:
    """As in a run whose parts' medians were 0.1 % over: they come down by that, and the ledger stands."""
    made = samples({"a": [[1001], [1001], [999]], "b": [[999], [1001], [1001]]}, [[0]] * 3)
    ledger = build_ledger("decode", made, mark_ns=0)
    assert ledger.residual_ns == 0
    assert ledger.invalid == ""
    assert ledger.parts["a"].ns_per_step < 1001
    assert sum(part.share for part in ledger.parts.values()) == pytest.approx(1)


@given(
    arrays(np.int64, st.tuples(st.just(4), st.just(1), st.integers(1, 7)), elements=st.integers(0, 10**9)),
    st.booleans(),
)
def test_of_one_round_the_rows_add_up_whatever_they_are(ns: Ints, covered: bool) -> None:
    """Without rounds to take medians of, the residual is the recorded one: rounding makes no ledger invalid."""
    residual = np.zeros_like(ns[0]) if covered else ns[0] + 1
    made = samples({f"part{index}": part + 1 for index, part in enumerate(ns[1:])}, residual)
    ledger = build_ledger("decode", made, mark_ns=1.0)
    assert ledger.invalid == ""
    assert ledger.residual_ns == pytest.approx(float(residual.mean()), abs=1e-3)
    if covered:
        assert str(ledger.residual_ns) == "0.0"
    shown = sum(part.ns_per_step for part in ledger.parts.values()) + ledger.residual_ns
    assert shown == pytest.approx(ledger.step_ns, abs=2e-3)


@given(arrays(np.int64, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(1, 10**12)), st.integers(1, 12))
def test_totals_add_up_exactly_whatever_they_are(step: Ints, num_parts: int) -> None:
    """Integers over all rounds, passes and positions."""
    names = [f"part{index}" for index in range(num_parts)]
    parts = {name: step * (index + 1) // (num_parts + index + 3) // num_parts for index, name in enumerate(names)}
    residual = step - sum(parts.values())
    made = LedgerSamples(step, step, parts, residual, dict.fromkeys(names, 1.0))
    ledger = build_ledger("decode", made, mark_ns=1.0)
    assert sum(part.ns_total for part in ledger.parts.values()) + ledger.residual_ns_total == ledger.step_ns_total
    assert ledger.step_ns_total == sum(step.ravel().tolist())


def test_the_cost_of_a_mark_is_a_reading_of_the_clock() -> None:
    """On a clock that takes 7 ns a reading a mark costs 7 ns."""
    assert measure_mark_ns(FakeClock(tick_ns=7)) == 7
