"""Which line runs between two forwards: the same from `sys.settrace` and from `sys.monitoring`."""

import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import pytest

from perstep.targets.loops import _lines
from perstep.targets.loops._lines import Lines, MonitoredLines, TracedLines, open_lines

Said = list[tuple[str, int] | str]


class Around:
    """A decode loop of generators and helpers, and what is said of its lines, counted from each function's first."""

    def __init__(self, make: Callable[..., Lines]) -> None:
        self.said: Said = []
        self.lines = make(self._at)
        self.works = True

    def _at(self, code: CodeType | None, line: int) -> None:
        self.said.append("none" if code is None else (code.co_name, line - code.co_firstlineno))

    def forward(self, x: int) -> int:
        """The model: no line of it may be heard of."""
        self.lines.stop()
        self.said.append("forward")
        y = sum(z for z in (x, 1))
        chain: list[FrameType] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename == __file__:
            chain.append(frame)
            frame = frame.f_back
        self.works = self.lines.start(chain)
        return y

    def decode_one(self, x: int) -> int:
        """Calls the model; a new frame each time."""
        y = self.forward(x)
        return y + 0

    def tokens(self, many: int) -> Iterator[int]:
        """The loop."""
        x = 0
        for _ in range(many):
            x = self.decode_one(x)
            x = helper(
                x,
            )
            yield x

    def run(self, many: int) -> None:
        """Who asks for the tokens."""
        for x in self.tokens(many):
            str(x)


def helper(x: int) -> int:
    """Belongs to the line that calls it."""
    return 2 * x


BETWEEN = [
    ("decode_one", 3),
    ("tokens", 4),
    ("tokens", 5),
    ("tokens", 6),
    ("tokens", 5),
    ("tokens", 8),
    ("run", 2),
    ("run", 3),
    ("run", 2),
    ("tokens", 8),
    ("tokens", 3),
    ("tokens", 4),
    ("decode_one", 2),
]


def test_the_lines_of_the_calling_frames_are_told_and_no_others() -> None:
    """What runs between two forwards, by what this Python has: 3.11 traces, later ones monitor."""
    around = Around(open_lines)
    before = sys.gettrace()
    if before is not None:
        pytest.skip("another tool traces this thread")
    around.run(3)
    around.lines.close()
    third = 2 * len(BETWEEN) + 2
    assert around.said[:third] == ["forward", *BETWEEN] * 2
    assert around.said[third : third + 8] == ["forward", *BETWEEN[:7]]
    assert sys.gettrace() is None
    assert sys._getframe().f_trace is None


def test_a_frame_that_was_begun_in_is_known_until_another_tool_traces() -> None:
    """There `go_on` gives the same events. A new frame is not known, nor is a generator's, nor one under a debugger."""
    said: list[int] = []
    lines = TracedLines(lambda code, line: said.append(line))
    frame = sys._getframe()

    def gives() -> Iterator[bool]:
        while True:
            own = sys._getframe()
            yield lines.start([own]) and not lines.stop() and lines.knows(own)

    assert not lines.knows(frame)
    for begin in (lambda: lines.start([frame]), lines.go_on, lines.go_on):
        begin()
        first = frame.f_lineno + 1
        lines.stop()
        assert first in said
        said.clear()
        assert lines.knows(frame)
    assert not (lambda: lines.knows(sys._getframe()))()
    generator = gives()
    assert not any(next(generator) for _ in range(3))
    sys.settrace(lambda *_: None)
    try:
        assert not lines.knows(frame)
    finally:
        sys.settrace(None)
        lines.close()
    assert frame.f_trace is None


def test_a_debugger_keeps_its_place() -> None:
    """Where another tracer is at work there are no lines, and it stays."""

    def other(frame: FrameType, event: str, argument: Any) -> None:
        return None

    around = Around(TracedLines)
    before = sys.gettrace()
    sys.settrace(other)
    try:
        around.run(2)
        kept = sys.gettrace()
    finally:
        sys.settrace(before)
        around.lines.close()
    assert not around.works
    assert kept is other
    assert around.said == ["forward", "forward"]


def test_lines_are_given_up_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the loop has been left, and what comes next is not slowed down."""
    if sys.gettrace() is not None:
        pytest.skip("another tool traces this thread")
    monkeypatch.setattr(_lines, "MOST_EVENTS", 5)
    around = Around(TracedLines)
    around.run(1)
    assert around.said[-1] == "none"
    assert sys.gettrace() is None
    assert len(around.said) < 12
    around.lines.close()


def test_what_another_thread_stops_ends_in_the_thread_that_began_it() -> None:
    """A tracer can be taken away by its own thread alone; the next call there does so."""
    if sys.gettrace() is not None:
        pytest.skip("another tool traces this thread")
    around = Around(TracedLines)
    around.forward(1)
    stopper = threading.Thread(target=around.lines.stop)
    stopper.start()
    stopper.join()
    helper(1)
    left = sys.gettrace()
    sys.settrace(None)
    assert left is None
    around.lines.close()


class FakeMonitoring:
    """`sys.monitoring` as far as it is used: tools, callbacks by event, events by code."""

    def __init__(self, taken: int) -> None:
        self.tools: dict[int, str] = dict.fromkeys(range(taken), "another tool")
        self.callbacks: dict[int, Any] = {}
        self.codes: dict[CodeType, int] = {}
        self.events = SimpleNamespace(LINE=1, PY_RETURN=2, PY_YIELD=4, PY_RESUME=8)

    def get_tool(self, tool: int) -> str | None:
        """Who has a number."""
        return self.tools.get(tool)

    def use_tool_id(self, tool: int, name: str) -> None:
        """Take a free number."""
        assert tool not in self.tools
        self.tools[tool] = name

    def free_tool_id(self, tool: int) -> None:
        """Give it back."""
        del self.tools[tool]

    def register_callback(self, tool: int, event: int, callback: Any) -> None:
        """What is called at an event."""
        assert self.tools[tool] == "perstep"
        self.callbacks[event] = callback

    def set_local_events(self, tool: int, code: CodeType, events: int) -> None:
        """Which events a code gives."""
        self.codes[code] = events


def test_monitoring_is_asked_for_the_calling_codes_alone_and_nothing_is_left() -> None:
    """A number that no tool has is taken, and given back; events of stopped times and other threads are passed over."""
    fake, said = FakeMonitoring(taken=3), []
    lines = MonitoredLines(lambda code, line: said.append(line), fake)
    frame = sys._getframe()
    assert lines.start([frame])
    assert (fake.tools[3], fake.codes) == ("perstep", {frame.f_code: 15})
    fake.callbacks[1](frame.f_code, 11)
    fake.callbacks[8](frame.f_code, 0)  # goes on in the middle of a line: the one that runs now, in the callback
    elsewhere = threading.Thread(target=fake.callbacks[1], args=(frame.f_code, 12))
    elsewhere.start()
    elsewhere.join()
    lines.stop()
    fake.callbacks[1](frame.f_code, 13)
    assert said[0] == 11
    assert len(said) == 2
    lines.close()
    assert 3 not in fake.tools
    assert (fake.codes, set(fake.callbacks.values())) == ({frame.f_code: 0}, {None})


def test_where_all_numbers_are_taken_there_are_no_lines() -> None:
    """`start` says so, and no number changes hands."""
    fake = FakeMonitoring(taken=6)
    lines = MonitoredLines(lambda code, line: None, fake)
    assert not lines.start([sys._getframe()])
    lines.close()
    assert set(fake.tools.values()) == {"another tool"}
