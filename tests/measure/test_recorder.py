"""The recorder: laps between clock readings, and sums that are exact."""

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.errors import InvalidMeasurement
from perstep.measure import RESIDUAL, FakeClock, HostClock, Recorder, step
from perstep.measure import part as named_part
from perstep.measure.recorder import FILED_AT

PARTS = st.sampled_from(["embed", "attn.qkv", "mlp", "logits/X", "logits/X#2", RESIDUAL])
LAPS = st.lists(st.tuples(PARTS, st.integers(0, 2**40)), max_size=30)


def record(recorder: Recorder, clock: FakeClock, before_ns: int, laps: list[tuple[str, int]], kind: str) -> None:
    """One step: `before_ns` before the first mark, then parts of known length."""
    recorder.begin(kind)
    clock.advance(before_ns)
    for part, ns in laps:
        recorder.mark(part)
        clock.advance(ns)
    recorder.end()


def fail_in(recorder: Recorder, part: str) -> None:
    """A part that raises."""
    recorder.mark(part)
    raise ZeroDivisionError


def begin_and_fail(recorder: Recorder) -> None:
    """A step that is begun and never ended, because of an exception."""
    recorder.begin()
    raise ZeroDivisionError


def test_a_part_gets_the_time_from_its_mark_to_the_next() -> None:
    """The time before the first mark is residual, each mark ends the part before it, the end ends the last."""
    clock = FakeClock(start_ns=1_000)
    recorder = Recorder(clock)
    record(recorder, clock, 5, [("embed", 10), ("mlp", 200), ("sample", 3_000)], "decode")
    steps = recorder.steps()
    assert steps.step_ns.tolist() == [3_215]
    assert {name: ns.tolist() for name, ns in steps.parts.items()} == {"embed": [10], "mlp": [200], "sample": [3_000]}
    assert steps.residual_ns.tolist() == [5]
    assert steps.marks == {"embed": 1, "mlp": 1, "sample": 1}


def test_a_part_entered_twice_is_summed_and_its_marks_are_counted() -> None:
    """Layers enter the same parts again and again."""
    clock = FakeClock()
    recorder = Recorder(clock)
    for _ in range(2):
        record(recorder, clock, 1, [("norm", 10), ("mlp", 20), ("norm", 30), ("mlp", 40)], "decode")
    steps = recorder.steps()
    assert steps.parts["norm"].tolist() == [40, 40]
    assert steps.parts["mlp"].tolist() == [60, 60]
    assert steps.marks == {"norm": 4, "mlp": 4}


def test_what_follows_a_mark_of_the_residual_belongs_to_no_part() -> None:
    """RESIDUAL ends a part without beginning another; it is no part and its marks are not counted."""
    clock = FakeClock()
    recorder = Recorder(clock)
    record(recorder, clock, 1, [("embed", 10), (RESIDUAL, 100), ("mlp", 20)], "decode")
    steps = recorder.steps()
    assert steps.residual_ns.tolist() == [101]
    assert set(steps.parts) == set(steps.marks) == {"embed", "mlp"}


def test_kinds_have_columns_of_their_own() -> None:
    """Prefill and decode steps are kept apart, in the order in which they first occur."""
    clock = FakeClock()
    recorder = Recorder(clock)
    record(recorder, clock, 0, [("embed", 900)], "prefill")
    record(recorder, clock, 0, [("embed", 7)], "decode")
    record(recorder, clock, 0, [("embed", 8)], "decode")
    assert recorder.kinds == ["prefill", "decode"]
    assert recorder.steps("prefill").step_ns.tolist() == [900]
    assert recorder.steps("decode").parts["embed"].tolist() == [7, 8]
    assert recorder.steps("other").step_ns.tolist() == []


def test_steps_of_one_kind_may_enter_different_parts() -> None:
    """A part that a step did not enter is zero there, and steps stay in the order in which they ended."""
    clock = FakeClock()
    recorder = Recorder(clock)
    record(recorder, clock, 1, [("embed", 10), ("mask.fill", 500)], "decode")
    record(recorder, clock, 2, [("embed", 20)], "decode")
    record(recorder, clock, 3, [("mask.fill", 600), ("embed", 30)], "decode")
    record(recorder, clock, 4, [("embed", 40)], "decode")
    steps = recorder.steps()
    assert steps.step_ns.tolist() == [511, 22, 633, 44]
    assert steps.parts["embed"].tolist() == [10, 20, 30, 40]
    assert steps.parts["mask.fill"].tolist() == [500, 0, 600, 0]
    assert steps.residual_ns.tolist() == [1, 2, 3, 4]
    assert steps.marks == {"embed": 4, "mask.fill": 2}


@given(
    st.lists(st.tuples(st.integers(0, 2**40), LAPS, st.sampled_from(["decode", "prefill"])), max_size=12),
    st.integers(0, 100),
)
def test_parts_and_residual_are_the_step(steps: list[tuple[int, list[tuple[str, int]], str]], tick_ns: int) -> None:
    """Whatever is marked and however long it takes: parts + residual = step, in integers, for every step."""
    clock = FakeClock(tick_ns=tick_ns)
    recorder = Recorder(clock)
    for before_ns, laps, kind in steps:
        record(recorder, clock, before_ns, laps, kind)
    for kind in ("decode", "prefill"):
        wanted = [
            before + sum(ns for _, ns in laps) + (len(laps) + 1) * tick_ns for before, laps, k in steps if k == kind
        ]
        recorded = recorder.steps(kind)
        assert recorded.step_ns.dtype == np.int64
        assert recorded.step_ns.tolist() == wanted
        total = sum(recorded.parts.values(), start=recorded.residual_ns.copy())
        assert np.array_equal(total, recorded.step_ns)
        assert all((column >= 0).all() for column in (recorded.residual_ns, *recorded.parts.values()))


def test_a_step_left_by_an_exception_is_dropped_and_counted() -> None:
    """The exception passes on; the steps before and after it are kept."""
    clock = FakeClock(tick_ns=1)
    recorder = Recorder(clock)
    with recorder.step():
        recorder.mark("embed")
    with pytest.raises(ZeroDivisionError), recorder.step():
        fail_in(recorder, "mlp")
    with recorder.step():
        recorder.mark("embed")
    assert recorder.dropped == 1
    assert recorder.steps().step_ns.tolist() == [2, 2]
    assert set(recorder.steps().parts) == {"embed"}


def test_a_step_inside_a_step_is_refused_by_name() -> None:
    """An open step must end before the next; as context managers the outer one is dropped."""
    recorder = Recorder(FakeClock())
    still_open = pytest.raises(InvalidMeasurement, match="a prefill step is still open")
    with still_open, recorder.step("prefill"), recorder.step("decode"):
        pass
    assert recorder.dropped == 1
    assert recorder.kinds == []


def test_a_mark_outside_of_a_step_is_told_by_name_at_the_next_one() -> None:
    """It belongs to no step; after the complaint the recorder works again."""
    recorder = Recorder(FakeClock(tick_ns=1))
    recorder.mark("embed")
    with pytest.raises(InvalidMeasurement, match=r"mark\('embed'\) was set outside of a step"):
        recorder.begin()
    with recorder.step():
        recorder.mark("mlp")
    assert set(recorder.steps().parts) == {"mlp"}


def test_ending_a_step_that_was_not_begun_is_refused() -> None:
    """So is a second end."""
    recorder = Recorder(FakeClock())
    with pytest.raises(InvalidMeasurement, match="no step is open"):
        recorder.end()


def test_a_turn_ends_a_step_and_begins_the_next_in_one_reading() -> None:
    """Nothing lies between two steps, so together they are as long as the loop; without an open step it is refused."""
    clock = FakeClock(tick_ns=3)
    recorder = Recorder(clock)
    with pytest.raises(InvalidMeasurement, match="no step is open"):
        recorder.turn()
    began_ns = clock.now() + 3
    recorder.begin("prefill")
    recorder.mark("embed")
    clock.advance(100)
    recorder.turn("decode")
    clock.advance(10)
    recorder.mark("mlp")
    recorder.turn("decode")
    recorder.end()
    assert recorder.sequence == ["prefill", "decode", "decode"]
    prefill, decode = recorder.steps("prefill"), recorder.steps("decode")
    assert prefill.parts["embed"].tolist() == [103]
    assert decode.step_ns.tolist() == [16, 3]
    assert decode.parts["mlp"].tolist() == [3, 0]
    assert prefill.step_ns.sum() + decode.step_ns.sum() == clock.now() - 3 - began_ns


def test_the_sorting_of_the_log_lies_in_no_step() -> None:
    """A second reading of the clock is taken after it: a step without marks has four entries."""
    clock = FakeClock(tick_ns=1)
    recorder = Recorder(clock)
    recorder.begin()
    for _ in range(FILED_AT // 4 + 20):
        recorder.turn()
    recorder.end()
    assert recorder.steps().step_ns.sum() == clock.now() - 2  # one tick before, one in the only sorting


@pytest.mark.parametrize("turns", [True, False])
def test_steps_are_kept_when_the_log_is_sorted_in_between(turns: bool) -> None:
    """However many there are, they come back in their order, and a step that is open meanwhile goes on."""
    clock = FakeClock()
    recorder = Recorder(clock)
    recorder.begin("even")
    for index in range(3_000):
        recorder.mark(f"part{index % 3}")
        clock.advance(index)
        if index == 1_500:
            assert recorder.kinds == ["even", "odd"]
            assert recorder.part == "part0"
        following = "odd" if index % 2 == 0 else "even"
        if turns:
            recorder.turn(following)
        else:
            recorder.end()
            recorder.begin(following)
    recorder.drop()
    assert recorder.sequence == ["even", "odd"] * 1_500
    assert recorder.steps("even").step_ns.tolist() == list(range(0, 3_000, 2))
    assert recorder.steps("odd").parts["part1"].tolist() == [n if n % 3 == 1 else 0 for n in range(1, 3_000, 2)]


def test_a_clock_that_goes_back_invalidates_the_steps() -> None:
    """A negative lap is never clamped; other kinds stay readable."""
    clock = FakeClock(start_ns=1_000)
    recorder = Recorder(clock)
    record(recorder, clock, 0, [("embed", 5)], "prefill")
    record(recorder, clock, 0, [("embed", 50), ("mlp", -10), ("sample", 50)], "decode")
    assert recorder.steps("prefill").step_ns.tolist() == [5]
    with pytest.raises(InvalidMeasurement, match="clock went backwards inside a decode step"):
        recorder.steps("decode")


def test_the_part_that_the_step_is_in_can_be_asked_for() -> None:
    """What to go back to after a detour; None before the first mark and outside of steps."""
    recorder = Recorder(FakeClock())
    assert recorder.part is None
    with recorder.step():
        assert recorder.part is None
        recorder.mark("embed")
        assert recorder.part == "embed"
        recorder.mark("mlp")
        assert recorder.part == "mlp"
    assert recorder.part is None


def test_clearing_forgets_steps_but_not_the_mark() -> None:
    """A mark that was handed around goes on working."""
    recorder = Recorder(FakeClock(tick_ns=1))
    mark = recorder.mark
    with pytest.raises(KeyError), recorder.step():
        raise KeyError
    with recorder.step():
        mark("embed")
    recorder.clear()
    assert recorder.kinds == []
    assert recorder.dropped == 0
    with recorder.step():
        mark("mlp")
    assert set(recorder.steps().parts) == {"mlp"}


def test_a_recorder_as_context_manager_complains_about_a_step_that_was_not_ended() -> None:
    """A step left open would be lost without a word; an exception on its way out is not covered up."""
    with Recorder(FakeClock(tick_ns=1)) as recorder, recorder.step():
        recorder.mark("embed")
    assert recorder.steps().step_ns.tolist() == [2]
    with pytest.raises(InvalidMeasurement, match="begun and not ended"), Recorder(FakeClock()) as recorder:
        recorder.begin()
    with pytest.raises(ZeroDivisionError), Recorder(FakeClock()) as recorder:
        begin_and_fail(recorder)


@pytest.mark.real_clock
def test_the_host_clock_is_the_default_and_never_goes_back() -> None:
    """Stamps are integers in nanoseconds."""
    stamps = [HostClock().now() for _ in range(100)]
    assert all(isinstance(stamp, int) for stamp in stamps)
    assert stamps == sorted(stamps)
    recorder = Recorder()
    with recorder.step():
        recorder.mark("embed")
    steps = recorder.steps()
    assert int(steps.step_ns[0]) == int(steps.residual_ns[0] + steps.parts["embed"][0])


def test_ten_thousand_steps_of_45_marks_take_less_than_50_mb() -> None:
    """Stamps are kept as eight bytes each, and summing them up needs only a few copies."""
    clock = FakeClock(tick_ns=100)
    names = [f"part{index % 15}" for index in range(45)]
    tracemalloc.start()
    try:
        recorder = Recorder(clock)
        for _ in range(10_000):
            recorder.begin()
            for name in names:
                recorder.mark(name)
            recorder.end()
        steps = recorder.steps()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert steps.step_ns.tolist() == [4_600] * 10_000
    assert peak_bytes < 50e6


def test_a_program_names_its_steps_and_parts_for_the_active_recorder() -> None:
    """A part inside another one takes its time from the outer one; outside of a step a part is nothing."""
    clock = FakeClock()
    with Recorder(clock) as rec:
        with named_part("before"):
            clock.advance(100)
        with step():
            clock.advance(1)
            with named_part("schedule"):
                clock.advance(2)
                with named_part("inputs"):
                    clock.advance(4)
                clock.advance(8)
            clock.advance(16)
            rec.mark("forward")
            clock.advance(32)
            with named_part("sample"):
                clock.advance(64)
            clock.advance(128)
    steps = rec.steps()
    assert {name: ns.tolist() for name, ns in steps.parts.items()} == {
        "schedule": [10],
        "inputs": [4],
        "forward": [160],
        "sample": [64],
    }
    assert (steps.step_ns.tolist(), steps.residual_ns.tolist()) == ([255], [17])


def test_named_steps_are_nothing_where_nobody_watches_and_in_other_threads() -> None:
    """One block for all of them, so that nothing is made; of two recorders the inner one takes them."""
    assert step() is step("prefill") is named_part("x")
    with Recorder(FakeClock()) as outer, Recorder(FakeClock()) as inner:
        found: list[object] = []
        other = threading.Thread(target=lambda: found.extend((step(), named_part("x"))))
        other.start()
        other.join()
        with step("prefill"):
            pass
    assert found == [step(), step()]
    assert (outer.kinds, inner.kinds) == ([], ["prefill"])


def test_a_named_step_that_an_exception_leaves_is_dropped() -> None:
    """Its parts are closed on the way, and the next step is whole."""
    with Recorder(FakeClock(tick_ns=1)) as rec:
        with pytest.raises(ZeroDivisionError), step(), named_part("x"):
            1 / 0  # noqa: B018
        with step(), named_part("y"):
            pass
    assert (rec.dropped, list(rec.steps().parts)) == (1, ["y"])
