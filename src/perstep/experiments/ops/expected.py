"""Figures that others published for these shapes, to stand beside the measured ones as `expected`.

Law "measured and expected are different columns".

A benchmark of a Rust engine (Candle 0.9, Criterion, one x86 CPU, October 2025): hidden 4096, 32 heads of 128, float32.
Its shares divided the parts at every length by one estimated 107 ms and reached 115.6 %, with one part at -17 ms; so
only its durations are kept. Its `causal_mask` timed making a mask *and* adding it to all scores.
"""

from perstep.experiments.ops.findings import Estimate
from perstep.experiments.ops.samples import Model

SOURCE = "by others, for a Rust engine with these shapes (Criterion, October 2025)"
MASK, FULL = "attn.mask.build + apply", "full_attention"

_US: dict[str, dict[int, tuple[float, float, float]]] = {
    "attn.rope": {
        1: (57.132, 62.639, 68.629),
        8: (198.56, 206.13, 213.43),
        32: (457.93, 467.80, 476.70),
        128: (9070.9, 9234.9, 9401.7),
    },
    "attn.qkv": {
        1: (18533, 19119, 19717),
        8: (20750, 20976, 21210),
        32: (49603, 50805, 52067),
        128: (64654, 65503, 66349),
    },
    "attn.scores": {
        1: (3.7524, 3.8388, 3.9098),
        8: (43.048, 44.836, 46.483),
        32: (292.47, 308.46, 322.33),
        128: (8360.8, 8488.9, 8618.8),
    },
    MASK: {
        8: (9.8782, 9.9312, 9.9854),
        32: (116.84, 118.65, 120.20),
        128: (2107.7, 2116.7, 2125.9),
        512: (58353, 58832, 59200),
    },
    FULL: {
        1: (11.443, 11.492, 11.546),
        8: (119.30, 119.84, 120.43),
        32: (1066.4, 1071.4, 1076.3),
    },
}
"""Part -> new tokens -> low, estimate, high in microseconds."""


def expected(model: Model, past: int, part: str, seq: int) -> Estimate | None:
    """The published duration, if the shapes are those it was published for.

    Args:
        model: what was measured.
        past: positions held before.
        part: by its name, or one of the composites `MASK` and `FULL`.
        seq: new tokens.
    """
    same = (model.hidden, model.heads, model.kv_heads, model.head_dim, past) == (4096, 32, 32, 128, 0)
    published_us = _US.get(part, {}).get(seq) if same else None
    if published_us is None:
        return None
    low, middle, high = (1000 * us for us in published_us)
    return Estimate(ns=middle, ci_low_ns=low, ci_high_ns=high)
