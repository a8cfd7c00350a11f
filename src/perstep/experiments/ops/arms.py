"""The arms of a run: the layer with another mask, or with a part whose result was computed before.

A part made free returns what it returned when the same step ran in full, so that everything after it does the same work
on the same numbers (law "a counterfactual bounds the gain"): what its removal saves is the most that any improvement of
it could save.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from itertools import cycle
from types import ModuleType

from perstep.experiments.ops.plan import KERNELS
from perstep.targets.operators.layer import PARTS, Array, Inputs, Operator, Operators, Weights, step


@dataclass(frozen=True)
class Captured:
    """One step in full: what each operator was called with, and what it gave.

    Attributes:
        operands: operator -> the arguments of its first call.
        results: operator -> what it returned, call after call, of those that were asked for.
        logits: what the step gave.
    """

    operands: dict[str, tuple[Array, ...]]
    results: dict[str, list[Array]]
    logits: Array


def layer_of(backend: str) -> ModuleType:
    """The module of a backend's operators; torch is imported for its own alone."""
    return import_module(f"perstep.targets.operators.{backend}_layer")


def operators_with(backend: str, mask: str, device: str = "cpu") -> Operators:
    """The operators of a backend, with the mask rebuilt at each layer, cached, or not there at all.

    Args:
        backend: `numpy` or `torch`.
        mask: a name of `plan.MASKS`.
        device: where torch builds masks.
    """
    layer = layer_of(backend)
    ops: Operators = {"fused": layer.FUSED, "flash": layer.FLASH}[mask] if mask in KERNELS else layer.OPERATORS
    if mask == "cached":
        return replace(ops, mask_build=_cached_mask(backend, device))
    return ops if device == "cpu" else replace(ops, mask_build=partial(ops.mask_build, device=device))


def _cached_mask(backend: str, device: str) -> Operator:
    from perstep.fast import CausalMaskCache

    cache = CausalMaskCache("numpy" if backend == "numpy" else "torch")
    where = {} if device == "cpu" else {"device": device}

    def mask_build(q_len: int, kv_len: int, dtype: Array) -> Array:
        return cache.get(q_len, kv_len, dtype=dtype, **where)

    return mask_build


def capture(ops: Operators, weights: Weights, inputs: Inputs, keep: Collection[str]) -> Captured:
    """Run a step; keep the operands of its operators, and the results of those in `keep`."""
    operands: dict[str, tuple[Array, ...]] = {}
    results: dict[str, list[Array]] = {}

    def watched(name: str, function: Operator) -> Operator:
        def call(*arguments: Array) -> Array:
            operands.setdefault(name, arguments)
            result = function(*arguments)
            if name in keep:
                results.setdefault(name, []).append(result)
            return result

        return call

    wrapped = {name: watched(name, function) for name, function in vars(ops).items() if function is not None}
    logits = step(replace(ops, **wrapped), weights, inputs)
    return Captured(operands, results, logits)


def operator_of(part: str) -> str:
    """The operator that is this part."""
    return next(name for name, named in PARTS.items() if named == part)


def freed(ops: Operators, part: str, results: list[Array]) -> Operators:
    """The operators with one that only hands out what it gave before.

    Args:
        ops: what to change.
        part: that is to be free.
        results: of all its calls in one run of what the operators are used for, in order.
    """
    before = cycle(results)

    def replay(*_arguments: Array) -> Array:
        return next(before)

    return replace(ops, **{operator_of(part): replay})
