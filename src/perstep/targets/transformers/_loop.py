"""Where a generate call stands: which step is open, which part it is in, whose call it is.

One `Loop` belongs to one instrumented model. The wrappers ask it whether to mark
and tell it what they see; it turns that into steps for the recorder. A step ends
where the next begins, in one reading of the clock, so no line of the model's runs
between two steps; 1 to 2 µs of our own work lie at the end of a step, and the
recorder's sorting in none. What happens in every step is written out flat: beside
a forward, in cold caches, a call that takes 50 ns in a loop costs 500.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from threading import get_ident
from typing import Protocol

from perstep.measure import RESIDUAL
from perstep.targets.transformers import words
from perstep.targets.transformers._schedule import COUNT_AT, COUNT_REST, Mode, Schedule
from perstep.targets.transformers.compilations import Compilation, GraphBreak

CALLS_BEFORE_COUNTING = 2
"""The number of calls that are timed before one counts syncs, if none was long enough to have a step for it."""


class Marks(Protocol):
    """What takes the marks: a `measure.Recorder`, or anything else with these five."""

    mark: Callable[[str], None]

    def begin(self, kind: str = "decode") -> None:
        """Begin a step."""
        ...

    def end(self) -> None:
        """End the open step."""
        ...

    def turn(self, kind: str, /) -> None:
        """End the open step and begin the next."""
        ...

    def drop(self) -> None:
        """Forget the open step."""
        ...


@dataclass
class Call:
    """One watched generate call that came to its end.

    Attributes:
        steps: steps it made, recorded or not.
        forwards: forwards of the model that it executed, those of a drafting assistant not counted.
        rows: rows of the batch, beams counted as rows of their own; None where it could not be seen.
        prompt_tokens: length of the prompt in ids (0 when it was given as embeddings); None likewise.
        new_tokens: columns generated, by the shape of the output; None likewise.
        cached: it uses a cache; otherwise every forward takes in the whole text.
        compilations: of `torch.compile` meanwhile.
        breaks: the places where what it compiled fell back to Python.
        drafts: of assisted decoding, of each draft the length of the text before it, and how many tokens it proposed.
        other_way: how `fast.decode` does such a call unobserved, where that is not how it did this one; else empty.
    """

    steps: int = 0
    forwards: int = 0
    rows: int | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    cached: bool = True
    other_way: str = ""
    compilations: list[Compilation] = field(default_factory=list)
    breaks: list[GraphBreak] = field(default_factory=list)
    drafts: list[tuple[int, int]] = field(default_factory=list)


class Loop:
    """The state of the call that is being recorded, shared by all wrappers of one model.

    A wrapper compares `watched` or `live` with the number of its thread: one comparison tells a call in
    another thread, a call inside a part, and a step without marks.

    Attributes:
        thread: the thread whose call is recorded, or None between calls.
        watched: the same while the loop itself runs; 0 between calls, in the forward, and inside a part that is
            one whatever it does.
        live: the same while marks are being taken, in the forward too; else 0.
        part: the part that the open step is in.
        suffix: ends the names of parts at a layer, as `/3`; empty elsewhere.
        compiled: the model's forward is compiled in this call, and left alone.
        countable: syncs may be counted in this call.
        stepping: a step is open.
        forwarded: the open step has had its forward.
        guided: the loop says when a step ends, and goes on.
        in_prefill: inside the prefill, which may take several forwards.
        walking: the thread whose list of processors or criteria is about to turn to its first element, or 0.
        after_forward: the part that follows a forward.
        forwards: of the call so far.
        call: the call in progress.
    """

    __slots__ = (
        "_begin",
        "_calls_timed",
        "_counted",
        "_counting_call",
        "_drop",
        "_end",
        "_lock",
        "_mode",
        "_next_mode",
        "_schedule",
        "_since_counted",
        "_steps",
        "_turn",
        "after_forward",
        "call",
        "calls",
        "compiled",
        "countable",
        "forwarded",
        "forwards",
        "guided",
        "in_prefill",
        "live",
        "mark",
        "part",
        "prefilled",
        "stepping",
        "suffix",
        "thread",
        "walking",
        "watched",
    )

    def __init__(self, marks: Marks, schedule: Schedule) -> None:
        self.mark = marks.mark
        self._begin, self._turn, self._end, self._drop = marks.begin, marks.turn, marks.end, marks.drop
        self._schedule = schedule
        self._lock = threading.Lock()
        self._calls_timed = 0
        self._counted = False
        self._since_counted = 0
        self.calls: list[Call] = []
        self.thread: int | None = None
        self._clear()

    def _clear(self) -> None:
        self.live = self.watched = self.walking = self.forwards = self._steps = 0
        self.compiled = self.in_prefill = self.prefilled = self.countable = False
        self.stepping = self.forwarded = self.guided = False
        self._counting_call = False
        self._mode = Mode.SKIPPED
        self.part = RESIDUAL
        self.suffix = ""
        self.after_forward: str = words.BOOKKEEPING
        self.call = Call()

    @property
    def steps(self) -> int:
        """How many steps of the call are whole: the number of the open one, from 0."""
        return self._steps

    @property
    def is_timed(self) -> bool:
        """Whether the open step's duration is taken."""
        return self._mode.timed

    # A call

    def claim(self) -> bool:
        """Make the call that begins now the one that is recorded; False when another one is."""
        with self._lock:
            if self.thread is not None:
                return False
            self.thread = get_ident()
            _recorded.append(self)
            return True

    def begin_call(self, part: str = words.SETUP) -> None:
        """Begin the recorded call with its prefill, in a part.

        Where two calls were too short for the schedule to count syncs, the third is given to counting.
        """
        self._counting_call = (
            self._schedule.count and self.countable and not self._counted and self._calls_timed >= CALLS_BEFORE_COUNTING
        )
        modes = self._schedule.modes(self._calls_timed)
        if self._counting_call:
            modes = chain(repeat(Mode.COUNTED, COUNT_AT + 1), repeat(Mode.SKIPPED))
        self._next_mode: Callable[[], Mode] = modes.__next__
        self.watched = get_ident()
        self._begin_step(self._next_mode(), first=True)
        self.enter(part)

    def end_call(self) -> None:
        """End the call; a step that has had its forward ends here, one that has not is no step."""
        if self.stepping:
            if self.forwarded:
                self._end_step()
            else:
                self._drop_step()
        self.call.steps = self._steps
        self.calls.append(self.call)

    def abandon_call(self) -> None:
        """Forget the open step of a call that an exception has left."""
        if self.stepping:
            self._drop_step()

    def reset(self) -> None:
        """Forget a call of this thread that an interrupt has cut off before it could be released."""
        if self.thread == get_ident():
            self.abandon_call()
            self._clear()
            self._leave()

    def release(self) -> None:
        """Let the next call be recorded."""
        if not self._counting_call:
            self._calls_timed += 1
        self._clear()
        self._leave()

    def unlist(self) -> None:
        """Nothing is recorded any more, nor is a call that an interrupt has cut off right after it was claimed."""
        if self in _recorded:
            _recorded.remove(self)

    def _leave(self) -> None:
        self.thread = None
        self.unlist()

    def elsewhere(self) -> bool:
        """Whether the present thread is not the one whose call is recorded."""
        return self.thread != get_ident()

    def outside(self) -> bool:
        """Whether what a wrapper sees now is none of the loop's business: another thread, or inside a part."""
        return (self.watched or self.live) != get_ident()

    # Steps

    def arrive(self) -> None:
        """A forward is being prepared or begins: open a step, or the next one in a loop that gives no other sign."""
        if not self.stepping:
            self._begin_step(self._next_mode(), first=True)
        elif self.forwarded and not self.guided and not self.in_prefill:
            self.next_step()

    def next_step(self, *, prefill: bool = False) -> None:
        """End the open step, if there is one, and begin the next in the same reading of the clock."""
        mode = self._next_mode()
        if not (self.stepping and mode.timed and self._mode.timed):
            if self.stepping:
                self._end_step()
            self._begin_step(mode, first=prefill)
            return
        self._steps += 1
        self._since_counted += 1
        self.forwarded = False
        self.part = RESIDUAL
        self.live = self.watched if mode.looked_into else 0
        self._mode = mode
        self._turn(mode.prefill if prefill else mode.decode)

    def turn(self, again: bool) -> bool:
        """The loop has asked whether to go on; if its step is done, end it and begin the next.

        Returns:
            Whether a step ended.
        """
        self.guided = again
        if self.prefilled:  # asked for the first time, with the prefill's logits still to be used
            self.prefilled = False
            return False
        if not (self.stepping and self.forwarded):
            return False
        if not again:
            self._end_step()
        else:
            self.next_step()
        return True

    def _begin_step(self, mode: Mode, *, first: bool = False) -> None:
        if mode is Mode.COUNTED and not self._counts_now():
            mode = Mode.SKIPPED
        self.stepping = True
        self.forwarded = False
        self.part = RESIDUAL
        self.live = self.watched if mode.looked_into else 0
        self._mode = mode
        kind = mode.prefill if first else mode.decode
        if kind:
            self._begin(kind)

    def _counts_now(self) -> bool:
        """Whether syncs are counted in a step that the schedule would give to it."""
        # Each call leaves the kept steps out, few of them count in one.
        rests = self._counted and self._since_counted < COUNT_REST and not self._counting_call
        return self.countable and not self.compiled and not rests

    def _end_step(self) -> None:
        if self._mode is not Mode.SKIPPED:
            self._end()
        self._steps += 1
        self._since_counted += 1
        if self._mode is Mode.COUNTED:
            self._counted = True
            self._since_counted = 0
        self._no_step()

    def _drop_step(self) -> None:
        if self._mode is not Mode.SKIPPED:
            self._drop()
        self._no_step()

    def _no_step(self) -> None:
        self.stepping = False
        self.live = 0

    # Parts

    def enter(self, part: str) -> None:
        """Begin a part, if marks are being taken."""
        if self.live:
            self.part = part
            self.mark(part)


_recorded: list[Loop] = []
"""The loops of the calls that are being recorded, in any thread."""


def is_recorded() -> bool:
    """Whether a generate call of this thread is being recorded."""
    return any(loop.thread == get_ident() for loop in _recorded)


@contextmanager
def unobserved() -> Iterator[None]:
    """What happens inside belongs to no part and is no forward of the call: a loop builds what it will use later."""
    loops = [(loop, loop.watched, loop.live) for loop in _recorded if loop.thread == get_ident()]
    for loop, _, _ in loops:
        loop.watched = loop.live = 0
    try:
        yield
    finally:
        for loop, watched, live in loops:
            loop.watched, loop.live = watched, live


@contextmanager
def one_forward() -> Iterator[None]:
    """What happens inside is a forward of the call that no wrapper sees: the replay of a graph."""
    loops = [loop for loop in _recorded if loop.watched == get_ident()]
    for loop in loops:
        if not (loop.stepping and loop.guided):
            loop.arrive()
        loop.enter(words.FORWARD)
    try:
        yield
    finally:
        for loop in loops:
            loop.enter(loop.after_forward)
            loop.forwarded = True
            loop.forwards += 1
