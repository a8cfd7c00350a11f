"""Tiny models of many architectures, built from their configurations with random weights."""

from collections.abc import Callable
from typing import Any

import pytest

from perstep.measure import FakeClock, Recorder
from perstep.targets.transformers import Instrument

VOCAB = 96
_TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_GPT = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}
_QWEN_TEXT = {
    **_TEXT,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
}
_QWEN_VISION = {"depth": 2, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2}
_QWEN_IDS = {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}

_LIKE_LLAMA = (
    "llama", "qwen2", "qwen3", "mistral", "phi", "phi3", "olmo", "olmo2", "olmo3", "gpt_neox", "cohere", "granite",
    "glm4", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip

TEXT_FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(_LIKE_LLAMA, _TEXT),
    "gemma2": {**_TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8},
    "gemma3_text": {**_TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8},
    "gpt2": _GPT,
    "gptj": {**_GPT, "rotary_dim": 4},
    "opt": {
        "vocab_size": VOCAB, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 128, "word_embed_proj_dim": 32,
    },
    "falcon": {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "bloom": {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    **{name: {**_TEXT, **_MOE} for name in ("olmoe", "mixtral", "qwen3_moe")},
    "qwen2_moe": {**_TEXT, **_MOE, "shared_expert_intermediate_size": 16},
    "gpt_oss": {**_TEXT, **_MOE, "head_dim": 8, "sliding_window": 8, "rope_scaling": None},
    "deepseek_v3": {
        **_TEXT, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 16, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16,
        "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "n_shared_experts": 1,
    },
}  # fmt: skip

ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": {
        "vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
        "decoder_start_token_id": 0,
    },
    "bart": {
        "vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 128,
    },
}  # fmt: skip

VISION_FAMILIES: dict[str, dict[str, Any]] = {
    "llava": {
        "text_config": {**_TEXT, "model_type": "llama"},
        "vision_config": {**_VISION, "model_type": "clip_vision_model", "projection_dim": 32},
        "image_token_index": 90,
        "image_token_id": 90,
        "vision_feature_layer": -1,
    },
    "gemma3": {
        "text_config": {**_TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8},
        "vision_config": {**_VISION, "model_type": "siglip_vision_model"},
        "image_token_index": 90, "image_token_id": 90, "boi_token_index": 91, "eoi_token_index": 92,
        "mm_tokens_per_image": 4,
    },
    "qwen2_vl": {
        "text_config": _QWEN_TEXT,
        "vision_config": {**_QWEN_VISION, "embed_dim": 32, "mlp_ratio": 2, "temporal_patch_size": 2},
        **_QWEN_IDS,
    },
    "qwen2_5_vl": {
        "text_config": _QWEN_TEXT,
        "vision_config": {
            **_QWEN_VISION, "intermediate_size": 48, "out_hidden_size": 32, "window_size": 16,
            "fullatt_block_indexes": [1], "temporal_patch_size": 2,
        },
        **_QWEN_IDS,
    },
    "qwen3_vl": {
        "text_config": {**_QWEN_TEXT, "head_dim": 8},
        "vision_config": {
            **_QWEN_VISION, "intermediate_size": 48, "out_hidden_size": 32, "temporal_patch_size": 2,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
        },
        **_QWEN_IDS,
    },
    "internvl": {
        "text_config": {**_TEXT, "model_type": "qwen2"},
        "vision_config": {**_VISION, "image_size": [8, 8], "patch_size": [4, 4]},
        "image_token_id": 90,
    },
    "idefics3": {
        "text_config": {**_TEXT, "model_type": "llama"}, "vision_config": _VISION, "image_token_id": 90,
        "scale_factor": 2,
    },
    "smolvlm": {
        "text_config": {**_TEXT, "model_type": "llama"}, "vision_config": _VISION, "image_token_id": 90,
        "scale_factor": 2,
    },
    "molmo2": {
        "text_config": {**_TEXT, "head_dim": 8, "additional_vocab_size": 8},
        "vision_config": {**_VISION, "image_size": [8, 8], "num_key_value_heads": 4, "head_dim": 8},
        "adapter_config": {
            "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
            "intermediate_size": 48, "text_hidden_size": 32, "vision_feature_layer": [1, 0],
        },
        "image_patch_id": 98, "image_start_token_id": 96, "low_res_image_start_token_id": 97,
        "image_end_token_id": 99,
    },
}  # fmt: skip

FAMILIES = {**TEXT_FAMILIES, **ENCODER_DECODERS, **VISION_FAMILIES}
_NO_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _with_layers(settings: dict[str, Any], layers: int) -> dict[str, Any]:
    """The settings with so many decoder layers, in the text part where there is one."""
    if "text_config" in settings:
        return {**settings, "text_config": _with_layers(settings["text_config"], layers)}
    return {**settings, "n_layer" if "n_layer" in settings else "num_hidden_layers": layers}


def _build(family: str, *, layers: int | None = None, **changes: Any) -> Any:
    torch = pytest.importorskip("torch")
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForSeq2SeqLM,
    )

    auto_class = AutoModelForCausalLM
    settings = {**FAMILIES[family], **changes}
    if layers is not None:
        settings = _with_layers(settings, layers)
    if family in VISION_FAMILIES:
        auto_class = AutoModelForImageTextToText
        settings["text_config"] = {**settings["text_config"], **_NO_SPECIAL}
    else:
        settings = {**_NO_SPECIAL, **settings}
        if family in ENCODER_DECODERS:
            auto_class = AutoModelForSeq2SeqLM
    config = AutoConfig.for_model(family, **settings)
    torch.manual_seed(0)
    model = auto_class.from_config(config).eval()
    model.generation_config.eos_token_id = None  # so that every call makes as many steps as it is asked for
    model.generation_config.pad_token_id = 0
    return model


@pytest.fixture
def build_tiny() -> Callable[..., Any]:
    """Build a tiny model of a family, afresh."""
    return _build


@pytest.fixture(scope="session")
def _kept() -> dict[str, Any]:
    return {}


@pytest.fixture
def tiny(_kept: dict[str, Any]) -> Callable[[str], Any]:
    """A tiny model of a family, the same one in all tests: every test leaves it as it was."""

    def get(family: str) -> Any:
        if family not in _kept:
            _kept[family] = _build(family)
        return _kept[family]

    return get


@pytest.fixture
def llama(tiny: Callable[[str], Any]) -> Any:
    """A tiny Llama."""
    return tiny("llama")


@pytest.fixture
def ids() -> Any:
    """Token ids, int64 [rows=2, length=5]."""
    torch = pytest.importorskip("torch")
    return torch.arange(3, 13).reshape(2, 5)


def _processor(work: Callable[[], Any], name: str = "Spins") -> Any:
    """A logits processor of a class called `name` that changes nothing and does `work`."""
    from transformers import LogitsProcessor

    def call(self: Any, input_ids: Any, scores: Any) -> Any:
        work()
        return scores

    return type(name, (LogitsProcessor,), {"__call__": call})()


def _criterion(work: Callable[[], Any], name: str = "Dawdles") -> Any:
    """A stopping criterion of a class called `name` that never stops and does `work`."""
    import torch
    from transformers import StoppingCriteria

    def call(self: Any, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        work()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    return type(name, (StoppingCriteria,), {"__call__": call})()


def _watch(model: Any, *args: Any, clock: FakeClock | None = None, **kwargs: Any) -> tuple[Any, Recorder, Instrument]:
    """Generate without and with an Instrument, see that the tokens are the same, and give the latter's."""
    import torch

    torch.manual_seed(1)
    expected = model.generate(*args, **kwargs)
    recorder = Recorder(clock or FakeClock())
    torch.manual_seed(1)
    with Instrument(model, recorder) as instrument:
        actual = model.generate(*args, **kwargs)
    assert torch.equal(getattr(expected, "sequences", expected), getattr(actual, "sequences", actual))
    return actual, recorder, instrument


@pytest.fixture
def processor() -> Callable[..., Any]:
    """`processor(work, name="Spins")`: a logits processor that changes nothing and does `work`."""
    return _processor


@pytest.fixture
def criterion() -> Callable[..., Any]:
    """`criterion(work, name="Dawdles")`: a stopping criterion that never stops and does `work`."""
    return _criterion


@pytest.fixture
def watch() -> Callable[..., tuple[Any, Recorder, Instrument]]:
    """`watch(model, *args, clock=None, **kwargs)`: a watched call, whose tokens are those of an unwatched one."""
    return _watch
