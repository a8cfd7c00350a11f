"""Schemas written as symbols that stand for pieces (`automata/stack`): fixed bytes, strings, numbers, separators.

The same automata of strings and numbers as for a table. Does not know schemas: `programs.py` puts the symbols together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from perstep.automata.determinise import determinise
from perstep.automata.metering import metered_cache
from perstep.automata.nfa import EMPTY, NEVER, Block, literal, optional, sequence, union
from perstep.automata.schema.numbers import listed_numbers, unlisted_number
from perstep.automata.schema.spacing import canonical, space_block
from perstep.automata.schema.strings import listed_values, string_automaton
from perstep.automata.schema.terminals import InRules, Symbols
from perstep.automata.stack.pieces import Key, Literal, Piece, Scanner, Text
from perstep.errors import InputError

if TYPE_CHECKING:
    from perstep.automata.schema.shapes import Number, String


class InPieces(InRules):
    """Writes symbols that stand for pieces.

    Args:
        policy: `fixed`, `flexible`, or a regex of what may stand between tokens.
        limit: most states of the automaton of a piece.
        symbols: their numbers; literals are named by their bytes, other pieces by themselves.

    Raises:
        InputError: if the regex is malformed or matches anything but JSON whitespace.
    """

    def __init__(self, policy: str, limit: int, symbols: Symbols) -> None:
        super().__init__(symbols)
        self._limit = limit
        if policy == "fixed":
            self.inside, self.item, self.colon = EMPTY, self.text(b", "), self.text(b": ")
            self.comma: Piece = Literal(b", ")
            return
        spaces = _spaces(policy, limit)
        some = EMPTY if spaces.some is None else symbols.block(spaces.some)
        self.inside = optional(some) if spaces.or_none else some
        self.item, self.colon = symbols.block(spaces.comma), symbols.block(spaces.colon)
        self.comma = spaces.comma

    def text(self, data: bytes) -> Block:
        """Exactly `data`."""
        return self._symbols.block(data)

    def string(self, shape: String, path: str) -> Block:
        """The texts of a string, quotes included."""
        if shape.values is not None:
            return union(*(self.text(canonical(value)) for value in sorted(listed_values(shape))))
        piece = self.string_piece(shape, path)
        return NEVER if piece is None else self._symbols.block(piece)

    def string_piece(self, shape: String, path: str) -> Piece | None:
        """The piece of a string that is not listed; None if there is no such string."""
        if not shape.rules:
            return _text(shape.low, shape.high)
        if shape.low == 0 and shape.high is None and len(shape.rules) == 1:
            name, words, holds = shape.rules[0]
            if name == "values" and not holds:
                return _key(words)
        try:
            return _scanner(shape, self._limit)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def number(self, shape: Number, path: str) -> Block:
        """The texts of a number."""
        if shape.values is not None:
            return union(*(self.text(text) for text in listed_numbers(shape)))
        piece = _number(shape, path)
        return NEVER if piece is None else self._symbols.block(piece)


@lru_cache(maxsize=512)
def _text(low: int, high: int | None) -> Text:
    return Text(low, high)


@lru_cache(maxsize=256)
def _key(words: tuple[str, ...]) -> Key:
    return Key(words)


@metered_cache(256)
def _scanner(shape: String, limit: int) -> Scanner | None:
    """The piece of a string with rules; None if there is no such string."""
    dfa = string_automaton(shape, limit)
    return None if dfa.is_empty else Scanner(dfa)


@metered_cache(256)
def _number(shape: Number, path: str) -> Scanner | None:
    dfa = unlisted_number(shape, path)
    return None if dfa.is_empty else Scanner(dfa)


@dataclass(frozen=True, eq=False)
class _Spaces:
    """What may stand between tokens.

    Attributes:
        some: whitespace inside brackets; None if there is never any.
        or_none: whether there may be none.
        comma: a comma and what is around it.
        colon: a colon and what is around it.
    """

    some: Scanner | None
    or_none: bool
    comma: Scanner
    colon: Scanner


@metered_cache(16)
def _spaces(policy: str, limit: int) -> _Spaces:
    space = space_block(policy, limit)
    every = determinise(space, limit, policy)
    some = every - determinise(EMPTY, limit, "nothing")
    comma, colon = (Scanner(determinise(sequence(space, literal(sign), space), limit, policy)) for sign in (b",", b":"))
    return _Spaces(None if some.is_empty else Scanner(some), every.accepts(b""), comma, colon)
