"""Kernels by part: on a real trace, and on made-up ones with everything in them that a trace may have."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.errors import InvalidMeasurement
from perstep.measure import RESIDUAL
from perstep.measure.device_rows import Innermost, Row, is_graph_launch, is_launch
from perstep.measure.device_work import UNMATCHED, attribute

HOST, DEVICE = "DeviceType.CPU", "DeviceType.CUDA"
MAIN = 440
"""The thread of the host."""


def span(name: str, start: int, end: int, *, thread: int = MAIN) -> Row:
    """A range on the host."""
    return Row(name, HOST, start, end - start, 0, 0, 1, thread)


def step(start: int, end: int, kind: str = "decode") -> Row:
    """A step on the host."""
    return span(f"perstep-step:{kind}", start, end)


def launch(number: int, at: int, *, call: str = "cudaLaunchKernel", thread: int = MAIN) -> Row:
    """A call of the runtime."""
    return Row(call, HOST, at, 2, number, 0, 1, thread)


def kernel(
    number: int, start: int, end: int, name: str = "k", *, linked: int = 0, stream: int = 7, device: int = 0
) -> Row:
    """Work on the device."""
    return Row(name, DEVICE, start, end - start, number, linked, device, stream)


def parts_of(rows: list[Row], **options: Any) -> dict[str, tuple[int, int, int]]:
    """Part -> (busy, sum, launches) of the only step."""
    [one] = attribute(rows, **options).steps
    return {name: (part.busy_ns, part.sum_ns, part.launches) for name, part in one.parts.items()}


# The real trace


def test_the_real_trace_has_no_kernel_unmatched(h200_rows: list[Row], h200_steps: list[tuple[str, int, int]]) -> None:
    """7,472 kernels, copies and fills, each with its launch; together they take what the profiler's own rows take."""
    work = attribute(h200_rows, steps=h200_steps)
    assert (
        work.counts.kernels,
        work.counts.unmatched,
        work.counts.by_operator,
        work.counts.idle_launches,
        work.counts.began_early,
    ) == (7472, 0, 0, 0, 0)
    own = sum(r.duration_ns for r in h200_rows if not r.on_host and not r.name.startswith("perstep:"))
    assert work.counts.total_ns == own
    assert sum(part.sum_ns for one in work.steps for part in one.parts.values()) + work.outside_ns == own
    assert sum(one.busy_ns for one in work.steps) == own - work.outside_ns  # one stream: nothing overlaps


def test_planted_sleeps_are_found_where_they_were_planted(
    h200_rows: list[Row], h200_steps: list[tuple[str, int, int]]
) -> None:
    """Six of 507 µs in a processor: 3,040.6 µs in its part, and one launch a step."""
    steps = attribute(h200_rows, steps=h200_steps).steps
    slept = [one.parts["logits/DeviceWork"] for one in steps]
    assert sum(part.busy_ns for part in slept) / 1e3 == pytest.approx(3040.6, abs=0.05)
    assert [part.launches for part in slept] == [1] * 6


def test_the_real_step_by_part(h200_rows: list[Row], h200_steps: list[tuple[str, int, int]]) -> None:
    """A decode step has 8 kernels in each of 60 norms, 17 in each attention, 5 in each feed-forward part."""
    decode = [one for one in attribute(h200_rows, steps=h200_steps).steps if one.kind == "decode"]
    assert len(decode) == 5
    for one in decode:
        launches = {name: part.launches for name, part in one.parts.items()}
        assert (launches["norm"], launches["attn"], launches["mlp"], launches["lm_head"]) == (480, 510, 150, 1)
        assert sum(k.count for k in one.parts["norm"].kernels.values()) == 480
        without_sleep = one.busy_ns - one.parts["logits/DeviceWork"].busy_ns
        assert 2.2e6 < without_sleep < 2.3e6
        assert one.parts["norm"].busy_ns == pytest.approx(652_000, rel=0.01)


# Made-up traces


def test_a_kernel_belongs_to_the_range_that_launched_it_not_to_the_one_it_runs_in() -> None:
    """The device runs behind the host: by its own timeline all kernels would lie in the last part."""
    rows = [
        step(0, 100), span("perstep:embed", 10, 20), span("perstep:mlp", 20, 40), span("perstep:sample", 40, 100),
        launch(1, 12), launch(2, 22), launch(3, 90), launch(4, 5),
        kernel(4, 38, 40), kernel(1, 41, 46), kernel(2, 46, 66), kernel(3, 95, 96),
    ]  # fmt: skip
    assert parts_of(rows) == {
        RESIDUAL: (2, 2, 1), "embed": (5, 5, 1), "mlp": (20, 20, 1), "sample": (1, 1, 1),
    }  # fmt: skip


def test_of_nested_ranges_the_innermost_counts() -> None:
    """Also one that began at the same moment, and after an inner one has ended the outer counts again."""
    rows = [
        step(0, 100), span("perstep:forward", 10, 90), span("perstep:attn", 10, 50), span("perstep:attn.core", 20, 30),
        launch(1, 10), launch(2, 20), launch(3, 30), launch(4, 50), launch(5, 90),
        *(kernel(number, 200 + number, 201 + number) for number in range(1, 6)),
    ]  # fmt: skip
    launched = {name: launches for name, (_, _, launches) in parts_of(rows).items()}
    assert launched == {"attn": 2, "attn.core": 1, "forward": 1, RESIDUAL: 1}


def test_a_kernel_of_the_name_of_its_operator_is_work() -> None:
    """Triton's in compiled regions; the range around it, which the profiler knows to be one, is still none."""
    rows = [
        step(0, 100)._replace(annotation=True), span("perstep:mlp", 10, 40)._replace(annotation=True),
        span("triton_add_0", 20, 30), launch(1, 25), kernel(1, 50, 60, "triton_add_0"),
        kernel(0, 50, 60, "perstep:mlp"),
    ]  # fmt: skip
    assert parts_of(rows) == {"mlp": (10, 10, 1)}


def test_an_instant_on_two_streams_belongs_to_the_kernel_that_started_first() -> None:
    """The plain sum counts it twice, and stands beside."""
    rows = [
        step(0, 100), span("perstep:a", 0, 10), span("perstep:b", 10, 20), launch(1, 1), launch(2, 11), launch(3, 12),
        kernel(1, 20, 40, stream=7), kernel(2, 30, 60, stream=8), kernel(3, 35, 38, stream=9),
    ]  # fmt: skip
    assert parts_of(rows) == {"a": (20, 20, 1), "b": (20, 33, 2)}


def test_what_was_launched_in_no_step_is_counted_apart() -> None:
    """Warm-up before the first step, and what follows the last."""
    rows = [
        step(10, 20),
        launch(1, 5),
        launch(2, 12),
        launch(3, 25),
        kernel(1, 30, 37),
        kernel(2, 40, 41),
        kernel(3, 50, 53),
    ]
    work = attribute(rows)
    assert work.steps[0].busy_ns == 1
    assert (work.outside_ns, work.counts.total_ns) == (10, 11)


def test_a_launch_that_is_missing_is_replaced_by_its_operator() -> None:
    """The operator's number is another count than that of calls: 1 is a launch of somebody else here."""
    rows = [
        step(0, 100), span("perstep:a", 0, 10), span("perstep:b", 10, 20), launch(1, 1),
        Row("aten::mm", HOST, 12, 3, 1, 0, 1, MAIN), kernel(1, 30, 31), kernel(9, 40, 44, linked=1),
    ]  # fmt: skip
    assert parts_of(rows) == {"a": (1, 1, 1), "b": (4, 4, 0)}
    assert attribute(rows).counts.by_operator == 1


def test_kernels_without_any_launch_are_named_not_dropped() -> None:
    """They stay in the busy time of the step around them, in a row of their own, and are counted."""
    rows = [step(0, 100), span("perstep:a", 0, 50), launch(1, 1), kernel(1, 30, 31), kernel(9, 40, 44)]
    assert parts_of(rows) == {"a": (1, 1, 1), UNMATCHED: (4, 4, 0)}
    work = attribute(rows)
    assert (work.counts.unmatched, work.counts.unmatched_ns, work.counts.total_ns) == (1, 4, 5)


def test_a_launch_without_a_kernel_is_counted_apart() -> None:
    """The profiler lost it, or nothing was to be copied."""
    rows = [step(0, 100), span("perstep:a", 0, 50), launch(1, 1), launch(2, 3), kernel(1, 30, 31)]
    assert parts_of(rows) == {"a": (1, 1, 1)}
    assert attribute(rows).counts.idle_launches == 1


def test_a_difference_between_the_clocks_moves_nothing_and_is_told() -> None:
    """Every kernel seems to begin 50 ns before its launch; parts are those of the launches all the same."""
    rows = [
        step(1000, 2000), span("perstep:a", 1000, 1100), span("perstep:b", 1100, 1200), launch(1, 1010),
        launch(2, 1110), kernel(1, 960, 970), kernel(2, 1060, 1080),
    ]  # fmt: skip
    work = attribute(rows)
    assert {name: part.busy_ns for name, part in work.steps[0].parts.items()} == {"a": 10, "b": 20}
    assert (work.counts.began_early, work.counts.early_ns) == (2, 50)


def test_ranges_that_come_back_on_the_device_are_no_work() -> None:
    """Ours, those of other people's `record_function`, and rows of waiting."""
    rows = [
        step(0, 100), span("perstep:a", 0, 50), span("theirs", 0, 50), launch(1, 1), kernel(1, 30, 31),
        kernel(0, 30, 90, "perstep:a"), kernel(0, 30, 90, "theirs"), kernel(0, 30, 90, "Stream Wait Event"),
        kernel(0, 30, 90, "marked elsewhere")._replace(annotation=True), kernel(0, 30, 99, "perstep-step:decode"),
    ]  # fmt: skip
    assert parts_of(rows) == {"a": (1, 1, 1)}


def test_launches_of_another_thread_lie_in_no_part() -> None:
    """It does not run what the part is named for; its step is known by the time."""
    rows = [
        step(0, 100),
        span("perstep:a", 0, 50),
        launch(1, 1),
        launch(2, 2, thread=9),
        kernel(1, 30, 31),
        kernel(2, 40, 44),
    ]
    assert parts_of(rows) == {"a": (1, 1, 1), RESIDUAL: (4, 4, 1)}


def test_where_threads_are_numbered_in_two_ways_time_decides() -> None:
    """Else every launch would lie in no part."""
    rows = [step(0, 100), span("perstep:a", 0, 50), launch(1, 1, thread=9), kernel(1, 30, 31)]
    assert parts_of(rows) == {"a": (1, 1, 1)}


@pytest.mark.parametrize(
    "call", ["hipLaunchKernel", "hipExtModuleLaunchKernel", "hipMemcpyAsync", "hipModuleLaunchKernel"]
)
def test_rocm_calls_its_launches_otherwise(call: str) -> None:
    """And nothing else differs: the device's rows have the same type."""
    rows = [step(0, 100), span("perstep:a", 0, 50), launch(1, 1, call=call), kernel(1, 30, 31)]
    assert parts_of(rows) == {"a": (1, 1, 1)}


def test_what_is_a_launch() -> None:
    """By its name; calls that put no work on the device are none."""
    launches = ["cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx", "cudaMemcpyAsync", "cudaMemsetAsync",
                "cudaGraphLaunch", "hipGraphLaunch", "cudaLaunchCooperativeKernel"]  # fmt: skip
    others = [
        "cudaLaunchHostFunc",
        "cudaStreamSynchronize",
        "cudaEventRecord",
        "aten::mm",
        "cudaMalloc",
        "cudaGetLastError",
    ]
    assert [name for name in launches + others if is_launch(name)] == launches
    assert [name for name in launches if is_graph_launch(name)] == ["cudaGraphLaunch", "hipGraphLaunch"]


def test_two_devices_are_not_one() -> None:
    """Their times do not lie on one timeline."""
    with pytest.raises(InvalidMeasurement, match="2 devices worked"):
        attribute([step(0, 9), launch(1, 1), launch(2, 2), kernel(1, 3, 4), kernel(2, 3, 4, device=1)])


# Graph replays

REGION = "xyyzyzzy"
"""The kernels of a region, by their names."""


def eager(begin: int, first: int, names: str = REGION) -> list[Row]:
    """A region that runs under ranges: kernel x in part a, all others in part b."""
    rows = [span("perstep:a", begin, begin + 10), span("perstep:b", begin + 10, begin + 90)]
    for index, name in enumerate(names):
        rows += [
            launch(first + index, begin + 10 * index + 1),
            kernel(first + index, begin + 200 + index, begin + 201 + index, name),
        ]
    return rows


def replay(begin: int, number: int, names: str = REGION, *, call: str = "cudaGraphLaunch") -> list[Row]:
    """The same region as one call, in a part that knows nothing of a and b; kernels of 5, 6, 7 ... ns."""
    rows = [
        step(begin, begin + 100, "replay"),
        span("perstep:forward", begin, begin + 50),
        launch(number, begin + 1, call=call),
    ]
    at = begin + 300
    for index, name in enumerate(names):
        rows.append(kernel(number, at, at + 5 + index, name))
        at += 20
    return rows


@pytest.mark.parametrize("call", ["cudaGraphLaunch", "hipGraphLaunch"])
def test_a_replay_is_split_as_its_region_ran_under_ranges(call: str) -> None:
    """One launch, which stays where it was made; its kernels are those of the parts that launched them before."""
    work = attribute([step(0, 100, "eager"), *eager(0, 1), *replay(1000, 50, call=call)])
    parts = work.steps[1].parts
    assert {name: part.busy_ns for name, part in parts.items() if part.busy_ns} == {"a": 5, "b": sum(range(6, 13))}
    assert {name: part.launches for name, part in parts.items() if part.launches} == {"forward": 1}
    assert (work.counts.split_replays, work.counts.whole_replays) == (1, 0)
    assert sum(part.replayed_ns for part in parts.values()) == 0


def test_a_replay_is_split_as_its_region_ran_in_an_earlier_trace() -> None:
    """A graph is captured after the first steps: a later trace holds its replays alone."""
    first = attribute([step(0, 100, "eager"), *eager(0, 1)])
    later = [*replay(1000, 50), *replay(2000, 51)]
    work = attribute(later, seen=first.launched)
    assert (work.counts.split_replays, work.counts.whole_replays) == (2, 0)
    assert {name: part.busy_ns for name, part in work.steps[1].parts.items() if part.busy_ns} == {
        "a": 5, "b": sum(range(6, 13)),
    }  # fmt: skip
    assert attribute(later).counts.whole_replays == 2


@pytest.mark.parametrize("names", ["xyyzyzzw", "xyyzyzyz", "xyyzyzzyz", "yxyzyzzy", "xyyzyzz"])
def test_a_replay_that_was_never_seen_is_left_whole(names: str) -> None:
    """Another kernel, another order, one more, too few to tell: nothing is invented."""
    work = attribute([step(0, 100, "eager"), *eager(0, 1), *replay(1000, 50, names)])
    whole = work.steps[1].parts["forward"]
    assert whole.busy_ns == whole.replayed_ns == sum(range(5, 5 + len(names)))
    assert list(work.steps[1].parts) == ["forward"]
    assert (work.counts.split_replays, work.counts.whole_replays) == (0, 1)


def test_a_replay_that_was_seen_with_different_parts_is_left_whole() -> None:
    """The same kernels ran once in parts a and b, once in b alone."""
    other = [span("perstep:b", 500, 590), *(row for index, name in enumerate(REGION) for row in (
        launch(20 + index, 501 + 10 * index), kernel(20 + index, 800 + index, 801 + index, name)))]  # fmt: skip
    work = attribute([step(0, 100, "eager"), *eager(0, 1), *other, *replay(1000, 50)])
    assert (work.counts.split_replays, work.counts.whole_replays) == (0, 1)


def test_a_region_that_ran_outside_of_ranges_splits_nothing() -> None:
    """Its kernels are known, their parts are not."""
    bare = [row for row in eager(0, 1) if not row.name.startswith("perstep:")]
    work = attribute([step(0, 100, "eager"), *bare, *replay(1000, 50)])
    assert (work.counts.split_replays, work.counts.whole_replays) == (0, 1)


# Laws

INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=12)


@given(INTERVALS)
def test_busy_time_is_the_time_in_which_anything_runs(drawn: list[tuple[int, int, int]]) -> None:
    """Counted instant by instant: each belongs to the kernel that started first of those that run."""
    rows = [step(0, 1000), *(span(f"perstep:{part}", 10 * part, 10 * part + 10) for part in range(3))]
    kernels = []
    for number, (start, length, part) in enumerate(drawn, start=1):
        rows.append(launch(number, 10 * part + 1))
        kernels.append(kernel(number, 1000 + start, 1000 + start + length, str(part), stream=number))
    counted = {str(part): 0 for part in range(3)}
    for instant in range(1000, 1100):
        running = [k for k in kernels if k.start_ns <= instant < k.end_ns]
        if running:
            counted[min(running, key=lambda k: (k.start_ns, k.stream)).name] += 1
    found = parts_of([*rows, *kernels])
    assert {name: busy for name, (busy, _, _) in found.items()} == {part: counted[part] for part in found}
    assert sum(busy for busy, _, _ in found.values()) == sum(counted.values())
    assert {name: total for name, (_, total, _) in found.items()} == {
        part: sum(k.duration_ns for k in kernels if k.name == part) for part in found
    }


RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), max_size=10)


@given(RANGES, st.integers(0, 75))
def test_the_innermost_range_began_last(drawn: list[tuple[int, int]], moment: int) -> None:
    """Of all that hold the moment, nested or not; of two that began together the shorter one."""
    ranges = [(str(index), start, start + length) for index, (start, length) in enumerate(drawn)]
    holding = [(start, -end) for _, start, end in ranges if start <= moment < end]
    found = Innermost(ranges).at(moment)
    if not holding:
        assert found is None
    else:
        begun = {name: (start, -end) for name, start, end in ranges}
        assert found is not None
        assert begun[found] == max(holding)
