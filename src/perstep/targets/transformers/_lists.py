"""Logits processors and stopping criteria timed one by one, built-in ones included.

The list that transformers has built and merged is given a subclass of its own
class, and its elements stay what they are: class checks, attribute look-ups and
the passing of keyword arguments are transformers' own code, run on the originals.
The part of the first element begins where the list is called, that of each further one
where the iteration inside `__call__` turns to it.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from threading import get_ident

from perstep.targets.transformers._loop import Loop


class TimedLists:
    """Turns the lists of a loop into timed ones.

    Args:
        loop: whose steps the parts belong to.
        prefix: begins the names of the parts, as in `logits/TopPLogitsWarper`.
        after: the part that follows the list.
    """

    def __init__(self, loop: Loop, prefix: str, after: str) -> None:
        self._loop = loop
        self._prefix = prefix
        self._after = after
        self._classes: dict[type, type] = {}

    def timed(self, prepared: list[object]) -> object:
        """The same list, of a class that also tells the loop to which element it turns."""
        base = type(prepared)
        if base not in self._classes:
            self._classes[base] = _timed_class(base, self._loop, self._prefix, self._after)
        return self._classes[base](prepared)


def _timed_class(base: type, loop: Loop, prefix: str, after: str) -> type:
    call_all, iterate, mark, this_thread = base.__call__, base.__iter__, loop.mark, get_ident  # type: ignore[attr-defined]

    class TimedList(base):  # type: ignore[misc]
        """The list as it was, which also tells the loop to which element it turns."""

        _known: Sequence[object] = []
        _names: Sequence[str] = []

        def __call__(self, *args: object, **kwargs: object) -> object:
            watched, live = loop.watched, loop.live
            if watched != this_thread():
                return call_all(self, *args, **kwargs)
            loop.watched = loop.live = 0  # nothing that happens in an element is looked at
            if live:
                if list.__ne__(self, self._known):
                    self._known = list(list.__iter__(self))
                    self._names = part_names(prefix, self._known)
                if self._names:
                    mark(self._names[0])
                    loop.walking = live
            try:
                return call_all(self, *args, **kwargs)
            finally:
                loop.walking = 0
                loop.watched, loop.live = watched, live
                if live:
                    loop.part = after
                    mark(after)

        def __iter__(self) -> Iterator[object]:
            elements: Iterator[object] = iterate(self)
            if loop.walking != this_thread():
                return elements
            loop.walking = 0
            names = self._names
            return _turn_to_each(elements, names, mark) if len(names) > 1 else elements

    TimedList.__name__ = base.__name__
    TimedList.__qualname__ = base.__qualname__
    TimedList.__module__ = base.__module__
    return TimedList


def _turn_to_each(elements: Iterator[object], names: Sequence[str], mark: Callable[[str], None]) -> Iterator[object]:
    # The part of the first one has begun. A list that grows while it is walked is walked on, as it would be without us.
    yield from islice(elements, 1)
    for name, element in zip(names[1:], elements, strict=False):  # the names come first, so that no element is lost
        mark(name)
        yield element
    yield from elements


def part_names(prefix: str, elements: Sequence[object]) -> list[str]:
    """The part of each element: its class, or a function's own name; a second one of a name is `X#2`.

    >>> part_names("logits", [1, 2, len])
    ['logits/int', 'logits/int#2', 'logits/len']
    """
    seen: Counter[str] = Counter()
    names = []
    for element in elements:
        name = name_of(element)
        seen[name] += 1
        names.append(f"{prefix}/{name}" if seen[name] == 1 else f"{prefix}/{name}#{seen[name]}")
    return names


_SAYS_NOTHING = {"LogitsProcessor", "LogitsWarper", "StoppingCriteria", "BaseStreamer", "<lambda>"}
"""Names of a base class of transformers, which some libraries give to their own, and of every lambda."""


def name_of(thing: object) -> str:
    """The name of a function, else of a thing's class; of a partial function, that of the one inside.

    A name that says nothing has that of the module before it: `xgrammar.LogitsProcessor`, `my_script.<lambda>`.
    """
    while isinstance(thing, partial):
        thing = thing.func
    own = getattr(thing, "__name__", None)
    name, named = (own, thing) if isinstance(own, str) else (type(thing).__name__, type(thing))
    return f"{_module_of(named)}.{name}" if name in _SAYS_NOTHING else name


def _module_of(named: object) -> str:
    """The top-level package of a function or class; of the script that runs, its file without the ending."""
    module = str(getattr(named, "__module__", None) or "unknown").split(".")[0]
    if module != "__main__":
        return module
    return Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__").stem
