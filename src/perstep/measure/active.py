"""`perstep.step()` and `perstep.part(name)`: an engine names its steps and parts, and whoever watches takes them.

They are the module-level form of a `Recorder`. Inside `with Recorder() as rec:`, or while `perstep watch` runs the
program, they record; otherwise they do nothing, in 0.1 µs. A part inside another one takes its time from the outer
one, which goes on behind it. `rec.mark(name)` is the cheaper form: it ends the part before it.
"""

from contextlib import AbstractContextManager
from threading import get_ident
from types import TracebackType
from typing import Protocol

RESIDUAL = "residual"
"""The time after `mark(RESIDUAL)` is unattributed, like the time before a step's first mark."""


class Taker(Protocol):
    """What takes the steps and parts that a program names."""

    def step(self, kind: str = "decode") -> AbstractContextManager[object]:
        """A block that is one step."""
        ...

    def mark(self, part: str, /) -> None:
        """End the part before, and begin this one."""
        ...

    @property
    def part(self) -> str | None:
        """The part that the open step is in; None before its first mark, and where no step is open."""
        ...

    @property
    def stepping(self) -> bool:
        """Whether a step is open, in which marks are taken."""
        ...


class _Nothing:
    """A block that nobody watches."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        pass


_NOTHING = _Nothing()
_takers: list[tuple[Taker, int]] = []
"""Who takes them, with the number of the thread (0: of all); the last one does."""


def activate(taker: Taker, *, any_thread: bool = False) -> None:
    """Give this thread's steps and parts, or those of all threads, to a taker, until it is deactivated."""
    _takers.append((taker, 0 if any_thread else get_ident()))


def deactivate(taker: Taker) -> None:
    """Take no more; whoever took them before goes on."""
    _takers[:] = [entry for entry in _takers if entry[0] is not taker]


def step(kind: str = "decode") -> AbstractContextManager[object]:
    """A block that is one step of the active recorder; nothing where there is none, or in another thread.

    Args:
        kind: `decode`, `prefill`, or a name of your own. Each kind has its own ledger.

    Examples:
        >>> import perstep
        >>> with perstep.Recorder() as rec:
        ...     with perstep.step():
        ...         with perstep.part("schedule"):
        ...             pass
        >>> list(rec.steps().parts)
        ['schedule']
    """
    if not _takers:
        return _NOTHING
    taker, thread = _takers[-1]
    return taker.step(kind) if thread in (0, get_ident()) else _NOTHING


def part(name: str) -> AbstractContextManager[object]:
    """A block that is a part of the open step; nothing outside of a step, or where nobody watches.

    Args:
        name: of the part. A part that occurs twice in a step gets the sum.
    """
    if not _takers:
        return _NOTHING
    taker, thread = _takers[-1]
    return _Part(taker, name) if taker.stepping and thread in (0, get_ident()) else _NOTHING


class _Part:
    """A part as a block. A generator in its place would take 0.5 µs more."""

    __slots__ = ("_before", "_name", "_taker")

    def __init__(self, taker: Taker, name: str) -> None:
        self._taker, self._name = taker, name

    def __enter__(self) -> None:
        self._before = self._taker.part or RESIDUAL
        self._taker.mark(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._taker.stepping:
            self._taker.mark(self._before)
