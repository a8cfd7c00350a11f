"""Host time and device time are two ledgers, never mixed: `ledger` and `watch` beside a made-up device."""

from pathlib import Path
from typing import Any

import pytest

import perstep
from perstep.experiments import pipeline
from perstep.experiments.ledger import Plan
from perstep.measure import FakeClock
from perstep.watching.session import Watch, describe_calls, store

pytestmark = [pytest.mark.hf, pytest.mark.usefixtures("nothing_compiled")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


class Gpu:
    """A device whose every event lies 100 ns after the one before, beside a host that takes none."""

    def __init__(self) -> None:
        self.reached_ns = 0

    def event(self) -> "Moment":
        """A new moment."""
        return Moment(self)

    def synchronize(self) -> None:
        """Nothing is queued."""


class Moment:
    """When the device got there."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self.at_ns = gpu, 0

    def record(self) -> None:
        """Take the moment."""
        self._gpu.reached_ns += 100
        self.at_ns = self._gpu.reached_ns

    def elapsed_time(self, end_event: "Moment") -> float:
        """Milliseconds to another moment."""
        return (end_event.at_ns - self.at_ns) / 1e6


def test_on_a_device_there_are_two_ledgers(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Host and device time each add up to themselves, and the README tells how long the device may have waited."""
    gpu = Gpu()
    monkeypatch.setattr("perstep.targets.transformers.target.device_of", lambda _model: gpu)
    monkeypatch.setattr(pipeline, "HostClock", lambda: FakeClock(tick_ns=7))
    monkeypatch.setattr("perstep.experiments.ledger.plan.check_detail", lambda _device, _detail: None)
    plan = Plan(model=str(tiny_llama), prompt_tokens=8, new_tokens=4, rounds=2, detail="phases", device_detail="stream")
    report = pipeline.run("ledger", plan, progress=lambda _share, _what: None, out=tmp_path / "run")
    host, beside = report.findings.decode, report.findings.device["decode"]
    assert list(beside.ledger.parts) == list(host.parts)
    marks = sum(part.marks_per_step for part in host.parts.values())
    assert host.step_ns == pytest.approx(7 * (marks + host.residual_ns / 7))
    for found in (host, beside.ledger):
        assert sum(p.ns_total for p in found.parts.values()) + found.residual_ns_total == found.step_ns_total
    assert beside.ledger.plain_step_ns == 100
    assert beside.ledger.parts["forward"].ns == 100
    assert 0 <= beside.idle_ns_per_step <= beside.ledger.step_ns
    assert beside.idle_ns_per_step == pytest.approx(sum(beside.idle_parts_ns.values()))
    assert [table.title.split(":")[0] for table in report.tables] == [
        "decode, host time", "decode, time on the device's stream",
        "prefill, host time", "prefill, time on the device's stream",
    ]  # fmt: skip
    readme = (report.folder / "README.md").read_text()
    assert "On the device's own clock a step takes 100 ns" in readme
    assert "the device waited for the host at most" in readme
    before = {name: (report.folder / name).read_bytes() for name in report.manifest.files}
    pipeline.rebuild(report.folder)
    assert {name: (report.folder / name).read_bytes() for name in report.manifest.files} == before


def test_on_a_device_its_own_ledger_stands_beside_that_of_the_host(tiny_model: Any, ids: Any, tmp_path: Path) -> None:
    """Each adds up to itself; how long the device may have waited is told as a bound."""
    clock = FakeClock(tick_ns=7)
    with Watch(tiny_model, clock=clock, device=Gpu()) as w:
        for _ in range(2):
            tiny_model.generate(ids, max_new_tokens=9, do_sample=False)
    beside = w.device_ledger()
    assert beside is not None
    found = beside.ledger
    assert list(found.parts) == list(w.ledger().parts)
    assert sum(p.ns_total for p in found.parts.values()) + found.residual_ns_total == found.step_ns_total
    assert found.parts["forward"].ns == found.plain_step_ns == 100
    assert found.overhead is not None
    assert 0 <= beside.idle_ns_per_step <= found.step_ns
    assert w.device_ledger("prefill") is not None
    report = store(w, describe_calls(w, {"every": 1}), out=tmp_path / "run", force=False)
    assert [table.title.split(":")[0] for table in report.tables] == [
        f"{name} at experiments/test_on_a_device.py"
        for name in ("decode, host time", "decode, time on the device's stream")
    ]
    readme = (report.folder / "README.md").read_text()
    assert "The device waited for the host at most" in readme
    before = {name: (report.folder / name).read_bytes() for name in report.manifest.files}
    pipeline.rebuild(report.folder)
    assert {name: (report.folder / name).read_bytes() for name in report.manifest.files} == before


def test_a_host_without_a_device_has_no_ledger_of_one(tiny_model: Any, ids: Any) -> None:
    """Nothing is made up."""
    with perstep.watch(tiny_model, clock=FakeClock(tick_ns=1)) as w:
        tiny_model.generate(ids, max_new_tokens=4, do_sample=False)
    assert w.device_ledger() is None
    assert len(w.tables()) == 1
