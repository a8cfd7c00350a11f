"""This machine as tables."""

from msgspec.structs import replace

from perstep.machine import Ceiling, Ceilings, NoiseSummary, describe
from perstep.machine._software import ThreadPool
from perstep.report.machine import ceilings_table, machine_table


def test_facts_of_a_list_are_words_and_not_python() -> None:
    """A matrix library is one line of names and values."""
    machine = describe()
    pool = ThreadPool(api="blas", library="openblas", version="0.3.30", threads=1, kernels="SkylakeX")
    machine = replace(machine, software=replace(machine.software, thread_pools=(pool,)))
    rows = dict(machine_table(machine, []).rows)
    assert rows["software.thread_pools"] == "api=blas library=openblas version=0.3.30 threads=1 kernels=SkylakeX"


def test_ceilings_of_a_busy_machine_are_shown_as_that() -> None:
    """First of all notes; those of a quiet one have no such note."""
    quiet = NoiseSummary(
        rounds=4, rounds_hit=0, by_kind={}, wall_ns=1, involuntary_switches=0, major_faults=0, gc_full_collections=0
    )
    figure = Ceiling(
        figure="read.l2", value=10.0, low=9.0, high=11.0, unit="GB/s", repeats=4, method="np.dot", methods={}
    )
    ceilings = Ceilings(
        identity="x", versions={}, allowed_cpus=1, cpu_quota_cores="none", threads=(1,), quick=True, noise=quiet,
        elapsed_ns=1, measured_at_unix_s=1, figures={"read.l2@1": figure}, omitted={"l3": "unknown"},
    )  # fmt: skip
    assert ceilings_table(ceilings).notes == ["left out: l3: unknown"]
    busy = replace(ceilings, noise=replace(quiet, rounds_hit=2, by_kind={"preempted": 2}))
    assert ceilings_table(busy).notes[0] == (
        "DISTURBED, so no ceilings of this machine: the processor was taken away in 2 of 4 rounds."
    )
