"""What tests of watched and replayed calls share: a tiny Llama, its prompt, a process in which nothing is compiled."""

from typing import Any

import msgspec
import pytest

from perstep.machine import Noise, NoiseProbe
from perstep.measure import FakeClock


@pytest.fixture(scope="session")
def calm() -> Noise:
    """A round in which nothing happened, whatever happens on this machine."""
    probe = NoiseProbe()
    probe.start()
    own = {"waited_ns": 0, "thread_involuntary_switches": 0, "involuntary_switches": 0, "gc_full_collections": 0}
    others = {"major_faults": 0, "steal_jiffies": 0, "busy_jiffies": 0, "throttled_periods": 0}
    return msgspec.structs.replace(probe.stop(), **own, **others)


@pytest.fixture(scope="session")
def taken(calm: Noise) -> Noise:
    """A round of 100 ms, for 6 of which the thread was ready and another one ran."""
    return msgspec.structs.replace(calm, wall_ns=100_000_000, waited_ns=6_000_000)


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that compile may have run before in this process."""
    from perstep.targets.transformers import instrument

    monkeypatch.setattr(instrument, "_anything_compiled", lambda: False)


@pytest.fixture(scope="session")
def tiny_model() -> Any:
    """A Llama whose calls make as many steps as they are asked for; each test leaves it as it was."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def ids() -> Any:
    """Token ids, int64 [rows=2, length=5]."""
    import torch

    return torch.arange(3, 13).reshape(2, 5)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """A clock on which a forward of two layers takes 1 µs for each position that it attends to."""
    from perstep.targets.reference import model

    clock, mlp = FakeClock(), model.mlp

    def slow(layer: Any, b: Any, mark: Any) -> None:
        clock.advance(500 * b.scores_BKXRL.shape[-1])
        mlp(layer, b, mark)

    monkeypatch.setattr(model, "mlp", slow)
    return clock
