"""KV bytes: known answers, and to the byte against the caches of the decoders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perstep.errors import InputError
from perstep.targets.reference import load, prefill
from perstep.theory import ModelShape, cached_layers, kv_bytes, read_config
from perstep.theory.refused import HYBRIDS, LATENTS


def shape(**changes: Any) -> ModelShape:
    """Llama-2-7B, changed."""
    llama_2_7b = {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    }
    return read_config({**llama_2_7b, **changes})


def test_llama_2_7b_takes_half_a_mebibyte_a_token() -> None:
    """2 x 32 layers x 4096 x 2 bytes = 524,288; at 4,096 positions 2 GiB."""
    assert kv_bytes(shape(), 1, dtype="float16").used == 524_288
    assert kv_bytes(shape(), 4096, dtype="float16").used == 2 * 2**30


def test_grouped_heads_divide_the_cache() -> None:
    """Eight of 32 heads keep a quarter, one keeps a 32nd (Shazeer 2019; Ainslie et al. 2023)."""
    assert kv_bytes(shape(num_key_value_heads=8), 1, dtype="float16").used == 524_288 // 4
    assert kv_bytes(shape(num_key_value_heads=1), 1, dtype="float16").used == 524_288 // 32


def test_gpt_2_and_smollm2() -> None:
    """GPT-2: 2 x 12 x 768 x 4 bytes; SmolLM2-135M: 2 x 30 x 3 x 64 x 4 bytes."""
    gpt2 = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12}
    assert kv_bytes(read_config(gpt2), 1).used == 73_728
    smollm2 = shape(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3)
    assert kv_bytes(smollm2, 1).used == 46_080


def test_allocated_follows_the_capacity_and_used_the_positions() -> None:
    """A preallocated cache costs its capacity from the start; batch multiplies both."""
    found = kv_bytes(shape(), 10, capacity=100, batch=3, dtype="float16")
    assert (found.used, found.allocated) == (3 * 10 * 524_288, 3 * 100 * 524_288)
    grown = kv_bytes(shape(), 10, dtype="float16")
    assert grown.allocated == grown.used == 10 * 524_288
    assert kv_bytes(shape(), 0).used == 0


def test_a_window_caps_the_cache() -> None:
    """Mistral-7B at 8,192 positions keeps 4,095 before a step, and allocates its window of 4,096."""
    mistral = shape(model_type="mistral", num_key_value_heads=8, intermediate_size=14336)
    found = kv_bytes(mistral, 8192, capacity=8192, dtype="float16")
    assert (found.used, found.allocated) == (4095 * 131_072, 4096 * 131_072)
    assert kv_bytes(mistral, 100, capacity=200, dtype="float16").allocated == 200 * 131_072


def test_windows_on_some_layers_cap_only_those() -> None:
    """Two layers, one with a window of 8, at 100 positions: 100 and 7."""
    gemma = shape(model_type="gemma2", num_hidden_layers=2, sliding_window=8, num_key_value_heads=1, head_dim=4)
    assert kv_bytes(gemma, 100).used == 2 * 4 * 4 * (100 + 7)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"positions": -1}, "found -1 and 1"),
        ({"positions": 1, "batch": 0}, "found 1 and 0"),
        ({"positions": 11, "capacity": 10}, "11 positions do not fit"),
        ({"positions": 1, "dtype": "float12"}, "'float12' is not one of"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], what: str) -> None:
    """What was wrong and what would be right."""
    with pytest.raises(InputError, match=what):
        kv_bytes(shape(), **arguments)


def test_bytes_are_those_of_the_built_in_cache(make_llama: Callable[..., Path], tmp_path: Path) -> None:
    """Used and allocated, for a batch, as the decoder's own cache counts its buffers."""
    model = load(make_llama(tmp_path / "model", hidden_size=24, num_attention_heads=6, num_key_value_heads=2))
    config = model.config
    raw = {
        "model_type": "llama",
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
    }
    cache = model.new_cache(batch=2, capacity=20)
    for positions in (7, 12):
        prefill(model, np.ones((2, positions - cache.current_length()), dtype=np.int64), cache)
        found = kv_bytes(read_config(raw), positions, capacity=20, batch=2)
        assert (found.used, found.allocated) == (cache.bytes_used(), cache.bytes_allocated())


@pytest.mark.hf
def test_bytes_are_those_of_the_dynamic_cache(tiny_name: str, build_tiny: Callable[..., Any]) -> None:
    """To the byte, before windows are full and after, in two dtypes."""
    import torch
    from transformers import DynamicCache

    for dtype in ("float32", "bfloat16"):
        model = build_tiny(tiny_name, dtype=getattr(torch, dtype))
        found = read_config(model.config.to_dict())
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            for positions in (3, 4, 9, 10):
                model(torch.ones(2, positions - cache.get_seq_length(), dtype=torch.long), past_key_values=cache)
                live = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
                assert kv_bytes(found, positions, batch=2, dtype=dtype).used == live


_SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16,
}  # fmt: skip
_LATENT = {
    **_SIZES, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 8, "n_shared_experts": 1,
    "topk_method": "greedy",
}  # fmt: skip
_HYBRID = {
    **_SIZES, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "shared_expert_intermediate_size": 16,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip


def _live_bytes(family: str, settings: dict[str, Any], positions: int) -> tuple[dict[str, Any], int]:
    """The configuration of a tiny model, and the bytes of keys and values in its cache."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

    config = AutoConfig.for_model(family, **settings)
    model = AutoModelForCausalLM.from_config(config).eval()
    cache = DynamicCache(config=config)
    with torch.no_grad():
        model(torch.ones(2, positions, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    return config.to_dict(), sum(layer.keys.nbytes + layer.values.nbytes for layer in held)


@pytest.mark.hf
@pytest.mark.parametrize("family", sorted(LATENTS))
def test_latent_attention_keeps_the_compressed_state_and_the_rotated_key(family: str) -> None:
    """Layers x positions x (kv_lora_rank + qk_rope_head_dim), to the byte of the live buffers."""
    config, live = _live_bytes(family, _LATENT, 7)
    assert kv_bytes(cached_layers(config), 7, batch=2).used == live == 3 * 7 * (16 + 4) * 2 * 4


@pytest.mark.hf
@pytest.mark.parametrize("family", sorted(HYBRIDS))
def test_a_hybrid_has_the_cache_of_its_attention_layers(family: str) -> None:
    """Two of three layers, to the byte of the live buffers; head_dim may be left to the hidden size."""
    other = "conv" if family.startswith("lfm2") else "linear_attention"
    settings = {**_HYBRID, "layer_types": [other, "full_attention", "full_attention"]}
    config, live = _live_bytes(family, settings, 7)
    assert kv_bytes(cached_layers(config), 7, batch=2).used == live == 2 * 7 * 2 * 2 * 8 * 2 * 4
    assert cached_layers({**config, "head_dim": None}) == cached_layers({**config, "head_dim": 32 // 4})


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"model_type": "mamba"}, "state-space"),
        ({"model_type": "deepseek_v3", "kv_lora_rank": 8}, "qk_rope_head_dim must be a positive"),
        ({"model_type": "longcat_flash", "kv_lora_rank": 8}, "latent attention"),
        ({"model_type": "qwen3_next"}, "linear-attention"),
    ],
)
def test_what_has_no_formula_is_refused_by_name(config: dict[str, Any], what: str) -> None:
    """Of other families with a compressed state nobody has looked at what is kept."""
    with pytest.raises(InputError, match=what):
        cached_layers(config)


def test_what_the_layers_of_a_decoder_keep_is_read_from_its_shape() -> None:
    """Keys and values of every head; the window goes along."""
    gemma = {
        "model_type": "gemma2", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 4, "sliding_window": 8,
    }  # fmt: skip
    assert [(layer.width, layer.window) for layer in cached_layers(gemma)] == [(8, 8), (8, None)]


@pytest.mark.hf
def test_bytes_are_those_of_the_static_cache(static_name: str, build_tiny: Callable[..., Any]) -> None:
    """To the byte from the first step on, windows included."""
    import torch
    from transformers import StaticCache

    model = build_tiny(static_name)
    cache = StaticCache(config=model.config, max_cache_len=32)
    with torch.no_grad():
        model(torch.ones(2, 3, dtype=torch.long), past_key_values=cache)
    live = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_bytes(read_config(model.config.to_dict()), 3, capacity=32, batch=2).allocated == live
