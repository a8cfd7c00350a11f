"""What the tokens of a vocabulary do in a piece, worked out at the first visit of a place and kept for every grammar.

Inside a string that only a length holds it is known for all places at once (`bodies.py`). In any other piece the tokens
are found along the live bytes; where they are many, by one walk over the whole trie.
"""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perstep.automata.bodies import StringTokens, inside
from perstep.automata.grouping import expand_runs
from perstep.automata.rows import add_tokens, pack_bits
from perstep.automata.search import Search
from perstep.automata.stack.pieces import Key, Scanner, spellings
from perstep.automata.walk import DenseWalk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perstep.automata.stack.unequal import Compared
    from perstep.automata.vocabulary import Vocabulary

_QUOTE, _BACKSLASH = 0x22, 0x5C
_MOST_PROBES = 250
"""Looks at children of a node, each about 1 µs; beyond it vectors are quicker."""
_MOST_LIVE = 32
"""Bytes alive at a place: of 460 places with more of them, 4 had few tokens."""
_MOST_CHILDREN = 12_000
"""Children looked at, each about 50 ns; beyond it a walk over the whole trie is quicker (3 ns a node)."""
_MOST_DENSE = 8
"""Walks whose tables are kept: 1 KB a state, and 1.2 MB of scratch."""
_MOST_PLACES = 1_000
"""Places whose tokens are kept; bits of 131,072 tokens take 16 KB."""


@dataclass(frozen=True, eq=False)
class Reached:
    """What tokens do from one place of a piece.

    Attributes:
        tokens: those that stay inside, or end with it; few.
        bits: the same where they are many, as packed bits.
        complete: nodes where the piece is complete, by the byte that may follow there.
    """

    tokens: list[int]
    bits: NDArray[np.int32] | None
    complete: dict[int, list[int]]


class Walks:
    """The tokens of a vocabulary in pieces.

    Args:
        vocabulary: the tokens.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.search: Search = vocabulary.derived("search", lambda v: Search(v.trie))
        self._strings: dict[int, StringTokens] = {}
        self._dense: OrderedDict[Scanner, DenseWalk] = OrderedDict()
        self._reached: OrderedDict[tuple[Scanner, int], Reached] = OrderedDict()
        self._next_items: dict[tuple[str, bool], list[int]] = {}

    def prepare(self) -> None:
        """Work out what tokens do in strings, which nearly every schema has."""
        for state in range(len(inside().accepting)):
            self.in_string(state)

    def in_string(self, state: int) -> StringTokens:
        """What tokens do in a string, from a state inside a character or `OPENING` on."""
        strings = self._strings.get(state)
        if strings is None:
            strings = self._strings[state] = StringTokens(self._vocabulary, state)
        return strings

    def next_items(self, compared: Compared) -> list[int]:
        """The tokens that may end an item of an array and hold something of the next, which may be equal to it.

        Where there is always a value that has not been, a quote alone says nothing of the next.
        """
        key = (compared.kind, compared.is_free)
        tokens = self._next_items.get(key)
        if tokens is None:
            end = "[0-9]" if compared.kind == "number" else '"'
            begin = r'(?:"[\s\S]|[^"\s])' if compared.is_free else ""
            across = re.compile(rf"{end}\s*,\s*{begin}".encode())
            special = self._vocabulary.special_ids
            tokens = self._next_items[key] = [
                token
                for token, data in enumerate(self._vocabulary.tokens)
                if token not in special and b"," in data and across.search(data)
            ]
        return tokens

    def spelling(self, piece: Key, node: int, at: int) -> set[int]:
        """The tokens that spell the rest of a word of a key and its end, from a node of its tree on.

        Args:
            piece: the key.
            node: of the tree of its words.
            at: the node of the trie where the rest begins.
        """
        search = self.search
        tokens: set[int] = set()
        waiting = [(node, at)]
        while waiting:
            node, at = waiting.pop()
            children = search.children(at)
            if node in piece.ends and _QUOTE in children:
                tokens.update(search.tokens_below(children[_QUOTE]))
            for character, child in piece.children[node].items():
                for way in spellings(character) if _BACKSLASH in children else spellings(character)[:1]:
                    behind = search.along(at, way)
                    if behind is not None:
                        waiting.append((child, behind))
        return tokens

    def reached(self, piece: Scanner, place: int) -> Reached:
        """What tokens do from a place of a scanner on."""
        key = (piece, place)
        reached = self._reached.get(key)
        if reached is None:
            reached = self._few(piece, place) or self._some(piece, place) or self._walk(piece, place)
            self._reached[key] = reached
            if len(self._reached) > _MOST_PLACES:
                self._reached.popitem(last=False)
        return reached

    def _few(self, piece: Scanner, place: int) -> Reached | None:
        """By a search along the live bytes; None if that takes too many looks."""
        search, step = self.search, piece.step
        if len(piece.live_bytes(place)) > _MOST_LIVE:
            return None
        tokens: list[int] = []
        complete: dict[int, list[int]] = defaultdict(list)
        waiting = [(0, place)]
        probes = 0
        while waiting:
            node, at = waiting.pop()
            children = search.children(node)
            live = piece.live_bytes(at)
            probes += min(len(children), len(live))
            if probes > _MOST_PROBES:
                return None
            if len(live) < len(children):
                children = {byte: children[byte] for byte in live if byte in children}
            for byte, child in children.items():
                after, done = step(at, byte)
                if not done and after < 0:
                    continue
                tokens += search.tokens_at(child)
                if after >= 0:
                    waiting.append((child, after))
                if done:
                    for following in search.children(child):
                        complete[following].append(child)
        return Reached(tokens, None, dict(complete))

    def _some(self, piece: Scanner, place: int) -> Reached | None:
        """By vectors over the live nodes of a level; None if that takes too many."""
        dfa, trie = piece.dfa, self._vocabulary.trie
        children, symbol = trie.first_child, trie.symbol
        nodes, ends = [], []
        node, at = np.zeros(1, np.int64), np.array([piece.state(place)])
        left = _MOST_CHILDREN
        while len(node):
            first = children[node]
            counts = children[node + 1] - first
            left -= int(counts.sum())
            if left < 0:
                return None
            pair, child = expand_runs(first, counts)
            target = dfa.transitions[at[pair], dfa.byte_class[symbol[child]]]
            alive = target.nonzero()[0]
            node, at = child[alive], target[alive]
            nodes.append(node)
            ends.append(node[dfa.accepting[at]])
        tokens = self.search.tokens_of(np.concatenate(nodes))
        complete = self._following(np.concatenate(ends))
        if len(tokens) <= _MOST_PROBES:
            return Reached(tokens.tolist(), None, complete)
        bits: NDArray[np.int32] = np.zeros(-(-self._vocabulary.size // 32), dtype=np.int32)
        add_tokens(bits, [tokens])
        return Reached([], bits, complete)

    def _following(self, ends: NDArray[np.int64]) -> dict[int, list[int]]:
        """Nodes by the bytes that may follow there."""
        first = self._vocabulary.trie.first_child
        following: dict[int, list[int]] = defaultdict(list)
        for end in ends[first[ends] < first[ends + 1]].tolist():
            for byte in self.search.children(end):
                following[byte].append(end)
        return dict(following)

    def _walk(self, piece: Scanner, place: int) -> Reached:
        """By one walk over the whole trie."""
        trie, dfa = self._vocabulary.trie, piece.dfa
        walk = self._dense.get(piece)
        if walk is None:
            # The automaton's bytes are spelled out in its table, since to relabel the trie takes as long as a walk.
            walk = self._dense[piece] = DenseWalk(dfa.transitions[:, dfa.byte_class], trie)
            if len(self._dense) > _MOST_DENSE:
                self._dense.popitem(last=False)
        at = walk.nodes(piece.state(place))
        alive = at != 0
        node = trie.node_of_token
        bits = pack_bits(alive[node] & (node > 0))
        return Reached([], bits, self._following(np.flatnonzero(dfa.accepting[at])))
