"""`ledger` on a device: busy time, launches, idle and what bounds a step, beside a made-up device."""

from pathlib import Path
from typing import Any

import pytest
from tests.made_up_device import KERNEL_NS, MadeUpKernels, made_up_ceilings, profiled_on_the_cpu

from perstep.errors import InputError
from perstep.experiments import pipeline
from perstep.experiments.ledger import Plan
from perstep.measure import FakeClock

pytestmark = [pytest.mark.hf, pytest.mark.usefixtures("nothing_compiled")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LAUNCHING = ("aten::mm", "aten::addmm", "aten::bmm", "aten::add", "aten::mul", "aten::argmax")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> MadeUpKernels:
    """A model on the CPU is measured as one on a device is."""
    made = MadeUpKernels(LAUNCHING)
    profiled_on_the_cpu(monkeypatch, made)
    monkeypatch.setattr("perstep.experiments.ledger.session.ceilings_of", made_up_ceilings)
    monkeypatch.setattr("perstep.experiments.ledger.plan.check_detail", lambda _device, _detail: None)
    monkeypatch.setattr(pipeline, "HostClock", lambda: FakeClock(tick_ns=500_000))
    return made


def measured(tiny_llama: Path, out: Path, **options: Any) -> pipeline.Report:
    """A run of eight rounds of four tokens."""
    plan = Plan(model=str(tiny_llama), prompt_tokens=8, new_tokens=4, rounds=8, **options)
    return pipeline.run("ledger", plan, progress=lambda _share, _what: None, out=out)


@pytest.mark.usefixtures("kernels")
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


@pytest.mark.usefixtures("kernels")
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


def test_a_device_on_which_nothing_is_seen_is_said_so(kernels: MadeUpKernels, tiny_llama: Path, tmp_path: Path) -> None:
    """Where the profiler may not look, no zeros are shown; nothing has been written."""
    kernels.launching = ()
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
