"""The costs of parts when others are present or absent: effects, interactions, Shapley values.

With up to four parts all 2^k combinations are measured (law "interactions are shown"). An effect is the mean change
when a part is added, over all combinations of the others. An interaction is the cost of two parts together beyond the
sum of their single costs; below 0 they share work or hide behind each other. Shapley values split the whole effect and
add up to it. Above four parts there are leave-one-out and add-one-in, and a part has a share only where the two agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from perstep._words import plural, short
from perstep.errors import InputError
from perstep.stats.bootstrap import Cells, Effect, estimate_cells, percentile_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

MAX_FACTORIAL_PARTS = 4
"""Parts of which all combinations are measured, 16 arms; above that each is left out and added by itself."""

_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class Factorial:
    """A full 2^k factorial, in the unit of the costs.

    Attributes:
        names: the k parts.
        cells: estimated cost by set of parts present.
        total: cost of all parts together: all present minus none present.
        effect: mean change when the part is added, over all combinations of the others.
        interaction: by tuple of names (in the order of `names`), for every two or more parts.
        shapley: the part's fair share of `total`; they add up to it.
        shapley_share: the same as a fraction of the cost with all parts present.
        leave_one_out: the time saved without the part, all others present.
        add_one_in: what adding the part costs, no other present.
        rounds: rounds measured.
        merged_by: adjacent rounds made one before resampling.
        reason: why there are no intervals; empty otherwise.
    """

    names: tuple[str, ...]
    cells: dict[frozenset[str], float]
    total: Effect
    effect: dict[str, Effect]
    interaction: dict[tuple[str, ...], Effect]
    shapley: dict[str, Effect]
    shapley_share: dict[str, Effect]
    leave_one_out: dict[str, Effect]
    add_one_in: dict[str, Effect]
    rounds: int
    merged_by: int
    reason: str


@dataclass(frozen=True, slots=True)
class SinglePart:
    """One part of many, left out alone and added alone.

    Attributes:
        leave_one_out: the time saved without it, all others present.
        add_one_in: what adding it costs, no other present.
        cost: their mean where they agree; None where they do not, or cannot be told apart.
        share: `cost` as a fraction of the cost with all parts present; None likewise.
        reason: why `cost` is None; empty otherwise.
    """

    leave_one_out: Effect
    add_one_in: Effect
    cost: Effect | None
    share: Effect | None
    reason: str


@dataclass(frozen=True, slots=True)
class OneAtATime:
    """Leave-one-out and add-one-in of every part, for more parts than a factorial can hold.

    Attributes:
        parts: by name.
        total: cost of all parts together: all present minus none present.
        unattributed: `total` minus the costs of the parts that have one.
        rounds: rounds measured.
        merged_by: adjacent rounds made one before resampling.
    """

    parts: dict[str, SinglePart]
    total: Effect
    unattributed: Effect
    rounds: int
    merged_by: int


def factorial_effects(
    costs: ArrayLike, names: Sequence[str], rng: np.random.Generator, *, confidence: float = 0.95
) -> Factorial:
    """Effects, interactions and Shapley shares of a full factorial, bootstrapped over rounds.

    Args:
        costs: [rounds, 2**k] above 0; part i is present in cell c if bit i of c is set, so
            that cell 0 has none and the last cell has all.
        names: the k parts, 1 to 4, in the order of the bits.
        rng: draws the rounds.
        confidence: of the intervals of one table (effects, interactions, ...) together.

    Raises:
        InputError: if names and shape do not fit, or a cost is not above 0.

    Source: Box, Hunter and Hunter, Statistics for Experimenters (2nd ed.), chapter 5; Shapley,
        A value for n-person games (1953).
    """
    num_parts, x = len(names), np.asarray(costs, dtype=np.float64)
    if not 1 <= num_parts <= MAX_FACTORIAL_PARTS or len(set(names)) != num_parts:
        raise InputError(f"parts {list(names)}; 1 to {MAX_FACTORIAL_PARTS} different names make a factorial")
    if x.ndim != 2 or x.shape[1] != 2**num_parts:
        raise InputError(
            f"costs of shape {x.shape}; for {plural(num_parts, 'part')} they must be [rounds, {2**num_parts}]"
        )
    full = 2**num_parts - 1
    cells = estimate_cells(x, full, rng)
    unit = np.eye(full + 1)
    single = {name: 1 << i for i, name in enumerate(names)}
    groups = [g for size in range(2, num_parts + 1) for g in combinations(range(num_parts), size)]
    shapley = {name: _shapley_contrast(i, num_parts) for i, name in enumerate(names)}
    return Factorial(
        names=tuple(names),
        cells={
            frozenset(n for n, bit in single.items() if cell & bit): float(cost)
            for cell, cost in enumerate(cells.estimate)
        },
        total=_effect(cells, unit[full] - unit[0], 1, confidence),
        effect=_effects(cells, {n: _interaction_contrast((i,), num_parts) for i, n in enumerate(names)}, confidence),
        interaction=_effects(
            cells,
            {tuple(names[i] for i in g): _interaction_contrast(g, num_parts) for g in groups},
            confidence,
        ),
        shapley=_effects(cells, shapley, confidence),
        shapley_share=_effects(_as_fraction(cells, full), shapley, confidence),
        leave_one_out=_effects(cells, {n: unit[full] - unit[full ^ b] for n, b in single.items()}, confidence),
        add_one_in=_effects(cells, {n: unit[b] - unit[0] for n, b in single.items()}, confidence),
        rounds=x.shape[0],
        merged_by=cells.merged_by,
        reason=cells.reason,
    )


def one_at_a_time(
    full: ArrayLike,
    none: ArrayLike,
    without: ArrayLike,
    only: ArrayLike,
    names: Sequence[str],
    rng: np.random.Generator,
    *,
    tolerance: float = 0.01,
    confidence: float = 0.95,
) -> OneAtATime:
    """Leave-one-out and add-one-in, with a share only where they agree.

    They agree if the interval of their difference lies within +-tolerance of the full cost;
    a difference that is merely not resolved is no agreement.

    Args:
        full: [rounds] cost with all parts.
        none: [rounds] cost without any.
        without: [rounds, k] cost with all but part i.
        only: [rounds, k] cost with part i alone.
        names: the k parts.
        rng: draws the rounds.
        tolerance: fraction of the full cost.
        confidence: of the intervals of one column together.

    Raises:
        InputError: if names and shapes do not fit, or a cost is not above 0.

    Source: the screen is that of ablation-guided Shapley values (captum, pull request 1897):
        leave-one-out misses redundancy, add-one-in misses synergy; a part on which both agree
        is additive.
    """
    columns = [np.asarray(c, dtype=np.float64) for c in (full, none, without, only)]
    rounds, k = columns[0].shape[0] if columns[0].ndim else 0, len(names)
    expected = [(rounds,), (rounds,), (rounds, k), (rounds, k)]
    if k == 0 or len(set(names)) != k or [c.shape for c in columns] != expected:
        raise InputError(
            f"costs of shapes {[c.shape for c in columns]}; for {plural(k, 'part')} they must be {expected}"
        )
    cells = estimate_cells(np.column_stack(columns), 0, rng)
    fractions = _as_fraction(cells, 0)
    unit = np.eye(2 + 2 * k)
    parts, left = {}, unit[0] - unit[1]
    for i, name in enumerate(names):
        taken, added = unit[0] - unit[2 + i], unit[2 + k + i] - unit[1]
        gap = _effect(fractions, taken - added, k, confidence)
        reason = _disagreement(gap, tolerance, cells.reason)
        middle = (taken + added) / 2
        if not reason:
            left = left - middle
        parts[name] = SinglePart(
            leave_one_out=_effect(cells, taken, k, confidence),
            add_one_in=_effect(cells, added, k, confidence),
            cost=None if reason else _effect(cells, middle, k, confidence),
            share=None if reason else _effect(fractions, middle, k, confidence),
            reason=reason,
        )
    total = _effect(cells, unit[0] - unit[1], 1, confidence)
    return OneAtATime(parts, total, _effect(cells, left, 1, confidence), rounds, cells.merged_by)


def _shapley_contrast(part: int, num_parts: int) -> NDArray[np.float64]:
    """Weights of the 2^k cells in a part's Shapley value: |S|! (k-|S|-1)! / k! before it joins S."""
    weights = np.zeros(2**num_parts)
    for cell in range(2**num_parts):
        if not cell >> part & 1:
            size = cell.bit_count()
            weight = factorial(size) * factorial(num_parts - size - 1) / factorial(num_parts)
            weights[cell] -= weight
            weights[cell | 1 << part] += weight
    return weights


def _interaction_contrast(group: tuple[int, ...], num_parts: int) -> NDArray[np.float64]:
    """Weights of the 2^k cells in the mean over the others of sum over L in the group of (-1)^(|group|-|L|) v(L).

    One part: its effect. Two: v(ij) - v(i) - v(j) + v(neither).
    """
    mask = sum(1 << i for i in group)
    signs = [(-1) ** (len(group) - (cell & mask).bit_count()) for cell in range(2**num_parts)]
    return np.asarray(signs, dtype=np.float64) / float(2 ** (num_parts - len(group)))


def _effects(cells: Cells, contrasts: dict[_K, NDArray[np.float64]], confidence: float) -> dict[_K, Effect]:
    return {key: _effect(cells, c, len(contrasts), confidence) for key, c in contrasts.items()}


def _effect(cells: Cells, contrast: NDArray[np.float64], comparisons: int, confidence: float) -> Effect:
    estimate = float(cells.estimate @ contrast)
    if cells.resampled is None:
        return Effect(estimate, None, None)
    low, high = percentile_interval(cells.resampled @ contrast, comparisons=comparisons, confidence=confidence)
    return Effect(estimate, low, high)


def _as_fraction(cells: Cells, full: int) -> Cells:
    """The same cells as fractions of the cost with all parts present."""
    resampled = None if cells.resampled is None else cells.resampled / cells.resampled[:, [full]]
    return Cells(cells.estimate / cells.estimate[full], resampled, cells.merged_by, cells.reason)


def _disagreement(gap: Effect, tolerance: float, no_interval: str) -> str:
    """Why leave-one-out and add-one-in do not give one number; empty if they do."""
    if gap.ci_low is None or gap.ci_high is None:
        return no_interval
    if -tolerance <= gap.ci_low and gap.ci_high <= tolerance:
        return ""
    size = f"{100 * gap.estimate:+.1f} % of the whole [{100 * gap.ci_low:+.1f}, {100 * gap.ci_high:+.1f}]"
    if gap.ci_low > 0 or gap.ci_high < 0:
        return f"not additive: leave-one-out minus add-one-in is {size}"
    return f"not resolved: leave-one-out minus add-one-in is {size}, beyond ±{short(100 * tolerance)} %"
