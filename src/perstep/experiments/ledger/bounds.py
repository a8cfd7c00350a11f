"""The bounds beside a ledger: what theory says of each part, from ceilings measured in the ledger's own rounds.

A bound belongs to a part by its name; parts of transformers models that hold several of theory's (`attn.core`: scores,
mask, softmax and weighted sum) get their sum. What has no formula (processors, criteria, bookkeeping) has no bound.

A bound bounds (law "a bound bounds"): it is made of the best round of each ceiling. A part that is faster anyway
has none: its data were nearer than theory takes them to be, or its calls cheaper than the mean. Where that cannot be,
because it was faster than its bytes or products at the best rounds, or where the whole step was, the ceilings are wrong
and judge nothing; nor do ceilings from which the processor was taken away.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from perstep._words import short
from perstep.experiments.bounds import BACKENDS, BEATEN, EXCEEDED, backend_for, rates_between, sweep_for
from perstep.experiments.ledger.samples import Bounded, Workload
from perstep.machine import CeilingSweep, SweepCeilings
from perstep.measure import Ledger
from perstep.report.format import duration, percent, significant
from perstep.report.ledger import BoundColumns
from perstep.report.page import Roofline, Spot
from perstep.targets import Target
from perstep.theory import (
    PARTS,
    Cost,
    Precision,
    Rates,
    StepBound,
    StepCost,
    binding_terms,
    decode,
    prefill,
    roofline_ns,
    shape_of,
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
"""Contexts of the trace over which the bound of a decode step is a mean: it is all but linear between them."""


OR = " or "
"""Between the terms that may bind."""
_INTERVAL = "Bounds use the best round of each ceiling. With the median rounds they would be up to {} higher."
_TERMS = {
    "call overhead": "Call overhead is the time that calling the library's functions takes.",
    "BLAS packing": "BLAS packing is the copying of weights that a library does before some products.",
}


class PartBound(msgspec.Struct, frozen=True):
    """The least time of a part in a step.

    Attributes:
        bound_ns: max(FLOPs / peak, bytes / bandwidth) + calls x cost of a call, at the best round of each ceiling; None
            where it is withdrawn.
        typical_ns: the same at the medians of their rounds.
        binds: the largest of its terms, or each that may be the largest within the intervals of the ceilings.
        withdrawn: why there is no bound, or empty.
    """

    bound_ns: float | None
    typical_ns: float | None
    binds: str
    withdrawn: str = ""


class LedgerBounds(msgspec.Struct, frozen=True):
    """The bounds of one kind of step.

    Attributes:
        parts: of the ledger's parts that have a formula.
        step_ns: of the whole step, without the parts whose bound is withdrawn; None where all are.
        level: the size of the set that weights and cache were taken to come from.
        withdrawn: what was faster, in sentences.
    """

    parts: dict[str, PartBound]
    step_ns: float | None
    level: str
    withdrawn: list[str] = []

    @property
    def interval(self) -> float:
        """By how much a bound would be longer at the medians of the ceilings, at most; 0 without a bound."""
        pairs = [(p.bound_ns, p.typical_ns) for p in self.parts.values() if p.bound_ns and p.typical_ns]
        return max((typical / bound - 1 for bound, typical in pairs), default=0.0)


def columns_of(bounds: Mapping[str, LedgerBounds]) -> dict[str, BoundColumns]:
    """The bounds as a ledger's table takes them, by kind of step."""
    return {
        kind: BoundColumns(
            {name: part.bound_ns for name, part in each.parts.items()},
            {name: part.withdrawn or part.binds for name, part in each.parts.items()},
            each.step_ns,
            [
                *([_INTERVAL.format(percent(each.interval))] if each.step_ns is not None else []),
                *(words for term, words in _TERMS.items() if any(term in part.binds for part in each.parts.values())),
                *each.withdrawn,
            ],
        )
        for kind, each in bounds.items()
    }


def bounded_by(target: Target) -> Bounded:
    """What bounds need to know of a target; empty where theory has no formula, or not for its layers."""
    config = target.config
    if shape_of(config) is None:
        return Bounded()
    if why := target.unknown_arithmetic:
        return Bounded(unknown=why)
    return Bounded(config, target.theory.name, target.facts["dtype"])


class Ceilings:
    """The ceiling sweep of a ledger, and what `bounds_of` needs to know about the target.

    Args:
        target: the model.
        prompt_tokens: of the prefill.
        new_tokens: one prefill and N - 1 decode steps.
        batch: sequences.
        threads: in force.
    """

    def __init__(self, target: Target, *, prompt_tokens: int, new_tokens: int, batch: int, threads: int) -> None:
        self.conditions = bounded_by(target) if target.device == "cpu" else Bounded()
        self._sweep: CeilingSweep | None = None
        if not self.conditions.config:
            return
        by_kind = step_costs(self.conditions, prompt_tokens=prompt_tokens, new_tokens=new_tokens, batch=batch)
        costs = [cost for costs in by_kind.values() for cost in costs]
        self._sweep = sweep_for(costs, library=target.library, threads=threads)

    def measure(self) -> dict[str, float]:
        """One timing of every ceiling; nothing where theory has no formula, or the step is not the processor's."""
        return {} if self._sweep is None else self._sweep.measure()


def step_costs(bounded: Bounded, *, prompt_tokens: int, new_tokens: int, batch: int) -> dict[str, list[StepCost]]:
    """Kind -> the costs of its steps, at up to 16 contexts of the trace."""
    shape = shape_of(bounded.config)
    if shape is None:
        return {}
    backend, precision = backend_for(BACKENDS[bounded.backend], shape), Precision.all(bounded.dtype)
    costs = {"prefill": [step_cost(shape, prefill(prompt_tokens, batch=batch), precision, backend)]}
    if new_tokens > 1:
        contexts = np.unique(np.linspace(prompt_tokens, prompt_tokens + new_tokens - 2, MOST_CONTEXTS).astype(int))
        costs["decode"] = [step_cost(shape, decode(int(S), batch=batch), precision, backend) for S in contexts]
    return costs


def bounds_of(
    bounded: Bounded, workload: Workload, ceilings: SweepCeilings | None, ledgers: Mapping[str, Ledger]
) -> dict[str, LedgerBounds]:
    """The bounds of each kind of step; nothing for a run without ceilings, or where they judge nothing.

    Args:
        bounded: what is known of the target.
        workload: of a ledger run.
        ceilings: of its rounds.
        ledgers: by kind of step.
    """
    if not bounded.config or ceilings is None or ceilings.why_no_bounds():
        return {}
    rates, w = rates_between(ceilings, bounded.dtype), workload
    costs = step_costs(bounded, prompt_tokens=w.prompt_tokens, new_tokens=w.new_tokens, batch=w.batch)
    by_kind = {}
    for kind, steps in costs.items():
        if kind in ledgers:
            least, typical = ([step_bound(cost, each) for cost in steps] for each in rates)
            bounds = {name: _part(name, least, typical) for name in ledgers[kind].parts}
            roofs = {name: _roof(name, steps, rates[0], bounded.dtype) for name in bounds}
            step_ns = _mean([bound.bound_ns for bound in least])
            present = {name: bound for name, bound in bounds.items() if bound is not None}
            by_kind[kind] = _judged(ledgers[kind], present, roofs, step_ns, least[-1].level)
    return by_kind


def spots_of(bounded: Bounded, workload: Workload, ceilings: SweepCeilings | None, ledger: Ledger) -> Roofline | None:
    """Where the parts of a ledger stand under the best rounds of the ceilings; None where nothing is judged.

    Args:
        bounded: what is known of the target.
        workload: of a ledger run.
        ceilings: of its rounds.
        ledger: of one kind of step.
    """
    if not bounded.config or ceilings is None or ceilings.why_no_bounds():
        return None
    w, rates = workload, rates_between(ceilings, bounded.dtype)[0]
    costs = step_costs(bounded, prompt_tokens=w.prompt_tokens, new_tokens=w.new_tokens, batch=w.batch)
    spots = []
    for name, part in ledger.parts.items():
        names = FUSED.get(name, (name,))
        steps = [sum((step.parts[one] for one in names if one in step.parts), Cost()) for step in costs[ledger.kind]]
        operations, moved = (_mean([getattr(step, what) for step in steps]) for what in ("flops", "total_bytes"))
        if operations and moved and part.ns:
            words = f"{significant(operations / part.ns)} G operations/s; {significant(moved / part.ns)} GB/s"
            spots.append(Spot(name, operations / moved, 1e9 * operations / part.ns, words))
    if not spots:
        return None
    sizes = ceilings.best.read_gb_s
    roofs = {f"{short(size / 1e6, 3)} MB": 1e9 * sizes[size] for size in {min(sizes), max(sizes)}}
    return Roofline(
        title=f"Where the parts of a {ledger.kind} step stand under this machine's ceilings",
        peak_per_s=rates.peak_flops[bounded.dtype],
        roofs=roofs,
        spots=spots,
        note=(
            "Operations and bytes are counted from shapes; times are measured. The lines are the best rounds of reading"
            f" a set of {' and of '.join(roofs)}, and of matrix products. The cost of library calls is not in them."
        ),
    )


def _judged(
    ledger: Ledger, bounds: Mapping[str, PartBound], roofs: Mapping[str, float], step_ns: float, level: str
) -> LedgerBounds:
    """The bounds of a ledger's parts, without those that its own times prove wrong.

    Args:
        ledger: what was measured.
        bounds: of its parts.
        roofs: what no part can be faster than at the best of the ceilings.
        step_ns: the bound of the whole step.
        level: that weights and cache were taken to come from.
    """
    took = {name: ledger.parts[name].ns for name in bounds}
    beaten = [name for name, bound in bounds.items() if took[name] < (bound.bound_ns or 0.0)]
    left_ns = step_ns - sum(bounds[name].bound_ns or 0.0 for name in beaten)
    faster = [f"{name} took {duration(took[name])}, less than the minimum of {duration(roofs[name])}" for name in bounds
              if took[name] < roofs[name]]  # fmt: skip
    if ledger.plain_step_ns is not None and ledger.plain_step_ns < left_ns:
        faster.append(f"the step took {duration(ledger.plain_step_ns)}, less than the minimum of {duration(left_ns)}")
    if faster:
        gone = {name: PartBound(None, None, "", EXCEEDED) for name in bounds}
        return LedgerBounds(gone, None, level, [f"Bounds: {EXCEEDED}: {'; '.join(faster)}."])
    kept = {name: PartBound(None, None, "", BEATEN) if name in beaten else bound for name, bound in bounds.items()}
    said = [f"Faster than the bound, because data were nearer or calls cheaper than assumed: {', '.join(beaten)}."]
    return LedgerBounds(kept, left_ns, level, said if beaten else [])


def _roof(name: str, steps: Sequence[StepCost], rates: Rates, dtype: str) -> float:
    """What the pure roofline says of the parts of theory that lie in this one."""
    names = FUSED.get(name, (name,))
    return _mean(
        [sum(roofline_ns(step.parts[part], rates, dtype) for part in names if part in step.parts) for step in steps]
    )


def _part(name: str, least: Sequence[StepBound], typical: Sequence[StepBound]) -> PartBound | None:
    """The mean over steps of the sum of theory's parts that lie in this one."""
    names = [part for part in FUSED.get(name, (name,)) if part in least[-1].parts]
    if not names:
        return None
    largest = max(names, key=lambda part: least[-1].parts[part].bound_ns)
    return PartBound(
        _mean([sum(step.parts[part].bound_ns for part in names) for step in least]),
        _mean([sum(step.parts[part].bound_ns for part in names) for step in typical]),
        OR.join(binding_terms(least[-1].parts[largest], typical[-1].parts[largest])),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
