"""The shape of a decoder: every number that decides what a step costs, and none that decides what it says.

`read_config` reads a `config.json` (its `text_config` for a vision-language model); `families.py`
says what each `model_type` means. The names of the sizes are those of Vaswani et al. 2017 and, for grouped
heads, Ainslie et al. 2023. Allocates nothing and reads no file.
"""

from dataclasses import dataclass
from typing import Literal

from perstep.errors import InputError

Positions = Literal["rope", "learned", "alibi"]

ACTIVATIONS: dict[str, tuple[int, int]] = {
    "relu": (1, 0),
    "silu": (2, 1),
    "swish": (2, 1),
    "quick_gelu": (3, 1),
    "gelu": (4, 1),
    "gelu_fast": (8, 1),
    "gelu_new": (8, 1),
    "gelu_pytorch_tanh": (8, 1),
}
"""Activation -> (additions, multiplications and comparisons; exponentials and their like) for one number."""


@dataclass(frozen=True)
class Norm:
    """A normalisation: RMSNorm (Zhang and Sennrich 2019), or LayerNorm (Ba et al. 2016) if it `centres`.

    `weights` learned numbers belong to each number it normalises: 0, 1 (scale) or 2 (scale and shift).
    """

    centres: bool
    weights: int


@dataclass(frozen=True)
class QKNorm:
    """A normalisation of queries and keys after their projection (Henry et al. 2020).

    `per_head`: over the head_dim numbers of each head, otherwise over all heads of a token at once.
    `shared`: all query heads have the same learned weights, and all key heads theirs.
    """

    norm: Norm
    per_head: bool = True
    shared: bool = True


@dataclass(frozen=True)
class Mlp:
    """The feed-forward part of a layer: dense when `experts` is 0, otherwise a mixture of experts.

    `width` is the intermediate size, of one expert in a mixture; gated ones (Shazeer 2020) have three
    matrices, plain ones two. `active` experts of `experts` work on a token, beside one dense expert of
    `shared_width` on every token, scaled by a gate of its own if `shared_gate`.
    """

    width: int
    gated: bool
    activation: str
    bias: bool = False
    experts: int = 0
    active: int = 0
    shared_width: int = 0
    shared_gate: bool = False
    router_bias: bool = False


@dataclass(frozen=True)
class Layer:
    """What may differ between the layers of one model.

    `window`: the number of positions a query sees, its own included; None for all of them. `rotary`: how many
    of the head_dim numbers of a head are rotated (Su et al. 2021), 0 without rotary positions.
    """

    mlp: Mlp
    window: int | None = None
    rotary: int = 0


@dataclass(frozen=True)
class ModelShape:
    """The shape of one decoder; every size is a number of elements, none of bytes.

    `layers` has one entry for each layer. `head_dim` need not be `hidden / heads`. `extra_embeddings` are rows of
    the embedding table beyond the `vocab` of the head; `position_rows` those of learned positions.
    `sinks`: a learned logit a head joins each softmax (Xiao et al. 2023).
    """

    model_type: str
    vocab: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    layers: tuple[Layer, ...]
    tied: bool
    norm: Norm
    norms_per_layer: int
    final_norm: bool = True
    embed_norm: bool = False
    qk_norm: QKNorm | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    head_bias: bool = False
    positions: Positions = "rope"
    position_rows: int = 0
    extra_embeddings: int = 0
    embed_scale: bool = False
    sinks: bool = False
    softcap_scores: bool = False
    softcap_logits: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab", "hidden", "heads", "kv_heads", "head_dim", "max_positions"):
            if getattr(self, name) < 1:
                raise InputError(f"a model shape needs a {name} of at least 1, found {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise InputError(f"{self.heads} query heads are not a multiple of {self.kv_heads} key/value heads")
        if not self.layers:
            raise InputError("a model shape needs at least one layer, found none")
        for layer in self.layers:
            _check_layer(layer, self.head_dim)

    @property
    def num_layers(self) -> int:
        """The number of layers."""
        return len(self.layers)

    @property
    def q_width(self) -> int:
        """The width of all query heads side by side."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """The width of all key heads side by side, and of all value heads (Shazeer 2019: as few as one)."""
        return self.kv_heads * self.head_dim

    @property
    def is_mixture(self) -> bool:
        """Whether any layer is a mixture of experts."""
        return any(layer.mlp.experts for layer in self.layers)

    @property
    def windows(self) -> frozenset[int | None]:
        """The distinct windows of the layers: one mask is built for each."""
        return frozenset(layer.window for layer in self.layers)


def _check_layer(layer: Layer, head_dim: int) -> None:
    mlp = layer.mlp
    if mlp.activation not in ACTIVATIONS:
        raise InputError(f"activation {mlp.activation!r} is not one of {', '.join(ACTIVATIONS)}")
    if mlp.width < 1:
        raise InputError(f"a feed-forward width must be at least 1, found {mlp.width}")
    if mlp.experts and not 1 <= mlp.active <= mlp.experts:
        raise InputError(f"active experts must be from 1 to {mlp.experts} (the experts there are), found {mlp.active}")
    if layer.window is not None and layer.window < 1:
        raise InputError(f"a sliding window must hold at least 1 position, found {layer.window}")
    if not 0 <= layer.rotary <= head_dim:
        raise InputError(f"rotary dimensions must be from 0 to {head_dim} (the head_dim), found {layer.rotary}")
