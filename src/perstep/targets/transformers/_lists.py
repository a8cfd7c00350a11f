"""Logits processors and stopping criteria timed one by one, built-in ones included.

The list that transformers has built and merged is given a subclass of its own
class, and its elements stay what they are: class checks, attribute look-ups and
the passing of keyword arguments are transformers' own code, run on the originals.
Only the iteration inside `__call__` is ours: turning to an element begins its part.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

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

    def timed(self, prepared: list[Any]) -> Any:
        """The same list, of a class that also tells the loop to which element it turns."""
        base = type(prepared)
        if base not in self._classes:
            self._classes[base] = _timed_class(base, self._loop, self._prefix, self._after)
        return self._classes[base](prepared)


def _timed_class(base: type, loop: Loop, prefix: str, after: str) -> type:
    class TimedList(base):  # type: ignore[misc]
        """The list as it was, which also tells the loop to which element it turns."""

        _named: tuple[list[Any], list[str]] = ([], [])

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if loop.outside():
                return super().__call__(*args, **kwargs)
            loop.walking = loop.live
            loop.hush()
            try:
                return super().__call__(*args, **kwargs)
            finally:
                loop.walking = False
                loop.unhush(after)

        def __iter__(self) -> Iterator[Any]:
            elements: Iterator[Any] = super().__iter__()
            if not loop.walking or loop.elsewhere():
                return elements
            loop.walking = False
            known: list[Any] = list(list.__iter__(self))
            if known != self._named[0]:
                self._named = (known, part_names(prefix, known))
            return _turn_to_each(elements, self._named[1], loop.mark)

    TimedList.__name__ = base.__name__
    TimedList.__qualname__ = base.__qualname__
    TimedList.__module__ = base.__module__
    return TimedList


def _turn_to_each(elements: Iterator[Any], names: list[str], mark: Callable[[str], None]) -> Iterator[Any]:
    # A list that grows while it is walked is walked on, as it would be without us.
    for name, element in zip(chain(names, repeat(names[-1])) if names else (), elements, strict=False):
        mark(name)
        yield element


def part_names(prefix: str, elements: list[Any]) -> list[str]:
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


def name_of(thing: Any) -> str:
    """The name of a function, else of a thing's class."""
    name = getattr(thing, "__name__", None)
    return name if isinstance(name, str) else type(thing).__name__
