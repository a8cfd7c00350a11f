"""What a round of a ledger is for its intervals: what was measured in one, or a piece of calls whose steps took turns.

Where steps are long, few calls fit into a budget, and each is cut into pieces: several rounds a pair of calls.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perstep.stats import without_trend

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RoundTotals:
    """The time of each round's steps, [rounds], for the intervals. All columns hold the same multiple of a step.

    Attributes:
        plain_ns: of uninstrumented steps.
        step_ns: of instrumented steps.
        parts_ns: of their parts.
        seldom: positions were measured too seldom for medians that leave all bursts out, so that each interval also
            holds that of the rounds' median.
    """

    plain_ns: NDArray[np.float64]
    step_ns: NDArray[np.float64]
    parts_ns: dict[str, NDArray[np.float64]]
    seldom: bool = False


def round_totals(plain_ns: Ints, step_ns: Ints, parts_ns: Mapping[str, Ints], pieces: int) -> RoundTotals:
    """The mean step of each round. Pieces of calls are brought to the mean position.

    Args:
        plain_ns: uninstrumented steps, [rounds, passes, positions].
        step_ns: instrumented steps, likewise.
        parts_ns: of the latter, by part.
        pieces: as in `LedgerSamples`.
    """

    def totals(ns: Ints) -> NDArray[np.float64]:
        return pieces_at_the_mean(ns, pieces) if pieces else np.asarray(ns.mean(axis=(1, 2)))

    parts = {name: totals(ns) for name, ns in parts_ns.items()}
    return RoundTotals(totals(plain_ns), totals(step_ns), parts, seldom=pieces > 0)


def pieces_at_the_mean(ns: NDArray[np.int64], pieces: int) -> NDArray[np.float64]:
    """The mean of each piece of each pass, brought to the mean position of the trace, [rounds * passes * pieces].

    Each column by a line of its own: times are lines in the context, shares of them are not.

    Args:
        ns: [rounds, passes, positions] what each position took.
        pieces: of a pass.
    """
    positions = np.broadcast_to(np.arange(ns.shape[2]), ns.shape)
    return without_trend(in_pieces(ns, pieces), in_pieces(positions, pieces), (ns.shape[2] - 1) / 2)


def in_pieces(ns: NDArray[np.int64], pieces: int) -> NDArray[np.float64]:
    """The mean of each piece of each pass, [rounds, passes, positions] → [rounds * passes * pieces] in order of time.

    Two neighbouring positions are the least piece: in either of a pass's two calls one of them is marked and the
    other plain, so that a drift between the calls and one along the positions are in both kinds alike.

    Args:
        ns: what each position took.
        pieces: of a pass, at most half of its positions.
    """
    ends = 2 * (np.arange(pieces + 1) * (ns.shape[2] // 2) // pieces)
    ends[-1] = ns.shape[2]
    sums = np.add.reduceat(ns.astype(np.float64), ends[:-1], axis=2)
    return np.asarray((sums / np.diff(ends)).reshape(-1))
