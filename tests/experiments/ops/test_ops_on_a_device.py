"""`ops` on a device: a made-up one that works while the host goes on, and torch's own on the cpu."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perstep.errors import InputError
from perstep.experiments import pipeline
from perstep.experiments.ops import Plan
from perstep.experiments.ops.plan import check
from perstep.measure import FakeClock

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")

LAUNCH_NS, KERNEL_NS = 5_000, {"mlp": 500_000, "rope": 40_000, "scores": 90_000, "core": 60_000}


class Queue:
    """A device whose kernels run one after the other, beside a host that only launches them."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock, self.done_ns = clock, 0

    def launching(self, function: Callable[..., Any], kernel_ns: int) -> Callable[..., Any]:
        """A function whose launch takes the host 5 µs, and its kernel the device this long."""

        def launch(*args: Any, **kwargs: Any) -> Any:
            self._clock.advance(LAUNCH_NS)
            self.done_ns = max(self.done_ns, self._clock.now()) + kernel_ns
            return function(*args, **kwargs)

        return launch

    def wait(self) -> None:
        """As `torch.cuda.synchronize` does."""
        self._clock.advance(max(self.done_ns - self._clock.now(), 0))


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators of torch on a made-up device, which lies on the cpu."""
    from perstep.targets.operators import torch_layer

    clock = FakeClock()
    queue = Queue(clock)
    for name in ("OPERATORS", "FUSED", "FLASH"):
        usual = getattr(torch_layer, name)
        made = {
            part: queue.launching(getattr(usual, part), ns) for part, ns in KERNEL_NS.items() if getattr(usual, part)
        }
        monkeypatch.setattr(torch_layer, name, replace(usual, **made))
    monkeypatch.setattr(pipeline, "HostClock", lambda: clock)
    monkeypatch.setattr("perstep.experiments.ops.session.waiting_for", lambda _device: queue.wait)
    monkeypatch.setattr("perstep.experiments.ops.session.place_of", lambda _device: "cpu")
    monkeypatch.setattr("perstep.targets.transformers.device_check.check_device", lambda _device: None)
    monkeypatch.setattr("perstep.targets.transformers.device_check.refuse_if_no_room", lambda *_: None)


@pytest.mark.usefixtures("on_device")
def test_a_part_is_its_kernel_and_not_its_launch(tiny_llama: Path, tmp_path: Path) -> None:
    """In its place and alone; in a block of calls alone the launches hide behind the kernels."""
    plan = Plan(
        arch=str(tiny_llama / "config.json"), backend="torch", device="cuda", dtype="bfloat16", seq=(8,), rounds=20
    )
    report = pipeline.run("ops", plan, progress=lambda _share, _what: None, out=tmp_path / "run")
    [found] = report.findings.lengths
    assert report.findings.invalid == ""
    for part, name in {"mlp": "mlp", "attn.rope": "rope", "attn.scores": "scores"}.items():
        assert found.ledger.parts[part].ns == pytest.approx(KERNEL_NS[name] + LAUNCH_NS)
        assert found.operators[part].alone.ns == pytest.approx(KERNEL_NS[name], rel=0.15)
    assert found.ledger.overhead == pytest.approx(0)
    ways = {name: way.whole.ns for name, way in found.attention.items()}
    assert set(ways) == {"mask=rebuild", "mask=cached", "mask=fused", "mask=flash"}
    assert ways["mask=flash"] == pytest.approx(KERNEL_NS["core"] + LAUNCH_NS)
    assert report.manifest.workload["device"] == "cuda"
    assert "on cuda" in report.tables[0].title
    assert any(note.startswith("On cuda the host waits after each part") for note in report.tables[0].notes)


def test_flash_attention_computes_what_the_others_do(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch itself, on the cpu: an arm that computed something else would end the run."""
    monkeypatch.setattr(pipeline, "HostClock", lambda: FakeClock(tick_ns=100))
    plan = Plan(
        arch=str(tiny_llama / "config.json"), backend="torch", seq=(1, 8), rounds=2, arm=("mask=rebuild", "mask=flash")
    )
    report = pipeline.run("ops", plan, progress=lambda _share, _what: None, out=tmp_path / "run")
    assert all("mask=flash" in length.attention for length in report.findings.lengths)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "cuda"}, "--device cuda: NumPy computes on the cpu; give --backend torch"),
        ({"device": "mps", "backend": "torch"}, "--device mps"),
        ({"device": "cuda", "backend": "torch"}, "--device cuda cannot be used here"),
        ({"arm": ("mask=flash",)}, "--arm mask=flash: NumPy has no fused attention"),
        ({"arm": ("mask=flash",), "backend": "torch", "past": 4}, "--arm mask=flash: torch's causal flag"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_what_cannot_be_is_one_line(options: dict[str, Any], words: str, tiny_llama: Path) -> None:
    """Before a weight is made."""
    with pytest.raises(InputError, match=words):
        check(Plan(arch=str(tiny_llama / "config.json"), seq=(8,), **options))
