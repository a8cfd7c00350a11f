"""What one `model_type` means: the record, the rules for sliding windows, and what no record can say.

`families.py` holds the records themselves. A rule or an adjustment is a pure function of the values of a
config.json, under their usual names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from perstep._json import Json
from perstep.theory.shape import Norm, Positions, QKNorm

Values = dict[str, Json]
Windowed = Callable[[Values, int], bool]  # (values, index of a layer) -> whether it has a sliding window

RMS, LAYER = Norm(centres=False, weights=1), Norm(centres=True, weights=2)
LAYER_SCALE, LAYER_BARE = Norm(centres=True, weights=1), Norm(centres=True, weights=0)


def never(_values: Values, _layer: int) -> bool:
    """No layer has a window, whatever keys the file has."""
    return False


def every(_values: Values, _layer: int) -> bool:
    """Every layer has one, if there is a `sliding_window`."""
    return True


def if_used(values: Values, _layer: int) -> bool:
    """Every layer, if `use_sliding_window`."""
    return bool(values["use_sliding_window"])


def upper(values: Values, layer: int) -> bool:
    """The layers from `max_window_layers` on, if `use_sliding_window`."""
    return bool(values["use_sliding_window"]) and layer >= values["max_window_layers"]


def lower_alternate(values: Values, layer: int) -> bool:
    """Every other layer below `max_window_layers`, if `use_sliding_window`."""
    return bool(values["use_sliding_window"]) and layer % 2 == 0 and layer < values["max_window_layers"]


def without_rope(values: Values, layer: int) -> bool:
    """The layers that do not rotate, if `use_sliding_window`."""
    return bool(values["use_sliding_window"]) and not values["no_rope_layers"][layer]


def all_but_each(pattern: int) -> Windowed:
    """All layers but each `pattern`-th; the file may say another number as `sliding_window_pattern`."""

    def windowed(values: Values, layer: int) -> bool:
        return (layer + 1) % (values.get("sliding_window_pattern") or pattern) != 0

    return windowed


@dataclass(frozen=True)
class Mixture:
    """Which keys describe a mixture of experts; `shared` only where every token passes one more expert."""

    experts: str = "num_local_experts"
    width: str = "intermediate_size"
    shared: str | None = None
    bias: bool = False  # of the router and of the experts


@dataclass(frozen=True)
class Family:
    """One `model_type`. A bias is a fact (True, False) or the name of the flag that decides it.

    `keys`: how the file spells a key where it is not the usual name. `defaults`: what a missing key means, by
    its usual name. `adjust`: for what no record can say, from the values as read to the values as meant.
    """

    defaults: dict[str, Json]
    keys: Mapping[str, str] = field(default_factory=dict)
    norm: Norm = RMS
    norms_per_layer: int = 2
    qk_norm: QKNorm | None = None
    gated: bool = True
    activation: str = "silu"
    qkv_bias: bool | str = False
    out_bias: bool | str = False
    mlp_bias: bool | str = False
    head_bias: bool | str = False
    positions: Positions = "rope"
    partial_rotary: float = 1.0
    extra_position_rows: int = 0
    embed_norm: bool = False
    embed_scale: bool = False
    sinks: bool = False
    tied: bool = False
    windowed: Windowed = never
    mixture: Mixture | None = None
    adjust: Callable[[Values], Values] = dict


def adjust_phi(values: Values) -> Values:
    """LayerNorm of queries and keys, if `qk_layernorm`."""
    return values | ({"qk_norm": QKNorm(LAYER)} if values.get("qk_layernorm") else {})


def adjust_stablelm(values: Values) -> Values:
    """One norm a layer with a parallel residual; LayerNorm without a shift for each head, if `qk_layernorm`."""
    changes: Values = {"norms_per_layer": 1} if values.get("use_parallel_residual") else {}
    return values | changes | ({"qk_norm": QKNorm(LAYER_SCALE, shared=False)} if values.get("qk_layernorm") else {})


def adjust_cohere(values: Values) -> Values:
    """LayerNorm without a shift for each head, if `use_qk_norm`."""
    return values | ({"qk_norm": QKNorm(LAYER_SCALE, shared=False)} if values.get("use_qk_norm") else {})


def adjust_smollm3(values: Values) -> Values:
    """Which layers rotate, where the file does not list them."""
    interval, count = values["no_rope_layer_interval"], values["num_hidden_layers"]
    rotates = [(layer + 1) % interval != 0 for layer in range(count)]
    return values | {"no_rope_layers": values.get("no_rope_layers") or rotates}


def adjust_gpt_bigcode(values: Values) -> Values:
    """One key/value head (Shazeer 2019), or as many as query heads."""
    return values | ({"num_key_value_heads": 1} if values["multi_query"] else {"num_key_value_heads": None})


def adjust_gptj(values: Values) -> Values:
    """A `rotary_dim` of null rotates whole heads."""
    return values | {"rotary_dim": values["rotary_dim"] or values["hidden_size"] // values["num_attention_heads"]}


def adjust_opt(values: Values) -> Values:
    """Norms without weights, or none after the last layer, where the file says so."""
    norm = LAYER if values["layer_norm_elementwise_affine"] else LAYER_BARE
    final = values["do_layer_norm_before"] and not values["_remove_final_layer_norm"]
    return values | {"norm": norm, "final_norm": final}


def adjust_falcon(values: Values) -> Values:
    """Two generations of one name: how many norms, how many key/value heads, ALiBi or rotation."""
    grouped = values["new_decoder_architecture"]
    norms = (values["num_ln_in_parallel_attn"] or (2 if grouped else 1)) if values["parallel_attn"] else 2
    changes: Values = {"norms_per_layer": norms, "positions": "alibi" if values["alibi"] else "rope"}
    if not grouped:
        changes["num_key_value_heads"] = 1 if values["multi_query"] else None
    return values | changes


def adjust_molmo2(values: Values) -> Values:
    """Either kind of query/key norm, more rows in the table than in the head, never tied."""
    per_head = values["qk_norm_type"] == "qwen3"
    return values | {
        "qk_norm": QKNorm(RMS, per_head=per_head),
        "extra_embeddings": values["additional_vocab_size"],
        "tie_word_embeddings": False,
    }
