"""Resampling whole rounds, for statistics that have no exact interval.

The round is the unit of replication (law "rounds are merged until independent"). A resample therefore draws whole
rounds, which keeps the pairing of their cells and the drift between rounds. A cell's cost is the median over rounds of
its ratio to the reference cell, times that cell's median. That is robust, and linear afterwards, so that effects add up
to their total. Intervals are percentile intervals. Where rounds ran out before they were independent, a resample draws
fewer (`rounds_to_draw`). The generator is an argument: the same seed gives the same interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.errors import InputError
from perstep.stats.merging import (
    MAX_AUTOCORRELATION,
    MAX_AUTOCORRELATION_OF_WIDEST,
    guarded_confidence,
    merge_rounds,
    rank_autocorrelation,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
MIN_MERGED_ROUNDS = 10
"""Fewer independent rounds have no bootstrap interval; coverage: docs/statistics.md."""

_RESAMPLED_AT_ONCE = 2_000_000  # values; bounds memory at 16 MB a block


@dataclass(frozen=True, slots=True)
class Effect:
    """A number with its bootstrap interval, in the unit of the costs (or a fraction of them).

    Attributes:
        estimate: from all rounds.
        ci_low: lower end; None with too few independent rounds.
        ci_high: upper end; None with too few independent rounds.
    """

    estimate: float
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True, slots=True)
class Cells:
    """Estimated cost of each cell, and the same from resampled rounds.

    Attributes:
        estimate: [cells].
        resampled: [resamples, cells]; None with too few rounds, or autocorrelated ones.
        merged_by: adjacent rounds that were made one before resampling.
        reason: why `resampled` is None; empty otherwise.
    """

    estimate: NDArray[np.float64]
    resampled: NDArray[np.float64] | None
    merged_by: int
    reason: str


def estimate_cells(costs: ArrayLike, reference: int, rng: np.random.Generator, *, resamples: int = RESAMPLES) -> Cells:
    """Estimate every cell's cost and resample it over rounds.

    Args:
        costs: [rounds, cells] above 0, in one unit.
        reference: the cell that the others are paired with.
        rng: draws the rounds.
        resamples: how many times.

    Raises:
        InputError: if the costs are of another shape, not finite, or not above 0.
    """
    x = np.asarray(costs, dtype=np.float64)
    if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] < 2:
        raise InputError(f"costs of shape {x.shape}; [rounds, cells >= 2] are needed")
    if not np.isfinite(x).all() or (x <= 0).any():
        raise InputError("a cost is not finite or not above 0; every round must hold every cell")
    others = [cell for cell in range(x.shape[1]) if cell != reference]
    merged_by, autocorrelation = common_merge_factor([x[:, [reference, cell]] for cell in others])
    x = merge_rounds(x, merged_by)
    estimate = _cell_costs(x[None], reference)[0]
    count = rounds_to_draw(x.shape[0], autocorrelation)
    if not count:
        return Cells(estimate, None, merged_by, why_none(x.shape[0], autocorrelation))
    block = max(1, _RESAMPLED_AT_ONCE // x.size)
    blocks = []
    for start in range(0, resamples, block):
        drawn = rng.integers(x.shape[0], size=(min(block, resamples - start), count))
        blocks.append(_cell_costs(x[drawn], reference))
    return Cells(estimate, np.concatenate(blocks), merged_by, "")


def rounds_to_draw(rounds: int, autocorrelation: float) -> int:
    """How many rounds a resample has, so that its spread is that of the estimate.

    All of them if they are independent. Where they ran out before that, n (1 - r) / (1 + r) of n: that number of
    independent ones tells as much. With 10 to 19 rounds, chance alone makes three of ten series look autocorrelated.

    Args:
        rounds: after merging.
        autocorrelation: of their ratios, r.

    Returns:
        0 where there is no interval: fewer than 10 rounds, or r of 0.5 or more.
    """
    if rounds < MIN_MERGED_ROUNDS or autocorrelation >= MAX_AUTOCORRELATION_OF_WIDEST:
        return 0
    if autocorrelation < MAX_AUTOCORRELATION:
        return rounds
    return int(rounds * (1 - autocorrelation) / (1 + autocorrelation))


def why_none(rounds: int, autocorrelation: float) -> str:
    """Why such rounds have no interval.

    Args:
        rounds: after merging.
        autocorrelation: of their ratios.
    """
    autocorrelated = autocorrelation >= MAX_AUTOCORRELATION
    few = "the rounds are autocorrelated" if autocorrelated else plural(rounds, "independent round")
    return f"{few}; an interval needs {MIN_MERGED_ROUNDS}"


def common_merge_factor(ratios: Sequence[NDArray[np.float64]]) -> tuple[int, float]:
    """The merge factor for several ratios at once, and their mean autocorrelation after merging.

    Their mean autocorrelation has to be under the limit: the largest of 15 would be above it
    by chance in most experiments.

    Args:
        ratios: each [rounds, 2] above 0: reference and cell.
    """
    factor, rounds = 1, len(ratios[0])
    while True:
        merged = (merge_rounds(pair, factor) for pair in ratios)
        mean = float(np.mean([rank_autocorrelation(m[:, 1] / m[:, 0]) for m in merged])) if rounds > 1 else 0.0
        if mean < MAX_AUTOCORRELATION or rounds // (2 * factor) < MIN_MERGED_ROUNDS:
            return factor, mean
        factor *= 2


def percentile_interval(
    resampled: NDArray[np.float64], *, comparisons: int = 1, confidence: float = 0.95
) -> tuple[float, float]:
    """The middle part of resampled estimates, guarded like every interval shown.

    Args:
        resampled: [resamples].
        comparisons: how many intervals are shown together (Bonferroni).
        confidence: confidence of all of them together.
    """
    tail = (1 - guarded_confidence(confidence)) / comparisons / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _cell_costs(x: NDArray[np.float64], reference: int) -> NDArray[np.float64]:
    """[batch, rounds, cells] -> [batch, cells]."""
    ratios = np.median(x / x[:, :, reference, None], axis=1)
    return np.asarray(ratios * np.median(x[:, :, reference], axis=1)[:, None], dtype=np.float64)
