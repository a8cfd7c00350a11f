"""Which steps of a generate call are recorded, and which of these are marked (law "the observer is measured").

Marked (M) and plain (P) steps alternate in blocks of four, M P P M, so that a cost that grows with the position affects
both alike. Every other call begins with the other kind, so that over two calls each position is marked once and plain
once. Prefills alternate over calls, after the first. Syncs are counted in steps of their own, because counting costs
time. Such a step is not timed, nor is the step after it, which runs in disturbed caches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import chain, count

from perstep.measure import is_marked
from perstep.targets.transformers import words

BLOCK = 4
COUNT_AT = 4
"""The decode step in which syncs are counted first: after one whole block."""
COUNT_EVERY = 128
"""Decode steps (times `every`) between two that are kept for counting; the step after each is kept too."""
COUNT_REST = 512
"""Steps of a line between two countings: a counted step takes 3 to 5 times as long, and the ten after it a little
longer, 5 ms in all where a step takes 1.1 ms. So counting adds less than 1 % to long runs."""


LOOKED_AHEAD = 64
"""The number of steps whose modes are computed at once: 0.6 µs each, and 3 µs one by one, in cold caches."""


class Mode(Enum):
    """How a step is recorded.

    Attributes:
        prefill: the kind under which a prefill so recorded is filed; empty if it is not.
        decode: likewise a decode step.
        timed: its duration is taken.
        looked_into: marks are taken in it.
    """

    MARKED = ""
    """With its parts."""
    PLAIN = words.PLAIN
    """Its duration alone."""
    COUNTED = words.COUNTED
    """Its syncs alone."""
    SKIPPED = None
    """Not at all."""

    def __init__(self, ending: str | None) -> None:
        self.prefill = "" if ending is None else words.PREFILL + ending
        self.decode = "" if ending is None else words.DECODE + ending
        self.timed = ending in ("", words.PLAIN)
        self.looked_into = ending in ("", words.COUNTED)


@dataclass(frozen=True)
class Schedule:
    """The plan for all calls.

    Attributes:
        alternate: whether marked and plain steps alternate; otherwise all recorded steps are marked.
        every: one block of decode steps in this many is recorded (blocks of four when alternating, else of one).
        plain: no step is marked: all are recorded by their duration alone.
        count: whether syncs are counted in some steps.
        turn: 0 or 1 where they alternate in every call as in the first or in the second one, with a prefill of the same
            kind as the first decode step (`measure.is_marked`); None otherwise.
    """

    alternate: bool = False
    every: int = 1
    plain: bool = False
    count: bool = False
    turn: int | None = None

    def modes(self, call: int) -> Iterator[Mode]:
        """The modes of a call's steps in their order, the prefill first, without an end."""
        return chain.from_iterable(self._ahead(call, begin) for begin in count(0, LOOKED_AHEAD))

    def _ahead(self, call: int, begin: int) -> list[Mode]:
        return [self.mode(call, position) for position in range(begin, begin + LOOKED_AHEAD)]

    def mode(self, call: int, position: int) -> Mode:
        """How the step at a position of a call is recorded; both count from 0, and position 0 is the prefill."""
        if self.plain:
            return Mode.PLAIN
        if self.turn is not None:
            marked = self.turn == 0 if position == 0 else is_marked(position - 1, self.turn)
            return Mode.MARKED if marked else Mode.PLAIN
        if position == 0:
            # A first call stands apart in a ledger, so the blocks of prefills begin with the second.
            marked = not self.alternate or call == 0 or (call - 1) % BLOCK in (0, 3)
            return Mode.MARKED if marked else Mode.PLAIN
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
        return Mode.MARKED if is_marked(decode, call % 2) else Mode.PLAIN
