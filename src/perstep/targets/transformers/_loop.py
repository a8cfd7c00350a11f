"""Where a generate call stands: which step is open, which part it is in, whose call it is.

One `Loop` belongs to one instrumented model. The wrappers ask it whether to mark
and tell it what they see; it turns that into steps for the recorder. A step ends
where the next begins: the recorder files it between the two readings, so its own
work lies in no step, and no line of the model's runs there.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident
from typing import Protocol

from perstep.measure import RESIDUAL
from perstep.targets.transformers import words
from perstep.targets.transformers._schedule import COUNT_AT, COUNT_EVERY, Mode, Schedule

CALLS_BEFORE_COUNTING = 2
"""So many calls are timed before one is given to counting syncs, if none was long enough to have a step for it."""
_WITH_PARTS = (Mode.MARKED, Mode.COUNTED)
_ENDINGS = {Mode.MARKED: "", Mode.PLAIN: words.PLAIN, Mode.COUNTED: words.COUNTED}


class Marks(Protocol):
    """What takes the marks: a `measure.Recorder`, or anything else with these four."""

    mark: Callable[[str], None]

    def begin(self, kind: str = "decode") -> None:
        """Begin a step."""
        ...

    def end(self) -> None:
        """End the open step."""
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
    """

    steps: int = 0
    forwards: int = 0
    rows: int | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None


class Loop:
    """The state of the call that is being recorded, shared by all wrappers of one model.

    Attributes:
        thread: the thread whose call is recorded, or None between calls.
        live: marks are being taken at this moment.
        quiet: inside something that is one part whatever it does; nothing in it is looked at.
        part: the part that the open step is in.
        suffix: ends the names of parts at a layer, as `/3`; empty elsewhere.
        compiled: the model's forward is compiled in this call, and left alone.
        countable: syncs may be counted in this call.
        in_forward: inside the model's forward.
        in_prefill: inside the prefill, which may take several forwards.
        walking: a list of processors or criteria is about to turn to its first element.
        after_forward: the part that follows a forward.
        call: the call in progress.
    """

    __slots__ = (
        "_calls_timed",
        "_counted",
        "_counting",
        "_counting_call",
        "_forwarded",
        "_guided",
        "_lock",
        "_marking",
        "_marks",
        "_recording",
        "_schedule",
        "_since_counted",
        "_stepping",
        "after_forward",
        "call",
        "calls",
        "compiled",
        "countable",
        "in_forward",
        "in_prefill",
        "live",
        "mark",
        "part",
        "prefilled",
        "quiet",
        "suffix",
        "thread",
        "walking",
    )

    def __init__(self, marks: Marks, schedule: Schedule) -> None:
        self._marks = marks
        self.mark = marks.mark
        self._schedule = schedule
        self._lock = threading.Lock()
        self._calls_timed = 0
        self._counted = False
        self._since_counted = 0
        self.calls: list[Call] = []
        self.thread: int | None = None
        self._clear()

    def _clear(self) -> None:
        self.live = self.quiet = self.compiled = self.in_forward = self.in_prefill = self.prefilled = False
        self.walking = self.countable = self._counting = self._counting_call = False
        self._stepping = self._recording = self._marking = self._forwarded = self._guided = False
        self.part = RESIDUAL
        self.suffix = ""
        self.after_forward: str = words.BOOKKEEPING
        self.call = Call()

    # A call

    def claim(self) -> bool:
        """Make the call that begins now the one that is recorded; False when another one is."""
        with self._lock:
            if self.thread is not None:
                return False
            self.thread = get_ident()
            return True

    def begin_call(self) -> None:
        """Begin the recorded call with its prefill.

        Where two calls were too short for the schedule to count syncs, the third is given to counting.
        """
        self._counting_call = (
            self._schedule.count and self.countable and not self._counted and self._calls_timed >= CALLS_BEFORE_COUNTING
        )
        self._begin_step(words.PREFILL)
        self.enter(words.SETUP)

    def end_call(self) -> None:
        """End the call; a step that has had its forward ends here, one that has not is no step."""
        if self._stepping:
            if self._forwarded:
                self._end_step()
            else:
                self._drop_step()
        self.calls.append(self.call)

    def abandon_call(self) -> None:
        """Forget the open step of a call that an exception has left."""
        if self._stepping:
            self._drop_step()

    def release(self) -> None:
        """Let the next call be recorded."""
        if not self._counting_call:
            self._calls_timed += 1
        self._clear()
        self.thread = None

    def elsewhere(self) -> bool:
        """Whether the present thread is not the one whose call is recorded."""
        return self.thread != get_ident()

    def outside(self) -> bool:
        """Whether what a wrapper sees now is none of the loop's business: another thread, or inside a part."""
        return self.quiet or self.thread != get_ident()

    # Steps

    def arrive(self) -> None:
        """A forward is being prepared or begins: open a step, or the next one in a loop that gives no other sign."""
        if not self._stepping:
            self._begin_step(words.PREFILL)
        elif self._forwarded and not self._guided and not self.in_prefill:
            self._end_step()
            self._begin_step(words.DECODE)

    def forwarded(self) -> None:
        """The model's forward has been executed."""
        self._forwarded = True
        self.call.forwards += 1

    def forget_forward(self) -> None:
        """What was executed so far only filled the cache; the step's own forward is still to come."""
        self._forwarded = False

    def turn(self, again: bool) -> bool:
        """The loop has asked whether to go on; if its step is done, end it and begin the next.

        Returns:
            Whether a step ended.
        """
        self._guided = again
        if self.prefilled:  # asked for the first time, with the prefill's logits still to be used
            self.prefilled = False
            return False
        if not (self._stepping and self._forwarded):
            return False
        self._end_step()
        if again:
            self._begin_step(words.DECODE)
        return True

    def _mode(self) -> Mode:
        mode = self._schedule.mode(self._calls_timed, self.call.steps)
        if self._counting_call:
            mode = Mode.COUNTED if self.call.steps <= COUNT_AT else Mode.SKIPPED
        elif mode is Mode.COUNTED and self._counted and self._since_counted < COUNT_EVERY:
            mode = Mode.SKIPPED  # many short calls: each leaves the step out, few of them count in it
        return Mode.SKIPPED if mode is Mode.COUNTED and (self.compiled or not self.countable) else mode

    def _begin_step(self, kind: str) -> None:
        mode = self._mode()
        self._stepping = True
        self._forwarded = False
        self._recording = mode is not Mode.SKIPPED
        self._marking = self.live = mode in _WITH_PARTS
        self._counting = mode is Mode.COUNTED
        self.part = RESIDUAL
        if self._recording:
            self._marks.begin(kind + _ENDINGS[mode])

    def _end_step(self) -> None:
        if self._recording:
            self._marks.end()
            self._counted = self._counted or self._counting
        self._since_counted = 0 if self._counting else self._since_counted + 1
        self._no_step()
        self.call.steps += 1

    def _drop_step(self) -> None:
        if self._recording:
            self._marks.drop()
        self._no_step()

    def _no_step(self) -> None:
        self._stepping = self._recording = self._marking = self.live = False

    # Parts

    def enter(self, part: str) -> None:
        """Begin a part, if marks are being taken."""
        if self.live:
            self.part = part
            self.mark(part)

    def hush(self) -> None:
        """From here on, and until `unhush`, nothing is looked at."""
        self.quiet = True
        self.live = False

    def unhush(self, part: str) -> None:
        """Look again; the step goes on in `part`."""
        self.quiet = False
        self.live = self._marking
        self.enter(part)
