"""What the samples of `ops` say: a pure function of manifest and samples.

The reference arm's step has a ledger at each length (`build_ledger`): parts + residual = step in integers, shares of
the step measured at that very length. Arms and freed parts are paired with it inside rounds, and shown as the
reference times the ratio of the pairs, so that times and changes say the same. Nothing is subtracted across runs, and
the parts of `full_attention` are never added to those of the step.
"""

from collections.abc import Mapping, Sequence
from math import inf

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.experiments.columns import too_few, why_unresolved
from perstep.experiments.conditions import typed
from perstep.experiments.ops.plan import MASK_PARTS
from perstep.experiments.ops.samples import (
    Conditions,
    LengthSample,
    Sample,
    Workload,
    alone_ns,
    at_lengths,
    attention_ns,
    kind_of_length,
    layer_ns,
    stack,
)
from perstep.experiments.ops.scaling import Scaling, degree_of, scaling
from perstep.machine import NoiseSummary, summarise_noise
from perstep.measure import Ledger, LedgerSamples, build_ledger
from perstep.report.change import RelativeChange
from perstep.runs import Manifest
from perstep.stats import Change, ledger_estimate, median, paired_change, share_interval, step_estimate, withhold
from perstep.targets.operators.layer import OUTSIDE_LAYER


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A duration with its 95 % interval; the ends are None where there are too few rounds for one."""

    ns: float
    ci_low_ns: float | None
    ci_high_ns: float | None


class OperatorFound(msgspec.Struct, frozen=True, kw_only=True):
    """One operator at one length.

    Attributes:
        in_place: in its place in the step, all its occurrences together; a part of the ledger.
        share_of_step: of the instrumented step at this very length.
        share_of_layer: of the layers of that step; None for what stands outside of them.
        calls_per_step: occurrences.
        alone: one call, over and over with the operands it has in its place; None where that was not measured.
        in_place_over_alone: one occurrence in its place over one call alone.
        ratio_ci_low: lower end of its interval.
        ratio_ci_high: upper end.
    """

    in_place: Estimate
    share_of_step: float
    share_of_layer: float | None
    calls_per_step: float
    alone: Estimate | None
    in_place_over_alone: float | None
    ratio_ci_low: float | None
    ratio_ci_high: float | None


class AttentionFound(msgspec.Struct, frozen=True, kw_only=True):
    """The composite `full_attention`, done in one way.

    Attributes:
        whole: all of it; of another way than the reference's that one, times the ratio of the pairs.
        parts_ns: its parts in it.
        mask: building and applying the mask together, likewise; None where no mask exists.
        against_reference: how the whole differs from the reference's; None for the reference.
        mask_against_reference: how building and applying together do; None where there is no mask.
    """

    whole: Estimate
    parts_ns: dict[str, float]
    mask: Estimate | None
    against_reference: RelativeChange | None
    mask_against_reference: RelativeChange | None


class ArmFound(msgspec.Struct, frozen=True, kw_only=True):
    """A whole step with another mask.

    Attributes:
        step: instrumented: the reference's that it is compared with, times the ratio of the pairs.
        parts_ns: its parts, normalised by round speed (law "rounds are normalised by their speed"), by their share of
            that step.
        against_reference: how the step differs from the reference arm's.
    """

    step: Estimate
    parts_ns: dict[str, float]
    against_reference: RelativeChange


class Gain(Estimate, frozen=True, kw_only=True):
    """The time that a free part saves, measured: the reference minus the arm in which the part's result existed before.

    Attributes:
        share: of the reference.
        verdict: whether the arm is faster.
        reason: the reason for the verdict, in words.
        within_own: whether it is no more than the part's own time: True where its upper end is not above that of the
            part, False where its lower end is, None where the intervals do not tell.
    """

    share: float
    verdict: str
    reason: str
    within_own: bool | None


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """A part made free.

    Attributes:
        part: which.
        own: its exclusive time in the step. No bound of the gain: without the part others may take less too.
        share_of_step: of that.
        own_in_attention: its time in `full_attention`; None for a part outside of it.
        in_step: what the whole step gains.
        in_attention: what `full_attention` gains; None for a part outside of it.
    """

    part: str
    own: Estimate
    share_of_step: float
    own_in_attention: Estimate | None
    in_step: Gain
    in_attention: Gain | None


class LengthFound(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one length.

    Attributes:
        seq: new tokens.
        keys: held and new positions.
        ledger: of the reference arm's step.
        layers: all layers of the step, without instruments.
        residual_share_of_layers: what no part covered of all layers, summed up exactly over all instrumented steps.
        operators: part -> what it costs.
        own: the user's operators, alone.
        attention: way to mask, or part made free -> `full_attention`; the reference first.
        arms: the other arms' whole steps.
        what_if: parts made free.
        largest: the largest part; empty where that is not resolved.
    """

    seq: int
    keys: int
    ledger: Ledger
    layers: Estimate
    residual_share_of_layers: float
    operators: dict[str, OperatorFound]
    own: dict[str, Estimate]
    attention: dict[str, AttentionFound]
    arms: dict[str, ArmFound]
    what_if: dict[str, WhatIf]
    largest: str


class OpsFindings(msgspec.Struct, frozen=True, kw_only=True):
    """`results.json`."""

    reference: str
    lengths: list[LengthFound]
    scaling: dict[str, Scaling]
    noise: NoiseSummary
    unresolved: str
    invalid: str


Rounds = NDArray[np.float64]


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> OpsFindings:
    """The findings: a pure function of manifest and samples.

    Raises:
        InputError: there are no samples, or rounds that do not hold the same steps and parts.
        InvalidMeasurement: a step's parts do not add up to it.
    """
    conditions, past = typed(manifest, Conditions), typed(manifest, Workload).past
    noise = summarise_noise(s.noise for s in samples)
    lengths = [
        _length(seq, rounds, past, conditions.mark_ns, conditions.own, noise.busy)
        for seq, rounds in at_lengths(samples).items()
    ]
    reasons = [f"{length.ledger.kind}: {length.ledger.invalid}" for length in lengths if length.ledger.invalid]
    return OpsFindings(
        reference=conditions.arm,
        lengths=lengths,
        scaling=_scaling(samples, conditions.arm, past),
        noise=noise,
        unresolved=_unresolved(lengths, conditions.precision),
        invalid="; ".join(reasons),
    )


def _length(
    seq: int, rounds: Sequence[LengthSample], past: int, mark_ns: float, own: Sequence[str], busy: str
) -> LengthFound:
    reference, *others = rounds[0].arms
    samples = stack(rounds, reference)
    ledger = build_ledger(kind_of_length(seq), samples, mark_ns=mark_ns)
    in_layers = layer_ns(rounds)
    layers = _estimate(_rounds(in_layers), ns=step_estimate(_rows(in_layers)))
    covered = sum(int(samples.parts[name].sum()) for name in samples.parts if name not in OUTSIDE_LAYER)
    parts_ns = sum(part.ns for name, part in ledger.parts.items() if name not in OUTSIDE_LAYER)
    attention = _attention(rounds, reference, busy)
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
            name: _arm(rounds, samples, ledger.step_ns, name, len(others), busy)
            for name in others
            if not name.endswith("=0")
        },
        what_if={
            name.removesuffix("=0"): _what_if(name, rounds, samples, ledger, attention, busy)
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


def _attention(rounds: Sequence[LengthSample], arm: str, busy: str) -> dict[str, AttentionFound]:
    """Every way of doing `full_attention`, the reference arm's first; one query has no cached mask, and no other."""
    names = list(rounds[0].attention)
    reference = arm if arm in names else names[0]
    names.sort(key=lambda name: name != reference)
    whole = attention_ns(rounds, reference)
    mask = attention_ns(rounds, reference, MASK_PARTS)
    by_name = {}
    for name in names:
        parts = rounds[0].attention[name].marked.parts
        other, other_mask = attention_ns(rounds, name), attention_ns(rounds, name, MASK_PARTS)
        has_mask = all(part in parts for part in MASK_PARTS)
        change = None if name == reference else _change(whole, other, len(names) - 1, busy)
        of_mask = _change(mask, other_mask, len(names) - 1, busy) if change and has_mask and mask.all() else None
        by_name[name] = AttentionFound(
            whole=_paired(median(whole), change) if change else _estimate(whole),
            parts_ns={part: median(attention_ns(rounds, name, [part])) for part in parts},
            mask=(_paired(median(mask), of_mask) if of_mask else _estimate(other_mask)) if has_mask else None,
            against_reference=RelativeChange.of(change) if change else None,
            mask_against_reference=RelativeChange.of(of_mask) if of_mask else None,
        )
    return by_name


def _arm(
    rounds: Sequence[LengthSample], reference: LedgerSamples, reference_ns: float, name: str, others: int, busy: str
) -> ArmFound:
    arm = stack(rounds, name)
    change = _change(_rounds(reference.step_ns), _rounds(arm.step_ns), others, busy)
    step = _paired(reference_ns, change)
    ledger = ledger_estimate(_rows(arm.step_ns), {part: _rows(ns) for part, ns in arm.parts.items()})
    return ArmFound(
        step=step,
        parts_ns={part: ledger.share(part) * step.ns for part in ledger.parts_ns},
        against_reference=RelativeChange.of(change),
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
    busy: str,
) -> WhatIf:
    part = name.removesuffix("=0")
    own = ledger.parts[part]
    freed = stack(rounds, name)
    in_step_own = Estimate(ns=own.ns, ci_low_ns=own.ci_low, ci_high_ns=own.ci_high)
    own_in_attention = in_attention = None
    if name in attention:
        way = next(iter(attention))
        own_in_attention = _estimate(attention_ns(rounds, way, [part]))
        change = _change(attention_ns(rounds, way), attention_ns(rounds, name), len(attention) - 1, busy)
        in_attention = _gain(change, attention[way].whole.ns, own_in_attention)
    return WhatIf(
        part=part,
        own=in_step_own,
        share_of_step=own.share,
        own_in_attention=own_in_attention,
        in_step=_gain(
            _change(_rounds(reference.step_ns), _rounds(freed.step_ns), 1, busy), ledger.step_ns, in_step_own
        ),
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
    by_part = {name: scaling(by_seq, _degree(name, past)) for name, by_seq in costs.items() if _positive(by_seq)}
    return {name: scaled for name, scaled in by_part.items() if scaled is not None}


def _degree(name: str, past: int) -> int:
    return 2 if name == "layers" else degree_of(name, past)


def _positive(by_seq: Mapping[int, Rounds]) -> bool:
    return all((rounds > 0).all() for rounds in by_seq.values())


def _unresolved(lengths: Sequence[LengthFound], precision: float | None) -> str:
    widest = max(lengths, key=lambda length: length.ledger.resolved().half_width)
    half_width, at = widest.ledger.resolved().half_width, f"at S = {widest.seq}"
    missing = f"not every part has an interval {at}: {too_few(widest.ledger.rounds)}" if half_width == inf else ""
    return why_unresolved(missing, half_width, precision, widest=at)


def _change(reference: Rounds, other: Rounds, comparisons: int, busy: str) -> Change:
    """The change, without interval and verdict where the machine was busy, and why."""
    return withhold(paired_change(reference, other, comparisons=max(comparisons, 1)), busy)


def _estimate(rounds: Rounds, comparisons: int = 1, *, ns: float | None = None) -> Estimate:
    """The median over rounds, or another estimate, and its interval."""
    ns = median(rounds) if ns is None else ns
    interval = share_interval(rounds, np.ones(len(rounds)), estimate=ns, comparisons=comparisons)
    return Estimate(ns=ns, ci_low_ns=interval.low if interval else None, ci_high_ns=interval.high if interval else None)


def _rounds(ns: NDArray[np.int64]) -> Rounds:
    """[rounds, steps, 1] → the mean of each round, [rounds]."""
    return np.asarray(ns.mean(axis=(1, 2)), np.float64)


def _rows(ns: NDArray[np.int64]) -> NDArray[np.int64]:
    return ns.reshape(-1, ns.shape[-1])
