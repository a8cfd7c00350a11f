"""A tiny model whose forward takes a known time on a fake clock, and parts that take a known time too."""

from collections.abc import Callable
from typing import Any

import pytest

from perstep.measure import FakeClock

FORWARD_NS = 2_000_000


class Planted:
    """A model on a fake clock.

    Attributes:
        model: a Llama of one layer over 64 tokens.
        clock: moves by `forward_ns` in each forward, and by what the parts below take.
        forward_ns: may be changed while it runs.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.clock = FakeClock(tick_ns=1)
        self.forward_ns = FORWARD_NS

    def advance(self, *_: Any) -> None:
        """A forward begins."""
        self.clock.advance(self.forward_ns)

    def processor(self, ns: int, work: Callable[[], Any] = lambda: None) -> Callable[[], Any]:
        """A factory of processors that take so long and change nothing."""
        clock = self.clock

        class Spins:
            def __call__(self, input_ids: Any, scores: Any) -> Any:
                clock.advance(ns)
                work()
                return scores

        return Spins

    def criterion(self, ns: int) -> Callable[[], Any]:
        """A factory of criteria that take so long and would stop at once."""
        import torch

        clock = self.clock

        class Dawdles:
            def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
                clock.advance(ns)
                return torch.ones(input_ids.shape[0], dtype=torch.bool)

        return Dawdles


@pytest.fixture(scope="session")
def _model() -> Any:
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def planted(_model: Any) -> Any:
    """A model on a fake clock: a forward takes 2 ms, all else nothing."""
    made = Planted(_model)
    handle = _model.model.register_forward_pre_hook(made.advance)
    yield made
    handle.remove()


@pytest.fixture
def ids() -> Any:
    """Token ids, int64 [rows=2, length=5]."""
    torch = pytest.importorskip("torch")
    return torch.arange(3, 13).reshape(2, 5)
