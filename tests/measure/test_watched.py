"""Ledgers of calls that ran once: known answers."""

import numpy as np
import pytest

from perstep.errors import InvalidMeasurement
from perstep.measure import Ledger, WatchedSteps, build_watched_ledger
from perstep.measure.ledger import COST_UNKNOWN

BLOCK = (True, False, False, True)


def steps(
    step_ns: list[int], marked: list[bool], part_ns: list[int], *, calls: list[int] | None = None, alike: bool = False
) -> WatchedSteps:
    """Steps with one part, given for each marked step."""
    step, mask = np.array(step_ns, np.int64), np.array(marked, bool)
    part = np.array(part_ns, np.int64)
    return WatchedSteps(
        step_ns=step,
        marked=mask,
        parts={"sample": part},
        residual_ns=step[mask] - part,
        marks={"sample": len(part)},
        calls=calls or [len(step)],
        alike=alike,
        forwards=len(step),
    )


def built(made: WatchedSteps) -> Ledger:
    """The ledger, whose totals add up."""
    ledger = build_watched_ledger("decode", made, mark_ns=0.0)
    assert sum(p.ns_total for p in ledger.parts.values()) + ledger.residual_ns_total == ledger.step_ns_total
    shown = sum(p.ns for p in ledger.parts.values()) + ledger.residual_ns
    assert shown == pytest.approx(ledger.step_ns, abs=1e-3)
    return ledger


def test_one_call_has_means_so_that_a_rare_expensive_step_counts() -> None:
    """Sixteen steps, one of the marked ones ten times as long."""
    ledger = built(steps([100] * 15 + [1_000], [*BLOCK] * 4, [40] * 7 + [940]))
    assert ledger.step_ns == (7 * 100 + 1_000) / 8
    assert ledger.parts["sample"].ns == (7 * 40 + 940) / 8
    assert ledger.parts["sample"].p50_ns == 40
    assert ledger.plain_step_ns == 100
    assert ledger.rounds == 4
    assert ledger.overhead == 0  # the median over rounds
    assert any("1 of 8 marked steps took more than 3 times the median" in note for note in ledger.notes)


def test_a_cost_that_grows_with_the_position_does_not_look_like_overhead() -> None:
    """M P P M: a straight line weighs on both kinds alike."""
    ledger = built(steps(list(range(1_000, 1_000 + 48)), [*BLOCK] * 12, [7] * 24))
    assert ledger.overhead == 0
    assert ledger.plain_step_ns == ledger.step_ns


@pytest.mark.parametrize("alike", [True, False])
def test_calls_that_repeat_each_other_have_medians_over_calls(alike: bool) -> None:
    """A burst in one of six calls is in no median; where the calls are of different shapes it is in the mean."""
    one, other = list(BLOCK), [not mark for mark in BLOCK]
    marked = (one + other) * 3
    step = [ns + 10 * mark for ns, mark in zip([100, 200, 300, 400] * 6, marked, strict=True)]
    step[0] = 10_000  # marked, in the first call
    part = [ns - 10 for ns, mark in zip(step, marked, strict=True) if mark]
    ledger = built(steps(step, marked, part, calls=[4] * 6, alike=alike))
    if alike:
        assert ledger.step_ns == pytest.approx(260, rel=0.02)  # the rounds are brought to one pace
        assert ledger.parts["sample"].ns == pytest.approx(250, rel=0.02)
        assert "at each of 4 positions the median over 6 calls" in ledger.notes[-1]
    else:
        assert ledger.step_ns == pytest.approx(260 + 9_890 / 12)
        assert any("the mean of 12 marked steps" in note for note in ledger.notes)
    assert ledger.plain_step_ns == 250
    assert ledger.step_ns_total == sum(ns for ns, mark in zip(step, marked, strict=True) if mark)


def test_a_seventh_call_is_in_the_totals_alone() -> None:
    """It has no partner that saw its positions the other way."""
    one, other = list(BLOCK), [not mark for mark in BLOCK]
    marked = (one + other) * 3 + one
    step = [100] * 24 + [500] * 4
    part = [ns // 2 for ns, mark in zip(step, marked, strict=True) if mark]
    ledger = built(steps(step, marked, part, calls=[4] * 7, alike=True))
    assert ledger.step_ns == 100
    assert ledger.steps == 14
    assert ledger.step_ns_total == 12 * 100 + 2 * 500


def test_medians_that_add_up_to_more_than_the_step_give_way_to_means() -> None:
    """Three parts, each short in another call: each one's median is the long one."""
    shape = [True, False] * 3
    step = np.full(6, 100, np.int64)
    columns = {
        name: np.array(ns, np.int64) for name, ns in {"a": [0, 50, 50], "b": [50, 0, 50], "c": [50, 50, 0]}.items()
    }
    watched = WatchedSteps(
        step,
        columns,
        np.zeros(3, np.int64),
        dict.fromkeys(columns, 3),
        marked=np.array(shape),
        calls=[1] * 6,
        alike=True,
        forwards=6,
    )
    ledger = built(watched)
    assert ledger.residual_ns == 0
    assert ledger.parts["a"].ns == pytest.approx(100 / 3)
    assert ledger.invalid == ""


def test_rounds_reach_over_short_calls() -> None:
    """Calls of three steps: M P P, then P M M, make a round of six."""
    marked = [True, False, False, False, True, True] * 2
    ledger = built(steps([110 if mark else 100 for mark in marked], marked, [50] * 6, calls=[3] * 4))
    assert ledger.rounds == 2
    assert ledger.overhead == pytest.approx(0.1)
    assert ledger.overhead_ci_low is None


def test_too_few_steps_give_neither_overhead_nor_step() -> None:
    """One marked step alone."""
    ledger = built(steps([100], [True], [60]))
    assert ledger.plain_step_ns is ledger.overhead is ledger.parts["sample"].ci_low is None
    assert ledger.rounds == ledger.merged_rounds == 0
    assert COST_UNKNOWN in ledger.notes


def test_a_large_overhead_is_invalid_only_where_it_is_sure() -> None:
    """Two rounds may be noise, and no factor is named; forty are not."""
    for rounds, invalid in ((2, False), (40, True)):
        marked = [*BLOCK] * rounds
        ledger = built(steps([200 if mark else 100 for mark in marked], marked, [50] * (2 * rounds)))
        assert ledger.overhead == 1
        assert bool(ledger.invalid) is invalid
        assert any("2.000 times as long" in note for note in ledger.notes) == invalid


def test_an_overhead_whose_interval_holds_zero_is_no_verdict() -> None:
    """A machine that is busy now in marked steps, now in plain ones: 9 in most rounds, a ninth in the others."""
    marked, step = [*BLOCK] * 40, []
    for slow in np.random.default_rng(0).permutation([True] * 26 + [False] * 14):
        step += [900 if mark == slow else 100 for mark in BLOCK]
    ledger = built(steps(step, marked, [50] * 80))
    assert ledger.overhead is not None
    assert ledger.overhead > 0.5
    assert ledger.overhead_ci_low is not None
    assert ledger.overhead_ci_low < 0
    assert ledger.invalid == ""
    assert any(note.startswith("Instrumented steps took") and "which may be chance" in note for note in ledger.notes)


def test_parts_that_do_not_add_up_are_refused() -> None:
    """As in every ledger."""
    made = steps([100] * 4, [*BLOCK], [60, 60])
    made.residual_ns[0] += 1
    with pytest.raises(InvalidMeasurement, match="do not add up"):
        build_watched_ledger("decode", made, mark_ns=0.0)


def test_prefills_are_medians_over_calls_of_any_shape() -> None:
    """One of five took 3 s, in which its part was; its time is in the totals alone."""
    marked = [True, False, False, True, True, False, True, True]
    step = [100, 90, 90, 110, 3_000, 5_000, 100, 120]
    ledger = built(steps(step, marked, [60, 66, 2_960, 60, 72], calls=[1] * 8))
    assert (ledger.step_ns, ledger.plain_step_ns) == (110, 90)
    assert ledger.parts["sample"].ns == pytest.approx(66)
    assert ledger.parts["sample"].ns_total == 60 + 66 + 2_960 + 60 + 72
    assert "Per step: the median over 5 marked steps, one a call." in ledger.notes


def test_steps_that_bursts_set_apart_are_told_apart() -> None:
    """Every tenth round has a burst in a marked step: in most rounds nothing, on average 1.45 times as long."""
    step = ([100] * 4 * 9 + [1_000, 100, 100, 100]) * 4
    marked = [*BLOCK] * 40
    ledger = built(steps(step, marked, [50] * 80))
    assert (ledger.step_ns, ledger.plain_step_ns, ledger.overhead) == (145, 100, 0)
    assert any("the instrumented one is 1.450 times the uninstrumented one" in note for note in ledger.notes)
