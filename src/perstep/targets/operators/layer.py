"""The operators of a Llama-family layer as a set of functions, and the layer, the attention and the step made of them.

Each operator is a pure function, called in one place, right after the mark that bears its part's name; replacing one
is `dataclasses.replace`. Nothing is fused, folded or reused between operators, so that each can be read, timed alone
and taken away. One sequence, no batch dimension. It holds no arithmetic: that is `numpy_operators`, `torch_operators`.
"""

# Shape suffixes: S new positions, L held + new positions, D hidden, d head_dim, H query heads, K key/value heads, G
# query heads a key/value head, Q = H*d, O = Q + 2*K*d, I intermediate, V vocabulary.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perstep.targets.reference import Mark, no_mark

Array = Any
"""Of NumPy or torch, as the backend; its name ends in its shape."""

Operator = Callable[..., Array]

LAYER, ENDS = "layer", "ends"
"""The boundaries of a step: where a layer begins, and where what follows the last one does."""


@dataclass(frozen=True)
class Operators:
    """One function for each part; the field's name is that of the function in the backend's module.

    Attributes:
        core: scores, mask, softmax and weighted sum in one kernel, in place of the five parts; None where they are run.
    """

    embed: Operator
    norm: Operator
    qkv: Operator
    rope: Operator
    append: Operator
    scores: Operator
    mask_build: Operator
    mask_apply: Operator
    softmax: Operator
    pv: Operator
    out: Operator
    mlp: Operator
    final_norm: Operator
    head: Operator
    core: Operator | None = None


PARTS = {
    "embed": "embed",
    "norm": "norm",
    "qkv": "attn.qkv",
    "rope": "attn.rope",
    "append": "kv.append",
    "scores": "attn.scores",
    "mask_build": "attn.mask.build",
    "mask_apply": "attn.mask.apply",
    "softmax": "attn.softmax",
    "pv": "attn.pv",
    "core": "attn.core",
    "out": "attn.out",
    "mlp": "mlp",
    "final_norm": "norm/final",
    "head": "lm_head",
}
"""Operator -> part, in the order of the step."""


def operators_of(functions: Mapping[str, Operator]) -> Operators:
    """The operators of a backend that runs the five parts of attention: its functions, by the names of the fields."""
    same = {name: functions[name] for name in PARTS if name not in ("final_norm", "core")}
    return Operators(final_norm=functions["norm"], **same)


OUTSIDE_LAYER = frozenset({"embed", "norm/final", "lm_head"})
FULL_ATTENTION = frozenset(
    {"attn.scores", "attn.mask.build", "attn.mask.apply", "attn.softmax", "attn.pv", "attn.core"}
)
"""What the composite `full_attention` is made of."""

BOUNDARIES = {
    "embed": "rows of the embedding table",
    "norm": "RMSNorm with its weight, before attention and before the MLP",
    "attn.qkv": "one product with the query, key and value weights, biases, and the cut into heads",
    "attn.rope": "rotating queries and keys; the table of angles is made before",
    "kv.append": "writing keys and values into the cache",
    "attn.scores": "scaling queries by 1/sqrt(head_dim), and queries times keys",
    "attn.mask.build": "making the additive causal mask [S, L], in each layer; only for more than one new position",
    "attn.mask.apply": "adding it to the scores of all heads, into a new array",
    "attn.softmax": "maximum, subtraction, exponential, sum and division",
    "attn.pv": "probabilities times values, and heads put side by side",
    "attn.core": "scaled_dot_product_attention: all of scores, mask, softmax and weighted sum, and heads side by side",
    "attn.out": "the output projection and the residual addition",
    "mlp": "gate and up product, SiLU, product of both, down product and the residual addition",
    "norm/final": "RMSNorm of the last position, before the head",
    "lm_head": "product with the head, for the last position",
}


@dataclass(frozen=True)
class LayerWeights:
    """One layer: matrices as a folder stores them, [out, in], those that share an input one below the other."""

    attn_norm_D: Array
    qkv_OD: Array
    qkv_bias_O: Array
    out_DQ: Array
    mlp_norm_D: Array
    gate_up_2ID: Array
    down_DI: Array


@dataclass(frozen=True)
class Weights:
    """The layers and what stands around them; the embedding reads the head's table, which halves the memory."""

    layers: list[LayerWeights]
    final_norm_D: Array
    head_VD: Array


@dataclass(frozen=True)
class Inputs:
    """One step's shapes and what it reads besides weights.

    Attributes:
        ids_S: token ids.
        past: held positions.
        cos_Sd: cosines of the new positions' angles; the halves of a head are pairs.
        sin_Sd: their sines.
        caches: for each layer its keys and values, each [K, L, d]; positions from `past` on are written.
        heads: (query heads, key/value heads, head_dim).
        eps: of the norms.
    """

    ids_S: Array
    past: int
    cos_Sd: Array
    sin_Sd: Array
    caches: list[tuple[Array, Array]]
    heads: tuple[int, int, int]
    eps: float

    @property
    def seq(self) -> int:
        """New positions."""
        return len(self.ids_S)


def step(ops: Operators, weights: Weights, inputs: Inputs, mark: Mark = no_mark, boundary: Mark = no_mark) -> Array:
    """The whole step: token ids to the logits of the last position, [V]."""
    x_SD = decoder(ops, weights, inputs, mark, boundary)
    boundary(ENDS)
    mark("norm/final")
    last_D = ops.final_norm(x_SD[-1:], weights.final_norm_D, inputs.eps)[0]
    mark("lm_head")
    return ops.head(last_D, weights.head_VD)


def decoder(ops: Operators, weights: Weights, inputs: Inputs, mark: Mark = no_mark, boundary: Mark = no_mark) -> Array:
    """All layers: token ids to hidden states before the final norm, [S, D]."""
    mark("embed")
    x_SD = ops.embed(weights.head_VD, inputs.ids_S)
    for layer_weights, cache in zip(weights.layers, inputs.caches, strict=True):
        boundary(LAYER)
        x_SD = layer(ops, layer_weights, x_SD, inputs, cache, mark)
    return x_SD


def layer(
    ops: Operators, weights: LayerWeights, x_SD: Array, inputs: Inputs, cache: tuple[Array, Array], mark: Mark = no_mark
) -> Array:
    """One decoder layer: hidden states to hidden states, [S, D]."""
    mark("norm")
    normed_SD = ops.norm(x_SD, weights.attn_norm_D, inputs.eps)
    mark("attn.qkv")
    q_HSd, k_KSd, v_KSd = ops.qkv(normed_SD, weights.qkv_OD, weights.qkv_bias_O, inputs.heads)
    mark("attn.rope")
    q_HSd, k_KSd = ops.rope(q_HSd, k_KSd, inputs.cos_Sd, inputs.sin_Sd)
    mark("kv.append")
    k_KLd, v_KLd = ops.append(*cache, k_KSd, v_KSd, inputs.past)
    context_SQ = full_attention(ops, q_HSd, k_KLd, v_KLd, mark)
    mark("attn.out")
    x_SD = ops.out(context_SQ, weights.out_DQ, x_SD)
    mark("norm")
    normed_SD = ops.norm(x_SD, weights.mlp_norm_D, inputs.eps)
    mark("mlp")
    return ops.mlp(normed_SD, weights.gate_up_2ID, weights.down_DI, x_SD)


def full_attention(ops: Operators, q_HSd: Array, k_KLd: Array, v_KLd: Array, mark: Mark = no_mark) -> Array:
    """Scores, mask, softmax and weighted sum: queries [H, S, d] to contexts side by side, [S, Q]."""
    if ops.core is not None:
        mark("attn.core")
        return ops.core(q_HSd, k_KLd, v_KLd)
    mark("attn.scores")
    scores_KGSL = ops.scores(q_HSd, k_KLd)
    S, L = scores_KGSL.shape[-2:]
    if S > 1:
        mark("attn.mask.build")
        mask_SL = ops.mask_build(S, L, scores_KGSL.dtype)
        mark("attn.mask.apply")
        scores_KGSL = ops.mask_apply(scores_KGSL, mask_SL)
    mark("attn.softmax")
    probabilities_KGSL = ops.softmax(scores_KGSL)
    mark("attn.pv")
    return ops.pv(probabilities_KGSL, v_KLd)
