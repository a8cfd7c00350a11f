"""How what validates is written: separators, constants, strings, keys and numbers.

`fixed` writes ", " and ": " and nothing else, as `json.dumps` does by default; `flexible`
allows any JSON whitespace between tokens, without end; a regex says what may stand there. Objects and arrays are put
together of what a `Writing` gives: `InBytes` gives automata over bytes, `InTerminals` (`terminals.py`) the same texts
as symbols of a grammar.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from perstep._json import Json
from perstep.automata.nfa import EMPTY, Block, literal, repeat, sequence
from perstep.automata.schema.numbers import number_block
from perstep.automata.schema.spacing import canonical, space_block
from perstep.automata.schema.strings import key_block, string_block

if TYPE_CHECKING:
    from perstep.automata.schema.shapes import Number, String


class Writing(ABC):
    """The pieces of a JSON text.

    Attributes:
        inside: what may follow an opening bracket, and come before a closing one.
        item: between items.
        colon: between a key and its value.
    """

    inside: Block
    item: Block
    colon: Block

    @abstractmethod
    def text(self, data: bytes) -> Block:
        """Exactly `data`: a bracket, a key, a constant."""

    @abstractmethod
    def string(self, shape: String, path: str) -> Block:
        """The texts of a string, quotes included."""

    @abstractmethod
    def key(self, shape: String, matching: tuple[tuple[str, bool], ...], but: tuple[str, ...], path: str) -> Block:
        """The keys that a shape allows, that match some patterns and not others, and that are none of `but`."""

    @abstractmethod
    def number(self, shape: Number, path: str) -> Block:
        """The texts of a number."""

    @abstractmethod
    def repeat(self, block: Block, low: int, high: int | None, limit: int, what: str) -> Block:
        """A block `low` to `high` times.

        Raises:
            InputError: if that needs more than `limit` states; `what` is repeated.
        """


class InBytes(Writing):
    """Writes automata over bytes.

    Args:
        policy: `fixed`, `flexible`, or a regex of what may stand between tokens.
        limit: most states of a result.
        block_limit: most states on the way there.

    Raises:
        InputError: if the regex is malformed or matches anything but JSON whitespace.
    """

    def __init__(self, policy: str, limit: int, block_limit: int) -> None:
        self._block_limit = block_limit
        if policy == "fixed":
            self.inside, self.item, self.colon = EMPTY, literal(b", "), literal(b": ")
            return
        space = space_block(policy, limit)
        self.inside = space
        self.item, self.colon = sequence(space, literal(b","), space), sequence(space, literal(b":"), space)

    def text(self, data: bytes) -> Block:
        """Exactly `data`."""
        return literal(data)

    def string(self, shape: String, path: str) -> Block:
        """The texts of a string, quotes included."""
        return string_block(shape, path, self._block_limit)

    def key(self, shape: String, matching: tuple[tuple[str, bool], ...], but: tuple[str, ...], path: str) -> Block:
        """The keys that a shape allows."""
        return key_block(shape, matching, but, path, self._block_limit)

    def number(self, shape: Number, path: str) -> Block:
        """The texts of a number."""
        return number_block(shape, path)

    def repeat(self, block: Block, low: int, high: int | None, limit: int, what: str) -> Block:
        """A block `low` to `high` times, as copies."""
        return repeat(block, low, high, limit, what)


def constant(value: Json, writing: Writing) -> Block:
    """One JSON value, its keys in the order given."""
    if isinstance(value, dict):
        members = [
            sequence(writing.text(canonical(key)), writing.colon, constant(inner, writing))
            for key, inner in value.items()
        ]
        return _bracketed(b"{", members, b"}", writing)
    if isinstance(value, list):
        return _bracketed(b"[", [constant(inner, writing) for inner in value], b"]", writing)
    return writing.text(canonical(value))


def _bracketed(opening: bytes, items: list[Block], closing: bytes, writing: Writing) -> Block:
    parts = [writing.text(opening), writing.inside]
    for number, item in enumerate(items):
        parts += [writing.item, item] if number else [item]
    if items:
        parts.append(writing.inside)
    return sequence(*parts, writing.text(closing))
