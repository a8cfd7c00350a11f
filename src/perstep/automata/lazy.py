"""A token automaton that makes a row at the first visit of its state.

It keeps the byte automaton and walks a token's bytes through it; nothing is done for states
that a text never comes by. The first mask costs one walk of the trie (1 ms inside a free
string of a 131,072-token vocabulary, less elsewhere) where a whole table costs a hundred.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.automata.rows import BUDGET_BYTES, Row, RowStore
from perstep.automata.table import TokenAutomaton, TokenTable, same_vocabulary
from perstep.automata.walk import DenseWalk, is_dense, live_share, sparse_walk
from perstep.automata.whole import whole_table
from perstep.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perstep.automata.dfa import Dfa
    from perstep.automata.vocabulary import Vocabulary

_REMEMBERED_MOVES = 100_000
"""Moves kept in memory; beyond it all are forgotten and walked again (a microsecond each)."""


class LazyTable(TokenAutomaton):
    """A token automaton whose rows are built when their states are visited.

    Args:
        dfa: the byte automaton; every byte it reads must be a token by itself.
        vocabulary: the tokens.
        budget_bytes: what expanded rows may take.
    """

    engine = "table-lazy"

    def __init__(self, dfa: Dfa, vocabulary: Vocabulary, budget_bytes: int = BUDGET_BYTES) -> None:
        self.vocabulary = vocabulary
        self.source = dfa.source
        self.start = dfa.start
        self.num_states = dfa.num_states
        self.ended = dfa.num_states + 1
        self.dfa = dfa
        self._store = RowStore(budget_bytes)
        self._rows: list[Row | None] = [None] * (self.num_states + 2)
        self._by_digest: dict[bytes, Row] = {}
        self._accepts: list[bool] = [*dfa.accepting.tolist(), True]
        self._moves: dict[int, int] = {}
        self._trie = vocabulary.trie.relabel(dfa.byte_class)
        self._dense: DenseWalk | None = None

    @property
    def num_rows(self) -> int:
        """Distinct mask rows made so far."""
        return len(self._by_digest)

    @property
    def nbytes(self) -> int:
        """Bytes of the automaton itself, without the expanded rows."""
        return self.dfa.transitions.nbytes + self.dfa.accepting.nbytes

    @property
    def rows_nbytes(self) -> int:
        """Bytes of the expanded rows held now."""
        return self._store.used_bytes

    def next(self, state: int, token: int) -> int:
        """The state after `token`; the dead state 0 if it is not allowed."""
        key = state * self.vocabulary.size + token
        found = self._moves.get(key)
        return self._walk_token(state, token, key) if found is None else found

    def row(self, state: int) -> Row:
        """The mask row of `state`."""
        return self._rows[state] or self._new_row(state)

    def is_accepting(self, state: int) -> bool:
        """Whether the text may end in `state`."""
        return self._accepts[state]

    def whole(self) -> TokenTable:
        """The same automaton with every row and class known."""
        return whole_table(self.dfa, self.vocabulary, self._store.budget_bytes)

    def __and__(self, other: TokenAutomaton) -> TokenAutomaton:
        if not isinstance(other, LazyTable):
            return self.whole() & other
        same_vocabulary(self, other)
        return LazyTable(self.dfa & other.dfa, self.vocabulary, self._store.budget_bytes)

    def _walk_token(self, state: int, token: int, key: int) -> int:
        if not (0 <= token < self.vocabulary.size and 0 <= state <= self.ended):
            raise InputError(
                f"state {state} or token {token} does not exist: {plural(self.num_states, 'state')}, "
                f"{plural(self.vocabulary.size, 'token')}"
            )
        if token in self.vocabulary.special_ids:
            target = self.ended if token in self.vocabulary.eos_ids and self._accepts[state] else 0
        else:
            target = 0 if state == self.ended else self.dfa.run(self.vocabulary.tokens[token], state)
        if len(self._moves) >= _REMEMBERED_MOVES:
            self._moves.clear()
        self._moves[key] = target
        return target

    def _new_row(self, state: int) -> Row:
        mask = self._mask(state)
        digest = hashlib.sha256(np.packbits(mask).tobytes()).digest()
        row = self._by_digest.get(digest)
        if row is None:
            row = Row(self.vocabulary.size, int(np.count_nonzero(mask)), lambda: self._mask(state), self._store)
            self._by_digest[digest] = row
        self._rows[state] = row
        return row

    def _mask(self, state: int) -> NDArray[np.bool_]:
        """Which tokens `state` allows, bool [tokens]."""
        mask: NDArray[np.bool_] = np.zeros(self.vocabulary.size, dtype=np.bool_)
        if 0 < state < self.ended:
            alive = np.append(self._alive_ends(state), False)
            mask = alive[self._trie.end_of_token]
        mask[list(self.vocabulary.eos_ids)] = self._accepts[state]
        return mask

    def _alive_ends(self, state: int) -> NDArray[np.bool_]:
        """Which nodes where tokens end are alive from `state`, bool [ends]."""
        transitions = self.dfa.transitions
        if is_dense(live_share(transitions, self._trie, state), self._trie):
            self._dense = self._dense or DenseWalk(transitions, self._trie)
            dense: NDArray[np.bool_] = self._dense(state) != 0
            return dense
        alive: NDArray[np.bool_] = np.zeros(self._trie.num_nodes, dtype=np.bool_)
        for moves in sparse_walk(transitions, self._trie, np.array([state])):
            alive[moves.node] = True
        ends: NDArray[np.bool_] = alive[self._trie.ends]
        return ends
