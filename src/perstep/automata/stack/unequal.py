"""Items of an array of which no two are equal: which values have been, and pieces that are none of these.

What was read is part of the place, since it must be known when the item is complete. No place is a dead end: it is
left out where nothing but values that have been could follow. Strings are compared as characters however they are
written, and numbers by value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from perstep.automata.stack.pieces import DEAD, Ends, Key, Literal, Piece, Text, Value, spellings

if TYPE_CHECKING:
    from perstep.automata.search import Search

_QUOTE, _BACKSLASH = 0x22, 0x5C
_CHARACTERS = re.compile(
    rb"(?:[\x20-\x21\x23-\x5b\x5d-\x7f]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
    rb"|\\[^u]|\\u[0-9a-fA-F]{4})*"
)


@dataclass(frozen=True, eq=False)
class Compared:
    """A piece whose value must be told from those that have been.

    Attributes:
        piece: a string or a number.
        kind: `number`; `string`, or `property` for the string by which objects are compared.
        endless: whether it is known that its values have no end.
    """

    piece: Piece
    kind: str
    endless: bool

    @property
    def is_free(self) -> bool:
        """Whether there is always a value that has not been, whatever was written of it."""
        return isinstance(self.piece, Key) or (isinstance(self.piece, Text) and self.piece.high is None)


class Listed(Literal):
    """A value that is written in one way.

    Args:
        data: how.
        stands_for: the value.
    """

    tells = True

    def __init__(self, data: bytes, stands_for: Value) -> None:
        super().__init__(data)
        self.stands_for = stands_for

    def value(self, place: int, data: bytes, at: int, end: int) -> Value:
        """The value that is complete at an end."""
        del place, data, at, end
        return self.stands_for


@dataclass(frozen=True, eq=False)
class Unequal:
    """`low` to `high` items, no two of which are equal.

    Attributes:
        low: fewest items; 1 at least.
        high: most items.
        comma: what stands between them.
        listed: values that are written in one way.
        compared: strings and numbers.
        rules: nodes where the rules of objects and arrays begin (their symbols until there are nodes), and the value
            that stands for all of one; None where the rule itself tells its value (`Program.compare`).
    """

    low: int
    high: int | None
    comma: Piece
    listed: tuple[Listed, ...]
    compared: tuple[Compared, ...]
    rules: tuple[tuple[int, Value | None], ...]
    _unlike: dict[tuple[Compared, frozenset[Hashable]], Unlike] = field(default_factory=dict)

    def unlike(self, compared: Compared, seen: frozenset[Value]) -> Unlike:
        """A piece without the values that have been."""
        key = (compared, frozenset(value for kind, value in seen if kind == compared.kind))
        unlike = self._unlike.get(key)
        if unlike is None:
            unlike = self._unlike[key] = Unlike(*key)
        return unlike

    def goes_on(self, number: int, seen: frozenset[Value]) -> bool:
        """Whether another item may follow `number` of them."""
        return (self.high is None or number < self.high) and (
            any(piece.stands_for not in seen for piece in self.listed)
            or any(self.unlike(compared, seen).can_begin for compared in self.compared)
            or any(value is None or value not in seen for _, value in self.rules)
        )


_Begun = tuple[int, str, bytes]
"""The place in the piece; of a string its characters, of a number its digits; the bytes of a character begun."""


class Unlike(Piece):
    """A string or a number that is none of some values.

    Args:
        compared: the piece.
        seen: the values, of its own kind.
    """

    tells = True

    def __init__(self, compared: Compared, seen: frozenset[Hashable]) -> None:
        self.compared = compared
        self.piece = compared.piece
        self.seen = seen
        self._kind = compared.kind
        self._is_string = compared.kind != "number"
        # Numbers are written in one way each: without exponents and without zeros that say nothing.
        self._spelled: list[str] = [str(value) if self._is_string else f"{value:f}" for value in seen]
        self._places: list[_Begun] = [(0, "", b"")]
        self._number: dict[_Begun, int] = {self._places[0]: 0}
        self.can_begin = not seen or self._ends_new(self._places[0])

    def begun(self, place: int) -> _Begun:
        """What has been read at a place."""
        return self._places[place]

    def value(self, place: int, data: bytes, at: int, end: int) -> Value:
        """The value that is complete at an end."""
        piece_place, value, part = self._places[place]
        if self._is_string:
            return self._kind, value + _characters(part + data[at if piece_place else at + 1 : end - 1])
        return self._kind, Decimal(value + data[at:end].decode())

    def read(self, place: int, data: bytes, at: int) -> tuple[int, Ends]:
        """See `Piece`."""
        after, ends = self.piece.read(self._places[place][0], data, at)
        if ends and self.seen:
            ends = [end for end in ends if self.value(place, data, at, end)[1] not in self.seen]
        if after == DEAD:
            return DEAD, ends
        begun = self._further(self._places[place], after, data[at:])
        if self.seen and not self._ends_new(begun):
            return DEAD, ends
        number = self._number.get(begun)
        if number is None:
            number = self._number[begun] = len(self._places)
            self._places.append(begun)
        return number, ends

    def step(self, place: int, byte: int) -> tuple[int, bool]:
        """See `Piece`."""
        after, ends = self.read(place, bytes((byte,)), 0)
        return after, bool(ends)

    def _further(self, begun: _Begun, after: int, data: bytes) -> _Begun:
        place, value, part = begun
        if not self._is_string:
            return after, value + data.decode(), b""
        part += data if place else data[1:]
        match = _CHARACTERS.match(part)
        whole = match.end() if match else 0
        return after, value + _characters(part[:whole]), part[whole:]

    def _ends_new(self, begun: _Begun) -> bool:
        """Whether some way to go on ends in a value that has not been; so does what leaves their beginnings."""
        waiting = [begun]
        if not self._is_beginning(begun[1]):
            return True
        while waiting:
            begun = waiting.pop()
            place, value, _ = begun
            for byte in _LIKELY:
                data = bytes((byte,))
                after, ends = self.piece.read(place, data, 0)
                if ends and (value if self._is_string else Decimal(value + data.decode())) not in self.seen:
                    return True
                if after != DEAD:
                    further = self._further(begun, after, data)
                    if not self._is_beginning(further[1]):
                        return True
                    waiting.append(further)
        return False

    def _is_beginning(self, value: str) -> bool:
        return any(word.startswith(value) for word in self._spelled)

    def tokens_along(self, place: int, search: Search) -> set[int]:
        """The tokens that go along the beginning of a value that has been, or behind one: those to be looked at."""
        piece_place, value, part = self._places[place]
        tokens: set[int] = set()
        waiting = [(0, word[len(value) :], part) for word in self._spelled if word.startswith(value)]
        if waiting and self._is_string and not piece_place:
            opening = search.children(0).get(_QUOTE)
            tokens.update(search.tokens_at(opening) if opening is not None else ())
            waiting = [(opening, rest, b"") for _, rest, _ in waiting] if opening is not None else []
        while waiting:
            node, rest, part = waiting.pop()
            children = search.children(node)
            if not rest:
                if part:
                    continue
                if self._is_string:
                    tokens.update(search.tokens_below(children[_QUOTE]) if _QUOTE in children else ())
                else:
                    tokens.update(search.tokens_below(node))
                continue
            for way in spellings(rest[0]) if self._is_string else (rest[0].encode(),):
                at: int | None = node
                for byte in way[len(part) :] if way.startswith(part) else ():
                    at = search.children(at).get(byte) if at is not None else None
                    tokens.update(search.tokens_at(at) if at is not None else ())
                if at is not None and way.startswith(part):
                    waiting.append((at, rest[1:], b""))
        return tokens


def _characters(data: bytes) -> str:
    return str(json.loads(b'"%s"' % data)) if _BACKSLASH in data else data.decode()


_LIKELY = bytes(sorted(range(256), key=lambda byte: (byte != _QUOTE, not chr(byte).isalnum(), byte)))
"""All bytes, those first that most strings and numbers may go on with."""
