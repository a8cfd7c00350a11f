"""The names of the parts of a decode step, what lies inside each, and the mark that begins one.

A mark ends the part before it, so parts are exclusive and there is no gap between them. Nothing is measured here: the
caller passes a `mark` that reads a clock.
"""

from collections.abc import Callable

Mark = Callable[[str], None]
"""Ends the part before and begins the one named."""

BOUNDARIES: dict[str, str] = {
    "embed": "checks of ids and cache, buffers (scores included), position angles, rows of the embedding table",
    "norm": "RMSNorm with its weight, before attention, before the MLP and before the head",
    "attn.qkv": "product with the fused query, key and value weights, bias; 1/sqrt(head_dim) is in the weights",
    "attn.rope": "rotating queries and keys together, one complex product",
    "kv.append": "writing keys and values into the cache; without a cache the part does not occur",
    "attn.mask.build": "the additive causal mask [new, held + new]; only for more than one new position",
    "attn.mask.apply": "adding it to the scores; only for more than one new position",
    "attn.scores": "queries times keys, read in the cache without a copy",
    "attn.softmax": "maximum, subtraction, exponential and sum, in place",
    "attn.pv": "exponentials times values, read in the cache without a copy, and the softmax's division",
    "attn.out": "the output projection, its bias and the residual addition",
    "mlp": "fused gate and up product, SiLU, down product, their biases and the residual addition",
    "lm_head": "product with the head into a fresh array of logits; in prefill for the last positions only",
    "sample": "temperature, top-k, top-p, noise and argmax",
    "stop": "comparison with the end tokens, and the decode loop up to the next forward",
}
"""What lies in each part."""


def no_mark(part: str) -> None:
    """The mark of a run that is not recorded."""
