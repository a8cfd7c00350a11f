"""The tokens that a state allows where they are few: a search along the live bytes alone.

A walk over whole levels of the trie costs a dozen vector operations a level, 0.2 ms in all. Where the text is forced or
nearly, fewer nodes are alive than that: they are found one by one, and given up where they turn out to be many.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from perstep.automata.grouping import expand_runs
from perstep.automata.walk import sparse_walk

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import NDArray

    from perstep.automata.trie import Trie

_MOST_PROBES = 400
"""Looks for a child of a node, each about 0.2 µs; beyond it the vector walk is quicker."""


class Search:
    """A trie, ready to be searched.

    Args:
        trie: over bytes, siblings in ascending order.

    Attributes:
        walked: what others found in it and keep for the next search.
    """

    def __init__(self, trie: Trie) -> None:
        self._trie = trie
        self._symbols: memoryview[int] = memoryview(trie.symbol)  # type: ignore[arg-type]
        self._first: memoryview[int] = memoryview(trie.first_child)  # type: ignore[arg-type]
        order = np.argsort(trie.node_of_token, kind="stable")
        bounds = np.searchsorted(trie.node_of_token[order], np.arange(trie.num_nodes + 1))
        self._tokens = order
        self._tokens_list: memoryview[int] = memoryview(order)  # type: ignore[arg-type]
        self._bounds_array = bounds
        self._bounds: memoryview[int] = memoryview(bounds)  # type: ignore[arg-type]
        self._children: dict[int, dict[int, int]] = {}
        self.walked: OrderedDict[Hashable, tuple[tuple[int, ...], tuple[int, ...]]] = OrderedDict()

    def children(self, node: int) -> dict[int, int]:
        """A node's children by the byte that leads to them."""
        children = self._children.get(node)
        if children is None:
            first, last = self._first[node], self._first[node + 1]
            children = dict(zip(self._symbols[first:last], range(first, last), strict=True))
            self._children[node] = children
        return children

    def along(self, node: int, data: bytes) -> int | None:
        """The node that some bytes lead to from another; None if there is none."""
        for byte in data:
            child = self.children(node).get(byte)
            if child is None:
                return None
            node = child
        return node

    def tokens_below(self, node: int) -> list[int]:
        """The tokens that end at a node or below it."""
        tokens: list[int] = []
        waiting = [node]
        while waiting:
            node = waiting.pop()
            tokens += self.tokens_at(node)
            waiting += self.children(node).values()
        return tokens

    def tokens_at(self, node: int) -> list[int]:
        """The tokens that end at a node."""
        low, high = self._bounds[node], self._bounds[node + 1]
        return self._tokens[low:high].tolist() if high - low > 1 else [self._tokens_list[low]] if high > low else []

    def tokens_of(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens that end at some nodes."""
        first = self._bounds_array[nodes]
        return self._tokens[expand_runs(first, self._bounds_array[nodes + 1] - first)[1]]

    def few_tokens(self, live: Live, state: int) -> list[int] | None:
        """The tokens that are alive from a state; None if that takes too many looks."""
        symbols, first, bounds = self._symbols, self._first, self._bounds
        tokens: list[int] = []
        waiting = [(0, state)]
        probes = 0
        while waiting:
            node, at = waiting.pop()
            begin, end = first[node], first[node + 1]
            if begin == end:
                continue
            ways = live.ways(at)
            probes += min(len(ways), end - begin)
            if probes > _MOST_PROBES:
                return None
            if len(ways) < end - begin:
                places = [(bisect_left(symbols, byte, begin, end), byte, target) for byte, target in ways]
                alive = [(child, target) for child, byte, target in places if child < end and symbols[child] == byte]
            else:
                targets = live.targets(at)
                alive = [(child, targets[symbols[child]]) for child in range(begin, end) if targets[symbols[child]]]
            for child, _ in alive:
                low, high = bounds[child], bounds[child + 1]
                if low < high:
                    tokens += self._tokens[low:high].tolist() if high - low > 1 else [self._tokens_list[low]]
            waiting += alive
        return tokens

    def alive_tokens(self, live: Live, state: int) -> list[int]:
        """The tokens with bytes that are alive from a state, in no order."""
        few = self.few_tokens(live, state)
        if few is not None:
            return few
        trie = live.relabelled(self._trie)
        alive = np.zeros(trie.num_nodes, dtype=np.bool_)
        for moves in sparse_walk(live.transitions, trie, np.array([state])):
            alive[moves.node] = True
        return [int(token) for token in np.flatnonzero(alive[trie.node_of_token])]


class Live:
    """The live bytes of an automaton's states, looked up once a state."""

    def __init__(self, transitions: NDArray[np.int32], byte_class: NDArray[np.uint8]) -> None:
        self.transitions = transitions
        self._byte_class = byte_class
        self._bytes = [np.flatnonzero(byte_class == number).tolist() for number in range(transitions.shape[1])]
        self._ways: dict[int, list[tuple[int, int]]] = {}
        self._targets: dict[int, list[int]] = {}
        self._relabelled: dict[int, Trie] = {}

    def ways(self, state: int) -> list[tuple[int, int]]:
        """The bytes that a state reads, and the states they lead to."""
        ways = self._ways.get(state)
        if ways is None:
            row = self.transitions[state]
            live = row.nonzero()[0].tolist()
            ways = self._ways[state] = [
                (byte, target) for c in live for target in (int(row[c]),) for byte in self._bytes[c]
            ]
        return ways

    def targets(self, state: int) -> list[int]:
        """The state behind each byte, 0 where it is dead; of 256."""
        targets = self._targets.get(state)
        if targets is None:
            targets = self._targets[state] = self.transitions[state][self._byte_class].tolist()
        return targets

    def relabelled(self, trie: Trie) -> Trie:
        """A trie whose bytes are this automaton's classes; kept."""
        if id(trie) not in self._relabelled:
            self._relabelled[id(trie)] = trie.relabel(self._byte_class)
        return self._relabelled[id(trie)]
