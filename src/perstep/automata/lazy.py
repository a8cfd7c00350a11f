"""A token automaton that makes a row at the first visit of its state.

It keeps the byte automaton and walks a token's bytes through it; nothing is done for states
that a text never comes by. The first mask costs one walk of the trie (1 ms inside a string
with a pattern, over 131,072 tokens) where a whole table costs a hundred; inside other strings, and where few tokens are
allowed, it is found without one (`bodies.py`, `search.py`).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.automata.bodies import Bodies, StringTokens
from perstep.automata.rows import BUDGET_BYTES, Row, RowStore, StateRow, pack_bits, set_bits
from perstep.automata.search import Live, Search
from perstep.automata.table import TokenAutomaton, TokenTable, same_vocabulary
from perstep.automata.walk import DenseWalk, is_dense, live_share, sparse_walk
from perstep.automata.whole import whole_table
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from perstep.automata.dfa import Dfa
    from perstep.automata.vocabulary import Vocabulary

_REMEMBERED_MOVES = 100_000
"""Moves kept in memory; beyond it all are forgotten and walked again (a microsecond each)."""


def prepare_rows(vocabulary: Vocabulary) -> tuple[Search, StringTokens]:
    """What lazy tables need once a vocabulary: its trie ready to be searched, and what its tokens do inside strings."""
    return vocabulary.derived("search", lambda v: Search(v.trie)), vocabulary.derived("strings", StringTokens)


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
        self._by_key: dict[bytes | tuple[int, ...], Row] = {}
        self._accepts: list[bool] = [*dfa.accepting.tolist(), True]
        self._moves: dict[int, int] = {}
        self._live = Live(dfa.transitions, dfa.byte_class)
        self._trie = self._live.relabelled(vocabulary.trie)
        self._search, strings = prepare_rows(vocabulary)
        self._bodies = Bodies(dfa, self._live, strings)
        self._dense: DenseWalk | None = None

    @property
    def num_rows(self) -> int:
        """Distinct mask rows made so far."""
        return len(self._by_key)

    @property
    def nbytes(self) -> int:
        """Bytes of the automaton itself, without the expanded rows."""
        return self.dfa.transitions.nbytes + self.dfa.accepting.nbytes

    def next(self, state: int, token: int) -> int:
        """The state after `token`; the dead state 0 if it is not allowed."""
        key = state * self.vocabulary.size + token
        cached = self._moves.get(key)
        return self._walk_token(state, token, key) if cached is None else cached

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
        tokens = self._few(state)
        bits = self.bits_of(state) if tokens is None else self._of_few(tokens)
        key = hashlib.sha256(bits.tobytes()).digest() if tokens is None else tuple(tokens)
        row = self._by_key.get(key)
        if row is None:
            count = None if tokens is None else len(tokens)
            row = StateRow(self, state, bits, self.vocabulary.size, self._store, count)
            self._by_key[key] = row
        self._rows[state] = row
        return row

    def _few(self, state: int) -> list[int] | None:
        """The tokens that `state` allows, where they are few; ascending."""
        if not 0 < state < self.ended or self._bodies.is_one(state):
            return None
        tokens = self._search.few_tokens(self._live, state)
        if tokens is None:
            return None
        return sorted([*tokens, *self.vocabulary.eos_ids] if self._accepts[state] else tokens)

    def _of_few(self, tokens: Sequence[int]) -> NDArray[np.int32]:
        bits: NDArray[np.int32] = np.zeros(-(-self.vocabulary.size // 32), dtype=np.int32)
        set_bits(bits, tokens)
        return bits

    def bits_of(self, state: int) -> NDArray[np.int32]:
        """The packed bits of `state`, by the quickest of the ways that are exact there."""
        bits = self._bodies.bits(state) if 0 < state < self.ended else None
        if bits is not None:
            if self._accepts[state]:
                set_bits(bits, self.vocabulary.eos_ids)
            return bits
        tokens = self._few(state)
        return pack_bits(self._mask(state)) if tokens is None else self._of_few(tokens)

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
