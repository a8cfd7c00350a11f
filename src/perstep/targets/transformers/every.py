"""Watch every generate call of any transformers model in a process, for scripts that must not change."""

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Self

from perstep.targets.interrupts import uninterrupted
from perstep.targets.transformers import version
from perstep.targets.transformers._frames import Starts
from perstep.targets.transformers._wrap import Function, Wraps
from perstep.targets.transformers.instrument import Instrument
from perstep.targets.transformers.protocols import Model


class EveryGenerate:
    """A context manager in which each generate call is recorded by the Instrument chosen for it.

    A generate call made inside a watched one is part of that one.

    Args:
        choose: given the model and the call site (`folder/file.py:12`, the nearest line outside installed packages;
            in a thread without one, the line that started it), the Instrument that records this call, not entered
            yet; None leaves the call alone. To record all calls from one site together, give the same Instrument
            each time; where two threads call from there at once, one of the calls is recorded.
        unseen: makes a block around each call, recorded or not.
    """

    def __init__(
        self,
        choose: Callable[[Model, str], Instrument | None],
        unseen: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        version.require()
        self._choose, self._unseen = choose, unseen
        self._wraps = Wraps()
        self._starts = Starts(self._wraps)
        self._here = threading.local()
        self._lock = threading.Lock()
        self._taken: dict[Instrument, int] = {}  # -> the thread of its call

    @uninterrupted(undo="_restore")
    def __enter__(self) -> Self:
        from transformers import GenerationMixin

        self._taken.clear()
        self._here = threading.local()
        self._starts.watch()
        self._wraps.function(GenerationMixin, "generate", self._watch)
        return self

    @uninterrupted()
    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for instrument, thread in list(self._taken.items()):
            if thread == threading.get_ident():  # an interrupt has cut its call off
                instrument.__exit__(None, None, None)
        self._wraps.restore()

    def site(self, frame: FrameType | None) -> str:
        """The call site of what a frame calls."""
        return self._starts.site(frame)

    def _watch(self, original: Function) -> Function:
        def generate(model: Model, *args: object, **kwargs: object) -> object:
            if getattr(self._here, "watching", False) or kwargs.get("cache_implementation") == "paged":
                return original(model, *args, **kwargs)  # the latter is continuous batching, in another thread
            with self._unseen():
                instrument = self._choose(model, self.site(sys._getframe(1)))
                if instrument is None or not self._take(instrument):
                    return original(model, *args, **kwargs)
                try:
                    with instrument:
                        return instrument.call(original, model, *args, **kwargs)
                finally:
                    self._give_back(instrument)

        return generate

    @uninterrupted()
    def _give_back(self, instrument: Instrument) -> None:
        self._here.watching = False
        self._taken.pop(instrument, None)

    @uninterrupted()
    def _take(self, instrument: Instrument) -> bool:
        """Whether the Instrument is free: another thread may be in a call from the same place."""
        with self._lock:
            if instrument in self._taken:
                return False
            self._taken[instrument] = threading.get_ident()
            self._here.watching = True
            return True
