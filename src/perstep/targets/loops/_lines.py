"""Which source line of a loop runs between two calls of its model.

Line events are taken from the calling frames alone, and only while no forward runs: a function that a line calls
belongs to that line. On Python 3.11 `sys.settrace` gives them, which would tax every call inside a forward, so it is on
from a forward's exit to the next entry. From 3.12 on it is `sys.monitoring`, which taxes the instrumented functions
alone. Where another tool holds what is needed there are no lines, and `start` says so. Knows no model and no clock.
"""

import sys
from collections.abc import Callable, Sequence
from threading import get_ident
from types import CodeType, FrameType, ModuleType
from typing import Any, Final, Protocol

MOST_EVENTS: Final = 20_000
"""Events of one stretch between two forwards after which its lines are given up: 5 to 10 ms of tracing. Then the loop
has been left, or spends its time in Python calls, each of which tracing makes slower."""
_RESUMES: Final = 0x20 | 0x80 | 0x200
"""Flags of the code of generators and coroutines, which go on in the middle of a line."""
_OUTWARD: Final = 16
"""The number of frames that are looked through for the next calling frame."""

At = Callable[[CodeType | None, int], None]
"""Told of a code and its line when that begins or goes on; of None when events end, or no calling frame is near."""

Argument = Any
"""What `sys.settrace` and `sys.monitoring` hand to their callbacks: its type depends on the event."""


class Lines(Protocol):
    """Gives line events of calling frames to an `At`."""

    def start(self, chain: Sequence[FrameType]) -> bool:
        """Begin, in this thread; the frames stand innermost first. False where another tool is in the way."""
        ...

    def knows(self, frame: FrameType) -> bool:
        """Whether it has begun before in this very frame, and in those around it, so that `go_on` is enough."""
        ...

    def go_on(self) -> None:
        """Begin in a frame that it knows. It is the last call of the observer: each one after it would be traced."""
        ...

    def stop(self) -> None:
        """End, before a forward begins."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


def open_lines(at: At) -> Lines:
    """The lines of this version of Python."""
    monitoring: ModuleType | None = getattr(sys, "monitoring", None)
    return TracedLines(at) if monitoring is None else MonitoredLines(at, monitoring)


class _Calling:
    """The codes of the calling frames, and who hears of their lines."""

    def __init__(self, at: At) -> None:
        self.at = at
        self.codes: dict[int, CodeType] = {}  # by id: a code's own hash is of all that it holds
        self.left = 0

    def back_to(self, frame: FrameType | None) -> None:
        """Say that the nearest calling frame from this one outwards goes on."""
        for _ in range(_OUTWARD):
            if frame is None:
                break
            if id(frame.f_code) in self.codes:
                self.at(frame.f_code, frame.f_lineno)
                return
            frame = frame.f_back
        self.at(None, 0)


class TracedLines:
    """Lines by `sys.settrace`."""

    def __init__(self, at: At) -> None:
        self._calling = _Calling(at)
        self._local: Callable[[FrameType, str, Argument], Argument] = self._in_frame
        self._global: Callable[[FrameType, str, Argument], Argument] = self._on_call
        self._thread = 0

    def start(self, chain: Sequence[FrameType]) -> bool:
        """Begin, unless a debugger or coverage traces this thread."""
        if sys.gettrace() is not None:
            return False
        for frame in chain:
            self._calling.codes[id(frame.f_code)] = frame.f_code
            if frame.f_trace is not self._local:
                frame.f_trace = self._local
        self.go_on()
        return True

    def knows(self, frame: FrameType) -> bool:
        """Whether a frame has the tracer: those around it have it too, unless a generator was called anew."""
        return frame.f_trace is self._local and not frame.f_code.co_flags & _RESUMES and sys.gettrace() is None

    def go_on(self) -> None:
        """Trace this thread."""
        self._calling.left = MOST_EVENTS
        self._thread = get_ident()
        sys.settrace(self._global)

    def stop(self) -> None:
        """End; a tracer that came meanwhile keeps its place."""
        if self._thread:
            self._thread = 0
            if sys.gettrace() is self._global:
                sys.settrace(None)

    def close(self) -> None:
        """Take the tracer out of the frames that still run."""
        self.stop()
        self._calling.codes.clear()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_trace is self._local:
                del frame.f_trace
            frame = frame.f_back

    def _on_call(self, frame: FrameType, _event: str, _argument: Argument) -> Argument:
        """Every Python function that is called comes here: those of calling frames are looked into."""
        calling, code = self._calling, frame.f_code
        if self._thread != get_ident():  # stopped from another thread, which cannot take it away here
            sys.settrace(None)
            return None
        calling.left -= 1
        if calling.left <= 0:
            self.stop()
            calling.at(None, 0)
            return None
        if id(code) not in calling.codes:
            return None
        if code.co_flags & _RESUMES:
            calling.at(code, frame.f_lineno)
        return self._local

    def _in_frame(self, frame: FrameType, event: str, _argument: Argument) -> Argument:
        if not self._thread:  # stopped; a debugger that came later finds this in a frame and is not disturbed
            return None
        calling = self._calling
        if event == "line":
            calling.left -= 1
            calling.at(frame.f_code, frame.f_lineno)
        elif event == "return":
            calling.back_to(frame.f_back)
        return self._local


class MonitoredLines:
    """Lines by `sys.monitoring`, Python 3.12 and later.

    Args:
        at: told of the lines.
        monitoring: `sys.monitoring`, unless a test passes its own.
    """

    def __init__(self, at: At, monitoring: Argument) -> None:
        self._calling = _Calling(at)
        self._monitoring = monitoring
        self._tool: int | None = None
        self._thread = 0

    def start(self, chain: Sequence[FrameType]) -> bool:
        """Begin, unless all tool numbers are taken."""
        if self._tool is None and not self._claim():
            return False
        events = self._monitoring.events
        wanted = events.LINE | events.PY_RETURN | events.PY_YIELD | events.PY_RESUME
        for frame in chain:
            if id(frame.f_code) not in self._calling.codes:  # instrumented once: that takes a while
                self._calling.codes[id(frame.f_code)] = frame.f_code
                self._monitoring.set_local_events(self._tool, frame.f_code, wanted)
        self.go_on()
        return True

    def knows(self, frame: FrameType) -> bool:  # noqa: ARG002
        """Not known: the events are asked for by code, and another frame may have called this one."""
        return False

    def go_on(self) -> None:
        """Listen to this thread."""
        self._calling.left = MOST_EVENTS
        self._thread = get_ident()

    def stop(self) -> None:
        """End; the events stay asked for, and are passed over."""
        self._thread = 0

    def close(self) -> None:
        """Ask for no more events and give the tool's number back."""
        self.stop()
        if self._tool is None:
            return
        for code in self._calling.codes.values():
            self._monitoring.set_local_events(self._tool, code, 0)
        for event in self._callbacks():
            self._monitoring.register_callback(self._tool, event, None)
        self._monitoring.free_tool_id(self._tool)
        self._calling.codes.clear()
        self._tool = None

    def _claim(self) -> bool:
        """Take a number that no tool has: those without a purpose of their own first."""
        for tool in (3, 4, 5, 2, 1, 0):
            if self._monitoring.get_tool(tool) is None:
                self._monitoring.use_tool_id(tool, "perstep")
                self._tool = tool
                for event, callback in self._callbacks().items():
                    self._monitoring.register_callback(tool, event, callback)
                return True
        return False

    def _callbacks(self) -> dict[int, Callable[..., None]]:
        events = self._monitoring.events
        return {
            events.LINE: self._line,
            events.PY_RETURN: self._leave,
            events.PY_YIELD: self._leave,
            events.PY_RESUME: self._resume,
        }

    def _line(self, code: CodeType, line: int) -> None:
        if self._thread == get_ident():
            calling = self._calling
            calling.left -= 1
            if calling.left <= 0:
                self.stop()
                calling.at(None, 0)
            else:
                calling.at(code, line)

    def _leave(self, _code: CodeType, _offset: int, _value: Argument) -> None:
        if self._thread == get_ident():
            self._calling.back_to(sys._getframe(1).f_back)

    def _resume(self, code: CodeType, _offset: int) -> None:
        if self._thread == get_ident():
            self._calling.at(code, sys._getframe(1).f_lineno)
