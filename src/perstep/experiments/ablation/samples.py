"""A round of an ablation, as it lies on disk."""

import msgspec

from perstep.machine import Noise
from perstep.runs import Column


class InPlace(msgspec.Struct):
    """The steps of one marked pass over the calls, prefills included, a column a part; integers in nanoseconds."""

    call_ns: int
    step_ns: Column
    parts: dict[str, Column]


class Sample(msgspec.Struct):
    """One round: every cell in a balanced block of turns, and the marked passes.

    Attributes:
        round: its number.
        ns: cell -> nanoseconds of all its turns together.
        unsteady: cell -> choices that differ from those it made in the same contexts when warming up.
        in_place: marked cell -> its steps.
        noise: what disturbed the round.
    """

    round: int
    ns: dict[str, int]
    unsteady: dict[str, int]
    in_place: dict[str, InPlace]
    noise: Noise
