"""The kernels of a decode step on a device, one by one, and what they are expected to take: nothing is fitted.

A device's step of few sequences is made of a thousand kernels, most of which take what the shortest of their kind
takes, whatever their work; the others are products with weights, and read them once. So a part is expected to take the
sum over its kernels of the larger of the two. The kernels were counted, not estimated: in a decode step of Llama in
half precision with transformers' fused attention and dynamic cache (1,219 in the forward of 30 layers). For anything
else there is no expectation. Times of kernels are passed in. An expectation is no bound: it is made of medians.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp, log

from perstep.theory.shape import Layer, ModelShape
from perstep.theory.step import Precision, Step, bytes_each

HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class Kernels:
    """Kernels that are alike.

    Attributes:
        kind: `elementwise`, `cast`, `reduce`, `concatenate`, `gather`, `product` or `attention`.
        count: how many in a step.
        bytes_moved: by one of them: the weights of a product, the cache that is read or copied.
        rows: of a product.
    """

    kind: str
    count: int
    bytes_moved: float = 0.0
    rows: int = 0


@dataclass(frozen=True)
class KernelTimes:
    """How long kernels take on a device, measured: medians.

    Attributes:
        smallest_ns: kind -> one with next to no work.
        products_ns: (rows, bytes of weights, time) of products whose weights come from memory.
        bytes_per_s: at which the others read and write.
    """

    smallest_ns: Mapping[str, float]
    products_ns: Sequence[tuple[int, int, float]]
    bytes_per_s: float
    _by_rows: dict[int, list[tuple[int, float]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_rows: dict[int, list[tuple[int, float]]] = {}
        for rows, size, ns in sorted(self.products_ns):
            by_rows.setdefault(rows, []).append((size, ns))
        object.__setattr__(self, "_by_rows", by_rows)

    def one_ns(self, kernels: Kernels) -> float | None:
        """One of these kernels; None where its kind was not timed."""
        smallest = self.smallest_ns.get(kernels.kind)
        if smallest is None:
            return None
        if kernels.kind != "product":
            return max(smallest, kernels.bytes_moved / self.bytes_per_s * 1e9)
        product = self._product_ns(kernels.rows, kernels.bytes_moved)
        return None if product is None else max(smallest, product)

    def _product_ns(self, rows: int, size: float) -> float | None:
        """Straight in logarithms between the sizes timed, above them in proportion, below them the smallest's time.

        At the number of rows that is nearest by ratio.
        """
        if not self._by_rows:
            return None
        nearest = self._by_rows[min(self._by_rows, key=lambda timed: abs(log(timed / rows)))]
        if size <= nearest[0][0]:
            return nearest[0][1]
        for (small, fast), (large, slow) in pairwise(nearest):
            if size <= large:
                return exp(log(fast) + (log(slow) - log(fast)) * log(size / small) / log(large / small))
        return nearest[-1][1] * size / nearest[-1][0]


def step_kernels(shape: ModelShape, step: Step, precision: Precision) -> dict[str, list[Kernels]]:
    """Part of a transformers model -> its kernels in a decode step; empty where nobody has counted them.

    Args:
        shape: the model.
        step: a decode step.
        precision: of weights, activations and cache.
    """
    if not _is_counted(shape, step, precision):
        return {}
    layers, weight = shape.num_layers, bytes_each(precision.weights)
    D, Q, K, I = shape.hidden, shape.q_width, shape.kv_width, shape.layers[0].mlp.width  # noqa: E741
    cache_bytes = step.batch * (step.past + step.new) * K * bytes_each(precision.cache)

    def product(inputs: int, outputs: int, count: int, rows: int = step.tokens) -> Kernels:
        return Kernels("product", count, inputs * outputs * weight, rows)

    return {
        "embed": [Kernels("gather", 1)],
        "norm": [Kernels(kind, count * (2 * layers + 1)) for kind, count in _NORM.items()],
        "attn": [product(D, Q, layers), product(D, K, 2 * layers), product(Q, D, layers)],
        "attn.rope": [Kernels(kind, _ROPE_ONCE[kind] + layers * _ROPE.get(kind, 0)) for kind in _ROPE_ONCE],
        "kv.append": [Kernels("concatenate", 2 * layers, 2 * cache_bytes)],
        "attn.core": [Kernels("attention", layers, 2 * cache_bytes)],
        "mlp": [product(D, I, 2 * layers), product(I, D, layers), Kernels("elementwise", 2 * layers)],
        "forward.other": [Kernels("elementwise", 2 * layers)],
        "lm_head": [product(D, shape.vocab, 1, step.head_rows)],
    }


_NORM = {"cast": 2, "elementwise": 5, "reduce": 1}
"""To float32 and back; square, mean, addition of eps, reciprocal root, and two products."""
_ROPE = {"elementwise": 8, "concatenate": 2}
"""Of queries, and of keys: two products, a negation and an addition, and the turning of halves."""
_ROPE_ONCE = {"elementwise": 5, "concatenate": 1, "cast": 3}
"""The angles, their sines and cosines, scaled, once a step."""


def count_of(kernels: Iterable[Kernels]) -> int:
    """How many kernels these are together."""
    return sum(each.count for each in kernels)


def expected_ns(kernels: Iterable[Kernels], times: KernelTimes) -> float | None:
    """What these kernels are expected to take together; None where the time of one of them is not known."""
    total = 0.0
    for each in kernels:
        one = times.one_ns(each)
        if one is None:
            return None
        total += each.count * one
    return total


def _is_counted(shape: ModelShape, step: Step, precision: Precision) -> bool:
    """Whether it is a decode step of a model like Llama, in half precision."""
    plain = not (shape.qkv_bias or shape.out_bias or shape.head_bias or shape.sinks or shape.embed_scale)
    plain = plain and not (shape.softcap_scores or shape.softcap_logits or shape.qk_norm or shape.embed_norm)
    norms = not shape.norm.centres and shape.norm.weights == 1 and shape.norms_per_layer == 2 and shape.final_norm
    return (
        step.new == 1
        and precision.activations in HALF
        and shape.positions == "rope"
        and plain
        and norms
        and len(set(shape.layers)) == 1
        and _is_counted_layer(shape.layers[0], shape.head_dim)
    )


def _is_counted_layer(layer: Layer, head_dim: int) -> bool:
    mlp = layer.mlp
    gated = mlp.gated and not mlp.bias and not mlp.experts and mlp.activation == "silu"
    return gated and layer.window is None and layer.rotary == head_dim
