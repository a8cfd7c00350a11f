"""How costs grow with the number of new tokens, and where the law of growth changes.

A cost that is a sum of a constant, a linear and a quadratic term has local exponents that never fall and never exceed
the highest one in its formula. Where an interval says otherwise something else has changed (a cache is left, threads
begin, the allocator asks for fresh pages, another kernel is chosen): that is marked, and no exponent is fitted across.
"""

from collections.abc import Mapping
from itertools import pairwise
from math import log

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.stats import CostFit, fit_cost, paired_change
from perstep.targets.operators.layer import FULL_ATTENTION


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


MARGIN = 0.15
"""How far an interval must lie beyond what the formula allows."""

CONSTANT = frozenset({"norm/final", "lm_head"})


def degree_of(part: str, past: int) -> int:
    """The highest exponent in the part's formula: scores grow with queries times keys.

    Args:
        part: by its name.
        past: positions held before, behind which new tokens count less.
    """
    if part in CONSTANT:
        return 0
    return 2 if part in FULL_ATTENTION and past == 0 else 1


def scaling(costs: Mapping[int, NDArray[np.float64]], degree: int) -> Scaling | None:
    """The growth of one cost.

    Args:
        costs: new tokens -> cost in each round, [rounds], the same rounds at each length.
        degree: the highest exponent that its formula has.

    Returns:
        None with fewer than two lengths.
    """
    seqs = sorted(costs)
    if len(seqs) < 2:
        return None
    pairs = list(pairwise(seqs))
    local = [_exponent(costs, a, b, len(pairs)) for a, b in pairs]
    changes = find_changes(local, degree)
    stretches = [_exponent(costs, a, b, len(pairs)) for a, b in _stretches(seqs, changes)]
    too_steep = [stretch for stretch in stretches if _exceeds(stretch, degree)]
    changes += [_too_steep(stretch) for stretch in too_steep]
    fitted = [stretch for stretch in stretches if stretch not in too_steep]
    return Scaling(degree=degree, local=local, fitted=fitted, changes=changes, fit=_fit(costs, changes))


def find_changes(local: list[Exponent], degree: int) -> list[Regime]:
    """Where exponents do what those of a polynomial cannot."""
    changes = []
    for index, here in enumerate(local):
        if here.ci_low is None or here.ci_high is None:
            continue
        if _exceeds(here, degree):
            changes.append(_too_steep(here))
        before = local[index - 1] if index else None
        if before is None or before.ci_low is None or _exceeds(before, degree):
            continue
        if here.ci_high < before.ci_low - MARGIN:
            why = f"the exponent falls from {before.exponent:.2f} to {here.exponent:.2f}"
            changes.append(Regime(from_seq=here.from_seq, to_seq=here.from_seq, why=why))
    return changes


def _exceeds(fitted: Exponent, degree: int) -> bool:
    return fitted.ci_low is not None and fitted.ci_low > degree + MARGIN


def _too_steep(fitted: Exponent) -> Regime:
    why = f"exponent {fitted.exponent:.2f} exceeds the formula's"
    return Regime(from_seq=fitted.from_seq, to_seq=fitted.to_seq, why=why)


def _stretches(seqs: list[int], changes: list[Regime]) -> list[tuple[int, int]]:
    """The longest runs of lengths without a change, of two lengths or more."""
    cuts = {(change.from_seq, change.to_seq) for change in changes}
    stretches, first = [], seqs[0]
    for a, b in pairwise(seqs):
        if (a, a) in cuts or (a, b) in cuts:
            if first < a:
                stretches.append((first, a))
            first = b if (a, b) in cuts else a
    if first < seqs[-1]:
        stretches.append((first, seqs[-1]))
    return stretches


def _exponent(costs: Mapping[int, NDArray[np.float64]], a: int, b: int, comparisons: int) -> Exponent:
    """The slope d log cost / d log tokens from a to b, paired inside rounds."""
    change = paired_change(costs[a], costs[b], comparisons=comparisons)
    octaves = log(b / a)
    return Exponent(
        from_seq=a,
        to_seq=b,
        exponent=_log(1 + (change.estimate or 0.0)) / octaves,
        ci_low=None if change.ci_low is None else _log(1 + change.ci_low) / octaves,
        ci_high=None if change.ci_high is None else _log(1 + change.ci_high) / octaves,
    )


def _log(ratio: float) -> float:
    return log(ratio) if 0 < ratio < np.inf else (np.inf if ratio > 0 else -np.inf)


def _fit(costs: Mapping[int, NDArray[np.float64]], changes: list[Regime]) -> CostFit | None:
    if changes:
        return None
    try:
        return fit_cost(list(costs), [float(np.median(rounds)) for rounds in costs.values()])
    except InputError:  # too few lengths
        return None
