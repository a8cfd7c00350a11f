"""A token automaton over a program: states are made where a text comes by, so that nothing is built for the others.

A state is a set of items (`program.py`), numbered when it is first met. Its row is put together of what tokens do in
each item's piece, which is worked out once a vocabulary (`walks.py`), and of what they do behind the piece, which is
searched along the bytes that may follow. There is no end to the states of a grammar that nests.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.automata.bodies import OPENING
from perstep.automata.rows import BUDGET_BYTES, Row, RowStore, StateRow, add_tokens, clear_bits, set_bits
from perstep.automata.stack.pieces import Key, Scanner, Text
from perstep.automata.stack.unequal import Unlike
from perstep.automata.stack.walks import Walks
from perstep.automata.table import TokenAutomaton, TokenTable
from perstep.automata.whole import whole_table
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from perstep.automata.bodies import StringTokens
    from perstep.automata.dfa import Dfa
    from perstep.automata.stack.program import Item, Program, Then
    from perstep.automata.vocabulary import Vocabulary

_DEAD, _ENDED = 0, 1
_MOST_REGARDLESS = 64
"""Rows of strings that are kept without regard to what values have been, so that the places of one string share it."""
_REMEMBERED_MOVES = 100_000
"""Moves kept in memory; beyond it all are forgotten and read again (two microseconds each)."""


def prepare_walks(vocabulary: Vocabulary) -> Walks:
    """What is worked out once a vocabulary."""
    return vocabulary.derived("walks", Walks)


class StackAutomaton(TokenAutomaton):
    """A token automaton over a program.

    Args:
        program: the grammar.
        vocabulary: the tokens; every byte that UTF-8 may have must be one by itself.
        source: what it was made from, in words.
        automaton: makes the byte automaton of the same texts, for a whole table.
        budget_bytes: what expanded rows may take.

    Raises:
        InputError: if the vocabulary lacks a byte.

    Attributes:
        num_states: states made so far.
    """

    engine = "stack"

    def __init__(
        self,
        program: Program,
        vocabulary: Vocabulary,
        source: str,
        automaton: Callable[[], Dfa],
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        vocabulary.require_bytes(source)
        self.vocabulary = vocabulary
        self.source = source
        self.ended = _ENDED
        self._program = program
        self._automaton = automaton
        self._walks = prepare_walks(vocabulary)
        self._store = RowStore(budget_bytes)
        self._size = vocabulary.size
        self._items: list[tuple[Item, ...]] = [(), ()]
        self._accepts = [False, True]
        self._stays: list[bytes] = [b"", b""]
        self._rows: list[Row | None] = [None, None]
        self._state_of: dict[tuple[Item, ...] | tuple[frozenset[Item], bool], int] = {}
        self._moves: dict[int, int] = {}
        self._behind: dict[tuple[StringTokens, int], list[int]] = {}
        self._regardless: OrderedDict[Item, Row] = OrderedDict()
        self.start = self._state(program.then(program.start))

    def __deepcopy__(self, memo: dict[int, object]) -> StackAutomaton:
        """Itself: what was worked out for one text serves any other."""
        return self

    @property
    def num_states(self) -> int:  # type: ignore[override]
        """States made so far."""
        return len(self._items) - 2

    @property
    def num_rows(self) -> int:
        """Rows made so far."""
        return sum(row is not None for row in self._rows)

    @property
    def nbytes(self) -> int:
        """0: what Python's own objects take is not known."""
        return 0

    @property
    def rows_nbytes(self) -> int:
        """Bytes of the expanded rows held now."""
        return self._store.used_bytes

    def next(self, state: int, token: int) -> int:
        """The state after `token`; the dead state 0 if it is not allowed."""
        target = self._moves.get(state * self._size + token)
        return self._read_token(state, token) if target is None else target

    def row(self, state: int) -> Row:
        """The mask row of `state`."""
        return self._rows[state] or self._new_row(state)

    def is_accepting(self, state: int) -> bool:
        """Whether the text may end in `state`."""
        return self._accepts[state]

    def whole(self) -> TokenTable:
        """The table of the same texts.

        Raises:
            InputError: if no finite automaton holds them, or one too large.
        """
        try:
            dfa = self._automaton()
        except InputError as error:
            raise InputError(f"{self.source} has no table: {error}") from error
        return whole_table(dfa, self.vocabulary, self._store.budget_bytes)

    def __and__(self, other: TokenAutomaton) -> TokenAutomaton:
        return self.whole() & other

    def _state(self, then: Then) -> int:
        """The number of a state."""
        # One item is its own key: what is kept for a state, the garbage collector comes by again and again.
        one = len(then.items) == 1 and not then.accepting
        key = then.items if one else (frozenset(then.items), then.accepting)
        state = self._state_of.get(key)
        if state is None:
            state = self._state_of[key] = len(self._items)
            self._items.append(then.items)
            self._accepts.append(then.accepting)
            self._rows.append(None)
            self._stays.append(self._staying(then.items))
        return state

    def _staying(self, items: tuple[Item, ...]) -> bytes:
        """Which tokens lead back to a state, where they are known beforehand: between two characters of a string."""
        if len(items) == 1:
            piece, place, _ = items[0]
            if isinstance(piece, Key) and piece.is_free(place):
                piece = piece.free
            if isinstance(piece, Text) and piece.is_free(place):
                stays: bytes = self._walks.in_string(piece.between).stays
                return stays
        return b""

    def _read_token(self, state: int, token: int) -> int:
        if not (0 <= token < self._size and 0 <= state < len(self._items)):
            raise InputError(
                f"state {state} or token {token} does not exist: {plural(self.num_states, 'state')}, "
                f"{plural(self._size, 'token')}"
            )
        stays = self._stays[state]
        if stays and stays[token]:
            return state
        if token in self.vocabulary.special_ids:
            target = _ENDED if token in self.vocabulary.eos_ids and self._accepts[state] else _DEAD
        else:
            then = self._program.advance(self._items[state], self.vocabulary.tokens[token])
            target = self._state(then) if then.items or then.accepting else _DEAD
        if len(self._moves) >= _REMEMBERED_MOVES:
            self._moves.clear()
        self._moves[state * self._size + token] = target
        return target

    # Rows

    def _new_row(self, state: int) -> Row:
        if len(self._items[state]) == 1 and not self._accepts[state]:
            piece, place, frame = self._items[state][0]
            if isinstance(piece, Unlike):
                row, dead = self._unlike(piece, place, frame)
                if not dead:
                    self._rows[state] = row
                    return row
        row = self._rows[state] = StateRow(self, state, self.bits_of(state), self._size, self._store)
        return row

    def bits_of(self, state: int) -> NDArray[np.int32]:
        """The packed bits of a state, each item's tokens in turn."""
        bits: NDArray[np.int32] = np.zeros(-(-self._size // 32), dtype=np.int32)
        search = [item for item in self._items[state] if not self._add_item(bits, item)]
        if search:
            set_bits(bits, self._program.tokens(search, self._walks.search))
        if self._accepts[state]:
            set_bits(bits, self.vocabulary.eos_ids)
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
        read, tokens, items = self._program.advance, self.vocabulary.tokens, [(piece, place, frame)]
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
