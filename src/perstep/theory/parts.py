"""The parts of a step that have a formula, and how many parameters belong to each.

Parameter counts are those of the published checkpoints, exactly: a tied head counts once, biases, norms, learned
positions and sinks count. Counts weights, not bytes.
"""

from dataclasses import dataclass

from perstep.theory.shape import Layer, Mlp, ModelShape, Norm

PARTS = (
    "embed",
    "norm",
    "attn.qkv",
    "attn.rope",
    "kv.append",
    "attn.mask.build",
    "attn.mask.apply",
    "attn.scores",
    "attn.softmax",
    "attn.pv",
    "attn.out",
    "mlp",
    "lm_head",
    "sample",
)
"""The parts of a step, in order; what the loop around the model does has no formula."""


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model has learned.

    `active` omits the experts that do not work on a token (Jiang et al. 2024, Mixtral: 12.9 of 46.7
    billion); for a dense model it is `total`. `by_part` adds up to `total`.
    """

    total: int
    active: int
    by_part: dict[str, int]


def parameters(shape: ModelShape) -> Parameters:
    """The learned numbers of a model, of its text part alone where there is a vision tower."""
    by_part = {
        "embed": (shape.vocab + shape.extra_embeddings + shape.position_rows) * shape.hidden,
        "norm": num_norms(shape) * shape.norm.weights * shape.hidden,
        "attn.qkv": shape.num_layers * qkv_parameters(shape),
        "attn.softmax": shape.num_layers * shape.heads * shape.sinks,
        "attn.out": shape.num_layers * out_parameters(shape),
        "mlp": sum(mlp_parameters(shape, layer.mlp) for layer in shape.layers),
        "lm_head": (0 if shape.tied else shape.vocab * shape.hidden) + shape.vocab * shape.head_bias,
    }
    total = sum(by_part.values())
    return Parameters(total, total - sum(_idle(shape, layer) for layer in shape.layers), by_part)


def num_norms(shape: ModelShape) -> int:
    """How often the hidden state is normalised in a step, those of queries and keys left out."""
    return shape.num_layers * shape.norms_per_layer + shape.final_norm + shape.embed_norm


def qkv_parameters(shape: ModelShape) -> int:
    """Of one layer's query, key and value products, and of the norms of queries and keys."""
    width = shape.q_width + 2 * shape.kv_width
    return width * (shape.hidden + shape.qkv_bias) + _qk_norm_parameters(shape)


def out_parameters(shape: ModelShape) -> int:
    """Of one layer's output projection."""
    return shape.hidden * (shape.q_width + shape.out_bias)


def mlp_parameters(shape: ModelShape, mlp: Mlp) -> int:
    """Of one layer's feed-forward part: all experts, the router and the shared expert."""
    one = expert_parameters(shape, mlp)
    return one * mlp.experts + router_parameters(shape, mlp) if mlp.experts else one


def expert_parameters(shape: ModelShape, mlp: Mlp) -> int:
    """Of one expert; a dense feed-forward part is one expert that every token passes."""
    matrices = 3 if mlp.gated else 2
    return matrices * shape.hidden * mlp.width + mlp.bias * ((matrices - 1) * mlp.width + shape.hidden)


def router_parameters(shape: ModelShape, mlp: Mlp) -> int:
    """Of what every token passes in a mixture: the router, the shared expert and its gate."""
    shared = (3 if mlp.gated else 2) * shape.hidden * mlp.shared_width + shape.hidden * mlp.shared_gate
    return mlp.experts * (shape.hidden + mlp.router_bias) + shared


def head_norm(shape: ModelShape) -> tuple[Norm, int] | None:
    """The norm of queries and keys and how many rows it has for one token; None without one."""
    if shape.qk_norm is None:
        return None
    return shape.qk_norm.norm, shape.heads + shape.kv_heads if shape.qk_norm.per_head else 2


def _qk_norm_parameters(shape: ModelShape) -> int:
    if shape.qk_norm is None:
        return 0
    alike = shape.qk_norm.per_head and shape.qk_norm.shared
    return shape.qk_norm.norm.weights * (2 * shape.head_dim if alike else shape.q_width + shape.kv_width)


def _idle(shape: ModelShape, layer: Layer) -> int:
    mlp = layer.mlp
    return (mlp.experts - mlp.active) * expert_parameters(shape, mlp) if mlp.experts else 0
