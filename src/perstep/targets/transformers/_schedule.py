"""Which steps of a generate call are recorded, and which of these are marked (law 8).

Marked and unmarked steps alternate in blocks of four, M P P M, so that a cost
that grows with the position weighs on both alike; every other call begins with
the other kind, so that over two calls each position is seen both ways. Syncs are
counted in steps of their own, because counting costs time: the step is not timed,
nor is the one after it, which runs in disturbed caches.
"""

from dataclasses import dataclass
from enum import Enum

BLOCK = 4
COUNT_AT = 4
"""The decode step in which syncs are counted first: after one whole block."""
COUNT_EVERY = 128
"""So many other decode steps (times `every`) lie between two in which syncs are counted and the one after each."""


class Mode(Enum):
    """How a step is recorded."""

    MARKED = "with its parts"
    PLAIN = "its duration alone"
    COUNTED = "its syncs alone"
    SKIPPED = "not at all"


@dataclass(frozen=True)
class Schedule:
    """The plan for all calls.

    Attributes:
        alternate: whether marked and plain steps alternate; otherwise all recorded steps are marked.
        every: one block of decode steps in so many is recorded (blocks of four when alternating, else of one).
        plain: no step is marked: all are recorded by their duration alone.
        count: whether syncs are counted in some steps.
    """

    alternate: bool = False
    every: int = 1
    plain: bool = False
    count: bool = False

    def mode(self, call: int, position: int) -> Mode:
        """How the step at a position of a call is recorded; both count from 0, and position 0 is the prefill."""
        if self.plain:
            return Mode.PLAIN
        if position == 0:
            return Mode.MARKED if not self.alternate or call % BLOCK in (0, 3) else Mode.PLAIN
        decode = position - 1
        if self.count:
            begun, since = divmod(decode - COUNT_AT, COUNT_EVERY * self.every + 2)
            if since < 2 and decode >= COUNT_AT:
                return Mode.SKIPPED if since else Mode.COUNTED
            decode -= 2 * (begun + 1)
        block = decode // (BLOCK if self.alternate else 1)
        if block % self.every:
            return Mode.SKIPPED
        if not self.alternate:
            return Mode.MARKED
        outer = decode % BLOCK in (0, 3)
        return Mode.MARKED if outer == (call % 2 == 0) else Mode.PLAIN
