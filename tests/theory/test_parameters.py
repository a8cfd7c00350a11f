"""Parameter counts against published checkpoints and against transformers' own models."""

from collections.abc import Callable
from typing import Any

import pytest

from perstep.targets.reference import load
from perstep.targets.transformers.presets import presets
from perstep.theory import parameters, read_config

LLAMA_2_7B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
LLAMA_32_1B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
OLMOE = {
    "model_type": "olmoe",
    "vocab_size": 50304,
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
}
MIXTRAL = {
    "model_type": "mixtral",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        (LLAMA_2_7B, 6_738_415_616, 6_738_415_616),
        (LLAMA_32_1B, 1_235_814_400, 1_235_814_400),
        (GPT2, 124_439_808, 124_439_808),
        (OLMOE, 6_919_161_856, 1_282_017_280),
        (MIXTRAL, 46_702_792_704, 12_879_925_248),
    ],
    ids=["Llama-2-7B", "Llama-3.2-1B", "GPT-2", "OLMoE-1B-7B", "Mixtral-8x7B"],
)
def test_published_counts(config: dict[str, Any], total: int, active: int) -> None:
    """The numbers on the model cards: "46.7B in all, 12.9B for a token" for Mixtral."""
    counted = parameters(read_config(config))
    assert (counted.total, counted.active) == (total, active)
    assert sum(counted.by_part.values()) == total


@pytest.mark.parametrize("name", [name for name in presets() if name not in ("t5-small", "qwen2.5-vl-3b")])
def test_presets_have_their_published_counts(name: str) -> None:
    """Every text model that can be asked for by name."""
    assert parameters(read_config(presets()[name]["config"])).total == presets()[name]["parameters"]


def test_the_built_in_decoder_counts_the_same(tiny_llama: Any) -> None:
    """Two counts of one folder, from two rooms."""
    model = load(tiny_llama)
    raw = {
        "model_type": "llama",
        "vocab_size": model.config.vocab,
        "hidden_size": model.config.hidden,
        "intermediate_size": model.config.intermediate,
        "num_hidden_layers": model.config.num_layers,
        "num_attention_heads": model.config.heads,
        "num_key_value_heads": model.config.kv_heads,
        "tie_word_embeddings": model.config.tied,
    }
    assert parameters(read_config(raw)).total == model.num_parameters


@pytest.mark.hf
def test_parameters_are_those_of_the_model(tiny_name: str, build_tiny: Callable[..., Any]) -> None:
    """To the last bias, for every family."""
    model = build_tiny(tiny_name)
    counted = parameters(read_config(model.config.to_dict()))
    assert counted.total == sum(parameter.numel() for parameter in model.parameters())
