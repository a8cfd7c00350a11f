"""The recorder of a ledger: consecutive laps between clock readings (law 1).

A step begins, marks name the parts as they start, the step ends. Each mark ends
the part before it, so parts cannot overlap and nothing is lost between them:
parts + residual = step, exactly, in integers, by construction. While a step
runs only stamps and names are kept; everything is summed up after the run.
"""

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from perstep.errors import InvalidMeasurement
from perstep.measure.clock import Clock, HostClock

RESIDUAL = "residual"
"""What follows `mark(RESIDUAL)` belongs to no part, like the time before a step's first mark."""


@dataclass(frozen=True)
class Steps:
    """The recorded steps of one kind, a column a part; all integers in nanoseconds.

    Attributes:
        step_ns: the whole step, shape [steps].
        parts: for each part its exclusive time in each step, shape [steps]; zero where it did not occur.
        residual_ns: what no part covers, shape [steps].
        marks: for each part how often it was entered, over all steps.
    """

    step_ns: NDArray[np.int64]
    parts: dict[str, NDArray[np.int64]]
    residual_ns: NDArray[np.int64]
    marks: dict[str, int]


@dataclass
class _Laps:
    """Raw stamps of the steps that entered the same parts in the same order."""

    names: tuple[str, ...]
    stamps: "array[int]" = field(default_factory=lambda: array("q"))  # steps x (marks + 2), row after row
    order: "array[int]" = field(default_factory=lambda: array("q"))  # which step of its kind each row is


class Recorder:
    """Records the parts of steps, for any decode loop.

    Example:
        >>> with Recorder() as rec:
        ...     with rec.step():
        ...         rec.mark("embed")
        ...         rec.mark("attn.qkv")  # ends "embed"
        >>> rec.steps().step_ns.shape
        (1,)

    `mark(name)` costs about 0.1 µs. It may be handed around as a plain function.
    A step that is left by an exception is dropped and counted in `dropped`. As a context manager the
    recorder checks, when it is left, that no step was begun and not ended.

    Args:
        clock: where the time comes from.
    """

    mark: Callable[[str], None]

    def __init__(self, clock: Clock | None = None) -> None:
        self.dropped = 0
        self._now = (clock or HostClock()).now
        self._log: deque[Any] = deque()  # stamp, name, stamp, name, ... of the open step
        self._begun_ns: int | None = None
        self._kind = ""
        self._laps: dict[str, dict[tuple[str, ...], _Laps]] = {}
        self._counts: dict[str, int] = {}
        self.mark = self._make_mark()

    def _make_mark(self) -> Callable[[str], None]:
        # A closure over bound methods: 105 ns a mark against 160 ns for a method with attribute look-ups. One deque,
        # because it keeps its blocks when it is emptied, where a list gives its memory back and grows anew: with two
        # lists the 45 marks of a step of `mini` made it 1.039 times as long, with the deque 1.027 times.
        now, add = self._now, self._log.append

        def mark(part: str) -> None:
            """End the part before and begin `part`; a part entered twice in a step is summed."""
            add(now())
            add(part)

        return mark

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._begun_ns is None:
            return
        self.drop()
        if kind is None:
            raise InvalidMeasurement(f"a {self._kind} step was begun and not ended; it is dropped")

    def begin(self, kind: str = "decode") -> None:
        """Begin a step of a kind (`decode`, `prefill`, or a name of your own); kinds have ledgers of their own.

        Raises:
            InvalidMeasurement: a step is still open, or a mark was set outside of any step.
        """
        if self._begun_ns is not None:
            raise InvalidMeasurement(f"a {self._kind} step is still open; end it before the next one begins")
        if self._log:
            stray = self._log[1]
            self._forget()
            raise InvalidMeasurement(f"mark({stray!r}) was set outside of a step; set marks between begin and end")
        self._kind = kind
        self._begun_ns = self._now()

    def end(self) -> None:
        """End the step; its last part ends here.

        Raises:
            InvalidMeasurement: no step is open.
        """
        ended_ns = self._now()
        if self._begun_ns is None:
            raise InvalidMeasurement("no step is open; begin one first")
        log = list(self._log)
        names = tuple(log[1::2])
        by_names = self._laps.setdefault(self._kind, {})
        laps = by_names.get(names)
        if laps is None:
            laps = by_names[names] = _Laps(names)
        row = laps.stamps
        row.append(self._begun_ns)
        row.extend(log[0::2])
        row.append(ended_ns)
        count = self._counts.get(self._kind, 0)
        laps.order.append(count)
        self._counts[self._kind] = count + 1
        self._forget()

    def drop(self) -> None:
        """Forget the open step, as if it had not begun; it is counted in `dropped`."""
        self._forget()
        self.dropped += 1

    def step(self, kind: str = "decode") -> "_OpenStep":
        """A context manager around `begin` and `end`; an exception drops the step and passes on."""
        return _OpenStep(self, kind)

    @property
    def part(self) -> str | None:
        """The part that the open step is in, or None before its first mark: what to go back to after a detour."""
        return str(self._log[-1]) if self._log else None

    @property
    def kinds(self) -> list[str]:
        """The kinds of which steps have been recorded, in the order of their first step."""
        return list(self._counts)

    def steps(self, kind: str = "decode") -> Steps:
        """All recorded steps of a kind as columns.

        Raises:
            InvalidMeasurement: the clock went backwards inside a step.
        """
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
                raise InvalidMeasurement(f"the clock went backwards inside a {kind} step; its times mean nothing")
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
        self._forget()
        self._laps.clear()
        self._counts.clear()
        self.dropped = 0

    def _forget(self) -> None:
        self._begun_ns = None
        self._log.clear()


class _OpenStep:
    """One step as a context manager; a class, because a generator would cost 0.5 µs more a step."""

    __slots__ = ("_kind", "_recorder")

    def __init__(self, recorder: Recorder, kind: str) -> None:
        self._recorder = recorder
        self._kind = kind

    def __enter__(self) -> Self:
        self._recorder.begin(self._kind)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None:
            self._recorder.end()
        else:
            self._recorder.drop()
