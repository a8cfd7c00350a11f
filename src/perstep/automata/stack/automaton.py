"""A token automaton over a program: states are made where a text comes by, so that nothing is built for the others.

A state is a set of items (`program.py`), numbered when it is first met. Its row is made in `making.py`. There is no end
to the states of a grammar that nests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perstep._words import plural
from perstep.automata.rows import BUDGET_BYTES, Row, RowStore
from perstep.automata.stack.making import RowMaker
from perstep.automata.stack.pieces import Key, Text
from perstep.automata.stack.walks import Walks
from perstep.automata.table import TokenAutomaton, TokenTable
from perstep.automata.whole import whole_table
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from perstep.automata.dfa import Dfa
    from perstep.automata.stack.program import Item, Program, Then
    from perstep.automata.vocabulary import Vocabulary

_DEAD, _ENDED = 0, 1
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
        self._maker = RowMaker(program, vocabulary, self._walks, (self._items, self._accepts), self._store)
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

    def next(self, state: int, token: int) -> int:
        """The state after `token`; the dead state 0 if it is not allowed."""
        target = self._moves.get(state * self._size + token)
        return self._read_token(state, token) if target is None else target

    def row(self, state: int) -> Row:
        """The mask row of `state`."""
        row = self._rows[state]
        if row is None:
            row = self._rows[state] = self._maker.row(state)
        return row

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
