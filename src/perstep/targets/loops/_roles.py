"""Which model a loop is about, where several are called in it: that model's calls separate the steps.

A step goes from one call of the main model to the next. The others (a draft, a vision tower, the layers of a model that
is no module itself) are parts of these steps. Of models that take turns the largest is the main one.
"""

from enum import Enum
from typing import Final

MOST_BESIDE: Final = 16
"""Calls of other models in a row after which the main model's loop is over: a draft proposes fewer tokens."""
_SETTLED: Final = 2
"""A model that was called more often than this has a loop of its own."""


class Role(Enum):
    """What a model is in a loop."""

    MAIN = "main"
    PART = "part"
    BECOMES_MAIN = "becomes main"


class Roles:
    """The models of one thread, by a number of each."""

    def __init__(self) -> None:
        self._main: int | None = None
        self._calls = self._beside = 0
        self._firm = False
        self._sizes: dict[int, int] = {}

    def again(self) -> None:
        """The main model is called once more."""
        self._calls += 1
        self._beside = 0

    def of(self, model: int, size: int, *, here: bool) -> Role:
        """The role of a model that is called now.

        Args:
            model: its number.
            size: of its weights.
            here: it is called in the main model's loop, not somewhere else.
        """
        if model == self._main:
            self.again()
            return Role.MAIN
        self._beside += 1
        if self._main is None or not here or self._beside > MOST_BESIDE:
            return self._become(model, size, alone=True)
        is_known, largest = model in self._sizes, max(self._sizes.values())
        self._sizes[model] = size
        if is_known and self._calls <= _SETTLED:
            self._firm = True  # they take turns
        if self._firm and is_known:
            return self._become(model, size) if size > self._sizes[self._main] else Role.PART
        if self._calls == 1 and not self._firm:
            return self._become(model, size)
        return self._become(model, size, alone=True) if size > largest else Role.PART

    def _become(self, model: int, size: int, *, alone: bool = False) -> Role:
        if alone:
            self._sizes, self._firm = {}, False
        self._sizes[model] = size
        self._main, self._calls, self._beside = model, 1, 0
        return Role.BECOMES_MAIN
