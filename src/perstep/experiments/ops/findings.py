"""What `ops` found: `results.json`. Records only; `analysis` makes them, `shown` and `pictures` show them."""

import msgspec

from perstep.machine import NoiseSummary
from perstep.measure import Ledger
from perstep.stats import Change, CostFit


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A duration with its 95 % interval; the ends are None where there are too few rounds for one."""

    ns: float
    ci_low_ns: float | None
    ci_high_ns: float | None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A change against the reference, 0.031 is 3.1 % slower, with its 95 % interval and verdict."""

    change: float | None
    ci_low: float | None
    ci_high: float | None
    mde: float | None
    verdict: str
    reason: str

    @classmethod
    def of(cls, change: Change) -> "Found":
        """As it is shown."""
        return cls(
            change=change.estimate,
            ci_low=change.ci_low,
            ci_high=change.ci_high,
            mde=change.mde,
            verdict=change.label,
            reason=change.reason,
        )


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
    against_reference: Found | None
    mask_against_reference: Found | None


class ArmFound(msgspec.Struct, frozen=True, kw_only=True):
    """A whole step with another mask.

    Attributes:
        step: instrumented: the reference's that it is compared with, times the ratio of the pairs.
        parts_ns: its parts, at one pace (law 9), by their share of that step.
        against_reference: how the step differs from the reference arm's.
    """

    step: Estimate
    parts_ns: dict[str, float]
    against_reference: Found


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """What is saved when a part costs nothing, measured.

    Attributes:
        ns: the reference minus the arm in which the part's result was there before.
        ci_low_ns: lower end of its interval.
        ci_high_ns: upper end.
        share: of the reference.
        verdict: whether the arm is faster.
        reason: why, in words.
        within_own: whether it is no more than the part's own time: True where its upper end is not above that of the
            part, False where its lower end is, None where the intervals do not tell.
    """

    ns: float
    ci_low_ns: float | None
    ci_high_ns: float | None
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


class Exponent(msgspec.Struct, frozen=True, kw_only=True):
    """The exponent of a cost between two lengths: 0 constant, 1 linear, 2 quadratic."""

    from_seq: int
    to_seq: int
    exponent: float
    ci_low: float | None
    ci_high: float | None


class Regime(msgspec.Struct, frozen=True, kw_only=True):
    """A change of regime.

    Attributes:
        from_seq: it lies between this length
        to_seq: and this one; at the length itself where both are the same.
        why: what gave it away.
    """

    from_seq: int
    to_seq: int
    why: str


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """How an operator in its place grows with the number of new tokens.

    Attributes:
        degree: the highest exponent that its formula has.
        local: between neighbouring lengths.
        fitted: over each stretch without a change of regime.
        changes: of regime.
        fit: constant, linear and quadratic term, judged on held-out lengths; None with fewer than seven lengths, or
            across a change of regime.
    """

    degree: int
    local: list[Exponent]
    fitted: list[Exponent]
    changes: list[Regime]
    fit: CostFit | None


class OpsFindings(msgspec.Struct, frozen=True, kw_only=True):
    """`results.json`."""

    reference: str
    lengths: list[LengthFound]
    scaling: dict[str, Scaling]
    noise: NoiseSummary
    unresolved: str
    invalid: str
