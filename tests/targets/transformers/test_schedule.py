"""Which steps are marked, which only timed, and which left alone."""

from itertools import islice

import pytest

from perstep.targets.transformers._schedule import Mode, Schedule

LETTER = {Mode.MARKED: "M", Mode.PLAIN: "P", Mode.SKIPPED: "-", Mode.COUNTED: "C"}


def plan(schedule: Schedule, call: int, steps: int) -> str:
    """The modes of a call's steps as letters, the prefill first."""
    return "".join(LETTER[schedule.mode(call, position)] for position in range(steps))


def test_without_alternation_every_step_is_marked():
    """The usual way."""
    assert plan(Schedule(), 0, 6) == "MMMMMM"


def test_marked_and_plain_steps_alternate_in_blocks_that_balance_a_linear_drift():
    """M P P M: the sums of the positions of both kinds are the same in every block."""
    assert plan(Schedule(alternate=True), 0, 9) == "M" + "MPPM" + "MPPM"


def test_every_other_call_begins_with_the_other_kind_so_that_each_position_is_seen_both_ways():
    """Over two calls every position is marked once and plain once."""
    first, second = (plan(Schedule(alternate=True), call, 33)[1:] for call in (0, 1))
    assert all({a, b} == {"M", "P"} for a, b in zip(first, second, strict=True))


def test_prefills_alternate_over_calls():
    """A call has but one."""
    assert "".join(plan(Schedule(alternate=True), call, 1) for call in range(8)) == "M" + "MPPM" + "MPP"


def test_of_long_jobs_one_block_in_so_many_is_recorded():
    """Blocks of one step, or of four where marked and plain ones alternate."""
    assert plan(Schedule(every=3), 0, 8) == "M" + "M--M--M"
    assert plan(Schedule(alternate=True, every=2), 0, 13) == "M" + "MPPM" + "----" + "MPPM"


def test_syncs_are_counted_in_steps_of_their_own_after_which_one_step_rests():
    """The fifth decode step, and one in 130 from there; the others alternate as if these were not there."""
    counted = Schedule(alternate=True, count=True)
    modes = plan(counted, 0, 1 + 6 + 128 + 2 + 64)
    assert modes[1:7] == "MPPM" + "C-"
    assert [index for index, mode in enumerate(modes) if mode == "C"] == [5, 5 + 130]
    timed = modes.replace("C-", "")
    assert timed == plan(Schedule(alternate=True), 0, len(timed))
    sparse = plan(Schedule(alternate=True, every=3, count=True), 1, 1 + 6 + 384 + 2)
    assert sparse.count("C") == 2
    assert sparse.replace("C-", "") == plan(Schedule(alternate=True, every=3), 1, len(sparse) - 4)


def test_a_plain_schedule_marks_nothing():
    """Not the prefill either."""
    assert plan(Schedule(plain=True), 0, 6) == "PPPPPP"


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("schedule", [Schedule(), Schedule(alternate=True, every=3, count=True), Schedule(plain=True)])
def test_the_modes_in_their_order_are_those_of_the_positions(schedule, call):
    """Worked out ahead, the prefill first, without an end."""
    assert list(islice(schedule.modes(call), 300)) == [schedule.mode(call, position) for position in range(300)]
