"""Models whose costs this room does not model, and what each has that the formulas lack.

A wrong number under a known name would be worse than none, so they are refused by name.
"""

LATENT = "multi-head latent attention (MLA), which caches a compressed state instead of keys and values"
STATE_SPACE = "state-space, linear-attention or convolution layers, which keep no keys and values"
ENCODER = "an encoder beside the decoder"

_NAMES = {
    LATENT: (
        "deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 glm4_moe_lite glm_moe_dsa kimi_k2 kimi_k25 longcat_flash "
        "minicpm3 mistral4"
    ),
    STATE_SPACE: (
        "bamba falcon_h1 falcon_mamba granitemoehybrid jamba kimi_linear lfm2 lfm2_moe mamba mamba2 minimax nemotron_h "
        "olmo_hybrid qwen3_5 qwen3_5_moe qwen3_next recurrent_gemma rwkv xlstm zamba zamba2"
    ),
    ENCODER: (
        "bart blenderbot encoder-decoder led longt5 m2m_100 marian mbart moonshine mt5 nllb_moe pegasus prophetnet "
        "speech_to_text switch_transformers t5 t5gemma umt5 whisper"
    ),
}

LATENTS = frozenset({"deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3"})
"""Of these the bytes of the cache are still known: transformers keeps the compressed state and the rotated key."""
HYBRIDS = frozenset({"lfm2", "lfm2_moe", "olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"})
"""Likewise: their `layer_types` say which layers are attention."""

REFUSED: dict[str, str] = {name: reason for reason, names in _NAMES.items() for name in names.split()}
"""`model_type` -> what it has that this room does not model."""
