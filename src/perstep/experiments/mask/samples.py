"""What a round of `mask` leaves on disk."""

import msgspec

from perstep.machine import Noise
from perstep.runs import Column


class ArmRound(msgspec.Struct, omit_defaults=True, eq=False):
    """Two passes of one arm over the trace of one cell, decode steps only; integers in nanoseconds, one a step.

    Attributes:
        plain_ns: uninstrumented steps.
        step_ns: instrumented steps.
        parts: part -> its exclusive time in each instrumented step.
        residual_ns: what no part covers.
        marks: part -> how often it was entered in all steps.
        differing: choices that differ from what the definition of the mask leaves, in both passes.
        hot_fill_ns: fills of one row over the same trace with nothing between them; empty for no mask.
    """

    plain_ns: Column
    step_ns: Column
    parts: dict[str, Column]
    residual_ns: Column
    marks: dict[str, int]
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
