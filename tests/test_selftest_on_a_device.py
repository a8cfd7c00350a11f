"""`selftest --device`: known delays on a made-up device and on the host, each found on its side and in its part."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pytest
from tests.made_up_device import MadeUpKernels, profiled_on_the_cpu

from perstep.cli import run
from perstep.errors import InputError
from perstep.experiments.compare.known import Detection
from perstep.experiments.device import planted
from perstep.experiments.device.busy import InUse
from perstep.experiments.device.planted import DELAYS_NS, Planted, _sentence, compare_programs, run_device_test
from perstep.measure import FakeClock
from perstep.measure.device_rows import Row

from .conftest import Cli

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

KERNEL_NS, LAUNCH_NS = 2_000, 1_000


class MadeUpDevice(MadeUpKernels):
    """Kernels of 2 µs for the products that torch's own profiler saw, and of a known length for a delay's operator."""

    name = "made up"

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(("aten::mm", "aten::atan"), lambda name: self.last_ns if name == "aten::atan" else KERNEL_NS)
        self._clock, self.last_ns, self.done_ns = clock, 0, 0

    def launch(self, ns: int) -> None:
        """An operator that nothing else of the model has; the host takes 1 µs for it."""
        self.last_ns = ns
        self._clock.advance(LAUNCH_NS)
        self.done_ns = max(self.done_ns, self._clock.now()) + ns
        torch.atan(torch.ones(1))

    def wait(self) -> None:
        """As `torch.cuda.synchronize` does."""
        self._clock.advance(max(self.done_ns - self._clock.now(), 0))

    def there(self) -> AbstractContextManager[None]:
        """There is one device."""
        return nullcontext()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> MadeUpDevice:
    """The model lies on the cpu, and is measured as one on a device is."""
    made = MadeUpDevice(FakeClock(tick_ns=100))
    open_model = planted.open_model

    def opened(name: str, *, backend: Any, device: str) -> Any:
        assert device == "cuda"
        return open_model(name, backend=backend)

    monkeypatch.setattr(planted, "open_model", opened)
    profiled_on_the_cpu(monkeypatch, made)
    in_use = InUse(made.name, made.wait, made)
    monkeypatch.setattr("perstep.experiments.compare.session.device_in_use", lambda: in_use)
    monkeypatch.setattr(planted, "MIN_BUDGET_S", 0.0)
    monkeypatch.setattr(planted, "LEAST_PASSES", 2)
    monkeypatch.setattr(planted, "_STEPS", 3)
    return made


def test_each_delay_is_found_on_its_side_and_in_its_part(device: MadeUpDevice) -> None:
    """Five parts, two lengths; on the other side there is a launch at most, and in other parts nothing."""
    found = run_device_test("cuda", 1e-3, progress=lambda *_: None, clock=device._clock, sleeper=device)
    assert {one.delay_ns for one in found.planted} == set(DELAYS_NS)
    assert {one.part for one in found.planted} == {"embed", "norm", "attn", "mlp", "lm_head"}
    assert len(found.planted) == 20
    for one in found.planted:
        assert one.within, one
        if one.side == "device":
            assert one.device_ns == one.delay_ns
            assert 0 < one.host_ns <= 3 * LAUNCH_NS
        else:
            assert one.device_ns == 0
            assert one.host_ns == pytest.approx(one.true_ns, rel=0.01)
        assert one.elsewhere_ns == pytest.approx(0, abs=1_000)
    assert found.busy_ns > 0
    assert found.sentence == (
        "Of 10 comparisons of identical programs 0 gave a false verdict. "
        "On made up, found in the right part and on the right side within 5 % or 20 µs: 20 of 20 known delays."
    )


def test_identical_programs_are_not_told_apart_and_others_are(device: MadeUpDevice) -> None:
    """A block ends when the device is done, so that kernels count and not launches; device busy stands beside them."""

    def compared(candidate_ns: int) -> tuple[Detection, float | None]:
        programs = {"reference": partial(device.launch, 100_000), "candidate": partial(device.launch, candidate_ns)}
        return compare_programs(programs, device, seconds=1.5, seed=0, clock=device._clock)

    alike, busy_differs = compared(100_000)
    assert (alike.tries, alike.slower, alike.faster, alike.same) == (10, 0, 0, 10)
    assert alike.covered == 10
    assert busy_differs == 0
    longer, busy_differs = compared(103_000)
    assert (longer.slower, longer.covered) == (10, 0)
    assert busy_differs == pytest.approx(0.03)


def test_a_delay_on_the_wrong_side_is_not_found(device: MadeUpDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that the profiler does not see is missed, and the worst of these is named."""

    def blind(call: Callable[[], None]) -> list[Row]:
        rows = MadeUpDevice.rows(device, call)
        return [row for row in rows if not row.name.startswith("kernel_") or row.duration_ns == KERNEL_NS]

    monkeypatch.setattr(device, "rows", blind)
    monkeypatch.setattr(planted, "DELAYS_NS", (500_000,))
    monkeypatch.setattr(planted, "PARTS", ("embed", "mlp"))
    found = run_device_test("cuda", 1e-3, progress=lambda *_: None, clock=device._clock, sleeper=device)
    assert [one.side for one in found.planted if not one.within] == ["device"] * 2
    assert "20 µs: 2 of 4 known delays; " in found.sentence
    assert "on the device in embed came out as" in found.sentence


@pytest.mark.parametrize(
    ("changes", "within"),
    [
        ({}, True),
        ({"host_ns": 524_000}, True),  # 5 % of 500 µs
        ({"host_ns": 526_000}, False),
        ({"device_ns": 26_000}, False),
        ({"elsewhere_ns": -26_000}, False),
        ({"sync_ns": -400_000}, True),  # the host waits less where it came late
    ],
)
def test_a_delay_is_judged_by_both_sides(changes: dict[str, float], within: bool) -> None:
    """In its part, on the other side, and in other parts."""
    usual: dict[str, Any] = {"host_ns": 500_000.0, "device_ns": 0.0, "sync_ns": 0.0, "elsewhere_ns": 0.0}
    one = Planted(side="host", part="mlp", delay_ns=500_000, true_ns=500_000, elsewhere="norm", **{**usual, **changes})
    assert one.within is within
    assert ("came out as" in _sentence("X", [one])) is not within


def test_the_command_prints_its_table_and_its_json(
    device: MadeUpDevice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line: a row a delay, and every figure in JSON."""
    monkeypatch.setattr("perstep.cli.selftest.waiting_for", lambda _device: lambda: None)
    monkeypatch.setattr(planted, "CudaSleeper", lambda _device: device)
    monkeypatch.setattr(planted, "HostClock", lambda: device._clock)
    monkeypatch.setattr(planted, "DELAYS_NS", (500_000,))
    monkeypatch.setattr(planted, "PARTS", ("embed",))
    assert run(["selftest", "--device", "cuda", "--budget", "1ms", "-q"]) == 0
    text = capsys.readouterr().out
    assert "known delays in a step of mini on made up" in text
    assert "host waits more in sync" in text
    said = " ".join(text.split())
    assert "A program is a kernel of 100 µs, and a block ends when the device is done; device busy differs" in said
    assert run(["selftest", "--device", "cuda", "--budget", "1ms", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["planted"]) == 2
    assert found["device"] == "made up"
    assert found["identical"]["tries"] == 10
    assert found["busy_differs"] == 0


def test_a_budget_too_short_is_refused() -> None:
    """Before a model is loaded."""
    with pytest.raises(InputError, match="at least 20s"):
        run_device_test("cuda", 5.0, progress=lambda *_: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(("name", "words"), [("cuda", "cannot be used here"), ("mps", "perstep does not see")])
def test_without_such_a_device_it_is_one_line(name: str, words: str, cli: Cli) -> None:
    """Exit code 2."""
    said = cli("selftest", "--device", name)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert words in said.err
