"""What `config.json` says, as one frozen record, and the refusal by name of what the decoder cannot run.

Accepted are the members of the Llama family whose arithmetic `model.py` reproduces exactly: see FAMILIES.
A key that a folder leaves out gets the value that transformers gives it (see each family's defaults), because
the same folder must mean the same model to both. Reads no weights and allocates nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from perstep._json import Json
from perstep.errors import InputError


@dataclass(frozen=True)
class Family:
    """What a `model_type` means where its config.json is silent, and which of its keys it ignores."""

    defaults: Mapping[str, Json]
    bias_flags: bool  # attention_bias and mlp_bias are read; otherwise qkv_bias is all there is
    qkv_bias: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family({"num_key_value_heads": None, "max_position_embeddings": 2048, "eos_token_id": 2}, bias_flags=True),
    "mistral": Family(
        {
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "eos_token_id": 2,
            "sliding_window": 4096,
        },
        bias_flags=False,
    ),
    "qwen2": Family(
        {"num_key_value_heads": 32, "max_position_embeddings": 32768, "eos_token_id": None},
        bias_flags=False,
        qkv_bias=True,
    ),
}

COMMON_DEFAULTS: dict[str, Json] = {
    "attention_bias": False,
    "head_dim": None,
    "hidden_act": "silu",
    "mlp_bias": False,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}

ROPE_TYPES = ("default", "linear", "llama3")
MOE_KEYS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True)
class Rope:
    """How positions become angles: `theta` and, for the scaled types, the numbers of their formula."""

    kind: str = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 0


@dataclass(frozen=True)
class Config:
    """The shapes and constants of one decoder; every count is a number of elements, none of bytes.

    `dtype` is what it computes and caches in, whatever the file stores. `eos_ids` is empty where the folder
    names none. `head_dim` need not be `hidden / heads`.
    """

    model_type: str
    num_layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    max_positions: int
    norm_eps: float
    rope: Rope
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    tied: bool
    eos_ids: tuple[int, ...]
    dtype: str = "float32"

    @property
    def q_width(self) -> int:
        """The width of all query heads side by side."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """The width of all key heads side by side, and of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """The number of weights, from the shapes alone; a tied head counts once."""
        per_layer = sum(_size(shape) for shape in layer_shapes(self).values())
        ends = sum(_size(shape) for shape in end_shapes(self).values())
        return self.num_layers * per_layer + ends


def layer_shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of one layer as a folder stores them: name after `model.layers.N.` to shape [out, in]."""
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (c.hidden,),
        "self_attn.q_proj.weight": (c.q_width, c.hidden),
        "self_attn.k_proj.weight": (c.kv_width, c.hidden),
        "self_attn.v_proj.weight": (c.kv_width, c.hidden),
        "self_attn.o_proj.weight": (c.hidden, c.q_width),
        "post_attention_layernorm.weight": (c.hidden,),
        "mlp.gate_proj.weight": (c.intermediate, c.hidden),
        "mlp.up_proj.weight": (c.intermediate, c.hidden),
        "mlp.down_proj.weight": (c.hidden, c.intermediate),
    }
    biased = {
        "self_attn.q_proj": c.qkv_bias,
        "self_attn.k_proj": c.qkv_bias,
        "self_attn.v_proj": c.qkv_bias,
        "self_attn.o_proj": c.out_bias,
        "mlp.gate_proj": c.mlp_bias,
        "mlp.up_proj": c.mlp_bias,
        "mlp.down_proj": c.mlp_bias,
    }
    shapes |= {f"{name}.bias": shapes[f"{name}.weight"][:1] for name, has_bias in biased.items() if has_bias}
    return shapes


def end_shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The tensors before the first layer and after the last: full name to shape."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (c.vocab, c.hidden),
        "model.norm.weight": (c.hidden,),
    }
    return shapes if c.tied else shapes | {"lm_head.weight": (c.vocab, c.hidden)}


def parse_config(raw: Mapping[str, Json], generation: Mapping[str, Json] | None = None) -> Config:
    """Check `config.json` (and, for the end tokens, `generation_config.json`) and read it into a `Config`.

    Raises:
        InputError: naming the key, what was found and what the decoder can run.
    """
    model_type = raw.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise InputError(f"config.json: model_type {model_type!r} is not one of {', '.join(FAMILIES)}")
    values = {**COMMON_DEFAULTS, **family.defaults, **raw}
    max_positions = _count(values, "max_position_embeddings")
    _refuse_what_we_cannot_run(values, max_positions)

    heads = _count(values, "num_attention_heads")
    kv_heads = heads if values["num_key_value_heads"] is None else _count(values, "num_key_value_heads")
    if heads % kv_heads:
        raise InputError(
            f"config.json: num_attention_heads {heads} must be a multiple of num_key_value_heads {kv_heads}"
        )
    hidden = _count(values, "hidden_size")
    if values["head_dim"] is not None:
        head_dim = _count(values, "head_dim")
    elif hidden % heads:
        raise InputError(
            f"config.json: hidden_size {hidden} must be a multiple of num_attention_heads {heads} "
            "when head_dim is not given"
        )
    else:
        head_dim = hidden // heads
    if head_dim % 2:
        raise InputError(f"config.json: rotary positions need an even head_dim, found {head_dim}")
    attention_bias = family.bias_flags and _flag(values, "attention_bias")
    return Config(
        model_type=str(model_type),
        num_layers=_count(values, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=_count(values, "intermediate_size"),
        vocab=_count(values, "vocab_size"),
        max_positions=max_positions,
        norm_eps=_positive(values, "rms_norm_eps"),
        rope=_parse_rope(values, max_positions),
        qkv_bias=family.qkv_bias or attention_bias,
        out_bias=attention_bias,
        mlp_bias=family.bias_flags and _flag(values, "mlp_bias"),
        tied=_flag(values, "tie_word_embeddings"),
        eos_ids=_parse_eos(values, generation or {}),
    )


def config_hash(raw: Mapping[str, Json]) -> str:
    """The sha256 of `config.json` with sorted keys and no spaces, so that formatting does not change it."""
    canonical = json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _refuse_what_we_cannot_run(values: Mapping[str, Json], max_positions: int) -> None:
    if values["hidden_act"] != "silu":
        raise InputError(f"config.json: hidden_act {values['hidden_act']!r} is not supported, only 'silu' is")
    if values.get("quantization_config") is not None:
        raise InputError("config.json: quantization_config is not supported; give float32, float16 or bfloat16 weights")
    for key in MOE_KEYS:
        if values.get(key) not in (None, 0, 1):
            raise InputError(f"config.json: {key} {values[key]!r} means mixture of experts, which is not supported")
    window = values.get("sliding_window")
    active = values["model_type"] == "mistral" or values.get("use_sliding_window", False)
    if window is not None and active and not (isinstance(window, int) and window >= max_positions):
        raise InputError(
            f"config.json: sliding_window {window!r} is not supported; "
            f"only null or at least max_position_embeddings ({max_positions}) is"
        )
    layer_types = values.get("layer_types")
    if layer_types is not None and (
        not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types)
    ):
        raise InputError(f"config.json: layer_types {layer_types!r} is not supported, only 'full_attention' is")


def _parse_rope(values: Mapping[str, Json], max_positions: int) -> Rope:
    """Read either spelling: `rope_parameters`, or `rope_scaling` beside `rope_theta` (before transformers 5)."""
    key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = values.get(key) or {}
    if not isinstance(rope, dict):
        raise InputError(f"config.json: {key} must be an object or null, found {rope!r}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise InputError(f"config.json: rope type {kind!r} is not one of {', '.join(ROPE_TYPES)}")
    rope = {"rope_theta": values.get("rope_theta", 10_000.0), **rope}
    partial = rope.get("partial_rotary_factor", values.get("partial_rotary_factor"))
    if partial not in (None, 1):
        raise InputError(f"config.json: partial_rotary_factor {partial!r} is not supported, only 1.0 is")
    theta = _positive(rope, "rope_theta")
    if kind == "default":
        return Rope(theta=theta)
    factor = _positive(rope, "factor")
    if kind == "linear":
        return Rope(kind, theta, factor)
    low, high = _positive(rope, "low_freq_factor"), _positive(rope, "high_freq_factor")
    if high <= low:
        raise InputError(f"config.json: high_freq_factor {high} must be above low_freq_factor {low}")
    original = {"original_max_position_embeddings": max_positions, **rope}
    if "original_max_position_embeddings" in values:  # beside the rope object it takes precedence, as in transformers
        original["original_max_position_embeddings"] = values["original_max_position_embeddings"]
    return Rope(kind, theta, factor, low, high, _count(original, "original_max_position_embeddings"))


def _parse_eos(values: Mapping[str, Json], generation: Mapping[str, Json]) -> tuple[int, ...]:
    """The end tokens: those of generation_config.json if it names any, else those of config.json."""
    eos = generation.get("eos_token_id")
    if eos is None:
        eos = values["eos_token_id"]
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
        raise InputError(f"eos_token_id must be a token id or a list of them, found {eos!r}")
    return tuple(sorted(set(ids)))


def _count(values: Mapping[str, Json], key: str) -> int:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise InputError(f"config.json: {key} must be a positive integer below 2^31, found {value!r}")
    return value


def _positive(values: Mapping[str, Json], key: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e38:
        raise InputError(f"config.json: {key} must be a positive float32 number, found {value!r}")
    return float(value)


def _flag(values: Mapping[str, Json], key: str) -> bool:
    value = values[key]
    if not isinstance(value, bool):
        raise InputError(f"config.json: {key} must be true or false, found {value!r}")
    return value


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
