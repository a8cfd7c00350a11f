"""The samples of `compare`: the blocks of a round, in the order of their turns."""

import msgspec

from perstep.machine import Noise


class Sample(msgspec.Struct):
    """One round.

    Attributes:
        round: its number.
        turns: the arms in the order of their turns.
        block_ns: wall time of each turn's block.
        processor_ns: processor time of each turn's block.
        waited_share: the share of its time in which it could have run and had no processor; None if unknown.
        noise: what disturbed it.
    """

    round: int
    turns: list[str]
    block_ns: list[int]
    processor_ns: list[int]
    waited_share: float | None
    noise: Noise
