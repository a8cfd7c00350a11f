"""The pieces of a text: fixed bytes, strings whose characters are counted, and whatever else a byte automaton reads.

A place inside a piece is an integer. `read` runs bytes from a place on: it gives the place behind them (-1 where the
piece cannot go on) and where on the way the piece was complete. `step` is the same for one byte. No piece is complete
before its first byte.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from perstep.automata.bodies import inside
from perstep.automata.charset import RAW_IN_JSON, SHORT_ESCAPES, intersect

if TYPE_CHECKING:
    from perstep.automata.dfa import Dfa

DEAD = -1
Value = tuple[str, Hashable]
"""A kind (`string`, `number`, ...) and a value of it; of a kind that is never there twice, None."""
_QUOTE = 0x22
Ends = Sequence[int]


class Piece:
    """A part of a text that is read from its first byte to its last; place 0 is before it.

    Attributes:
        tells: whether what follows depends on the value that was read (`unequal.py`).
    """

    tells = False  # no ABC: `isinstance` takes 1 µs with it, several times a row

    def read(self, place: int, data: bytes, at: int) -> tuple[int, Ends]:
        """The place behind `data[at:]`, and the ends within: `data[at:end]` completes the piece."""
        raise NotImplementedError

    def step(self, place: int, byte: int) -> tuple[int, bool]:
        """The place behind one more byte, and whether the piece is complete there."""
        raise NotImplementedError

    def value(self, place: int, data: bytes, at: int, end: int) -> Value:
        """The value that is complete at an end; only of a piece that `tells` it."""
        raise NotImplementedError


class Literal(Piece):
    """Fixed bytes; a place is how many of them were read."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, place: int, data: bytes, at: int) -> tuple[int, Ends]:
        """See `Piece`."""
        left = len(self.data) - place
        given = len(data) - at
        if given < left:
            return (place + given, ()) if self.data.startswith(data[at:] if at else data, place) else (DEAD, ())
        return DEAD, (at + left,) if data.startswith(self.data[place:] if place else self.data, at) else ()

    def step(self, place: int, byte: int) -> tuple[int, bool]:
        """See `Piece`."""
        if self.data[place] != byte:
            return DEAD, False
        place += 1
        return (DEAD, True) if place == len(self.data) else (place, False)


class Scanner(Piece):
    """What a byte automaton accepts; a place is a state, and 0 its start."""

    def __init__(self, dfa: Dfa) -> None:
        self.dfa = dfa
        self._next: memoryview[int] = memoryview(np.ascontiguousarray(dfa.transitions).reshape(-1))  # type: ignore[arg-type]
        self._class = dfa.byte_class.tobytes()
        self._width = dfa.num_byte_classes
        self._complete = dfa.accepting.tobytes()
        self._goes_on = dfa.transitions.any(axis=1).tobytes()
        self._live: dict[int, list[int]] = {}

    def live_bytes(self, place: int) -> list[int]:
        """The bytes that may be read at a place."""
        live = self._live.get(place)
        if live is None:
            row = self.dfa.transitions[self.state(place)]
            live = self._live[place] = np.flatnonzero(row[self.dfa.byte_class]).tolist()
        return live

    def state(self, place: int) -> int:
        """The automaton's state at a place."""
        return place or self.dfa.start

    def read(self, place: int, data: bytes, at: int) -> tuple[int, Ends]:
        """See `Piece`."""
        table, width, complete = self._next, self._width, self._complete
        state = place or self.dfa.start
        ends: list[int] = []
        for symbol in (data[at:] if at else data).translate(self._class):
            state = table[state * width + symbol]
            if not state:
                return DEAD, ends
            at += 1
            if complete[state]:
                ends.append(at)
        return (state if self._goes_on[state] else DEAD), ends

    def step(self, place: int, byte: int) -> tuple[int, bool]:
        """See `Piece`."""
        state = self._next[(place or self.dfa.start) * self._width + self._class[byte]]
        if not state:
            return DEAD, False
        return (state if self._goes_on[state] else DEAD), bool(self._complete[state])


class Text(Piece):
    """A JSON string of `low` to `high` characters; without an upper bound where `high` is None.

    Attributes:
        between: the state inside a character that is between two of them.
        num_places: places, 0 among them.

    A place is 0 before the opening quote, then 1 + characters begun * states + the state inside a character.
    """

    def __init__(self, low: int, high: int | None) -> None:
        self.low, self.high = low, high
        self._most = low if high is None else high
        dfa = inside()
        self.between = self._start = dfa.start
        self._states = len(dfa.accepting)
        self.num_places = 1 + (self._most + 1) * self._states
        self._next: memoryview[int] = memoryview(dfa.transitions.reshape(-1))  # type: ignore[arg-type]
        self._class = dfa.byte_class.tobytes()
        self._width = dfa.num_byte_classes

    def inside(self, place: int) -> tuple[int, int, int | None]:
        """The state inside a character, and how many more characters must and may be begun."""
        begun, state = divmod(place - 1, self._states)
        return state, max(0, self.low - begun), None if self.high is None else self.high - begun

    def is_free(self, place: int) -> bool:
        """Whether a place is between two characters, and neither their number nor the end is held."""
        return place == 1 + self.low * self._states + self._start and self.high is None

    def read(self, place: int, data: bytes, at: int) -> tuple[int, Ends]:
        """See `Piece`."""
        begun, state, at = self._begin(place, data, at)
        start, table, width, symbols = self._start, self._next, self._width, self._class
        while state and at < len(data):
            byte = data[at]
            at += 1
            if state == start:
                if byte == _QUOTE:
                    return DEAD, (at,) if begun >= self.low else ()
                if begun < self._most:
                    begun += 1
                elif self.high is not None:
                    return DEAD, ()
            state = table[state * width + symbols[byte]]
        return (1 + begun * self._states + state if state else DEAD), ()

    def _begin(self, place: int, data: bytes, at: int) -> tuple[int, int, int]:
        if not place:
            return 0, (self._start if data[at] == _QUOTE else 0), at + 1
        return *divmod(place - 1, self._states), at

    def step(self, place: int, byte: int) -> tuple[int, bool]:
        """See `Piece`."""
        if not place:
            return (1 + self._start if byte == _QUOTE else DEAD), False
        begun, state = divmod(place - 1, self._states)
        if state == self._start:
            if byte == _QUOTE:
                return DEAD, begun >= self.low
            if begun < self._most:
                begun += 1
            elif self.high is not None:
                return DEAD, False
        state = self._next[state * self._width + self._class[byte]]
        return (1 + begun * self._states + state if state else DEAD), False


class Key(Piece):
    """A JSON string of any length that is none of some words, however they are written.

    A place is one of `free` where the text has left every word, and otherwise behind those: a node of the tree of the
    words, and the bytes of a character that is not complete.

    Attributes:
        free: any string.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.free = Text(0, None)
        self.children: list[dict[str, int]] = [{}]
        self.ends: set[int] = set()
        for word in words:
            node = 0
            for character in word:
                node = self.children[node].setdefault(character, len(self.children))
                if node == len(self.children):
                    self.children.append({})
            self.ends.add(node)
        self._first = self.free.num_places
        self._places: list[tuple[int, bytes]] = []
        self._number: dict[tuple[int, bytes], int] = {}

    def is_free(self, place: int) -> bool:
        """Whether a place is one of `free`."""
        return 0 < place < self._first

    def at(self, place: int) -> tuple[int, bytes]:
        """The node of the tree, and the bytes of a character begun; of a place that is not free."""
        return self._places[place - self._first] if place else (0, b"")

    def read(self, place: int, data: bytes, at: int) -> tuple[int, Ends]:
        """See `Piece`."""
        if self.is_free(place):
            return self.free.read(place, data, at)
        node, part = self.at(place)
        if not place:
            if data[at] != _QUOTE:
                return DEAD, ()
            at += 1
        between = 1 + self.free.between
        while at < len(data):
            if not part and data[at] == _QUOTE:
                return DEAD, () if node in self.ends else (at + 1,)
            part += data[at : at + 1]
            at += 1
            after, _ = self.free.read(between, part, 0)
            if after == DEAD:
                return DEAD, ()
            if after == between:
                child = self.children[node].get(json.loads(b'"%s"' % part))
                if child is None:
                    return self.free.read(between, data, at) if at < len(data) else (between, ())
                node, part = child, b""
        key = (node, part)
        number = self._number.get(key)
        if number is None:
            number = self._number[key] = self._first + len(self._places)
            self._places.append(key)
        return number, ()

    def step(self, place: int, byte: int) -> tuple[int, bool]:
        """See `Piece`."""
        after, ends = self.read(place, bytes((byte,)), 0)
        return after, bool(ends)


@lru_cache(maxsize=4096)
def spellings(character: str) -> tuple[bytes, ...]:
    """The ways to write a character in a JSON string; the raw one, if there is one, first."""
    point = ord(character)
    ways = [character.encode()] if intersect(((point, point),), RAW_IN_JSON) else []
    ways += [SHORT_ESCAPES[point]] if point in SHORT_ESCAPES else []
    if point <= 0xFFFF:
        digits = [sorted({digit, digit.upper()}) for digit in f"{point:04x}"]
        ways += [b"\\u" + "".join(way).encode() for way in product(*digits)]
    return tuple(ways)
