"""Rows inside JSON strings, from one walk of a vocabulary for all states of all automata.

Inside a string that no pattern holds, two states differ in how many characters may follow and in what comes behind the
quote. So what a token does there (how many characters it begins, what it holds behind an unescaped quote) is worked out
once a vocabulary; a state is recognised by its moves, compared one by one and never assumed; and only the few tokens
with a quote in them are walked from the state behind it.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from perstep.automata.charset import ANY, json_block
from perstep.automata.determinise import determinise
from perstep.automata.nfa import loop, optional
from perstep.automata.rows import add_tokens, pack_bits
from perstep.automata.search import Live, Search
from perstep.automata.trie import build_trie

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perstep.automata.dfa import Dfa
    from perstep.automata.vocabulary import Vocabulary

_MOST_RANGES = 256
"""Ranges of lengths whose tokens are kept; bits of 131,072 tokens take 16 KB."""
_QUOTE, _LETTER = 0x22, 0x61


@lru_cache(maxsize=1)
def inside() -> Dfa:
    """Any characters inside a JSON string."""
    return determinise(optional(loop(json_block(ANY))), 1_000, "the inside of a JSON string")


@lru_cache(maxsize=1)
def _between() -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
    """The states inside a string, the one between characters first.

    Returns:
        For each but the first the state and the byte that lead there; and by state and byte the state that follows,
        int64 [states, 256]: the number of states stands for the one behind a complete character, one more for none.
    """
    dfa = inside()
    by_byte = dfa.transitions[:, dfa.byte_class]
    order, reached = [dfa.start], {dfa.start: (0, 0)}
    for state in order:
        for byte, target in enumerate(by_byte[state].tolist()):
            if target and target not in reached:
                reached[target] = (order.index(state), byte)
                order.append(target)
    number = np.full(len(by_byte), len(order) + 1)
    number[order] = np.arange(len(order))
    number[dfa.start] = len(order)
    return [reached[state] for state in order[1:]], number[by_byte[order]]


OPENING = 0
"""In place of a state inside a string: before its opening quote."""


class StringTokens:
    """What the tokens of a vocabulary do inside a JSON string.

    Args:
        vocabulary: the tokens.
        begin: the state in which a token begins; between two characters by default, or `OPENING`.

    Attributes:
        most: characters that the token with the most of them begins.
        suffixes: what tokens hold behind their first unescaped quote, each once; the first is empty.
        stays: for each token 1 if it begins and ends between two characters, else 0; as bytes.
    """

    def __init__(self, vocabulary: Vocabulary, begin: int | None = None) -> None:
        dfa, trie = inside(), vocabulary.trie
        by_byte = dfa.transitions[:, dfa.byte_class]
        state = np.zeros(trie.num_nodes, dtype=np.int32)
        begun = np.zeros(trie.num_nodes, dtype=np.int32)
        left_at = np.zeros(trie.num_nodes, dtype=np.int32)  # the depth behind the quote; 0 where there was none
        state[0] = dfa.start if begin is None else begin
        for depth in range(1, trie.depth + 1):
            here = trie.level(depth)
            parent, symbol = trie.parent[here], trie.symbol[here]
            if depth == 1 and begin == OPENING:
                state[here] = np.where(symbol == _QUOTE, dfa.start, 0)
                continue
            between = state[parent] == dfa.start
            quote = between & (symbol == _QUOTE)
            state[here] = by_byte[state[parent], symbol]
            begun[here] = begun[parent] + (between & ~quote)
            left_at[here] = np.where(quote, depth, left_at[parent])
        node = trie.node_of_token
        self._size = vocabulary.size
        self._begun = np.where((node > 0) & (state[node] > 0), begun[node], -1)
        self.stays: bytes = ((node > 0) & (state[node] == dfa.start)).tobytes()
        self.most = int(self._begun.max(initial=0))
        self._within: dict[int, NDArray[np.int32]] = {}
        self._closing: OrderedDict[tuple[int, int], NDArray[np.int32]] = OrderedDict()
        by_suffix: dict[bytes, list[int]] = {b"": []}
        for token in np.flatnonzero(left_at[node]).tolist():
            by_suffix.setdefault(vocabulary.tokens[token][left_at[node[token]] :], []).append(token)
        self.suffixes = list(by_suffix)
        self._tokens: list[NDArray[np.int64]] = []
        self._before: list[NDArray[np.int32]] = []
        for group in by_suffix.values():
            tokens = np.array(group, dtype=np.int64)
            order = np.argsort(begun[node[tokens]], kind="stable")
            self._tokens.append(tokens[order])
            self._before.append(begun[node[tokens]][order])
        self.most = max([self.most, *(int(before[-1]) for before in self._before if len(before))])
        self.search = Search(build_trie(self.suffixes))

    def within(self, most: int) -> NDArray[np.int32]:
        """The tokens that stay inside and begin at most `most` characters, as packed bits."""
        most = min(most, self.most)
        if most not in self._within:
            self._within[most] = pack_bits((self._begun >= 0) & (self._begun <= most))
        return self._within[most]

    def within_or_closing(self, low: int, high: int | None) -> NDArray[np.int32]:
        """The tokens that stay inside, and those that end with the string after `low` to `high` characters."""
        key = min(low, self.most + 1), self.most if high is None else min(high, self.most)
        bits = self._closing.get(key)
        if bits is None:
            bits = self.within(key[1]).copy()
            add_tokens(bits, [self.leaving(0, *key)])
            self._closing[key] = bits
            if len(self._closing) > _MOST_RANGES:
                self._closing.popitem(last=False)
        return bits

    def leaving(self, suffix: int, low: int = 0, high: int | None = None) -> NDArray[np.int64]:
        """The tokens that leave with a suffix after `low` to `high` characters; a view."""
        before = self._before[suffix]
        first = int(before.searchsorted(low)) if low else 0
        last = len(before) if high is None else int(before.searchsorted(high, side="right"))
        return self._tokens[suffix][first:last]


class Bodies:
    """The rows of an automaton's states inside JSON strings.

    Args:
        dfa: the automaton.
        live: its live bytes.
        tokens: of the vocabulary.
    """

    def __init__(self, dfa: Dfa, live: Live, tokens: StringTokens) -> None:
        self._tokens = tokens
        self._live = live
        self._transitions = dfa.transitions
        self._next: memoryview[int] = memoryview(dfa.transitions.reshape(-1))  # type: ignore[arg-type]
        self._width = dfa.num_byte_classes
        self._quote, self._letter = int(dfa.byte_class[_QUOTE]), int(dfa.byte_class[_LETTER])
        self._byte_class = dfa.byte_class
        self._known: dict[int, tuple[int, int] | None] = {}
        body = inside()
        by_byte = body.transitions[:, body.byte_class]
        classes, first = np.unique(dfa.byte_class, return_index=True)
        # Bytes that are one to this automaton must be one inside a string, and the quote must be apart.
        self._fits = bool(
            (by_byte[:, first[dfa.byte_class]] == by_byte).all() and (dfa.byte_class == self._quote).sum() == 1
        )
        self._plan(first[np.argsort(classes)])

    def _plan(self, bytes_of_class: NDArray[np.int64]) -> None:
        """How each state between two characters is reached, and where it must lead by each class."""
        reached, leads_to = _between()
        self._reach = [(parent, int(self._byte_class[byte])) for parent, byte in reached]
        self._expected = leads_to[:, bytes_of_class]
        self._compared = np.ones_like(self._expected, dtype=np.bool_)
        self._compared[0, self._quote] = False

    def _body(self, state: int) -> tuple[int, int] | None:
        """The state behind one more character and behind a quote; None where a string's inside looks otherwise."""
        if state in self._known:
            return self._known[state]
        table, width = self._next, self._width
        behind = table[state * width + self._letter]
        places = [state]
        for parent, symbol in self._reach:
            places.append(table[places[parent] * width + symbol])
        body = None
        if behind:
            wanted = np.array([*places, behind, 0])[self._expected]
            if (wanted == self._transitions[places])[self._compared].all():
                body = behind, table[state * width + self._quote]
        self._known[state] = body
        return body

    def is_one(self, state: int) -> bool:
        """Whether a state is inside a string, with another character before its end."""
        return self._fits and self._body(state) is not None

    def bits(self, state: int) -> NDArray[np.int32] | None:
        """The row of a state inside a string, as packed bits; None where it is no such state."""
        if not self.is_one(state):
            return None
        ends: list[int] = []
        at, unbounded = state, False
        while len(ends) <= self._tokens.most:
            body = self._body(at)
            if body is None:
                if not self._is_full(at):
                    return None
                ends.append(self._next[at * self._width + self._quote])
                break
            ends.append(body[1])
            if body[0] == at:
                unbounded = True
                break
            at = body[0]
        targets = {end for end in ends if end}
        if len(targets) > 1:
            return None
        high = None if unbounded else len(ends) - 1
        if not targets:  # the string does not end here, though a text may
            return self._tokens.within(self._tokens.most if high is None else high).copy()
        low = next(number for number, end in enumerate(ends) if end)
        if not all(ends[low:]):
            return None
        bits = self._tokens.within_or_closing(low, high).copy()
        for behind in targets:
            suffixes = self._tokens.search.alive_tokens(self._live, behind)
            add_tokens(bits, [self._tokens.leaving(suffix, low, high) for suffix in suffixes])
        return bits

    def _is_full(self, state: int) -> bool:
        """Whether nothing but a quote may follow."""
        row = self._transitions[state]
        return bool(row[self._quote]) and int(np.count_nonzero(row)) == 1
