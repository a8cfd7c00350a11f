"""Tiny transformers models, one a family and one a variant, for whoever compares formulas with the real thing."""

import os
from collections.abc import Callable
from typing import Any

import pytest

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FULL_HEADS = {**SIZES, "num_key_value_heads": 4}
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
NEOX = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
FALCON = {**NEOX, "ffn_hidden_size": 48, "num_kv_heads": 4}
del FALCON["intermediate_size"]
OPT = {**NEOX, "ffn_dim": 48, "word_embed_proj_dim": 32}
del OPT["intermediate_size"]
EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 2}
BIASES = {"attention_bias": True, "mlp_bias": True}
WINDOW = {"sliding_window": 5}
QWEN_MOE = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "decoder_sparse_step": 2,
    "mlp_only_layers": [0],
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SIZES),
    "llama, full heads": ("llama", FULL_HEADS),
    "llama, one key/value head": ("llama", {**SIZES, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama, biases, wide heads": ("llama", {**SIZES, **BIASES, "head_dim": 16}),
    "granite": ("granite", {**SIZES, **BIASES}),
    "smollm3": ("smollm3", SIZES),
    "smollm3, windows": ("smollm3", {**SIZES, **WINDOW, "use_sliding_window": True, "no_rope_layer_interval": 2}),
    "mistral": ("mistral", {**SIZES, **WINDOW}),
    "mistral, no window": ("mistral", {**SIZES, "sliding_window": None, "head_dim": 12}),
    "ministral": ("ministral", {**SIZES, **WINDOW, "head_dim": 8}),
    "mixtral": ("mixtral", {**SIZES, **EXPERTS}),
    "phimoe": ("phimoe", {**SIZES, **EXPERTS, "attention_bias": True, "lm_head_bias": True}),
    "granitemoe": ("granitemoe", {**SIZES, **EXPERTS}),
    "qwen2": ("qwen2", SIZES),
    "qwen2, windows": ("qwen2", {**SIZES, **WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("qwen3", {**SIZES, "head_dim": 16}),
    "qwen2_moe": ("qwen2_moe", {**SIZES, **QWEN_MOE, "shared_expert_intermediate_size": 24}),
    "qwen2_moe, windows": (
        "qwen2_moe",
        {**SIZES, **QWEN_MOE, **WINDOW, "use_sliding_window": True, "max_window_layers": 2},
    ),
    "qwen3_moe": ("qwen3_moe", {**SIZES, **QWEN_MOE, "head_dim": 16}),
    "gpt_oss": ("gpt_oss", {**SIZES, **EXPERTS, **WINDOW, "head_dim": 16}),
    "phi": ("phi", SIZES),
    "phi, query/key norms": ("phi", {**SIZES, "qk_layernorm": True}),
    "phi3": ("phi3", SIZES),
    "olmo": ("olmo", SIZES),
    "olmo2": ("olmo2", SIZES),
    "olmo3": ("olmo3", {**SIZES, **WINDOW, "num_hidden_layers": 5}),
    "olmoe": ("olmoe", {**SIZES, "num_experts": 6, "num_experts_per_tok": 3}),
    "gemma": ("gemma", {**SIZES, "head_dim": 16}),
    "gemma2": ("gemma2", {**SIZES, **WINDOW, "head_dim": 16}),
    "gemma3_text": ("gemma3_text", {**SIZES, **WINDOW, "head_dim": 16, "num_hidden_layers": 7}),
    "starcoder2": ("starcoder2", SIZES),
    "starcoder2, window": ("starcoder2", {**SIZES, **WINDOW, "use_bias": False}),
    "stablelm": ("stablelm", {**SIZES, "use_qkv_bias": True}),
    "stablelm, parallel": ("stablelm", {**SIZES, "use_parallel_residual": True, "qk_layernorm": True}),
    "cohere": ("cohere", SIZES),
    "cohere, query/key norms": ("cohere", {**SIZES, "use_qk_norm": True}),
    "cohere2": ("cohere2", {**SIZES, **WINDOW, "num_hidden_layers": 5}),
    "gpt2": ("gpt2", GPT2),
    "gpt2, narrow": ("gpt2", {**GPT2, "n_inner": 40}),
    "gpt_bigcode": ("gpt_bigcode", GPT2),
    "gpt_bigcode, full heads": ("gpt_bigcode", {**GPT2, "multi_query": False}),
    "gpt_neox": ("gpt_neox", NEOX),
    "gptj": ("gptj", {**GPT2, "rotary_dim": 4}),
    "opt": ("opt", OPT),
    "opt, bare": ("opt", {**OPT, "enable_bias": False, "layer_norm_elementwise_affine": False}),
    "opt, norm after": ("opt", {**OPT, "do_layer_norm_before": False}),
    "falcon": ("falcon", FALCON),
    "falcon, serial with ALiBi": (
        "falcon",
        {**FALCON, "multi_query": False, "parallel_attn": False, "bias": True, "alibi": True},
    ),
    "bloom": ("bloom", {"vocab_size": 50, "hidden_size": 32, "n_layer": 3, "n_head": 4}),
}
"""Name -> model_type and settings. Heads are grouped and windows shorter than the contexts of the tests."""


@pytest.fixture(scope="session", params=list(CONFIGS))
def tiny_name(request: pytest.FixtureRequest) -> str:
    """The name of one tiny model after another."""
    return str(request.param)


@pytest.fixture(scope="session", params=[name for name in CONFIGS if "ALiBi" not in name])
def static_name(request: pytest.FixtureRequest) -> str:
    """The same without Falcon's ALiBi, which transformers does not run on a static cache."""
    return str(request.param)


@pytest.fixture(scope="session")
def build_tiny() -> Callable[..., Any]:
    """`build_tiny(name)`: the model on the CPU, with eager attention and experts one after another."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def build(name: str, **options: Any) -> Any:
        model_type, settings = CONFIGS[name]
        special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        config = AutoConfig.for_model(model_type, **special, **settings)
        if hasattr(config, "num_experts_per_tok"):
            options = {"experts_implementation": "eager", **options}
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, **{"attn_implementation": "eager", **options}).eval()

    return build
