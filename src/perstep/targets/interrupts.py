"""Ctrl-C waits while wrappers are put in place or taken away, and comes right after.

While a wrapper is in place SIGINT comes here first. Inside a function that is `uninterrupted` it is kept until that
function has ended; anywhere else it goes where it would have gone. A handler that such a function sets for itself would
come too late: CPython looks for signals where a function begins, that of `__exit__` too. Handlers run in the main
thread alone, so other threads need none. A program that sets a handler of its own meanwhile keeps it.
`asyncio.run` sets its own only where it finds Python's default one: begun while a wrapper is in place, a Ctrl-C raises
KeyboardInterrupt where the loop is, and does not cancel the main task first.
"""

import functools
import signal
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import ParamSpec, TypeVar, cast

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


Handler = Callable[[int, FrameType | None], object]
"""What takes a signal."""


class _Signal:
    """Who takes SIGINT.

    Attributes:
        before: the handler that was there before ours.
        wanted: wrappers are in place.
        kept: one came and waits.
    """

    before: Handler | None = None
    wanted = False
    kept = False


_STATE = _Signal()
_WHOLE: set[CodeType] = set()
"""The code of what runs uninterrupted functions."""


def hold() -> None:
    """Take interrupts first from now on, where the main thread has a Python function that takes them."""
    _STATE.wanted = True
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is threading.main_thread() and callable(before) and before is not _take:
        _STATE.before = before
        signal.signal(signal.SIGINT, _take)


def release() -> None:
    """No wrapper is in place: at the end of the uninterrupted function the handler is put back that was there."""
    _STATE.wanted = False


def uninterrupted(undo: str = "") -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Make a method that a Ctrl-C does not interrupt: one that comes meanwhile is raised when the method has ended.

    Args:
        undo: the method of the same object that takes back what it did, called where an interrupt waits for its end: no
            `with` block will do so.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            try:
                result = function(*args, **kwargs)
                if undo and _STATE.kept:
                    getattr(args[0], undo)()
                return result
            finally:
                _deliver()

        _WHOLE.add(cast("FunctionType", run).__code__)
        return run

    return decorate


def _take(number: int, frame: FrameType | None) -> None:
    """The handler of SIGINT while wrappers are in place."""
    if _is_whole(frame):
        _STATE.kept = True
    elif _STATE.before:
        _STATE.before(number, frame)


def _deliver() -> None:
    """At the end of the outermost uninterrupted function: the handler as before, and the interrupt that waited."""
    if not (_STATE.kept or (not _STATE.wanted and _STATE.before)) or _is_whole(sys._getframe(2)):
        return
    if threading.current_thread() is not threading.main_thread():
        return
    before = _STATE.before
    if not _STATE.wanted:
        if signal.getsignal(signal.SIGINT) is _take:
            signal.signal(signal.SIGINT, before)
        _STATE.before = None
    if _STATE.kept and before:
        _STATE.kept = False
        before(signal.SIGINT, sys._getframe(2))


def _is_whole(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _WHOLE:
            return True
        frame = frame.f_back
    return False
