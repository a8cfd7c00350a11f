"""A processor or a criterion by its own source lines: what each takes, and the syncs and uploads that it causes.

A tracer would tax what it looks at, so it looks only in steps that no ledger has: with `--inside` one block of four
decode steps in two is recorded, and in the others the part's calls are traced and counted in turns. Its own functions
are followed where they are the user's; what they call in libraries belongs to the line that calls it.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Self

from perstep.errors import InputError
from perstep.measure import Clock
from perstep.targets.interrupts import uninterrupted
from perstep.targets.loops import source_line
from perstep.targets.transformers import (
    Function,
    SyncRecorder,
    Value,
    Wraps,
    anything_compiled,
    part_names,
    user_frame,
)
from perstep.watching.samples import Inside, InsideLine

ROOMS = {"logits": "_get_logits_processor", "stop": "_get_stopping_criteria"}
"""What a part's name begins with -> the method of transformers that builds its list."""

_MOST = 512  # calls that are looked into
_UPLOAD = "upload"

Tracer = Callable[[FrameType, str, object], "Tracer | None"]
"""What Python calls at each line of a frame."""


@dataclass
class _Seen:
    """What one line did in all calls that were looked into."""

    ns: int = 0
    syncs: int = 0
    uploads: int = 0


@dataclass
class LinesOf:
    """A context manager that looks into the calls of one processor or criterion of any generate call.

    Attributes:
        part: its name in the ledger, such as `logits/Mine`.
        recorded: whether a step is being recorded now, so that nothing may be looked into.
        clock: times the lines.
        traced: calls whose lines were timed.
        counted: calls whose syncs were counted.
        notes: what the reader must know.

    Raises:
        InputError: not the name of a processor or a criterion.
    """

    part: str
    recorded: Callable[[], bool]
    clock: Clock
    traced: int = 0
    counted: int = 0
    whole_ns: int = 0
    notes: list[str] = field(default_factory=list)
    _lines: dict[tuple[str, int], _Seen] = field(default_factory=dict)
    _wraps: Wraps = field(default_factory=Wraps)
    _classes: Wraps = field(default_factory=Wraps)
    _wanted: list[object] = field(default_factory=list)
    _known: set[type] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.part.split("/")[0] not in ROOMS or not self.part.partition("/")[2]:
            raise InputError(
                f"--inside {self.part}: it looks into a processor or a criterion, named as in the ledger: logits/Mine"
                " or stop/Mine"
            )

    @uninterrupted(undo="_restore")
    def __enter__(self) -> Self:
        from transformers import GenerationMixin

        self._wraps.function(GenerationMixin, ROOMS[self.part.split("/")[0]], self._listed)
        return self

    @uninterrupted()
    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _restore(self) -> None:
        self._classes.restore()
        self._wraps.restore()
        self._wanted.clear()
        self._known.clear()

    def found(self) -> Inside | None:
        """What was seen; None where the part was never called in a step that is not recorded."""
        if not self.traced:
            return None
        lines = [
            InsideLine(
                place=f"{'/'.join(Path(file).parts[-2:])}:{number}",
                source=source_line(file, number),
                ns=seen.ns,
                syncs=seen.syncs,
                uploads=seen.uploads,
            )
            for (file, number), seen in self._lines.items()
        ]
        return Inside(self.part, self.traced, self.counted, self.whole_ns, lines, self.notes)

    def _listed(self, original: Function) -> Function:
        def build(model: Value, *args: Value, **kwargs: Value) -> Value:
            components = original(model, *args, **kwargs)
            for one, name in zip(components, part_names(self.part.split("/")[0], list(components)), strict=True):
                if name == self.part:
                    self._wanted.append(one)
                    self._wrap_class(type(one))
            return components

        return build

    def _wrap_class(self, kind: type) -> None:
        owner = next((one for one in kind.__mro__ if "__call__" in vars(one)), None)
        if owner is not None and owner not in self._known:
            self._known.add(owner)
            self._classes.function(owner, "__call__", self._called)

    def _called(self, original: Function) -> Function:
        def called(part: object, *args: Value, **kwargs: Value) -> Value:
            wanted = any(part is one for one in self._wanted)
            if not wanted or self.recorded() or self.traced + self.counted >= _MOST:
                return original(part, *args, **kwargs)
            look = self._count if self.traced > self.counted and self._countable() else self._trace
            return look(partial(original, part, *args, **kwargs), args)

        return called

    def _trace(self, call: Callable[[], Value], _args: tuple[Value, ...]) -> Value:
        if sys.gettrace() is not None:
            self._note("a debugger or a coverage tool traces this program, so lines were not timed")
            return call()
        lines = _LineTimes(self.clock.now, self._lines)
        begun = self.clock.now()
        try:
            sys.settrace(lines.entered)
            return call()
        finally:
            sys.settrace(None)
            self.whole_ns += self.clock.now() - begun
            self.traced += 1

    def _countable(self) -> bool:
        if anything_compiled():
            self._note("something in this process is compiled, so syncs were not counted: that would compile it again")
            return False
        return True

    def _count(self, call: Callable[[], Value], args: tuple[Value, ...]) -> Value:
        given = [one for one in args if hasattr(one, "device")]
        recorder = SyncRecorder(given[0].device.type if given else "cpu", given=given)
        with recorder:
            recorder.begin()
            try:
                return call()
            finally:
                recorder.end()
                self.counted += 1
                self._keep(recorder)

    def _keep(self, recorder: SyncRecorder) -> None:
        """Add what was counted to the lines that caused it, by their place as it is said."""
        by_place = {
            (f"{'/'.join(Path(file).parts[-2:])}:{number}"): seen for (file, number), seen in self._lines.items()
        }
        for (_, what, place), count in recorder.syncs().sites.items():
            seen = by_place.get(place)
            if seen is None:
                self._note(f"syncs or uploads of {place} are none of its own lines")
            elif what == _UPLOAD:
                seen.uploads += count
            else:
                seen.syncs += count

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


class _LineTimes:
    """Charges the time between events to the line that runs; a function of the user's to its own lines."""

    def __init__(self, now: Callable[[], int], lines: dict[tuple[str, int], _Seen]) -> None:
        self._now, self._lines = now, lines
        self._stack: list[tuple[str, int]] = []
        self._since = 0

    def entered(self, frame: FrameType, _event: str, _arg: object) -> Tracer | None:
        """A function is called: one of the user's is followed."""
        if user_frame(frame) is not frame:
            return None
        self._charge()
        self._stack.append((frame.f_code.co_filename, frame.f_lineno))
        self._since = self._now()
        return self._inside

    def _inside(self, frame: FrameType, event: str, _arg: object) -> Tracer | None:
        self._charge()
        if event == "line":
            self._stack[-1] = frame.f_code.co_filename, frame.f_lineno
        elif event == "return":
            self._stack.pop()
        self._since = self._now()
        return self._inside

    def _charge(self) -> None:
        if self._stack:
            self._lines.setdefault(self._stack[-1], _Seen()).ns += self._now() - self._since
