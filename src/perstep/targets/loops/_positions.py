"""What a forward takes in, read from the shape of its arguments: whether it is a prefill, a decode step or a new run.

A forward of one position decodes. So does one that takes in the whole text and one token more: then no cache is used.
What the shapes leave open is decided by the cache that is passed and by the line that calls.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Any, Final

FEW: Final = 32
"""Most positions of a decode step: what a draft proposed, checked at once. Above this a forward is a prefill."""
_NAMES: Final = ("decoder_input_ids", "decoder_inputs_embeds", "input_ids", "inputs_embeds", "idx", "tokens")

Argument = Any
"""What somebody's forward takes: its type is theirs."""


class Kind(Enum):
    """What a forward is in its loop."""

    PREFILL = "prefill"
    DECODE = "decode"
    NEW_RUN = "new run"
    """The prefill of another text: what came before it has ended."""


@dataclass(frozen=True)
class Seen:
    """What the arguments of a forward show.

    Attributes:
        rows: of the batch; None where the shape does not tell.
        positions: that the forward takes in; None likewise.
        fresh: a cache argument says that the text begins here (True) or goes on (False); None where nothing does.
    """

    rows: int | None
    positions: int | None
    fresh: bool | None = None


def look(args: Iterable[Argument], kwargs: Mapping[str, Argument]) -> Seen:
    """What the arguments of a forward show; no value of a tensor is read."""
    named = (kwargs[name] for name in _NAMES if kwargs.get(name) is not None)
    tensor = next((given for given in chain(named, args, kwargs.values()) if _is_tensor(given)), None)
    rows, positions = (None, None) if tensor is None else _shape(tensor)
    return Seen(rows, positions, _fresh(kwargs))


def _is_tensor(given: Argument) -> bool:
    return hasattr(given, "shape") and hasattr(given, "is_floating_point")


def _shape(tensor: Argument) -> tuple[int | None, int | None]:
    """Rows and positions of ids [B, T] or [T], of embeddings [B, T, C], of one vector a row [B, C]."""
    shape = tensor.shape
    if len(shape) == 0:
        return 1, 1
    if len(shape) > 3:
        return int(shape[0]), None
    if tensor.is_floating_point():
        return int(shape[0]), int(shape[1]) if len(shape) == 3 else 1
    return (1, int(shape[0])) if len(shape) == 1 else (int(shape[0]), int(shape[1]))


def _fresh(kwargs: Mapping[str, Argument]) -> bool | None:
    if "past_key_values" not in kwargs:
        return None
    cache = kwargs["past_key_values"]
    if cache is None:
        return True
    length = getattr(cache, "get_seq_length", None)
    return None if length is None else not length()


class Positions:
    """The forwards of one run so far.

    Attributes:
        first: positions of the first forward.
        rows: of the batch, as the first forward had them.
        decoded: a decode step has been seen.
        whole: decode steps take in the whole text again: there is no cache.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self.rows: int | None = None
        self.decoded = self.whole = False
        self._begun = False
        self._last = 0
        self._line: object = None

    def goes_on(self, args: Sequence[Argument], kwargs: Mapping[str, Argument]) -> bool:
        """Whether one more position is decoded with a cache: the usual case, told at the least cost.

        Args:
            args: of a forward that is called from where the last one was.
            kwargs: likewise.
        """
        if not self.decoded or self.whole or kwargs.get("past_key_values", self) is None:
            return False
        first = args[0] if args else kwargs.get("input_ids")
        shape: Sequence[int] = getattr(first, "shape", ())
        return len(shape) == 2 and shape[1] == 1

    def take(self, seen: Seen, line: object) -> Kind:
        """What the next forward is.

        Args:
            seen: its arguments.
            line: what tells the place of its call from others.
        """
        kind = self._kind(seen, line)
        if kind is not Kind.NEW_RUN:
            self.decoded |= kind is Kind.DECODE
            self._last = seen.positions or 0
            if not self._begun:
                self._begun, self.first, self.rows, self._line = True, seen.positions, seen.rows, line
        return kind

    def _kind(self, seen: Seen, line: object) -> Kind:
        positions = seen.positions
        if not self._begun:
            return Kind.PREFILL
        again = Kind.NEW_RUN if self.decoded else Kind.PREFILL
        if positions is None or (seen.fresh and self.decoded and positions != self._last + 1):
            return again
        if positions == 1 and not self.whole:
            return Kind.DECODE
        if positions == self._last + 1 and positions > 2 and seen.fresh is not False:
            self.whole = True
            return Kind.DECODE
        if positions == self._last and self.whole:  # the window is full
            return Kind.DECODE
        if positions > FEW or self.whole or seen.fresh:
            return again
        checks = seen.fresh is False or (seen.fresh is None and line != self._line)
        return Kind.DECODE if checks else again
