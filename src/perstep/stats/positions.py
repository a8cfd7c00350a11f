"""Estimates of a step and its parts from x[rounds, positions] (law "medians do not add").

Each position of the trace has its median over rounds; the step and its parts are the means of these medians over
positions. A rare expensive step therefore counts, and a burst in one round does not. Rounds are first normalised by
their speed: on a machine that drifts, the median round of one part is not that of another. Then one scale factor
multiplies parts and residual so that they add up to the step. That is fair because bursts hit a row in proportion to
its length. No row is negative. First of all the raw integers of every single step are checked: its parts must fit into
it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import fsum
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.errors import InputError, InvalidMeasurement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class LedgerEstimate:
    """A step and its parts, in nanoseconds per step.

    Attributes:
        step_ns: mean over positions of the medians over rounds, normalised by round speed.
        parts_ns: the same for each part, times `scale_factor`.
        residual_ns: the same for the unattributed time, times `scale_factor`.
        scale_factor: step_ns over the sum of all rows' own estimates. It is above 1 where bursts hit different rows at
            different times: then the step's median contains more of them than the rows' medians.
    """

    step_ns: float
    parts_ns: dict[str, float]
    residual_ns: float
    scale_factor: float = 1.0

    def share(self, part: str) -> float:
        """The part's time over the step's.

        Args:
            part: a name in `parts_ns`.

        Raises:
            InputError: if there is no such part, or the step took no time.
        """
        if part not in self.parts_ns:
            raise InputError(f"no part {part!r}; the ledger holds {', '.join(self.parts_ns)}")
        if self.step_ns == 0:
            raise InputError("the step took no time on this clock, so no part has a share of it")
        return self.parts_ns[part] / self.step_ns

    def at(self, step_ns: float) -> LedgerEstimate:
        """The same shares, scaled to a step of another length.

        Args:
            step_ns: the length, in nanoseconds.
        """
        if self.step_ns == 0:
            return self
        factor = step_ns / self.step_ns
        parts_ns = {name: ns * factor for name, ns in self.parts_ns.items()}
        return replace(self, step_ns=step_ns, parts_ns=parts_ns, residual_ns=self.residual_ns * factor)


def position_medians(x_ns: ArrayLike) -> NDArray[np.float64]:
    """Median over the rounds at each position.

    Args:
        x_ns: [rounds, positions] durations in nanoseconds.

    Returns:
        [positions].

    Raises:
        InputError: if the array is empty, of another shape, not finite or negative.
    """
    return np.asarray(np.median(_durations(x_ns, "durations"), axis=0), dtype=np.float64)


def step_estimate(x_ns: ArrayLike) -> float:
    """Mean over positions of the medians over rounds, in nanoseconds.

    Args:
        x_ns: [rounds, positions] durations in nanoseconds.

    Raises:
        InputError: if the array is empty, of another shape, not finite or negative.
    """
    return float(position_medians(x_ns).mean())


def paired_step_estimates(reference_ns: ArrayLike, candidate_ns: ArrayLike) -> tuple[float, float]:
    """The steps of two interleaved arms: the reference's own estimate, and the candidate at the reference's speed.

    Each row of both arms is divided by the slowdown of the reference in that row; their ratio is taken afterwards.
    Otherwise the median row of one arm may be a slow one and that of the other a fast one: on a simulated machine that
    was 1.7 times as slow at times, the ratio of the arms' own estimates over 28 rounds was wrong by 17 % (root mean
    square), this one by 2 %.

    Args:
        reference_ns: [rows, positions] durations in nanoseconds.
        candidate_ns: the same of the other arm, each row measured beside the same row of the reference.

    Returns:
        Reference, as `step_estimate` has it, and candidate.

    Raises:
        InputError: if an array is empty, not finite, negative, or the shapes differ.
    """
    reference, candidate = _durations(reference_ns, "reference"), _durations(candidate_ns, "candidate")
    if reference.shape != candidate.shape:
        raise InputError(f"the reference has shape {reference.shape}, the candidate {candidate.shape}")
    slowdown = round_slowdown(reference)[:, None]
    normalised_ns, candidate_ns = (float(np.median(x / slowdown, axis=0).mean()) for x in (reference, candidate))
    reference_ns = step_estimate(reference)
    return reference_ns, candidate_ns * (reference_ns / normalised_ns) if normalised_ns else candidate_ns


def ledger_estimate(step_ns: ArrayLike, parts_ns: Mapping[str, ArrayLike]) -> LedgerEstimate:
    """Estimate the step, each of its parts and the unattributed time, so that they add up.

    Args:
        step_ns: [rounds, positions] durations of whole steps.
        parts_ns: the same for each part, exclusive of each other.

    Raises:
        InputError: if an array is empty, not finite, negative, or of another shape than the step's.
        InvalidMeasurement: if the parts of some step are longer than that step.
    """
    step = _durations(step_ns, "step")
    parts = {name: _durations(x, f"part {name!r}") for name, x in parts_ns.items()}
    for name, x in parts.items():
        if x.shape != step.shape:
            raise InputError(f"part {name!r} has shape {x.shape}; the step has {step.shape}")
    residual = step - sum(parts.values(), start=np.zeros_like(step))
    over = residual < 0
    if over.any():
        r, position = np.argwhere(over)[0]
        raise InvalidMeasurement(
            f"the parts are longer than the step in {int(over.sum())} of {plural(step.size, 'step')} "
            f"(first: round {r}, position {position}); parts must not overlap"
        )
    slowdown = round_slowdown(step)[:, None]

    def mean_of_medians(x: NDArray[np.float64]) -> float:
        return float(np.median(x / slowdown, axis=0).mean())

    step_ns, residual_ns = mean_of_medians(step), mean_of_medians(residual)
    rows = {name: mean_of_medians(x) for name, x in parts.items()}
    total_ns = fsum([residual_ns, *rows.values()])
    if total_ns == 0:  # no row took time in most rounds, so the step's time cannot be attributed
        return LedgerEstimate(step_ns, rows, step_ns)
    scale_factor = step_ns / total_ns
    return LedgerEstimate(
        step_ns, {name: ns * scale_factor for name, ns in rows.items()}, residual_ns * scale_factor, scale_factor
    )


def round_slowdown(step_ns: ArrayLike) -> NDArray[np.float64]:
    """How slow each round was: the median over positions of its step over that position's median.

    One disturbed step does not move it; a machine at half its speed makes it 2.

    Args:
        step_ns: [rounds, positions] durations in nanoseconds.

    Returns:
        [rounds], 1 where a round took no time.

    Raises:
        InputError: if the array is empty, of another shape, not finite or negative.
    """
    step = _durations(step_ns, "step")
    middle = np.median(step, axis=0)
    seen = middle > 0
    if not seen.any():
        return np.ones(step.shape[0])
    slowdown = np.median(step[:, seen] / middle[seen], axis=1)
    return np.where(slowdown > 0, slowdown, 1.0)


def _durations(x_ns: ArrayLike, what: str) -> NDArray[np.float64]:
    x = np.asarray(x_ns, dtype=np.float64)  # whole nanoseconds are exact up to 2**53, 104 days
    if x.ndim != 2 or x.size == 0:
        raise InputError(f"{what} of shape {x.shape}; [rounds, positions] is needed")
    if not np.isfinite(x).all():
        raise InputError(f"{what}: a duration is not finite; every round must hold every position")
    if (x < 0).any():
        raise InputError(f"{what}: a duration is negative; clocks of one run never go back")
    return x
