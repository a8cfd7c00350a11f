"""`compare` of callables that use a device: a made-up one that works while the host goes on."""

from collections.abc import Callable

import pytest

import perstep
from perstep.experiments.device.busy import InUse
from perstep.measure import FakeClock
from perstep.measure.device_rows import Row

LAUNCH_NS = 10_000


class Device:
    """Kernels run one after the other beside a host that only launches them; the profiler sees each."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock, self.done_ns, self.rows_seen = clock, 0, list[Row]()

    def kernel(self, ns: int) -> Callable[[], None]:
        """A callable whose launch takes the host 10 µs, and its kernel the device this long."""

        def call() -> None:
            number = len(self.rows_seen) + 1
            begun_ns = self._clock.now()
            self._clock.advance(LAUNCH_NS)
            start_ns = max(self.done_ns, self._clock.now())
            self.done_ns = start_ns + ns
            self.rows_seen += [
                Row("cudaLaunchKernel", "DeviceType.CPU", begun_ns, LAUNCH_NS, number, 0, 0, 1, False),
                Row("kernel", "DeviceType.CUDA", start_ns, ns, number, 0, 0, 7, False),
            ]

        return call

    def wait(self) -> None:
        """As `torch.cuda.synchronize` does."""
        self._clock.advance(max(self.done_ns - self._clock.now(), 0))

    def rows(self, call: Callable[[], None]) -> list[Row]:
        """As torch's profiler gives them."""
        self.rows_seen.clear()
        call()
        self.wait()
        return list(self.rows_seen)


def test_a_block_ends_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kernels of 100 and 150 µs behind launches that take the same: 50 % slower, not the same."""
    clock = FakeClock(tick_ns=1)
    device = Device(clock)
    monkeypatch.setattr("perstep.experiments.compare.session.device_in_use", lambda: InUse("H200", device.wait, device))
    found = perstep.compare({"old": device.kernel(100_000), "new": device.kernel(150_000)}, rounds=20, clock=clock)
    assert found["new"].wall.change == pytest.approx(0.5, abs=0.02)
    assert found["new"].wall.verdict == "slower"
    assert found["old"].device_busy_ns == 100_000
    assert found["new"].device_busy_ns == 150_000
    assert "device busy" in str(found)


def test_without_a_device_nothing_is_said_of_one() -> None:
    """Neither a column nor a note."""
    clock = FakeClock(tick_ns=1)
    found = perstep.compare({"old": lambda: clock.advance(50), "new": lambda: clock.advance(50)}, rounds=7, clock=clock)
    assert "device busy" not in str(found)
