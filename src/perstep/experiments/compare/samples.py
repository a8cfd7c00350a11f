"""The samples of `compare`: the blocks of a round, in the order of their turns. And what its manifest holds."""

import msgspec

from perstep.experiments.conditions import BaseWorkload, WarmConditions
from perstep.machine import Noise


class Conditions(WarmConditions, kw_only=True):
    """How `compare` measured.

    Attributes:
        arms: names, the reference first.
        calls_per_block: timed calls in a turn, by arm.
        equal_calls: whether all arms have the same number of them.
        clock_read_ns: nanoseconds that reading the clock takes.
        clock_resolution_ns: nanoseconds from one value of the clock to the next.
        clock_share_of_block: what reading the clock is of the shortest block, a share.
        threshold: T of `same (within ±T)`, a share.
        comparisons: how many changes are shown together.
        replicates: what differs from round to round: `processes`, or `rounds of one process`.
        round_ns: nanoseconds of a round of the warm-up.
        device: the device in use, or empty.
        device_busy_ns: nanoseconds in which its kernels run in a call, by arm; empty without a device.
    """

    arms: list[str]
    calls_per_block: dict[str, int]
    equal_calls: bool
    clock_read_ns: float
    clock_resolution_ns: float
    clock_share_of_block: float
    threshold: float
    comparisons: int
    replicates: str
    round_ns: float
    device: str
    device_busy_ns: dict[str, float] = msgspec.field(default_factory=dict)


class Workload(BaseWorkload, kw_only=True):
    """The work of `compare`: commands or functions as they were given, and the interpreters of functions."""

    arms: list[str]
    pythons: list[str]


class Sample(msgspec.Struct):
    """One round.

    Attributes:
        round: its number.
        turns: the arms in the order of their turns.
        block_ns: wall time of each turn's block.
        processor_ns: processor time of each turn's block.
        waited_share: the share of its time in which it could have run and had no processor; None if unknown.
        noise: what disturbed it.
    """

    round: int
    turns: list[str]
    block_ns: list[int]
    processor_ns: list[int]
    waited_share: float | None
    noise: Noise
