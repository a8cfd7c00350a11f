"""Two ledgers of one run on a device: host time and device time (law "clocks are never mixed").

At each mark an event is recorded on the current stream. After the run the events are read relative to the first event
of their step, as whole nanoseconds, so that the device ledger adds up to itself exactly, as the host's does. Device
time between two marks contains the device's work for that part and its waiting. How long it may have waited has an
upper bound and is not measured (`idle`).
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from perstep.errors import InputError
from perstep.measure import Clock, HostClock, Recorder, Steps
from perstep.targets.transformers.protocols import Model

MOST_EVENTS = 65_536
"""Events kept before they are read: each holds resources of the driver."""


class Event(Protocol):
    """A moment on the device, as `torch.cuda.Event(enable_timing=True)`."""

    def record(self) -> None:
        """Take the moment at which the device has done all that was queued before."""
        ...

    def elapsed_time(self, end_event: Self) -> float:
        """Milliseconds to a later event."""
        ...


class Device(Protocol):
    """Where events come from."""

    def event(self) -> Event:
        """A new event."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done everything."""
        ...


class CudaDevice:
    """The current CUDA device.

    Raises:
        InputError: there is none.
    """

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise InputError("no CUDA device is available: leave out the device ledger, or run where there is one")
        self._cuda = torch.cuda

    def event(self) -> Event:
        """A new timing event."""
        event: Event = self._cuda.Event(enable_timing=True)
        return event

    def synchronize(self) -> None:
        """Wait for the device."""
        self._cuda.synchronize()


def device_of(model: Model) -> Device | None:
    """The device whose time is worth a ledger of its own; None where the host does all the work."""
    return CudaDevice() if model.device.type == "cuda" else None


@dataclass
class _Row:
    """One recorded step: its readings, at begin, at each mark and at the end."""

    kind: str
    names: list[str]
    host_ns: "array[int]"
    events: list[Event]


class _Heard:
    """A clock that remembers what it said."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now
        self.said: list[int] = []

    def now(self) -> int:
        reading = self._now()
        self.said.append(reading)
        return reading


class _Replayed:
    """A clock that says what it is given."""

    def __init__(self) -> None:
        self.readings: list[int] = []

    def now(self) -> int:
        return self.readings.pop(0)


class DeviceRecorder:
    """Takes marks as a `measure.Recorder` does, and records an event on the device at each.

    Recording an event costs the host 2 to 5 µs, so the host ledger of such a run has a higher
    overhead than one without; both stand in the report.

    Args:
        device: where events come from; the current CUDA device by default.
        clock: the host's.

    Attributes:
        host: the host ledger.
        mark: ends the part before and begins one, on both ledgers.
    """

    mark: Callable[[str], None]

    def __init__(self, device: Device | None = None, clock: Clock | None = None) -> None:
        self._device = device or CudaDevice()
        self._clock = _Heard(clock or HostClock())
        self.host = Recorder(self._clock)
        self._spare: list[Event] = []
        self._rows: list[_Row] = []
        self._kept = 0
        self._kind = ""
        self._names: list[str] = []
        self._events: list[Event] = []
        self._device_ledger = _Resolved()
        self._idle_ledger = _Resolved()
        self.mark = self._mark

    def begin(self, kind: str = "decode") -> None:
        """Begin a step of a kind."""
        self._forget()
        self.host.begin(kind)
        self._kind = kind
        self._record_event()

    def _mark(self, part: str) -> None:
        self.host.mark(part)
        self._names.append(part)
        self._record_event()

    def end(self) -> None:
        """End the step."""
        self._record_event()
        self.host.end()
        self._rows.append(_Row(self._kind, self._names, array("q", self._clock.said), self._events))
        self._kept += len(self._events)
        self._names, self._events = [], []
        if self._kept > MOST_EVENTS:
            self._resolve()

    def turn(self, kind: str = "decode") -> None:
        """End the step and begin the next."""
        self.end()
        self.begin(kind)

    def drop(self) -> None:
        """Forget the open step."""
        self.host.drop()
        self._forget()

    def clear(self) -> None:
        """Forget all recorded steps, on both ledgers."""
        self.host.clear()
        self._forget()
        self._spare.extend(event for row in self._rows for event in row.events)
        self._rows.clear()
        self._kept = 0
        self._device_ledger, self._idle_ledger = _Resolved(), _Resolved()

    def device(self, kind: str = "decode") -> Steps:
        """The device ledger: the time on the device's clock between the marks. Waits for the device."""
        self._resolve()
        return self._device_ledger.recorder.steps(kind)

    def idle(self, kind: str = "decode") -> Steps:
        """At most how long the device waited for the host, in the same columns as `device`.

        An event that the device reaches as soon as the host records it has found the queue empty. How
        much later than that an event is reached is its lag: the work that was still queued. Between
        two marks the device can only have waited for the host after it had worked off that lag, and
        before the host reached the second mark:

            idle <= max(0, host interval - lag at its first mark), and never more than the device interval

        A part with lag throughout waited 0. The lag is relative to the smallest one in its step,
        which is 0 where the host waits for the device once a step, and else makes the bound larger.
        """
        self._resolve()
        return self._idle_ledger.recorder.steps(kind)

    def _record_event(self) -> None:
        event = self._spare.pop() if self._spare else self._device.event()
        event.record()
        self._events.append(event)

    def _forget(self) -> None:
        self._spare.extend(self._events)
        self._names, self._events = [], []
        self._clock.said.clear()

    def _resolve(self) -> None:
        """Read the events of the steps recorded so far, and keep them for use again."""
        if not self._rows:
            return
        self._device.synchronize()
        for row in self._rows:
            first = row.events[0]
            device_ns = [0, *(round(first.elapsed_time(event) * 1e6) for event in row.events[1:])]
            self._device_ledger.add(row.kind, row.names, device_ns)
            self._idle_ledger.add(row.kind, row.names, idle_bound(list(row.host_ns), device_ns))
            self._spare.extend(row.events)
        self._rows.clear()
        self._kept = 0


class _Resolved:
    """A recorder fed with readings taken earlier: the sums are those of the one class that makes them."""

    def __init__(self) -> None:
        self._clock = _Replayed()
        self.recorder = Recorder(self._clock)

    def add(self, kind: str, names: list[str], readings_ns: list[int]) -> None:
        """Add a step by its readings: at begin, at each mark, at the end."""
        self._clock.readings = list(readings_ns)
        self.recorder.begin(kind)
        for name in names:
            self.recorder.mark(name)
        self.recorder.end()


def idle_bound(host_ns: list[int], device_ns: list[int]) -> list[int]:
    """At most how long the device has waited for the host by each reading, cumulative from 0.

    Args:
        host_ns: when the host took each reading, on its clock.
        device_ns: when the device reached it, on its own; any origin.
    """
    ahead = min(device - host for host, device in zip(host_ns, device_ns, strict=True))
    waited = [0]
    for index in range(len(host_ns) - 1):
        lag = device_ns[index] - host_ns[index] - ahead
        host = host_ns[index + 1] - host_ns[index]
        device = device_ns[index + 1] - device_ns[index]
        waited.append(waited[-1] + min(max(0, host - lag), device))
    return waited
