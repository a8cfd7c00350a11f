"""What a round of `mask` leaves on disk."""

import msgspec

from perstep.machine import Noise
from perstep.measure import Steps
from perstep.runs import Column


class ArmRound(Steps, kw_only=True, eq=False):
    """Two passes of one arm over the trace of one cell, decode steps only: the instrumented steps, and the others.

    Attributes:
        plain_ns: uninstrumented steps.
        differing: choices that differ from what the definition of the mask leaves, in both passes.
        hot_fill_ns: fills of one row over the same trace with nothing between them; empty for no mask.
    """

    plain_ns: Column
    differing: int
    hot_fill_ns: Column


class Sample(msgspec.Struct):
    """One round over all cells.

    Attributes:
        round: its number.
        cells: cell -> arm -> what it took.
        curves: curve point -> fills at its positions, hot.
        noise: what disturbed the round.
        ceilings: what this machine did at best in it; empty without a batch of one, and in older runs.
    """

    round: int
    cells: dict[str, dict[str, ArmRound]]
    curves: dict[str, Column]
    noise: Noise
    ceilings: dict[str, float] = {}
