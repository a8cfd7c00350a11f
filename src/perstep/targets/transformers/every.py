"""Watch every generate call of any transformers model in a process, for scripts that must not change."""

import sys
import threading
from collections.abc import Callable
from typing import Self

from perstep.targets.transformers import version
from perstep.targets.transformers._frames import nearest_line
from perstep.targets.transformers._wrap import Function, Wraps
from perstep.targets.transformers.instrument import Instrument
from perstep.targets.transformers.protocols import Model

_NOT_THE_SITE = {"transformers", "torch", "perstep"}


class EveryGenerate:
    """A context manager in which each generate call is recorded by the Instrument chosen for it.

    A generate call made inside a watched one is part of that one.

    Args:
        choose: given the model and the call site (`folder/file.py:12`, the nearest line outside transformers),
            the Instrument that records this call, not entered yet; None leaves the call alone. To
            record all calls from one site together, give the same Instrument each time; where two
            threads call from there at once, one of the calls is recorded.
    """

    def __init__(self, choose: Callable[[Model, str], Instrument | None]) -> None:
        version.require()
        self._choose = choose
        self._wraps = Wraps()
        self._here = threading.local()
        self._lock = threading.Lock()
        self._taken: list[Instrument] = []

    def __enter__(self) -> Self:
        from transformers import GenerationMixin

        self._wraps.function(GenerationMixin, "generate", self._watch)
        return self

    def __exit__(self, *exception: object) -> None:
        self._wraps.restore()

    def _watch(self, original: Function) -> Function:
        def generate(model: Model, *args: object, **kwargs: object) -> object:
            if getattr(self._here, "watching", False):
                return original(model, *args, **kwargs)
            instrument = self._choose(model, nearest_line(sys._getframe(1), _NOT_THE_SITE))
            if instrument is None or not self._take(instrument):
                return original(model, *args, **kwargs)
            self._here.watching = True
            try:
                with instrument:
                    return instrument.call(original, model, *args, **kwargs)
            finally:
                self._here.watching = False
                self._taken.remove(instrument)

        return generate

    def _take(self, instrument: Instrument) -> bool:
        """Whether the Instrument is free: another thread may be in a call from the same place."""
        with self._lock:
            if instrument in self._taken:
                return False
            self._taken.append(instrument)
            return True
