"""A limit on what a compile may take, counted and not clocked: the same schema is refused on every machine.

Work is counted in nanoseconds of the machine it was weighed on (a shared core of 2026), memory in cells of transition
tables, of which each state of a construction has one for every class of bytes. Nothing is counted outside `metered`.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from perstep._words import short
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CPU_SECONDS = 2.0
MEGABYTES = 200.0
_BYTES_PER_CELL = 12  # while a table is made and made minimal; 4 to 16 were measured

_Args = ParamSpec("_Args")
_Value = TypeVar("_Value")


@dataclass
class _Cost:
    """What a remembered result took: its own work, the bytes needed at once, and the remembered results in it."""

    own: int = 0
    held: int = 0
    parts: list[tuple[object, _Cost]] = field(default_factory=list)


@dataclass
class _Meter:
    """What was spent and is kept, within limits (None: none)."""

    cpu_seconds: float | None
    megabytes: float | None
    spent: int = 0
    kept_bytes: int = 0
    paid: set[object] = field(default_factory=set)
    open_costs: list[_Cost] = field(default_factory=lambda: [_Cost()])
    outer: _Meter | None = None

    def count(self, nanoseconds: int) -> None:
        """Add some work."""
        if self.outer is not None:
            self.outer.count(nanoseconds)
        self.spent += nanoseconds
        if self.cpu_seconds is not None and self.spent > self.cpu_seconds * 1e9:
            raise InputError(
                f"this would take more than about {short(self.cpu_seconds)} CPU seconds to compile (counted, "
                "not clocked): simplify it, raise cpu_seconds, or use an engine that works without a finite automaton "
                "(llguidance)"
            )

    def hold(self, num_bytes: int, what: str) -> None:
        """See that memory may be needed at once, beside what is kept."""
        needed = (num_bytes + self.kept_bytes) / 2**20
        if self.megabytes is not None and needed > self.megabytes:
            raise InputError(
                f"{what} would take about {needed:,.0f} MB to compile, over the limit of {short(self.megabytes)} MB: "
                "simplify it, raise megabytes, or use an engine that works without a finite automaton (llguidance)"
            )

    def pay(self, name: object, cost: _Cost) -> None:
        """Add the work of a remembered result and its parts, each once in a compile."""
        if name not in self.paid:
            self.paid.add(name)
            self.count(cost.own)
            for part, part_cost in cost.parts:
                self.pay(part, part_cost)


_meter: ContextVar[_Meter | None] = ContextVar("_meter", default=None)


@contextmanager
def metered(cpu_seconds: float | None, megabytes: float | None) -> Iterator[Callable[[], float]]:
    """Count what is done within, and refuse what goes over a limit; gives what was spent so far, in CPU seconds.

    Inside another `metered` the work counts there too, but for remembered results that were counted there already.
    """
    outer = _meter.get()
    meter = _Meter(cpu_seconds, megabytes)
    if outer is not None:
        meter.outer, meter.paid = outer, outer.paid
    token = _meter.set(meter)
    try:
        yield lambda: meter.spent / 1e9
    finally:
        _meter.reset(token)


def spend(nanoseconds: int) -> None:
    """Count some work.

    Raises:
        InputError: the work counted so far exceeds the limit of CPU seconds.
    """
    meter = _meter.get()
    if meter is not None:
        meter.open_costs[-1].own += nanoseconds
        meter.count(nanoseconds)


def keep(num_bytes: int) -> None:
    """Count memory that is needed until the compile ends.

    Raises:
        InputError: the memory counted so far exceeds the limit.
    """
    meter = _meter.get()
    if meter is not None:
        meter.kept_bytes += num_bytes
        hold(0, "this")


def hold(cells: int, what: str, other_bytes: int = 0) -> None:
    """See that a transition table may have this number of cells.

    Raises:
        InputError: if it would be too large; `what` is made.
    """
    meter = _meter.get()
    if meter is not None:
        needed = cells * _BYTES_PER_CELL + other_bytes
        meter.open_costs[-1].held = max(meter.open_costs[-1].held, needed)
        meter.hold(needed, what)


def metered_cache(size: int) -> Callable[[Callable[_Args, _Value]], Callable[_Args, _Value]]:
    """Remember results, the latest `size` of them, and count their work in every compile that uses them.

    So what was compiled before in the same process does not decide what is refused.
    """

    def remember(function: Callable[_Args, _Value]) -> Callable[_Args, _Value]:
        kept: OrderedDict[object, tuple[_Value, _Cost]] = OrderedDict()

        @wraps(function)
        def remembered(*args: _Args.args, **kwargs: _Args.kwargs) -> _Value:
            key = (args, tuple(kwargs.items()))
            name = (function, key)
            meter = _meter.get() or _Meter(None, None)
            if key in kept:
                kept.move_to_end(key)
                value, cost = kept[key]
                meter.pay(name, cost)
                meter.hold(cost.held, "this")
            else:
                cost = _Cost()
                meter.paid.add(name)
                meter.open_costs.append(cost)
                token = _meter.set(meter)
                try:
                    value = function(*args, **kwargs)
                finally:
                    _meter.reset(token)
                    meter.open_costs.pop()
                kept[key] = value, cost
                if len(kept) > size:
                    kept.popitem(last=False)
            meter.open_costs[-1].parts.append((name, cost))
            meter.open_costs[-1].held = max(meter.open_costs[-1].held, cost.held)
            return value

        return remembered

    return remember
