"""Running arms in rounds: each round times every arm once, so that a drift meets all of them.

A machine's speed changes over seconds (1.7 times has been seen); timing one
arm's repeats in a row would give each arm the speed of its own moment. Here
the order turns from round to round and is reversed in every second one. The
clock is passed in. Nothing is subtracted from a time, and nothing dropped.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perstep._words import short
from perstep.machine._arms import imported_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from perstep.machine._arms import CeilingArm
    from perstep.machine.noise import Noise, NoiseProbe

LEAST_ROUNDS = 3
MOST_ROUNDS = 15
MOST_CALLS = 1 << 20
RIVAL_RATIO = 2.0  # a method so much slower in its first timing is not the ceiling; drift was 1.7 at most
WORTH_SAVING = 0.01  # of the usable time
RESERVE = 0.8  # of the time left may be planned: calls before a timing, and drift, take the rest


@dataclass(frozen=True)
class Timed:
    """An arm with the calls that one timing takes and what such a timing cost in nanoseconds."""

    arm: CeilingArm
    calls: int
    cost_ns: int
    first_value: float


@dataclass(frozen=True)
class Samples:
    """What the rounds gave: for each arm's name its figures, each round's clock resolution and noise."""

    values: dict[str, list[float]]
    resolutions_ns: list[int]
    noises: list[Noise]


class ThreadSetter:
    """Puts a thread count in force, in NumPy's BLAS and in an imported torch, and takes it back."""

    def __init__(self) -> None:
        import numpy as np  # noqa: F401 - loads the BLAS that the controller looks for
        from threadpoolctl import ThreadpoolController

        self._pools = ThreadpoolController()
        self._torch = imported_torch()

    def blas_threads(self) -> int:
        """How many threads the BLAS would use now; 1 if it is of a kind that does not tell."""
        pools = [pool["num_threads"] for pool in self._pools.info() if pool["user_api"] == "blas"]
        return max(pools, default=1)

    @contextlib.contextmanager
    def __call__(self, threads: int | None) -> Iterator[None]:
        """Within the context, `threads` are in force (None: whatever was); torch records no gradients."""
        with contextlib.ExitStack() as stack:
            if threads is not None:
                stack.enter_context(self._pools.limit(limits=threads))
            if self._torch is not None:
                stack.enter_context(self._torch.inference_mode())
                before = self._torch.get_num_threads()
                if threads is not None and threads != before:
                    self._torch.set_num_threads(threads)
                    stack.callback(self._torch.set_num_threads, before)
            yield


def time_calls(arm: CeilingArm, calls: int, now: Callable[[], int]) -> int:
    """Nanoseconds that `calls` calls take, one after the other, after one that is not timed.

    The untimed call brings a working set back into its cache; in memory there
    is nothing to bring back, so that one is left out. What an arm wants run before each call is not timed.
    """
    call, before = arm.call, arm.before
    if before is not None:
        return sum(_time_after(before, call, now) for _ in range(calls))
    if arm.level != "memory":
        call()
    begin = now()
    for _ in range(calls):
        call()
    return now() - begin


def _time_after(before: Callable[[], object], call: Callable[[], object], now: Callable[[], int]) -> int:
    before()
    begin = now()
    call()
    return now() - begin


def calibrate(arm: CeilingArm, least_ns: int, now: Callable[[], int]) -> Timed | None:
    """Find how many calls take `least_ns`; None if the clock never moves."""
    calls = 1
    while True:
        begin = now()
        elapsed = time_calls(arm, calls, now)
        cost = now() - begin
        if elapsed >= least_ns or (elapsed > 0 and calls >= MOST_CALLS):
            return Timed(arm, calls, cost, arm.value(calls, elapsed))
        if calls >= MOST_CALLS:
            return None
        wanted = calls * least_ns // elapsed + 1 if elapsed > 0 else 16 * calls
        calls = min(MOST_CALLS, max(2 * calls, min(wanted, 16 * calls)))


def without_slow_rivals(timed: Sequence[Timed]) -> tuple[list[Timed], dict[str, str]]:
    """Leave out the methods that were 2 times slower than the best one for the same figure."""
    best: dict[str, Timed] = {}
    for one in timed:
        other = best.get(one.arm.key)
        if other is None or _speed(one) > _speed(other):
            best[one.arm.key] = one
    kept, omitted = [], {}
    for one in timed:
        ratio = _speed(best[one.arm.key]) / _speed(one)
        if ratio > RIVAL_RATIO:
            omitted[one.arm.name] = f"{ratio:.1f} times slower than {best[one.arm.key].arm.method}"
        else:
            kept.append(one)
    return kept, omitted


def _speed(one: Timed) -> float:
    return 1 / one.first_value if one.arm.unit == "ns" else one.first_value


def fit_into(timed: Sequence[Timed], left_ns: int) -> tuple[list[Timed], int, dict[str, str]]:
    """What to time and how many rounds of it, so that it takes no longer than the time left.

    Costly arms are left out until three rounds fit; of the methods with a rival first, as long
    as that saves at least a hundredth of the time.

    Returns:
        The arms kept, the rounds, and for each arm left out why.
    """
    kept, omitted = list(timed), {}
    usable_ns = RESERVE * left_ns
    while kept and LEAST_ROUNDS * sum(one.cost_ns for one in kept) > usable_ns:
        keys = [one.arm.key for one in kept]
        rivals = [
            one for one in kept if keys.count(one.arm.key) > 1 and LEAST_ROUNDS * one.cost_ns > WORTH_SAVING * usable_ns
        ]
        dropped = max(rivals or kept, key=lambda one: one.cost_ns)
        kept.remove(dropped)
        omitted[dropped.arm.name] = f"no time: one timing takes {short(dropped.cost_ns / 1e9, 3)} s"
    round_ns = sum(one.cost_ns for one in kept)
    rounds = MOST_ROUNDS if round_ns == 0 else int(usable_ns // round_ns)
    return kept, max(LEAST_ROUNDS, min(MOST_ROUNDS, rounds)), omitted


def run_rounds(
    timed: Sequence[Timed],
    rounds: int,
    *,
    now: Callable[[], int],
    setting: Callable[[int | None], contextlib.AbstractContextManager[None]],
    deadline_ns: int,
    probe: NoiseProbe,
    progress: Callable[[int, int], None] | None,
) -> Samples:
    """Time every arm once a round.

    Stops after the planned rounds, or at the first round after the third that
    begins past the deadline. A timing during which the clock did not move gives no figure.
    """
    samples = Samples({one.arm.name: [] for one in timed}, [], [])
    total = rounds * len(timed)
    for number in range(rounds):
        if number >= LEAST_ROUNDS and now() > deadline_ns:
            break
        probe.start()
        samples.resolutions_ns.append(clock_resolution_ns(now))
        for place, one in enumerate(round_order(timed, number)):
            with setting(one.arm.threads):
                elapsed = time_calls(one.arm, one.calls, now)
            if elapsed > 0:
                samples.values[one.arm.name].append(one.arm.value(one.calls, elapsed))
            if progress is not None:
                progress(number * len(timed) + place + 1, total)
        samples.noises.append(probe.stop())
    if progress is not None and total:
        progress(total, total)
    return samples


def round_order(timed: Sequence[Timed], number: int) -> list[Timed]:
    """The arms of round `number`: turned by one place a round, and reversed in every second one."""
    turn = number % len(timed) if timed else 0
    order = [*timed[turn:], *timed[:turn]]
    return order[::-1] if number % 2 else order


def clock_resolution_ns(now: Callable[[], int], readings: int = 1000) -> int:
    """The smallest step by which the clock was seen to move; 0 if it never moved."""
    steps = []
    last = now()
    for _ in range(readings):
        reading = now()
        if reading > last:
            steps.append(reading - last)
        last = reading
    return min(steps, default=0)
