"""Two ledgers of one run, on a made-up device whose queue is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.errors import InputError
from perstep.measure import FakeClock
from perstep.targets.transformers import CudaDevice, DeviceRecorder, Instrument
from perstep.targets.transformers import cuda as room
from perstep.targets.transformers.cuda import idle_bound


class Gpu:
    """A device that works off a queue in order, beside a host whose clock moves only when told to."""

    def __init__(self) -> None:
        self.clock = FakeClock(start_ns=1_000)
        self.free_at = 0
        self.idle_ns = 0
        self.made = 0
        self.synchronized = 0

    def launch(self, work_ns: int, host_ns: int = 0) -> None:
        """Queue a kernel that takes `work_ns`, which costs the host `host_ns`."""
        self.clock.advance(host_ns)
        begins = max(self.free_at, self.clock.now())
        self.idle_ns += begins - self.free_at if self.free_at else 0
        self.free_at = begins + work_ns

    def wait(self) -> None:
        """Let the host wait for the device."""
        self.clock.advance(max(0, self.free_at - self.clock.now()))

    def event(self) -> "Moment":
        """A new moment."""
        self.made += 1
        return Moment(self)

    def synchronize(self) -> None:
        """Count the wait."""
        self.synchronized += 1


class Moment:
    """An event: the device reaches it when it has done what was queued before."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.at_ns = -1

    def record(self) -> None:
        """Take the moment."""
        self.at_ns = max(self._gpu.free_at, self._gpu.clock.now())

    def elapsed_time(self, end_event: "Moment") -> float:
        """Milliseconds to another moment."""
        return (end_event.at_ns - self.at_ns) / 1e6


def test_host_and_device_time_are_two_ledgers_that_each_add_up():
    """The host queues 300 ns of work in 20 ns and waits for it: to the host it is the wait that is long."""
    gpu = Gpu()
    recorder = DeviceRecorder(gpu, gpu.clock)
    for _ in range(3):
        recorder.begin("decode")
        recorder.mark("forward")
        gpu.launch(100, host_ns=10)
        gpu.launch(200, host_ns=10)
        recorder.mark("sync")
        gpu.wait()
        recorder.mark("bookkeeping")
        gpu.clock.advance(50)
        recorder.end()
    host, device = recorder.host.steps(), recorder.device()
    assert {name: column.tolist() for name, column in host.parts.items()} == {
        "forward": [20] * 3, "sync": [290] * 3, "bookkeeping": [50] * 3,
    }  # fmt: skip
    assert {name: column.tolist() for name, column in device.parts.items()} == {
        "forward": [310] * 3, "sync": [0] * 3, "bookkeeping": [50] * 3,
    }  # fmt: skip
    for steps in (host, device):
        assert (sum(steps.parts.values()) + steps.residual_ns).tolist() == steps.step_ns.tolist() == [360] * 3


def test_a_device_that_is_behind_throughout_has_not_waited():
    """Work queued before the step keeps the device busy while the host queues more: the bound is 0."""
    gpu = Gpu()
    gpu.launch(10_000)
    recorder = DeviceRecorder(gpu, gpu.clock)
    recorder.begin("decode")
    recorder.mark("forward")
    gpu.launch(1_000, host_ns=100)
    recorder.mark("sync")
    gpu.wait()
    recorder.end()
    assert recorder.idle().parts["forward"].tolist() == [0]
    assert recorder.device().parts["forward"].tolist() == [1_000]


def test_a_device_that_waits_for_the_host_is_seen_to():
    """Nothing is queued while the host prepares inputs, so the device may have waited all that time."""
    gpu = Gpu()
    recorder = DeviceRecorder(gpu, gpu.clock)
    recorder.begin("decode")
    recorder.mark("inputs")
    gpu.clock.advance(5_000)
    recorder.mark("forward")
    gpu.launch(100)
    recorder.end()
    assert recorder.idle().parts["inputs"].tolist() == [5_000]
    assert recorder.idle().parts["forward"].tolist() == [0]


intervals = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=12)


@given(intervals)
def test_the_bound_is_never_under_what_the_device_waited_nor_over_its_time(work):
    """Any queue, with a wait for the device somewhere in the step as every decode step has."""
    gpu = Gpu()
    gpu.launch(0)
    host, device, idle = [gpu.clock.now()], [max(gpu.free_at, gpu.clock.now())], [0]
    gpu.free_at = gpu.clock.now()
    gpu.idle_ns = 0
    for kernel, pause in work:
        gpu.launch(kernel, host_ns=pause)
        event = gpu.event()
        event.record()
        host.append(gpu.clock.now())
        device.append(event.at_ns)
        idle.append(gpu.idle_ns)
    bound = idle_bound(host, device)
    for index in range(len(work)):
        waited = idle[index + 1] - idle[index]
        assert waited <= bound[index + 1] - bound[index] <= device[index + 1] - device[index]


def test_events_are_used_again_and_read_before_there_are_too_many(monkeypatch):
    """A long job does not hold an event of the driver for each of its marks."""
    monkeypatch.setattr(room, "MOST_EVENTS", 20)
    gpu = Gpu()
    recorder = DeviceRecorder(gpu, gpu.clock)
    for _ in range(100):
        recorder.begin("decode")
        recorder.mark("forward")
        gpu.launch(5, host_ns=1)
        recorder.end()
    assert gpu.made <= 24
    assert gpu.synchronized >= 10
    assert len(recorder.device().step_ns) == 100
    assert len(recorder.host.steps().step_ns) == 100


def test_a_dropped_step_is_in_neither_ledger():
    """What an exception leaves behind is forgotten on both sides."""
    gpu = Gpu()
    recorder = DeviceRecorder(gpu, gpu.clock)
    recorder.begin("decode")
    recorder.mark("forward")
    recorder.drop()
    recorder.begin("decode")
    gpu.clock.advance(7)
    recorder.end()
    assert recorder.host.steps().step_ns.tolist() == recorder.device().step_ns.tolist() == [7]
    assert recorder.host.dropped == 1


def test_without_a_device_it_says_so(monkeypatch):
    """Asking for a device ledger without a device is bad input, said in one line."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA device is available"):
        CudaDevice()


@pytest.mark.hf
def test_a_generate_call_has_both_ledgers_in_the_same_parts(llama, ids):
    """A processor that queues 2 µs of work in 30 ns is 30 ns to the host and 2 µs to the device."""
    gpu = Gpu()

    def work(input_ids, scores):
        gpu.launch(2_000, host_ns=30)
        return scores

    recorder = DeviceRecorder(gpu, gpu.clock)
    with Instrument(llama, recorder):
        llama.generate(ids, max_new_tokens=5, do_sample=False, logits_processor=[work])
    host, device = recorder.host.steps(), recorder.device()
    assert list(host.parts) == list(device.parts)
    assert host.parts["logits/work"].tolist() == [30] * 4
    assert device.parts["logits/work"].tolist() == [2_000] * 4
