"""This machine as tables."""

from msgspec.structs import replace

from perstep.machine import describe
from perstep.machine._software import ThreadPool
from perstep.report.machine import machine_table


def test_facts_of_a_list_are_words_and_not_python() -> None:
    """A matrix library is one line of names and values."""
    machine = describe()
    pool = ThreadPool(api="blas", library="openblas", version="0.3.30", threads=1, kernels="SkylakeX")
    machine = replace(machine, software=replace(machine.software, thread_pools=(pool,)))
    rows = dict(machine_table(machine, []).rows)
    assert rows["software.thread_pools"] == "api=blas library=openblas version=0.3.30 threads=1 kernels=SkylakeX"
