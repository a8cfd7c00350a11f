"""The bounds beside a ledger: what theory says of each part, from ceilings measured in the ledger's own rounds.

A bound belongs to a part by its name; parts of transformers models that hold several of theory's (`attn.core`: scores,
mask, softmax and weighted sum) get their sum. What has no formula (processors, criteria, bookkeeping) has no bound.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from perstep.experiments.bounds import BACKENDS, backend_for, config_of, ladder_for, rates_from, shape_of
from perstep.machine import Ladder, LadderFigures, ladder_figures
from perstep.report.ledger import BoundColumns
from perstep.runs import Manifest
from perstep.targets import Opened
from perstep.theory import (
    PARTS,
    REFERENCE,
    TRANSFORMERS,
    TRANSFORMERS_EAGER,
    Bound,
    Precision,
    StepCost,
    decode,
    prefill,
    step_bound,
    step_cost,
)

FUSED: dict[str, tuple[str, ...]] = {
    "attn": ("attn.qkv", "attn.out"),
    "attn.core": ("attn.scores", "attn.mask.apply", "attn.softmax", "attn.pv"),
    "moe": ("mlp",),
    "forward": tuple(part for part in PARTS if part != "sample"),
}
"""Parts of transformers models that hold several of theory's; all others have its names."""
MOST_CONTEXTS = 16
"""The bound of a decode step is the mean over so many contexts of the trace: it is all but linear between them."""


class PartBound(msgspec.Struct, frozen=True):
    """The least time of a part in a step.

    Attributes:
        bound_ns: max(FLOPs / peak, bytes / bandwidth) + calls x cost of a call.
        binds: the largest of its terms.
    """

    bound_ns: float
    binds: str


class LedgerBounds(msgspec.Struct, frozen=True):
    """The bounds of one kind of step.

    Attributes:
        parts: of the ledger's parts that have a formula.
        step_ns: of the whole step.
        level: the size of the set that weights and cache were taken to come from.
    """

    parts: dict[str, PartBound]
    step_ns: float
    level: str


def columns_of(bounds: Mapping[str, LedgerBounds]) -> dict[str, BoundColumns]:
    """The bounds as a ledger's table takes them, by kind of step."""
    return {
        kind: BoundColumns(
            {name: part.bound_ns for name, part in each.parts.items()},
            {name: part.binds for name, part in each.parts.items()},
            each.step_ns,
        )
        for kind, each in bounds.items()
    }


class Ceilings:
    """The ladder that judges a ledger, and what `bounds_of` needs to know of the target.

    Args:
        opened: the model.
        prompt_tokens: of the prefill.
        new_tokens: one prefill and N - 1 decode steps.
        batch: sequences.
        threads: in force.
    """

    def __init__(self, opened: Opened, *, prompt_tokens: int, new_tokens: int, batch: int, threads: int) -> None:
        self.conditions: dict[str, Any] = {}
        self._ladder: Ladder | None = None
        config = config_of(opened)
        on_cpu = opened.backend == "numpy" or opened.model.device.type == "cpu"
        if shape_of(config) is None or not on_cpu:
            return
        self.conditions = {"config": config, "backend": _backend_name(opened), "dtype": opened.facts["dtype"]}
        by_kind = step_costs(self.conditions, prompt_tokens=prompt_tokens, new_tokens=new_tokens, batch=batch)
        costs = [cost for costs in by_kind.values() for cost in costs]
        self._ladder = ladder_for(costs, library="numpy" if opened.backend == "numpy" else "torch", threads=threads)

    def measure(self) -> dict[str, float]:
        """One timing of every ceiling; nothing where theory has no formula, or the step is not the processor's."""
        return {} if self._ladder is None else self._ladder.measure()


def step_costs(
    conditions: Mapping[str, Any], *, prompt_tokens: int, new_tokens: int, batch: int
) -> dict[str, list[StepCost]]:
    """Kind -> the costs of its steps, at up to 16 contexts of the trace."""
    shape = shape_of(conditions["config"])
    if shape is None:
        return {}
    backend, precision = backend_for(BACKENDS[conditions["backend"]], shape), Precision.all(conditions["dtype"])
    made = {"prefill": [step_cost(shape, prefill(prompt_tokens, batch=batch), precision, backend)]}
    if new_tokens > 1:
        contexts = np.unique(np.linspace(prompt_tokens, prompt_tokens + new_tokens - 2, MOST_CONTEXTS).astype(int))
        made["decode"] = [step_cost(shape, decode(int(S), batch=batch), precision, backend) for S in contexts]
    return made


def bounds_of(
    manifest: Manifest, rounds: Sequence[Mapping[str, float]], parts: Mapping[str, Sequence[str]]
) -> tuple[dict[str, LedgerBounds], LadderFigures | None]:
    """The bounds of each kind of step; nothing for a run without ceilings.

    Args:
        manifest: of a ledger run.
        rounds: what each round's ladder measured.
        parts: kind -> the names of the ledger's parts.
    """
    conditions = manifest.conditions.get("bounds")
    figures = ladder_figures([each for each in rounds if each])
    if not conditions or figures is None:
        return {}, None
    rates, w = rates_from(figures, conditions["dtype"]), manifest.workload
    costs = step_costs(conditions, prompt_tokens=w["prompt_tokens"], new_tokens=w["new_tokens"], batch=w["batch"])
    made = {}
    for kind, steps in costs.items():
        if kind not in parts:
            continue
        bounds = [step_bound(cost, rates) for cost in steps]
        found = {name: _part(name, [bound.parts for bound in bounds]) for name in parts[kind]}
        made[kind] = LedgerBounds(
            {name: bound for name, bound in found.items() if bound is not None},
            float(np.mean([bound.bound_ns for bound in bounds])),
            bounds[-1].level,
        )
    return made, figures


def _part(name: str, steps: Sequence[Mapping[str, Bound]]) -> PartBound | None:
    """The mean over steps of the sum of theory's parts that lie in this one."""
    held = [[step[part] for part in FUSED.get(name, (name,)) if part in step] for step in steps]
    if not held[-1]:
        return None
    largest = max(held[-1], key=lambda bound: bound.bound_ns)
    return PartBound(float(np.mean([sum(bound.bound_ns for bound in step) for step in held])), largest.binds)


def _backend_name(opened: Opened) -> str:
    if opened.backend == "numpy":
        return REFERENCE.name
    eager = opened.facts.get("attn_implementation") == "eager"
    return (TRANSFORMERS_EAGER if eager else TRANSFORMERS).name
