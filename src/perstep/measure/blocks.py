"""Blocks of calls: how several arms take turns, and how many calls a turn has.

A turn discards its first call, which runs in the other arm's caches, then times a block of calls
between two clock readings. A block is so long that reading the clock costs less than 0.1 % of it.
All arms make the same number of calls in a block (different numbers biased a ratio by 1.2 % in
nanobench's tests), unless their costs differ so much that the slowest would take all the time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from math import ceil
from operator import length_hint
from types import FunctionType, MethodType
from typing import NamedTuple, Protocol

from perstep.errors import InputError
from perstep.measure.clock import Clock, processor_clock

BLOCK_NS = 1_000_000
"""Aim for blocks of a millisecond: long enough to average scheduling jitter, short enough that two
neighbours see the same machine."""
CLOCK_SHARE = 0.001
UNEQUAL_FROM_NS = 50_000_000
"""If equal counts made a block of the slowest arm longer than this, each arm gets a count of its own."""
UNSEEN_CALLS = 4096
"""If this many calls take no time by the clock, more will not help."""


class ArmFailed(InputError):  # noqa: N818 - it reads as what happened, like InvalidMeasurement
    """An arm raised or could not be run.

    Attributes:
        arm: its name.
        call: the number of the call that failed, from 1.
        partial: what the rounds before it say, if there were any (set by whoever keeps the rounds).
    """

    def __init__(self, arm: str, call: int, why: str) -> None:
        super().__init__(f"arm {arm!r} failed in call {call}: {why}")
        self.arm = arm
        self.call = call
        self.partial: object = None


class BlockTime(NamedTuple):
    """What the timed calls of a turn took together.

    Attributes:
        wall_ns: from the first call's start to the last one's end.
        processor_ns: the processor time of all threads; for commands that of their processes.
        waited_ns: time that an arm's own processes were ready to run and did not; None where nothing tells, or where
            the arm runs in this process, whose waiting a noise probe reads once a round.
    """

    wall_ns: int
    processor_ns: int
    waited_ns: int | None = None


class Arm(Protocol):
    """One variant under comparison.

    Attributes:
        fresh: whether each round has new processes, so that rounds replicate processes.
        least_calls: the fewest timed calls in a turn.
    """

    fresh: bool
    least_calls: int

    def renew(self, seed: int, calls: int) -> None:
        """Before a round: start anew, and warm, what differs from process to process.

        Args:
            seed: of the hashes of strings, 0 to 2³² - 1; all arms of a round get the same, so that it cancels.
            calls: the length of the block that a new process makes before the round's first turn.
        """
        ...

    def block(self, calls: int) -> BlockTime:
        """Make one call that is not timed if calls of this arm share a process, then `calls` that are.

        Returns:
            What the timed ones took together.
        """
        ...

    def close(self) -> None:
        """Let go of what the arm holds, a worker process for example."""
        ...


PLACES = 8
"""Copies of a function's code, in turn: as many as a warm-up has rounds, so that all of them are warm."""


def at_other_places(call: Callable[[], object]) -> list[Callable[[], object]]:
    """A Python function, or a bound method, with copies of it whose code lies elsewhere in memory.

    Of two functions with the same text one took 3 to 14 % longer than the other for as long as the process lived, in
    one process of fifteen; their instructions were the same, and single copies of them elsewhere were slow likewise.
    Copies in turn make that a part of the noise. What the function calls stays where it is.

    Args:
        call: anything; what has no code of its own, such as a partial, is given back alone.

    Returns:
        The callable itself, then its copies; they share globals, closure, defaults and attributes.
    """
    function = call.__func__ if isinstance(call, MethodType) else call
    if not isinstance(function, FunctionType):
        return [call]
    copies = [call]
    for _ in range(PLACES - 1):
        copy = FunctionType(
            function.__code__.replace(),
            function.__globals__,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        copy.__kwdefaults__, copy.__dict__ = function.__kwdefaults__, function.__dict__
        copies.append(MethodType(copy, call.__self__) if isinstance(call, MethodType) else copy)
    return copies


def _nothing() -> None:
    """What a call leaves on the cpu is done when it returns."""


class CallableArm:
    """A callable in this process.

    Args:
        name: of the arm, for its errors.
        call: what is timed; its result is not looked at.
        clock: read before and after a block, and its processor clock outside of that.

    Attributes:
        call: what is timed.
        wait: called before a block is timed and within it at its end, so that a device has done what was queued.
    """

    fresh = False
    least_calls = 2
    """So that no more than a third of the time goes into discarded calls."""

    def __init__(self, name: str, call: Callable[[], object], clock: Clock) -> None:
        self._name = name
        self.call = self._call = call
        self.wait: Callable[[], object] = _nothing
        self._places = cycle(at_other_places(call))
        self._now = clock.now
        self._processor_now = processor_clock(clock).now
        self._calls = 0

    def renew(self, seed: int, calls: int) -> None:  # noqa: ARG002 - the arms' signature
        """The callable keeps its process; its code lies elsewhere."""
        self._call = next(self._places)

    def block(self, calls: int) -> BlockTime:
        """See `Arm`.

        Raises:
            ArmFailed: the callable raised; the original exception is its cause.
        """
        call, now, processor_now, wait = self._call, self._now, self._processor_now, self.wait
        timed = iter(range(calls))
        try:
            call()
            wait()
            processor_ns = processor_now()
            begun_ns = now()
            for _ in timed:
                call()
            wait()
            ended_ns = now()
            processor_ns = processor_now() - processor_ns
        except (Exception, SystemExit) as error:
            # The iterator knows how far it got, so that no counter need run while timing.
            call_number = self._calls + 1 + calls - length_hint(timed)
            raise ArmFailed(self._name, call_number, f"{type(error).__name__}: {error}") from error
        self._calls += calls + 1
        return BlockTime(ended_ns - begun_ns, processor_ns)

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True)
class ClockCost:
    """What reading the clock costs and how finely it tells.

    Attributes:
        read_ns: one reading, from many in a row.
        resolution_ns: the smallest step between two readings that differ.
    """

    read_ns: float
    resolution_ns: int


def measure_clock(clock: Clock, readings: int = 2000) -> ClockCost:
    """Read the clock many times in a row."""
    stamps = [clock.now() for _ in range(readings)]
    steps = [later - earlier for earlier, later in pairwise(stamps) if later > earlier]
    return ClockCost((stamps[-1] - stamps[0]) / (readings - 1), min(steps, default=1))


@dataclass(frozen=True)
class Blocks:
    """How long the turns are.

    Attributes:
        calls: arm -> timed calls in a block.
        clock: what the clock costs.
        clock_share: of the shortest block, what reading the clock costs and how coarsely it tells.
        equal: whether all arms make the same number of calls.
    """

    calls: dict[str, int]
    clock: ClockCost
    clock_share: float
    equal: bool


def plan_blocks(arms: Mapping[str, Arm], clock: Clock, *, round_budget_s: float, block_ns: float = BLOCK_NS) -> Blocks:
    """Find out how many calls a block needs, by trying.

    Args:
        arms: by name.
        clock: the one the arms read.
        round_budget_s: a round should not take longer than this; if single calls do, blocks have one call.
        block_ns: how long a block should be.
    """
    clock_cost = measure_clock(clock)
    wanted_ns = max(block_ns, (clock_cost.read_ns + clock_cost.resolution_ns) / CLOCK_SHARE)
    costs_ns = {name: _cost_of_a_call(arm, wanted_ns) for name, arm in arms.items()}
    own = {
        name: max(ceil(wanted_ns / cost), arms[name].least_calls) if cost else UNSEEN_CALLS
        for name, cost in costs_ns.items()
    }
    most = max(own.values())
    equal = max(costs_ns.values()) * most <= UNEQUAL_FROM_NS or len(set(own.values())) == 1
    calls = dict.fromkeys(own, most) if equal else own
    # Each arm has at least two turns a round, each with one call more than is timed.
    round_s = sum(2 * (calls[name] + 1) * cost for name, cost in costs_ns.items()) / 1e9
    if round_s > round_budget_s:
        calls = {name: 1 if costs_ns[name] > wanted_ns else count for name, count in calls.items()}
    shortest_ns = min(calls[name] * cost for name, cost in costs_ns.items())
    return Blocks(
        calls=calls,
        clock=clock_cost,
        clock_share=min((clock_cost.read_ns + clock_cost.resolution_ns) / max(shortest_ns, 1e-9), 1.0),
        equal=len(set(calls.values())) == 1,
    )


def _cost_of_a_call(arm: Arm, wanted_ns: float) -> float:
    """Nanoseconds a call, from blocks that grow until they are long enough; 0 if the clock does not see the call."""
    calls = 1
    while True:
        block_ns = max(arm.block(calls).wall_ns, 0)
        if block_ns >= wanted_ns / 4 or (block_ns == 0 and calls >= UNSEEN_CALLS):
            return block_ns / calls
        calls = min(calls * 8, ceil(calls * wanted_ns / block_ns)) if block_ns else calls * 8


def run_turns(arms: Mapping[str, Arm], blocks: Blocks, order: Sequence[str]) -> list[BlockTime]:
    """One round: each turn's block in the given order."""
    return [arms[name].block(blocks.calls[name]) for name in order]
