"""Transformers models as stepss of `cache`: cursors, equal logits, and bytes to the byte, for both kinds of cache."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perstep.errors import InputError
from perstep.targets import CachedSteps, Target
from perstep.targets.transformers.target import TransformersTarget
from perstep.theory import kv_bytes, shape_of

pytestmark = pytest.mark.hf
SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "num_key_value_heads": 4},
    "qwen3": {**SIZES, "num_key_value_heads": 2, "head_dim": 16},
    "gemma2": {**SIZES, "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64},
    "gpt2": {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128},
    "mixtral": {**SIZES, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
}
CONTEXTS = (3, 9, 20)


@pytest.fixture(scope="module")
def opened() -> Callable[..., Target]:
    """`opened(family, dtype=)`: a tiny model with random weights."""

    def made(family: str, dtype: str = "float32", **changes: Any) -> Target:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        config = AutoConfig.for_model(family, **{**special, **FAMILIES[family], **changes})
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
        return TransformersTarget(family, model, True, {"dtype": dtype, "max_positions": 128})

    return made


@pytest.fixture
def prompt() -> np.ndarray[Any, Any]:
    """Two rows of 21 tokens."""
    return np.random.default_rng(0).integers(0, 96, (2, 21))


def steps_of(target: Target, ids_BT: np.ndarray[Any, Any], kind: str) -> CachedSteps:
    """With this kind of cache."""
    return target.cached_steps(ids_BT, target.cache_kind(kind))


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_arms_give_the_same_logits_wherever_the_cursor_goes(
    opened: Callable[..., Target], prompt: np.ndarray[Any, Any], family: str, kind: str
) -> None:
    """Up, down and up again; a step leaves the context where it was once it is rewound."""
    steps = steps_of(opened(family), prompt, kind)
    steps.fill(CONTEXTS)
    for context in (20, 3, 9, 20, 9):
        steps.rewind(context)
        cached = steps.logits(steps.step_with(context))
        alone = steps.logits(steps.step_without(context))
        np.testing.assert_allclose(cached, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "mixtral"])
def test_bytes_equal_theory_to_the_byte(
    opened: Callable[..., Target], prompt: np.ndarray[Any, Any], family: str, dtype: str, kind: str
) -> None:
    """Of the live tensors, used and allocated, with grouped heads and without."""
    made = opened(family, dtype)
    steps = steps_of(made, prompt, kind)
    steps.fill(CONTEXTS)
    shape = shape_of(made.config)
    assert shape is not None
    for context in CONTEXTS:
        steps.rewind(context)
        expected = kv_bytes(shape, context, capacity=steps.capacity, batch=2, dtype=dtype)
        assert steps.used_bytes() == expected.used
        assert sum(buffer.num_bytes for buffer in steps.buffers()) == expected.allocated


def test_a_window_that_would_forget_is_refused(opened: Callable[..., Target], prompt: np.ndarray[Any, Any]) -> None:
    """What a window has dropped a cursor cannot come back to."""
    with pytest.raises(InputError, match=r"sliding window of 16 positions.*--context up to 14"):
        steps_of(opened("gemma2", sliding_window=16), prompt, "dynamic")


def test_a_model_without_keys_has_no_cache_to_measure(prompt: np.ndarray[Any, Any]) -> None:
    """State spaces keep a state, not positions."""
    from transformers import AutoModelForCausalLM, MambaConfig

    config = MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(InputError, match="no KV cache"):
        steps_of(TransformersTarget("mamba", model, True, {}), prompt, "dynamic").fill(CONTEXTS)
