"""The recorder of a ledger: consecutive intervals between clock readings (law "parts add up").

A step begins, marks name the parts as they start, the step ends. Each mark ends the part before it. Parts therefore
cannot overlap, and no time is lost between them: parts + residual = step, exactly, in integers. The residual is the
time before the first mark and after a mark of `RESIDUAL`.

While steps run, the recorder only appends stamps and names to a log. About a hundred steps at a time are sorted into
columns, between two steps. They are summed up after the run.
"""

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InvalidMeasurement
from perstep.measure.active import RESIDUAL, activate, deactivate
from perstep.measure.clock import Clock, HostClock

FILED_AT = 960
"""The log is sorted into columns when it has more entries than this. Sorting one step takes 10 µs after a forward, in
cold caches, and 1 µs among many others. 960 entries are 15 blocks of a deque, which keeps 16 for reuse."""
_END = "\0"
"""The log's entry for the end of a step, in the place of a part's name."""

_NO_STEPS = np.zeros(0, np.int64)


class Steps(msgspec.Struct, omit_defaults=True, eq=False):
    """The recorded steps of one kind, one column for each part; integers in nanoseconds.

    Samples hold this record too. Uninstrumented steps have `step_ns` alone.

    Attributes:
        step_ns: the whole step, shape [steps].
        parts: part -> its exclusive time in each step, shape [steps]; zero where it did not occur.
        residual_ns: the unattributed time, shape [steps].
        marks: part -> how often it was entered, over all steps.
    """

    step_ns: NDArray[np.int64]
    parts: dict[str, NDArray[np.int64]] = {}
    residual_ns: NDArray[np.int64] = _NO_STEPS
    marks: dict[str, int] = {}


@dataclass
class _Laps:
    """Raw stamps of the steps that entered the same parts in the same order."""

    names: tuple[str, ...]
    stamps: "array[int]" = field(default_factory=lambda: array("q"))  # steps x (marks + 2), row after row
    order: "array[int]" = field(default_factory=lambda: array("q"))  # the index of each row's step among its kind


Entry = Any
"""Of the log: a stamp, a part's name, or what ends a step."""


class Recorder:
    """Records the parts of steps, for any decode loop.

    Examples:
        >>> with Recorder() as rec:
        ...     with rec.step():
        ...         rec.mark("embed")
        ...         rec.mark("attn.qkv")  # ends "embed"
        >>> rec.steps().step_ns.shape
        (1,)

    `mark(name)` costs about 0.1 µs. It can be passed around as a function. The `with` block takes `perstep.step()` and
    `perstep.part()` of its thread too. If an exception ends a step, the step is dropped and counted in `dropped`.
    On exit the context manager raises an error if a step was begun and not ended.

    Args:
        clock: the source of time; the host's clock by default.
    """

    __slots__ = ("_add", "_counts", "_laps", "_log", "_now", "_open", "_sequence", "dropped", "mark")
    mark: Callable[[str], None]

    def __init__(self, clock: Clock | None = None) -> None:
        self.dropped = 0
        self._now = (clock or HostClock()).now
        # Stamps and names alternate: a stamp and the step's kind, a stamp and a name for each part, a stamp and _END.
        self._log: deque[Entry] = deque((0, _END))
        self._add = self._log.append
        self._open = False
        self._laps: dict[str, dict[tuple[str, ...], _Laps]] = {}
        self._sequence: list[str] = []
        self._counts: dict[str, int] = {}
        self.mark = self._make_mark()

    def _make_mark(self) -> Callable[[str], None]:
        # A closure over bound methods takes 100 ns a mark; a method with attribute look-ups takes 160 ns.
        now, add = self._now, self._add

        def mark(part: str) -> None:
            """End the current part and begin `part`. A part that is entered twice in a step gets the sum."""
            add(now())
            add(part)

        return mark

    def __enter__(self) -> Self:
        activate(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        deactivate(self)
        if not self._open:
            return
        open_kind = self._open_step()[1]
        self.drop()
        if kind is None:
            raise InvalidMeasurement(f"a {open_kind} step was begun and not ended; it is dropped")

    def begin(self, kind: str = "decode") -> None:
        """Begin a step of a kind (`decode`, `prefill`, or a name of your own). Each kind has its own ledger.

        Raises:
            InvalidMeasurement: a step is still open, or a mark was set outside of any step.
        """
        if self._log[-1] is not _END:
            self._refuse()
        self._open = True
        self._add(self._now())
        self._add(kind)

    def _refuse(self) -> None:
        """Raise the reason why no step can begin here."""
        first = self._open_step()[1]
        if self._open:
            raise InvalidMeasurement(f"a {first} step is still open; end it before the next one begins")
        self._forget()
        raise InvalidMeasurement(f"mark({first!r}) was set outside of a step; set marks between begin and end")

    def end(self) -> None:
        """End the step; its last part ends here.

        Raises:
            InvalidMeasurement: no step is open.
        """
        ended_ns = self._now()
        if not self._open:
            raise InvalidMeasurement("no step is open; begin one first")
        self._open = False
        self._add(ended_ns)
        self._add(_END)
        if len(self._log) > FILED_AT:
            self._file()

    def turn(self, kind: str = "decode") -> None:
        """End the step and begin the next one with one reading of the clock, so there is no time between them.

        Raises:
            InvalidMeasurement: no step is open.
        """
        now_ns, add = self._now(), self._add
        if not self._open:
            raise InvalidMeasurement("no step is open; begin one first")
        add(now_ns)
        add(_END)
        if len(self._log) > FILED_AT:
            self._file()
            now_ns = self._now()  # the time of sorting belongs to no step
        add(now_ns)
        add(kind)

    def drop(self) -> None:
        """Forget the open step and count it in `dropped`."""
        self._forget()
        self.dropped += 1

    def step(self, kind: str = "decode") -> "_OpenStep":
        """A context manager around `begin` and `end`. An exception drops the step and propagates."""
        return _OpenStep(self, kind)

    @property
    def stepping(self) -> bool:
        """Whether a step is open."""
        return self._open

    @property
    def part(self) -> str | None:
        """The current part of the open step, or None before its first mark. A wrapper marks it again on its return."""
        return str(self._log[-1]) if self._open and self._log[-3] is not _END else None

    @property
    def kinds(self) -> list[str]:
        """The kinds of the recorded steps, in the order of their first step."""
        self._file()
        return list(self._counts)

    @property
    def sequence(self) -> list[str]:
        """The kind of each recorded step, in the order in which they ended."""
        self._file()
        return list(self._sequence)

    def steps(self, kind: str = "decode") -> Steps:
        """All recorded steps of a kind as columns.

        Raises:
            InvalidMeasurement: the clock went backwards inside a step.
        """
        self._file()
        count = self._counts.get(kind, 0)
        columns: dict[str, NDArray[np.int64]] = {}
        marks: dict[str, int] = {}
        step_ns = np.zeros(count, np.int64)
        residual_ns = np.zeros(count, np.int64)
        for laps in self._laps.get(kind, {}).values():
            where = np.asarray(laps.order, dtype=np.int64)
            stamps = np.asarray(laps.stamps, dtype=np.int64).reshape(len(where), len(laps.names) + 2)
            lap_ns = np.diff(stamps, axis=1)
            if (lap_ns < 0).any():
                raise InvalidMeasurement(f"the clock went backwards inside a {kind} step; its times are invalid")
            step_ns[where] = stamps[:, -1] - stamps[:, 0]
            residual_ns[where] += lap_ns[:, 0]
            for lap, name in enumerate(laps.names, start=1):
                if name == RESIDUAL:
                    residual_ns[where] += lap_ns[:, lap]
                    continue
                column = columns.setdefault(name, np.zeros(count, np.int64))
                column[where] += lap_ns[:, lap]
                marks[name] = marks.get(name, 0) + len(where)
        return Steps(step_ns, columns, residual_ns, marks)

    def clear(self) -> None:
        """Forget all recorded steps."""
        self._log.clear()
        self._log.extend((0, _END))
        self._open = False
        self._laps.clear()
        self._sequence.clear()
        self._counts.clear()
        self.dropped = 0

    def _open_step(self) -> list[Entry]:
        """The entries of the log after the end of the last complete step."""
        log = list(self._log)
        last = len(log) - 1
        while log[last] is not _END:  # one by one: an interrupt may have left a stamp without its name
            last -= 1
        return log[last + 1 :]

    def _forget(self) -> None:
        """Forget the open step, or marks that were set outside of a step."""
        for _ in self._open_step():
            self._log.pop()
        self._open = False

    def _file(self) -> None:
        """Move the complete steps from the log into columns, by kind and names."""
        still_open = self._open_step()
        ended = list(self._log)[2 : len(self._log) - len(still_open)]
        stamps, names = ended[::2], ended[1::2]
        begin = 0
        while begin < len(names):
            end = names.index(_END, begin)
            self._file_step(names[begin], tuple(names[begin + 1 : end]), stamps[begin : end + 1])
            begin = end + 1
        self._log.clear()
        self._log.extend((0, _END, *still_open))

    def _file_step(self, kind: str, names: tuple[str, ...], stamps: list[int]) -> None:
        by_names = self._laps.setdefault(kind, {})
        laps = by_names.get(names)
        if laps is None:
            laps = by_names[names] = _Laps(names)
        laps.stamps.extend(stamps)
        count = self._counts.get(kind, 0)
        laps.order.append(count)
        self._counts[kind] = count + 1
        self._sequence.append(kind)


class _OpenStep:
    """One step as a context manager. A generator in its place would take 0.5 µs more a step."""

    __slots__ = ("_kind", "_recorder")

    def __init__(self, recorder: Recorder, kind: str) -> None:
        self._recorder = recorder
        self._kind = kind

    def __enter__(self) -> Self:
        self._recorder.begin(self._kind)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        (self._recorder.end if kind is None else self._recorder.drop)()
