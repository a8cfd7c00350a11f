"""The row of a state of a stack: what tokens do in each item's piece, and behind it.

What they do in a piece is worked out once a vocabulary (`walks.py`); what they do behind it is searched along the bytes
that may follow. Rows know whoever makes them, and that is not the automaton, which knows its rows: so all of it is
given back as soon as nobody uses it, without a garbage collection.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from perstep.automata.bodies import OPENING
from perstep.automata.rows import Row, RowStore, StateRow, add_tokens, clear_bits, set_bits
from perstep.automata.stack.pieces import Key, Scanner, Text
from perstep.automata.stack.unequal import Unlike

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perstep.automata.bodies import StringTokens
    from perstep.automata.stack.program import Item, Program
    from perstep.automata.stack.walks import Walks
    from perstep.automata.vocabulary import Vocabulary

_MOST_REGARDLESS = 64
"""Rows of strings that are kept without regard to what values have been, so that the places of one string share it."""


class RowMaker:
    """Makes the rows of states.

    Args:
        program: the grammar.
        vocabulary: the tokens.
        walks: what they do in pieces.
        states: by state its items, and whether the text may end there; they grow.
        store: counts what rows keep.
    """

    def __init__(
        self,
        program: Program,
        vocabulary: Vocabulary,
        walks: Walks,
        states: tuple[list[tuple[Item, ...]], list[bool]],
        store: RowStore,
    ) -> None:
        self._program = program
        self._vocabulary = vocabulary
        self._walks = walks
        self._items, self._accepts = states
        self._store = store
        self._size = vocabulary.size
        self._behind: dict[tuple[StringTokens, int], list[int]] = {}
        self._regardless: OrderedDict[Item, Row] = OrderedDict()

    def row(self, state: int) -> Row:
        """The row of a state, made anew."""
        if len(self._items[state]) == 1 and not self._accepts[state]:
            piece, place, frame = self._items[state][0]
            if isinstance(piece, Unlike):
                row, dead = self._unlike(piece, place, frame)
                if not dead:
                    return row
        return StateRow(self, state, self.bits_of(state), self._size, self._store)

    def bits_of(self, state: int) -> NDArray[np.int32]:
        """The packed bits of a state, each item's tokens in turn."""
        bits: NDArray[np.int32] = np.zeros(-(-self._size // 32), dtype=np.int32)
        search = [item for item in self._items[state] if not self._add_item(bits, item)]
        if search:
            set_bits(bits, self._program.tokens(search, self._walks.search))
        if self._accepts[state]:
            set_bits(bits, self._vocabulary.eos_ids)
        return bits

    def _add_item(self, bits: NDArray[np.int32], item: Item) -> bool:
        """Add what an item allows; False if that is to be searched."""
        piece, place, frame = item
        if isinstance(piece, Text):
            self._add_string(bits, piece, place, frame)
        elif isinstance(piece, Key):
            self._add_key(bits, piece, place, frame)
        elif isinstance(piece, Scanner):
            self._add_scanned(bits, piece, place, frame)
        elif isinstance(piece, Unlike):
            row, dead = self._unlike(piece, place, frame)
            own = row.bits.copy()
            clear_bits(own, dead)
            np.bitwise_or(bits, own, out=bits)
        else:
            return False
        return True

    def _unlike(self, piece: Unlike, place: int, frame: int) -> tuple[Row, list[int]]:
        """What a piece allows if no value has been, and which of these tokens are dead since some have."""
        key = (piece.piece, piece.begun(place)[0], self._program.behind(frame, None))
        row = self._regardless.get(key)
        if row is None:
            bits: NDArray[np.int32] = np.zeros(-(-self._size // 32), dtype=np.int32)
            self._add_item(bits, key)
            row = self._regardless[key] = Row.of_bits(bits, self._size, self._store)
            if len(self._regardless) > _MOST_REGARDLESS:
                self._regardless.popitem(last=False)
        words: memoryview[int] = memoryview(row.bits.view(np.uint32))  # type: ignore[arg-type]
        looked_at = piece.tokens_along(place, self._walks.search).union(self._walks.next_items(piece.compared))
        read, tokens, items = self._program.advance, self._vocabulary.tokens, [(piece, place, frame)]
        dead = []
        for token in looked_at:
            if words[token >> 5] >> (token & 31) & 1:
                then = read(items, tokens[token])
                if not then.items and not then.accepting:
                    dead.append(token)
        return row, dead

    def _add_string(self, bits: NDArray[np.int32], piece: Text, place: int, frame: int) -> None:
        inner, low, high = piece.inside(place) if place else (OPENING, piece.low, piece.high)
        strings = self._walks.in_string(inner)
        np.bitwise_or(bits, strings.within_or_closing(low, high), out=bits)
        suffixes = self._behind.get((strings, frame))
        if suffixes is None:
            then = self._program.then(frame)
            suffixes = self._behind[strings, frame] = list(self._program.tokens(then.items, strings.search))
        add_tokens(bits, [strings.leaving(suffix, low, high) for suffix in suffixes])

    def _add_key(self, bits: NDArray[np.int32], piece: Key, place: int, frame: int) -> None:
        if piece.is_free(place):
            self._add_string(bits, piece.free, place, frame)
            return
        node, part = piece.at(place)
        search = self._walks.search
        if part:
            set_bits(bits, self._program.tokens([(piece, place, frame)], search))
            return
        own = np.zeros_like(bits)
        self._add_string(own, piece.free, place and 1 + piece.free.between, frame)
        begin = 0 if place else search.along(0, b'"')
        if begin is not None:
            clear_bits(own, self._walks.spelling(piece, node, begin))
        np.bitwise_or(bits, own, out=bits)

    def _add_scanned(self, bits: NDArray[np.int32], piece: Scanner, place: int, frame: int) -> None:
        reached = self._walks.reached(piece, place)
        tokens = set(reached.tokens)
        if reached.bits is not None:
            np.bitwise_or(bits, reached.bits, out=bits)
        if reached.complete:
            items = self._program.then(frame).items
            for following, nodes in reached.complete.items():
                some = [item for item in items if item[0].step(item[1], following) != _NOWHERE]
                for node in nodes if some else ():
                    tokens |= self._program.tokens(some, self._walks.search, node)
        set_bits(bits, tokens)


_NOWHERE = (-1, False)
