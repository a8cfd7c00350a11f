"""Clocks: where every nanosecond in perstep comes from.

A clock is passed in, never imported where it is used, so that everything that
measures can be tested with a fake one. Stamps are integers in nanoseconds:
their differences are exact, and so are the sums of a ledger.

Wall time goes on while the machine runs other programs. A host clock therefore has a second
clock, `processor`, that counts the processor time of all threads of this process.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Something that tells the time in integer nanoseconds and never goes back."""

    def now(self) -> int:
        """The time in nanoseconds since an arbitrary origin."""
        ...


class ProcessorClock:
    """Processor time of all threads of this process, `time.process_time_ns` (about 500 ns a reading)."""

    now = staticmethod(time.process_time_ns)


class HostClock:
    """The host's monotonic clock, `time.perf_counter_ns` (about 50 ns a reading on a 2020s CPU).

    Attributes:
        processor: the processor time of this process.
    """

    # Bound once, as the C function itself: a Python method around it would add 40 ns a reading.
    now = staticmethod(time.perf_counter_ns)
    processor = ProcessorClock()


def processor_clock(clock: Clock) -> Clock:
    """The clock of processor time that belongs to a clock; the clock itself where it has none."""
    processor: Clock = getattr(clock, "processor", clock)
    return processor


class FakeClock:
    """A clock that moves only when told to, for tests.

    Args:
        start_ns: the first reading.
        tick_ns: how far each reading itself moves the clock, as a real one does.

    Attributes:
        processor: a clock of processor time, which `wait` does not move.
    """

    def __init__(self, start_ns: int = 0, tick_ns: int = 0) -> None:
        self._now_ns = start_ns
        self._tick_ns = tick_ns
        self._waited_ns = 0
        self.processor = _FakeProcessorClock(self)

    def now(self) -> int:
        """The present reading, after which the clock moves by `tick_ns`."""
        reading = self._now_ns
        self._now_ns += self._tick_ns
        return reading

    def advance(self, ns: int) -> None:
        """Move the clock by `ns` nanoseconds; a negative number makes it step back, as a broken one would."""
        self._now_ns += ns

    def wait(self, ns: int) -> None:
        """Move the clock by `ns` nanoseconds in which this process did not run."""
        self._now_ns += ns
        self._waited_ns += ns

    def processor_ns(self) -> int:
        """The processor time so far; reading it moves nothing."""
        return self._now_ns - self._waited_ns


class _FakeProcessorClock:
    """The processor time of a fake clock."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def now(self) -> int:
        return self._clock.processor_ns()
