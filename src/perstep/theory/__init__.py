"""Shapes in, FLOPs, bytes and bounds out: what each part of a step must cost at least. Measures nothing.

`read_config` reads a config.json, `step_cost` counts a `prefill` or `decode` of it, `step_bound` turns
the count into times with the rates of a machine. Standard library only; `docs/theory.md` lists the formulas.
"""

from perstep.theory.backends import (
    IDEAL,
    REFERENCE,
    TRANSFORMERS,
    TRANSFORMERS_EAGER,
    TRANSFORMERS_STATIC,
    Backend,
    Packing,
)
from perstep.theory.cache import CacheBytes, cached_layers, kv_bytes
from perstep.theory.config import read_config, shape_of
from perstep.theory.cost import Cost, StepCost
from perstep.theory.costs import attended_positions, expected_experts, num_scores, step_cost
from perstep.theory.parts import PARTS, Parameters, parameters
from perstep.theory.roofline import Bound, Level, Rates, StepBound, binding_terms, part_bound, roofline_ns, step_bound
from perstep.theory.shape import Layer, Mlp, ModelShape, Norm, QKNorm
from perstep.theory.step import DTYPE_BYTES, Precision, Step, bytes_each, decode, prefill

__all__ = [
    "DTYPE_BYTES",
    "IDEAL",
    "PARTS",
    "REFERENCE",
    "TRANSFORMERS",
    "TRANSFORMERS_EAGER",
    "TRANSFORMERS_STATIC",
    "Backend",
    "Bound",
    "CacheBytes",
    "Cost",
    "Layer",
    "Level",
    "Mlp",
    "ModelShape",
    "Norm",
    "Packing",
    "Parameters",
    "Precision",
    "QKNorm",
    "Rates",
    "Step",
    "StepBound",
    "StepCost",
    "attended_positions",
    "binding_terms",
    "bytes_each",
    "cached_layers",
    "decode",
    "expected_experts",
    "kv_bytes",
    "num_scores",
    "parameters",
    "part_bound",
    "prefill",
    "read_config",
    "roofline_ns",
    "shape_of",
    "step_bound",
    "step_cost",
]
