"""What the samples of `ops` say: a pure function of manifest and samples.

The reference arm's step has a ledger at each length (`build_ledger`): parts + residual = step in integers, shares of
the step measured at that very length. Arms and freed parts are paired with it inside rounds, and shown as the
reference times the ratio of the pairs, so that times and changes say the same. Nothing is subtracted across runs, and
the parts of `full_attention` are never added to those of the step.
"""

from collections.abc import Mapping, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from perstep.experiments.ops.findings import (
    ArmFound,
    AttentionFound,
    Estimate,
    Found,
    Gain,
    LengthFound,
    OperatorFound,
    OpsFindings,
    Scaling,
    WhatIf,
)
from perstep.experiments.ops.operators import OUTSIDE_LAYER
from perstep.experiments.ops.plan import MASK_PARTS
from perstep.experiments.ops.samples import (
    LengthSample,
    Sample,
    alone_ns,
    at_lengths,
    attention_ns,
    kind_of_length,
    layer_ns,
    stack,
)
from perstep.experiments.ops.scaling import degree_of, scaling
from perstep.machine import summarise_noise
from perstep.measure import Ledger, LedgerSamples, build_ledger
from perstep.runs import Manifest
from perstep.stats import Change, ledger_estimate, median, paired_change, share_interval, step_estimate

Rounds = NDArray[np.float64]


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> OpsFindings:
    """The findings: a pure function of manifest and samples.

    Raises:
        InputError: there are no samples, or rounds that do not hold the same steps and parts.
        InvalidMeasurement: a step's parts do not add up to it.
    """
    conditions = manifest.conditions
    found = [
        _length(seq, rounds, manifest.workload["past"], conditions["mark_ns"], conditions["own"])
        for seq, rounds in at_lengths(samples).items()
    ]
    reasons = [f"{length.ledger.kind}: {length.ledger.invalid}" for length in found if length.ledger.invalid]
    return OpsFindings(
        reference=conditions["arm"],
        lengths=found,
        scaling=_scaling(samples, conditions["arm"], manifest.workload["past"]),
        noise=summarise_noise(s.noise for s in samples),
        unresolved=_unresolved(found, conditions["precision"]),
        invalid="; ".join(reasons),
    )


def _length(seq: int, rounds: Sequence[LengthSample], past: int, mark_ns: float, own: Sequence[str]) -> LengthFound:
    reference, *others = rounds[0].arms
    samples = stack(rounds, reference)
    ledger = build_ledger(kind_of_length(seq), samples, mark_ns=mark_ns)
    in_layers = layer_ns(rounds)
    layers = _estimate(_rounds(in_layers), ns=step_estimate(_rows(in_layers)))
    covered = sum(int(samples.parts[name].sum()) for name in samples.parts if name not in OUTSIDE_LAYER)
    parts_ns = sum(part.ns for name, part in ledger.parts.items() if name not in OUTSIDE_LAYER)
    attention = _attention(rounds, reference)
    return LengthFound(
        seq=seq,
        keys=past + seq,
        ledger=ledger,
        layers=layers,
        residual_share_of_layers=ledger.residual_ns_total / (covered + ledger.residual_ns_total),
        operators={name: _operator(name, rounds, samples, ledger, parts_ns) for name in ledger.parts},
        own={name: _estimate(alone_ns(rounds, name)[0]) for name in own},
        attention=attention,
        arms={
            name: _arm(rounds, samples, ledger.step_ns, name, len(others)) for name in others if not name.endswith("=0")
        },
        what_if={
            name.removesuffix("=0"): _what_if(name, rounds, samples, ledger, attention)
            for name in others
            if name.endswith("=0")
        },
        largest=ledger.largest[0] if len(ledger.largest) == 1 else "",
    )


def _operator(
    name: str, rounds: Sequence[LengthSample], samples: LedgerSamples, ledger: Ledger, layers_ns: float
) -> OperatorFound:
    part = ledger.parts[name]
    alone, having = alone_ns(rounds, name)
    ratio = None
    if alone.size:
        one_occurrence = _rounds(samples.parts[name])[having] / part.marks_per_step
        ratio = paired_change(alone, one_occurrence, comparisons=len(ledger.parts))
    low, high = (None, None) if ratio is None else (ratio.ci_low, ratio.ci_high)
    return OperatorFound(
        in_place=Estimate(ns=part.ns, ci_low_ns=part.ci_low, ci_high_ns=part.ci_high),
        share_of_step=part.share,
        share_of_layer=None if name in OUTSIDE_LAYER else part.ns / layers_ns,
        calls_per_step=part.marks_per_step,
        alone=_estimate(alone, len(ledger.parts)) if alone.size else None,
        in_place_over_alone=None if ratio is None or ratio.estimate is None else 1 + ratio.estimate,
        ratio_ci_low=None if low is None else 1 + low,
        ratio_ci_high=None if high is None else 1 + high,
    )


def _attention(rounds: Sequence[LengthSample], arm: str) -> dict[str, AttentionFound]:
    """Every way of doing `full_attention`, the reference arm's first; one query has no cached mask, and no other."""
    names = list(rounds[0].attention)
    reference = arm if arm in names else names[0]
    names.sort(key=lambda name: name != reference)
    whole = attention_ns(rounds, reference)
    mask = attention_ns(rounds, reference, MASK_PARTS)
    found = {}
    for name in names:
        parts = rounds[0].attention[name].marked.parts
        other, other_mask = attention_ns(rounds, name), attention_ns(rounds, name, MASK_PARTS)
        has_mask = all(part in parts for part in MASK_PARTS)
        change = None if name == reference else _change(whole, other, len(names) - 1)
        of_mask = _change(mask, other_mask, len(names) - 1) if change and has_mask and mask.all() else None
        found[name] = AttentionFound(
            whole=_paired(median(whole), change) if change else _estimate(whole),
            parts_ns={part: median(attention_ns(rounds, name, [part])) for part in parts},
            mask=(_paired(median(mask), of_mask) if of_mask else _estimate(other_mask)) if has_mask else None,
            against_reference=Found.of(change) if change else None,
            mask_against_reference=Found.of(of_mask) if of_mask else None,
        )
    return found


def _arm(
    rounds: Sequence[LengthSample], reference: LedgerSamples, reference_ns: float, name: str, others: int
) -> ArmFound:
    arm = stack(rounds, name)
    change = _change(_rounds(reference.step_ns), _rounds(arm.step_ns), others)
    step = _paired(reference_ns, change)
    found = ledger_estimate(_rows(arm.step_ns), {part: _rows(ns) for part, ns in arm.parts.items()})
    return ArmFound(
        step=step,
        parts_ns={part: found.share(part) * step.ns for part in found.parts_ns},
        against_reference=Found.of(change),
    )


def _paired(reference_ns: float, change: Change) -> Estimate:
    """What is compared with a reference, as the pairs have it: the reference times the ratio."""
    low, ns, high = (
        None if end is None else reference_ns * (1 + end) for end in (change.ci_low, change.estimate, change.ci_high)
    )
    return Estimate(ns=reference_ns if ns is None else ns, ci_low_ns=low, ci_high_ns=high)


def _what_if(
    name: str,
    rounds: Sequence[LengthSample],
    reference: LedgerSamples,
    ledger: Ledger,
    attention: Mapping[str, AttentionFound],
) -> WhatIf:
    part = name.removesuffix("=0")
    own = ledger.parts[part]
    freed = stack(rounds, name)
    in_step_own = Estimate(ns=own.ns, ci_low_ns=own.ci_low, ci_high_ns=own.ci_high)
    own_in_attention = in_attention = None
    if name in attention:
        way = next(iter(attention))
        own_in_attention = _estimate(attention_ns(rounds, way, [part]))
        change = _change(attention_ns(rounds, way), attention_ns(rounds, name), len(attention) - 1)
        in_attention = _gain(change, attention[way].whole.ns, own_in_attention)
    return WhatIf(
        part=part,
        own=in_step_own,
        share_of_step=own.share,
        own_in_attention=own_in_attention,
        in_step=_gain(_change(_rounds(reference.step_ns), _rounds(freed.step_ns), 1), ledger.step_ns, in_step_own),
        in_attention=in_attention,
    )


def _gain(change: Change, ns: float, own: Estimate) -> Gain:
    """A change of what takes `ns`, turned about: what is saved, in time, beside the part's own time."""
    low = None if change.ci_high is None else -change.ci_high * ns
    high = None if change.ci_low is None else -change.ci_low * ns
    return Gain(
        ns=-(change.estimate or 0.0) * ns,
        ci_low_ns=low,
        ci_high_ns=high,
        share=-(change.estimate or 0.0),
        verdict=change.label,
        reason=change.reason,
        within_own=_within(low, high, own.ci_high_ns),
    )


def _within(low: float | None, high: float | None, most: float | None) -> bool | None:
    if low is None or high is None or most is None:
        return None
    return True if high <= most else False if low > most else None


def _scaling(samples: Sequence[Sample], arm: str, past: int) -> dict[str, Scaling]:
    """Of each part in its place, one occurrence, and of all layers."""
    costs: dict[str, dict[int, Rounds]] = {}
    for seq, rounds in at_lengths(samples).items():
        for name, ns in stack(rounds, arm).parts.items():
            costs.setdefault(name, {})[seq] = _rounds(ns)
        costs.setdefault("layers", {})[seq] = _rounds(layer_ns(rounds))
    found = {name: scaling(by_seq, _degree(name, past)) for name, by_seq in costs.items() if _positive(by_seq)}
    return {name: scaled for name, scaled in found.items() if scaled is not None}


def _degree(name: str, past: int) -> int:
    return 2 if name == "layers" else degree_of(name, past)


def _positive(by_seq: Mapping[int, Rounds]) -> bool:
    return all((rounds > 0).all() for rounds in by_seq.values())


def _unresolved(found: Sequence[LengthFound], precision: float | None) -> str:
    widest = max(found, key=lambda length: length.ledger.resolved().half_width)
    now = widest.ledger.resolved()
    if now.half_width == inf:
        return (
            f"not every part has an interval at S = {widest.seq}: {widest.ledger.rounds} rounds are too few, or"
            " resemble their neighbours too much; give a longer --budget, or more --rounds"
        )
    if precision is not None and now.half_width > precision:
        return (
            f"the widest interval, at S = {widest.seq}, is ±{now.half_width:.2%} of the step, ±{precision:.2%} was"
            " asked for; give a longer --budget, or more --rounds"
        )
    return ""


def _change(reference: Rounds, other: Rounds, comparisons: int) -> Change:
    return paired_change(reference, other, comparisons=max(comparisons, 1))


def _estimate(rounds: Rounds, comparisons: int = 1, *, ns: float | None = None) -> Estimate:
    """The median over rounds, or another estimate, and its interval."""
    ns = median(rounds) if ns is None else ns
    found = share_interval(rounds, np.ones(len(rounds)), estimate=ns, comparisons=comparisons)
    return Estimate(ns=ns, ci_low_ns=found.low if found else None, ci_high_ns=found.high if found else None)


def _rounds(ns: NDArray[np.int64]) -> Rounds:
    """[rounds, steps, 1] → the mean of each round, [rounds]."""
    return np.asarray(ns.mean(axis=(1, 2)), np.float64)


def _rows(ns: NDArray[np.int64]) -> NDArray[np.int64]:
    return ns.reshape(-1, ns.shape[-1])
