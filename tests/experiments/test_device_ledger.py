"""`ledger` on a device: busy time, launches, idle and what bounds a step, beside a made-up device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.errors import InputError
from perstep.experiments import pipeline
from perstep.experiments.ledger import Plan
from perstep.machine.device_ceilings import DeviceCeilings, DeviceFigure
from perstep.measure import FakeClock
from perstep.measure.device_rows import Row
from perstep.targets.transformers.device_profile import KinetoProfiler

pytestmark = [pytest.mark.hf, pytest.mark.usefixtures("nothing_compiled")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

KERNEL_NS = 1_000
"""Each kernel of the made-up device."""


class MadeUpKernels:
    """torch's own profiler on the host, and one kernel for each operator of a few kinds that it saw."""

    LAUNCHING = ("aten::mm", "aten::addmm", "aten::bmm", "aten::add", "aten::mul", "aten::argmax")

    def __init__(self, _device_type: str) -> None:
        self._host = KinetoProfiler("cpu")

    def rows(self, call: Callable[[], None]) -> list[Row]:
        """The host's rows, and with each operator of `LAUNCHING` a launch and a kernel."""
        rows, free_ns = self._host.rows(call), 0
        for number, row in enumerate([each for each in rows if each.name in self.LAUNCHING], start=1):
            launch = row._replace(name="cudaLaunchKernel", duration_ns=1, correlation=10_000_000 + number)
            begin_ns = max(row.start_ns + 5_000, free_ns)
            free_ns = begin_ns + KERNEL_NS
            name = f"kernel_{row.name.removeprefix('aten::')}"
            kernel = Row(name, "DeviceType.CUDA", begin_ns, KERNEL_NS, launch.correlation, row.correlation, 0, 7)
            rows += [launch, kernel]
        return rows


def made_up_ceilings(_opened: Any, *, rows: int) -> DeviceCeilings:
    """1,000 GB/s, 1,000 TFLOP/s, and no kernel under 400 ns."""
    one = {"value": 2.0, "best": 1.0, "worst": 3.0, "repeats": 7}
    big = {"value": 2e9, "best": 1e9, "worst": 3e9, "repeats": 7}
    figures = {
        "product.1.1": DeviceFigure(**big, rows=1, bytes_moved=10**12, flops=10**15),
        "kernel.elementwise": DeviceFigure(
            **{name: 400 * value for name, value in one.items() if name != "repeats"}, repeats=7
        ),
    }
    return DeviceCeilings(device="made up", dtype="float32", width=16, figures=figures)


@pytest.fixture
def on_made_up_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model on the CPU is measured as one on a device is."""
    monkeypatch.setattr("perstep.targets.transformers.target.device_of", lambda _model: object())
    monkeypatch.setattr("perstep.experiments.ledger.session.ceilings_of", made_up_ceilings)
    monkeypatch.setattr("perstep.targets.transformers.target.KinetoProfiler", MadeUpKernels)
    monkeypatch.setattr("perstep.experiments.ledger.plan.check_detail", lambda _device, _detail: None)
    monkeypatch.setattr(pipeline, "HostClock", lambda: FakeClock(tick_ns=500_000))


def measured(tiny_llama: Path, out: Path, **options: Any) -> pipeline.Report:
    """A run of eight rounds of four tokens."""
    plan = Plan(model=str(tiny_llama), prompt_tokens=8, new_tokens=4, rounds=8, **options)
    return pipeline.run("ledger", plan, progress=lambda _share, _what: None, out=out)


@pytest.mark.usefixtures("on_made_up_device")
def test_a_ledger_on_a_device_shows_what_kernels_take(tiny_llama: Path, tmp_path: Path) -> None:
    """Busy time is that of kernels, by part; the step is that of plain steps; idle is their difference."""
    report = measured(tiny_llama, tmp_path / "run")
    found = report.findings
    work = found.device_work["decode"]
    assert work.positions == 3
    assert work.rounds == 8
    assert work.parts["lm_head"].launches == 1  # one product
    assert work.parts["mlp"].launches == 4 * 2  # three products and a multiplication in each of two layers
    assert work.parts["mlp"].busy_ns == 4 * 2 * KERNEL_NS
    assert sum(part.busy_ns for part in work.parts.values()) == pytest.approx(work.busy_ns)
    assert work.busy_ns == pytest.approx(work.launches * KERNEL_NS)
    assert work.idle_ns == pytest.approx(work.step_ns - work.busy_ns)
    assert work.step_ns == found.decode.plain_step_ns
    assert work.bound == "host-bound"
    assert found.device == {}
    assert [table.title.split(":")[0] for table in report.tables] == [
        "decode, host time", "decode, what the device does", "prefill, host time", "prefill, what the device does",
    ]  # fmt: skip
    sentence = report.tables[1].notes[0]
    assert sentence.startswith("host-bound: kernels run ")
    assert "can save at most" in sentence
    before = {name: (report.folder / name).read_bytes() for name in report.manifest.files}
    pipeline.rebuild(report.folder)
    assert {name: (report.folder / name).read_bytes() for name in report.manifest.files} == before


@pytest.mark.usefixtures("on_made_up_device")
def test_kernels_are_shown_under_their_parts_if_asked(tiny_llama: Path, tmp_path: Path) -> None:
    """By their short names, with count, mean and share; the files hold the full names, and how a step is bound."""
    report = measured(tiny_llama, tmp_path / "run", device_detail="kernels")
    table = next(each for each in report.tables if "what the device does" in each.title)
    rows = {row[0].strip(): row for row in table.rows}
    assert rows["kernel_argmax"][5] == "1.00 µs each"
    csv = (report.folder / "device.csv").read_text().splitlines()
    assert csv[0].startswith("kind,part,kernel,busy_ns_per_step")
    assert any(line.startswith("decode,sample,kernel_argmax,") for line in csv)
    readme = (report.folder / "README.md").read_text()
    assert "What bounds the step: host-bound: kernels run" in readme
    assert "On the device's own clock" not in readme


@pytest.mark.usefixtures("on_made_up_device")
def test_a_device_on_which_nothing_is_seen_is_said_so(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the profiler may not look, no zeros are shown; nothing has been written."""
    monkeypatch.setattr(MadeUpKernels, "LAUNCHING", ())
    with pytest.raises(InputError, match="sees no kernel on this device"):
        measured(tiny_llama, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_device_detail_without_a_device_is_bad_input(cli: Any) -> None:
    """Exit code 2, one line."""
    said = cli("ledger", "--device-detail", "kernels", "--rounds", 1)
    assert (said.code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert "--device-detail goes with --device cuda" in said.err


def test_a_device_of_another_kind_is_bad_input(cli: Any, tiny_llama: Path) -> None:
    """Exit code 2, one line, no traceback."""
    said = cli("ledger", "-m", tiny_llama, "--backend", "torch", "--device", "mps", "--rounds", 1)
    assert (said.code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert "--device mps" in said.err
