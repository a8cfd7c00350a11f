"""The sweep of ceilings over buffer sizes: the sizes, one round, and the figures of several rounds."""

import sys

import pytest
from msgspec.structs import replace

from perstep.errors import InputError
from perstep.machine import NEAREST_BYTES, CeilingSweep, Noise, SweepCeilings, sweep_ceilings, sweep_figures
from perstep.machine._arms import CeilingArm
from perstep.machine._rounds import time_calls

ROUND = {
    "read.262144@1 np.matmul": 60.0,
    "read.1000000@1 np.matmul": 20.0,
    "call.0@1 four small calls": 500.0,
    "call.1000000@1 four small calls": 2500.0,
    "gemm@1 np.matmul n=512": 130.0,
    "vector@1 np.multiply": 6.0,
    "special@1 np.exp": 2.5,
}


@pytest.fixture(scope="module")
def sweep() -> CeilingSweep:
    """Three sizes, the first below the nearest."""
    return CeilingSweep([1000, 400_000, 1_000_000], call_up_to=300_000, row=64)


def test_sizes_are_whole_lines_from_the_nearest_on(sweep: CeilingSweep) -> None:
    """Reading less than 256 KiB takes about as long as the call."""
    assert sweep.sizes == (NEAREST_BYTES, 400_000, 1_000_000 // 64 * 64)


@pytest.mark.real_clock
def test_a_round_times_every_ceiling_once(sweep: CeilingSweep) -> None:
    """Calls are timed hot and after the sets up to the size asked for, and the next."""
    found = sweep.measure()
    figures = {name.split("@")[0] for name in found}
    assert figures == {
        "read.262144", "read.400000", "read.1000000", "wide.262144", "wide.400000", "wide.1000000",
        "call.0", "call.262144", "call.400000", "gemm", "vector", "special",
    }  # fmt: skip
    assert min(found.values()) > 0
    assert set(sweep.measure()) == set(found)


def test_rounds_become_medians_in_the_order_of_sizes() -> None:
    """A disturbed round does not move them."""
    slow = {name: value * (0.1 if "call" not in name else 10) for name, value in ROUND.items()}
    figures = sweep_figures([ROUND, slow, ROUND])
    assert figures is not None
    assert list(figures.read_gb_s.items()) == [(262144, 60.0), (1_000_000, 20.0)]
    assert figures.call_ns == {0: 500.0, 1_000_000: 2500.0}
    assert (figures.gemm_gflop_s, figures.vector_g_s, figures.special_g_s, figures.rounds) == (130.0, 6.0, 2.5, 3)


def test_the_best_round_is_of_the_faster_way_of_reading() -> None:
    """The fastest of all rounds: the most GB/s by short rows or wide ones, the fewest nanoseconds of a call."""
    better = {name: value * (0.5 if "call" in name else 2) for name, value in ROUND.items()}
    wide = {"wide.262144@1 np.matmul": 130.0, "wide.1000000@1 np.matmul": 30.0}
    figures = sweep_figures([{**ROUND, **wide}, {**better, **wide}, ROUND], best=True)
    assert figures is not None
    assert figures.read_gb_s == {262144: 130.0, 1_000_000: 40.0}
    assert figures.call_ns == {0: 250.0, 1_000_000: 1250.0}
    assert (figures.gemm_gflop_s, figures.vector_g_s, figures.special_g_s) == (260.0, 12.0, 5.0)
    assert sweep_figures([{**ROUND, **wide}]) == sweep_figures([ROUND])  # medians are of reading as a model reads


CALM = Noise(
    wall_ns=100_000_000, cpu_ns=95_000_000, involuntary_switches=0, voluntary_switches=1, minor_faults=0,
    major_faults=0, gc_collections=0, gc_full_collections=0, waited_ns=5_000_000, total_jiffies=200, busy_jiffies=190,
    steal_jiffies=10, jiffy_ns=1_000_000, throttled_periods=0,
)  # fmt: skip


def ceilings(*noises: Noise) -> SweepCeilings:
    """Of as many equal rounds, disturbed as told."""
    found = sweep_ceilings([ROUND] * len(noises), noises)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "change",
    [{"waited_ns": 5_000_001, "cpu_ns": 94_999_999}, {"steal_jiffies": 11}, {"throttled_periods": 1}],
    ids=lambda change: max(change),
)
def test_ceilings_of_rounds_that_had_no_processor_judge_nothing(change: dict[str, int]) -> None:
    """Three rounds in peace are enough for a best round; for medians it takes more than half."""
    taken = replace(CALM, **change)
    assert ceilings(CALM, CALM, CALM).why_no_medians() == ""
    assert ceilings(CALM, CALM, CALM, taken, taken).why_no_medians() == ""
    half = ceilings(CALM, CALM, CALM, taken, taken, taken)
    assert half.why_no_bounds() == ""
    assert half.why_no_medians() == ("ceilings disturbed; not judged: the processor was taken away in 3 of 6 rounds")
    assert ceilings(CALM, CALM, taken, taken).why_no_bounds() == (
        "ceilings disturbed; not judged: the processor was taken away in 2 of 4 rounds"
    )


def test_two_rounds_have_no_interval() -> None:
    """A best round needs others to be the best of; other processes beside this one take nothing away."""
    assert ceilings(CALM, CALM).why_no_bounds() == (
        "not judged: ceilings need 3 rounds for an interval, and there are 2"
    )
    assert sweep_ceilings([], []) is None


@pytest.mark.parametrize("missing", ["read.", "call.0", "gemm", "vector", "special"])
def test_without_a_figure_there_are_none(missing: str) -> None:
    """A bound from half of the ceilings would be another bound."""
    assert sweep_figures([{name: value for name, value in ROUND.items() if not name.startswith(missing)}]) is None
    assert sweep_figures([]) is None


def test_what_comes_before_a_call_is_not_timed() -> None:
    """The set is gone over before each call; the clock runs during the call alone."""
    now = [0]

    def passing(ns: int) -> None:
        now[0] += ns

    arm = CeilingArm("call.1", "m", lambda: passing(5), 1, "ns", before=lambda: passing(1000))
    assert time_calls(arm, 3, lambda: now[0]) == 15
    assert now[0] == 3015


@pytest.mark.parametrize("sizes", [[], [0], [-1, 5]])
def test_sizes_are_above_nothing(sizes: list[int]) -> None:
    """A set of no bytes cannot be gone over."""
    with pytest.raises(InputError, match="each above 0"):
        CeilingSweep(sizes)


def test_numpy_has_no_half_precision() -> None:
    """Its products of float16 are loops, no ceilings."""
    with pytest.raises(InputError, match="not bfloat16"):
        CeilingSweep([1000], dtype="bfloat16")


@pytest.mark.real_clock
@pytest.mark.hf
def test_torch_times_its_own_calls_in_its_own_dtypes() -> None:
    """A call of torch costs several of NumPy."""
    import torch

    assert sys.modules["torch"] is torch
    found = CeilingSweep([500_000], library="torch", dtype="bfloat16", row=64).measure()
    assert {name.split(" ", 1)[1] for name in found} == {
        "torch linear", "four small calls", "torch.mm n=512", "torch.mul", "torch.exp",
    }  # fmt: skip
