"""Ceilings: known answers from a fake clock, the order of rounds, working sets, and real ones."""

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from perstep.errors import InputError
from perstep.machine import CeilingArm, NoiseProbe, ceiling_arms, measure_ceilings
from perstep.machine._arms import (
    PATTERN_HIGH,
    PATTERN_LOW,
    bandwidth_arms,
    call_overhead_arms,
    filled_buffer,
    gemm_arms,
    gemv_arms,
    matrix_shape,
)
from perstep.machine._rounds import (
    ThreadSetter,
    Timed,
    calibrate,
    clock_resolution_ns,
    fit_into,
    round_order,
    run_rounds,
    without_slow_rivals,
)
from perstep.machine.ceilings import best_figures, working_sets

NOTHING = contextlib.nullcontext


def arm_of(clock, cost_ns, figure="read.l2", method="m", unit="GB/s", work=8000, **more):
    """An arm whose call takes exactly `cost_ns` on a fake clock."""
    return CeilingArm(figure, method, partial(clock.advance, cost_ns), work, unit, threads=1, **more)


def rounds_of(timed, rounds, clock, deadline_ns=10**18, progress=None):
    """Run rounds with nothing but the fake clock."""
    with NoiseProbe(now=clock) as probe:
        return run_rounds(
            timed,
            rounds,
            now=clock,
            setting=lambda threads: NOTHING(),
            deadline_ns=deadline_ns,
            probe=probe,
            progress=progress,
        )


def test_bytes_per_nanosecond_are_gigabytes_per_second(fake_clock):
    """8000 bytes in 1000 ns are 8 GB/s, 8000 operations 8 GFLOP/s, and a call of 1000 ns costs 1000 ns."""
    clock = fake_clock()
    for unit, work, expected in (("GB/s", 8000, 8.0), ("GFLOP/s", 8000, 8.0), ("ns", 1, 1000.0)):
        arm = arm_of(clock, 1000, unit=unit, work=work)
        samples = rounds_of([Timed(arm, 7, 0, 1.0)], 3, clock)
        assert samples.values == {arm.name: [expected] * 3}


def test_calibration_takes_as_many_calls_as_the_time_needs(fake_clock):
    """Calls are added until a timing is long enough; the figure is right from the first on."""
    clock = fake_clock()
    timed = calibrate(arm_of(clock, 100), 10_000, clock)
    assert 100 <= timed.calls <= 1600
    assert timed.first_value == 80.0
    assert timed.cost_ns == 100 * (timed.calls + 1)


def test_arm_that_takes_longer_than_needed_is_called_once(fake_clock):
    """In memory no untimed call is made: there is no cache to bring the set back to."""
    clock = fake_clock()
    timed = calibrate(arm_of(clock, 50_000, level="memory"), 10_000, clock)
    assert (timed.calls, timed.cost_ns) == (1, 50_000)


def test_clock_that_never_moves_measures_nothing(fake_clock):
    """A figure over no time is no figure."""
    clock = fake_clock()
    assert calibrate(arm_of(clock, 0), 1000, clock) is None
    samples = rounds_of([Timed(arm_of(clock, 0), 3, 0, 1.0)], 3, clock)
    assert list(samples.values.values()) == [[]]
    assert samples.resolutions_ns == [0, 0, 0]


def test_rounds_time_every_arm_once_in_turning_and_reversed_order(fake_clock):
    """No arm is always first, always last or always after the same other arm."""
    clock = fake_clock()
    timed = [Timed(arm_of(clock, 1, method=name), 1, 1, 1.0) for name in "abcd"]
    orders = ["".join(one.arm.method for one in round_order(timed, number)) for number in range(4)]
    assert orders == ["abcd", "adcb", "cdab", "cbad"]


def test_drift_meets_all_arms_alike(fake_clock):
    """A machine that slows down by 2 leaves the ratio of interleaved arms where it was."""
    clock = fake_clock()
    speed = {"factor": 1.0, "calls": 0}

    def call(cost_ns):
        speed["calls"] += 1
        clock.advance(round(cost_ns * (1 + speed["calls"] / 2000)))

    arms = [
        CeilingArm("read.l2", name, partial(call, cost), 10**6, "GB/s", threads=1)
        for name, cost in (("slow", 20_000), ("fast", 10_000))
    ]
    samples = rounds_of([Timed(arm, 5, 0, 1.0) for arm in arms], 15, clock)
    ratios = [f / s for f, s in zip(samples.values[arms[1].name], samples.values[arms[0].name], strict=True)]
    assert all(1.9 < ratio < 2.1 for ratio in ratios)


def test_rounds_end_at_the_deadline_but_not_before_the_third(fake_clock):
    """Three rounds always; from then on the clock decides, and progress ends at its total."""
    clock = fake_clock()
    seen = []
    timed = [Timed(arm_of(clock, 1000, method=name), 1, 1000, 1.0) for name in "ab"]
    samples = rounds_of(timed, 10, clock, deadline_ns=1, progress=lambda done, total: seen.append((done, total)))
    assert [len(values) for values in samples.values.values()] == [3, 3]
    assert len(samples.noises) == 3
    assert seen[:2] == [(1, 20), (2, 20)]
    assert seen[-1] == (20, 20)


def test_without_arms_there_is_no_progress_to_show(fake_clock):
    """Nothing of nothing is never reported: a caller may divide by the total."""
    seen = []
    rounds_of([], 3, fake_clock(), progress=lambda done, total: seen.append(total))
    assert seen == []


def test_thread_count_is_in_force_around_each_timing(fake_clock):
    """Every arm runs under the count it names."""
    clock, asked = fake_clock(), []

    @contextlib.contextmanager
    def setting(threads):
        asked.append(threads)
        yield

    arm = CeilingArm("read.l3", "m", partial(clock.advance, 5), 1, "GB/s", threads=4)
    with NoiseProbe(now=clock) as probe:
        run_rounds([Timed(arm, 1, 1, 1.0)], 3, now=clock, setting=setting, deadline_ns=0, probe=probe, progress=None)
    assert asked == [4, 4, 4]


def test_slow_methods_are_left_out_with_their_ratio(fake_clock):
    """More than 2 times slower than the best for the same figure: no ceiling. Other figures do not count."""
    clock = fake_clock()
    timed = [
        Timed(arm_of(clock, 1, method="best"), 1, 1, 100.0),
        Timed(arm_of(clock, 1, method="near"), 1, 1, 50.0),
        Timed(arm_of(clock, 1, method="far"), 1, 1, 49.0),
        Timed(arm_of(clock, 1, figure="copy.l2"), 1, 1, 1.0),
        Timed(arm_of(clock, 1, figure="call_overhead", method="quick", unit="ns"), 1, 1, 100.0),
        Timed(arm_of(clock, 1, figure="call_overhead", method="slow", unit="ns"), 1, 1, 300.0),
    ]
    kept, omitted = without_slow_rivals(timed)
    assert [one.arm.method for one in kept] == ["best", "near", "m", "quick"]
    assert omitted == {
        "read.l2@1 far": "2.0 times slower than best",
        "call_overhead@1 slow": "3.0 times slower than quick",
    }


def test_what_there_is_no_time_for_is_left_out_rivals_first(fake_clock):
    """A costly method with a rival goes before a costlier one that is alone; cheap ones stay."""
    clock = fake_clock()
    timed = [
        Timed(arm_of(clock, 1, figure="gemv.memory", method="alone"), 1, 300, 1.0),
        Timed(arm_of(clock, 1, method="a"), 1, 200, 1.0),
        Timed(arm_of(clock, 1, method="b"), 1, 100, 1.0),
        Timed(arm_of(clock, 1, figure="cheap", method="c"), 1, 1, 1.0),
        Timed(arm_of(clock, 1, figure="cheap", method="d"), 1, 1, 1.0),
    ]
    kept, rounds, omitted = fit_into(timed, 2000)
    assert [one.arm.method for one in kept] == ["alone", "b", "c", "d"]
    assert rounds == 3
    assert list(omitted) == ["read.l2@1 a"]
    kept, rounds, omitted = fit_into(timed, 700)
    assert [one.arm.method for one in kept] == ["b", "c", "d"]
    assert rounds == 5
    kept, rounds, _ = fit_into(timed, 10**9)
    assert (len(kept), rounds) == (5, 15)


def test_figure_is_the_method_with_the_best_median(fake_clock):
    """Median, extremes and count are the best method's own; every method's median stays visible."""
    clock = fake_clock()
    arms = [arm_of(clock, 1, method="steady"), arm_of(clock, 1, method="jumpy")]
    values = {arms[0].name: [10.0, 11.0, 12.0], arms[1].name: [1.0, 9.0, 100.0]}
    figure = best_figures(arms, values)["read.l2@1"]
    assert (figure.value, figure.low, figure.high, figure.repeats) == (11.0, 10.0, 12.0, 3)
    assert figure.method == "steady"
    assert figure.methods == {"steady": 11.0, "jumpy": 9.0}


def test_time_per_call_is_best_when_smallest(fake_clock):
    """Of two ways to pay, the ceiling is the cheaper one."""
    clock = fake_clock()
    arms = [arm_of(clock, 1, figure="d", method=name, unit="ns") for name in ("cheap", "dear")]
    values = {arms[0].name: [5.0] * 3, arms[1].name: [9.0] * 3}
    assert best_figures(arms, values)["d@1"].method == "cheap"


def test_matrix_vector_product_is_a_way_of_reading(fake_clock):
    """2 operations for each 4-byte number: 10 GFLOP/s read 20 GB/s, and so may be the best reader."""
    clock = fake_clock()
    gemv = arm_of(
        clock, 1, figure="gemv.l2.float32", method="mv", unit="GFLOP/s", work=2000, bytes_read=4000,
        level="l2", dtype="float32",
    )  # fmt: skip
    dot = arm_of(clock, 1, method="dot", level="l2")
    figures = best_figures([gemv, dot], {gemv.name: [10.0] * 3, dot.name: [15.0] * 3})
    assert figures["gemv.l2.float32@1"].value == 10.0
    assert (figures["read.l2@1"].value, figures["read.l2@1"].method) == (20.0, "mv float32")
    assert figures["read.l2@1"].unit == "GB/s"


def test_arm_without_figures_is_left_out(fake_clock):
    """A cell that was not measured stays empty."""
    arm = arm_of(fake_clock(), 1)
    assert best_figures([arm], {arm.name: []}) == {}


def test_clock_resolution_is_the_smallest_step(fake_clock):
    """The step between readings that differ."""
    assert clock_resolution_ns(fake_clock(reading_ns=40)) == 40
    readings = iter([0, 0, 100, 100, 130, 200])
    assert clock_resolution_ns(lambda: next(readings), readings=5) == 30


def test_working_sets_follow_the_caches(machine):
    """Half of L2, four L2 within half of L3, and at least twice the L3 for memory."""
    sets, omitted = working_sets(machine(), quick=False)
    assert sets == {"l2": 640 * 1024, "l3": 6 * 1024**2, "memory": 1024**3}
    assert omitted == {}
    sets, _ = working_sets(machine(), quick=True)
    assert sets["memory"] == 256 * 1024**2


def test_several_last_level_caches_count_together(machine):
    """Eight CPUs, two to an L3 of 96 MiB: a set for memory must not fit into all four of them."""
    many = machine(cpu__l3_bytes=96 << 20, cpu__l3_shared_by=2, cpu__cores_logical=8, cgroup__memory_limit_bytes="none")
    sets, _ = working_sets(many, quick=True)
    assert sets["memory"] == 2 * 4 * (96 << 20)


@pytest.mark.parametrize(
    ("change", "level", "reason"),
    [
        ({"cpu__l2_bytes": "unknown"}, "l2", "unknown"),
        ({"cpu__l3_bytes": "none"}, "l3", "none"),
        ({"cpu__l3_bytes": "unknown"}, "memory", "no size is known to exceed them"),
        ({"memory__available_bytes": 2**31}, "memory", "over a quarter of 2048 MiB"),
        ({"cgroup__memory_limit_bytes": 2**30}, "memory", "over a quarter of 1024 MiB"),
    ],
)
def test_level_of_unknown_size_is_left_out(machine, change, level, reason):
    """No size is guessed, and no more than a quarter of the free memory is taken."""
    sets, omitted = working_sets(machine(**change), quick=False)
    assert level not in sets
    assert reason in omitted[level]


def test_buffers_hold_ordinary_numbers_in_every_dtype():
    """The 16-bit patterns are finite normal numbers between 1e-5 and 2 however they are read."""
    buffer = filled_buffer(1 << 20, lambda: 0, None)
    assert buffer.nbytes == 1 << 20
    assert buffer.min() >= PATTERN_LOW
    assert buffer.max() < PATTERN_HIGH
    for dtype in (np.float16, np.float32, np.float64):
        numbers = buffer.view(dtype)
        assert 1e-5 < numbers.min() <= numbers.max() <= 2
    bfloat16 = (buffer.astype(np.uint32) << 16).view(np.float32)
    assert 0.5 <= bfloat16.min() <= bfloat16.max() < 2


def test_buffer_is_given_up_at_the_deadline(fake_clock):
    """Touching memory for the first time may take longer than measuring."""
    clock = fake_clock(reading_ns=10)
    assert filled_buffer(64 << 20, clock, 25) is None


@pytest.fixture
def small_arms():
    """A small buffer and the arms that go over it, with a thread count."""
    buffer = filled_buffer(1 << 16, lambda: 0, None)
    with ThreadPoolExecutor(2) as pool:
        yield lambda threads: (
            buffer,
            [*bandwidth_arms(buffer, "l3", threads, pool), *gemv_arms(buffer, "l3", threads)],
        )


@pytest.mark.parametrize("threads", [1, 2])
def test_copy_really_copies_and_counts_both_ways(small_arms, threads):
    """After a call the second half is the first; reading and writing both count."""
    buffer, arms = small_arms(threads)
    copies = [arm for arm in arms if arm.figure == "copy.l3"]
    half = buffer.size // 2
    for arm in copies:
        buffer[half:] = 0x3F00
        arm.call()
        np.testing.assert_array_equal(buffer[half:], buffer[:half])
        assert arm.work == buffer.nbytes
    assert copies


@pytest.mark.parametrize("threads", [1, 2])
def test_reads_go_over_the_whole_buffer(small_arms, threads):
    """The bytes that a method claims are those of the buffer."""
    buffer, arms = small_arms(threads)
    reads = [arm for arm in arms if arm.figure == "read.l3"]
    assert reads
    assert {arm.work for arm in reads} == {buffer.nbytes}
    assert {arm.bytes_read for arm in arms if arm.bytes_read} == {buffer.nbytes}


def test_matrix_products_count_two_operations_per_multiply_add(small_arms):
    """2·n³ for a product of squares, 2·rows·columns for a matrix and a vector."""
    for arm in gemm_arms(1):
        assert arm.work == 2 * 512**3
    for arm in small_arms(1)[1]:
        if arm.bytes_read is not None:
            size = {"float64": 8, "float32": 4}.get(arm.dtype, 2)
            assert arm.work == 2 * arm.bytes_read // size


def test_products_grow_with_the_threads():
    """Each thread needs enough to do."""
    assert [next(gemm_arms(count)).method for count in (4, 16)] == ["np.matmul n=512", "np.matmul n=1024"]


@pytest.mark.parametrize(
    ("numbers", "shape"), [(1 << 18, (512, 512)), (1 << 28, (1 << 16, 4096)), (1, (1, 1)), (1000, (62, 16))]
)
def test_matrix_shape_fits_the_numbers(numbers, shape):
    """Columns are a power of two, at most 4096, and the matrix is not larger than the buffer."""
    assert matrix_shape(numbers) == shape


def test_thread_setter_takes_the_count_back():
    """Within the context the BLAS has the count; afterwards what it had."""
    setter = ThreadSetter()
    before = setter.blas_threads()
    with setter(1):
        assert setter.blas_threads() == 1
    assert setter.blas_threads() == before


@pytest.mark.hf
def test_torch_arms_compute_what_they_say():
    """With torch imported there are half-precision figures, and its thread count is put back."""
    torch = pytest.importorskip("torch")
    dtypes = {arm.dtype for arm in gemm_arms(1)}
    assert dtypes == {"float32", "float64", "bfloat16", "float16"}
    assert any(arm.figure.startswith("call_overhead.torch") for arm in call_overhead_arms())
    before = torch.get_num_threads()
    with ThreadSetter()(before + 1):
        assert torch.get_num_threads() == before + 1
        assert torch.is_inference_mode_enabled()
    assert torch.get_num_threads() == before


@pytest.mark.real_clock
def test_ceilings_of_this_machine(machine):
    """A real measurement: the figures are there, ordered, positive, and what is missing is explained.

    It ends after 15 rounds; the budget is what a machine of any load has time for.
    """
    seen = []
    here = machine(cpu__l2_bytes=1 << 17, cpu__l3_bytes="unknown")
    found = measure_ceilings(
        here, quick=True, budget_s=3600.0, threads=[1], progress=lambda done, total: seen.append((done, total))
    )
    for key in ("read.l2@1", "copy.l2@1", "gemv.l2.float32@1", "call_overhead.numpy.add", "clock.read"):
        figure = found.figures[key]
        assert 0 < figure.low <= figure.value <= figure.high
        assert figure.repeats == found.noise.rounds >= 3
    assert found.figures["clock.resolution"].value > 0
    assert {"l3", "memory"} <= set(found.omitted)
    assert not any("memory" in key or ".l3" in key for key in found.figures)
    assert found.get("read.l2").unit == "GB/s"
    assert found.get("clock.read", threads=8).unit == "ns"
    assert found.get("read.memory") is None
    assert seen[-1][0] == seen[-1][1]


def test_without_torch_half_precision_is_left_out(machine, monkeypatch):
    """Nothing here imports torch; without it the figures that need it are named as missing."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    arms, omitted = ceiling_arms(machine(), levels=())
    assert "not imported" in omitted["torch"]
    assert {arm.dtype for arm in arms} == {"float32", "float64"}


def test_arms_have_names_of_their_own(machine):
    """Two arms of one experiment are never confused."""
    arms, _ = ceiling_arms(machine(), threads=(1, 2), levels=("l2",))
    names = [arm.name for arm in arms]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("threads", [(), (0,), (1, -1)])
def test_thread_counts_must_be_positive(machine, threads):
    """One clear line about what is wrong."""
    with pytest.raises(InputError, match="threads"):
        ceiling_arms(machine(), threads=threads)


def test_budget_must_be_positive(machine):
    """Nothing can be measured in no time."""
    with pytest.raises(InputError, match="budget_s"):
        measure_ceilings(machine(), budget_s=0)
