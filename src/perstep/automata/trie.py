"""The byte trie of a vocabulary as arrays, in level order: parents before children, siblings together.

Because levels lie one after the other, "what state is every node in" is one vector
operation a level, and no pointer is followed. Built once a vocabulary, kept on disk
(`cache.py`). `merge_bytes` gives the smaller trie in which bytes that an automaton cannot
tell apart are one; tokens that end in the same node there behave alike in every state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Trie:
    """A trie over symbols (bytes, or classes of bytes); node 0 is the root.

    Attributes:
        parent: int32 [nodes], ascending; the root's is itself.
        symbol: the last symbol of each node's string, uint8 [nodes]; the root's means nothing.
        levels: where each level begins, int64 [depth + 2]; level d holds the strings of d symbols.
        node_of_token: int32 [tokens]; 0 for a token without bytes.
    """

    parent: NDArray[np.int32]
    symbol: NDArray[np.uint8]
    levels: NDArray[np.int64]
    node_of_token: NDArray[np.int32]

    @property
    def num_nodes(self) -> int:
        """Nodes, the root among them."""
        return len(self.parent)

    @property
    def depth(self) -> int:
        """Symbols of the longest token."""
        return len(self.levels) - 2

    @cached_property
    def first_child(self) -> NDArray[np.int64]:
        """Node n's children are first_child[n] up to first_child[n + 1]; int64 [nodes + 1]."""
        counts = np.bincount(self.parent[1:], minlength=self.num_nodes)
        return np.concatenate([[1], 1 + np.cumsum(counts)])

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """The nodes where at least one token ends, ascending."""
        return np.unique(self.node_of_token[self.node_of_token > 0])

    @cached_property
    def end_of_token(self) -> NDArray[np.int64]:
        """Each token's place in `ends`, int64 [tokens]; -1 for a token without bytes."""
        place = np.searchsorted(self.ends, self.node_of_token)
        return np.where(self.node_of_token > 0, place, -1)

    @cached_property
    def ready_to_take(self) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Parents and symbols in the types that a walk would make of them at every call."""
        return self.parent.astype(np.intp), self.symbol.astype(np.int32)

    @cached_property
    def nodes_below(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How many nodes begin with each first symbol alone, and with each pair of symbols.

        Returns:
            The first-level nodes by symbol (0 or 1), float64 [256]; the nodes at or below each
            second-level node by its two symbols, float64 [256, 256].
        """
        below = np.ones(self.num_nodes)
        for depth in range(self.depth, 2, -1):
            here = self.level(depth)
            first = int(self.levels[depth - 1])
            below[first : int(self.levels[depth])] += np.bincount(
                self.parent[here] - first, weights=below[here], minlength=int(self.levels[depth]) - first
            )
        ones, pairs = np.zeros(256), np.zeros((256, 256))
        if self.depth >= 1:
            ones[self.symbol[self.level(1)]] = 1
        if self.depth >= 2:
            second = self.level(2)
            np.add.at(pairs, (self.symbol[self.parent[second]], self.symbol[second]), below[second])
        return ones, pairs

    @property
    def nbytes(self) -> int:
        """Bytes of the four arrays."""
        return self.parent.nbytes + self.symbol.nbytes + self.levels.nbytes + self.node_of_token.nbytes

    def level(self, depth: int) -> slice:
        """The nodes of one level."""
        return slice(int(self.levels[depth]), int(self.levels[depth + 1]))

    def relabel(self, byte_class: NDArray[np.uint8]) -> Trie:
        """The same nodes with every byte replaced by its class; siblings may then have equal symbols."""
        other = replace(self, symbol=byte_class[self.symbol])
        for shared in ("first_child", "ends", "end_of_token"):
            other.__dict__[shared] = getattr(self, shared)
        return other


def build_trie(tokens: Sequence[bytes]) -> Trie:
    """The trie of the tokens' bytes; tokens of equal bytes end in one node, empty ones at the root."""
    lengths = np.array([len(token) for token in tokens], dtype=np.int64)
    text = np.frombuffer(b"".join(tokens), dtype=np.uint8)
    begins = np.cumsum(lengths) - lengths
    # In sorted order the tokens that share a prefix are neighbours, so each level is one comparison with the left.
    alive = np.array(sorted(range(len(tokens)), key=tokens.__getitem__), dtype=np.int64)
    node = np.zeros(len(tokens), dtype=np.int32)
    parents, symbols, levels = [np.zeros(1, np.int32)], [np.zeros(1, np.uint8)], [0, 1]
    for depth in range(int(lengths.max(initial=0))):
        alive = alive[lengths[alive] > depth]
        above, byte = node[alive], text[begins[alive] + depth]
        is_new = np.ones(len(alive), dtype=np.bool_)
        is_new[1:] = (above[1:] != above[:-1]) | (byte[1:] != byte[:-1])
        node[alive] = levels[-1] - 1 + np.cumsum(is_new)
        parents.append(above[is_new])
        symbols.append(byte[is_new])
        levels.append(levels[-1] + len(parents[-1]))
    return Trie(np.concatenate(parents), np.concatenate(symbols), np.array(levels, dtype=np.int64), node)


def merge_bytes(trie: Trie, byte_class: NDArray[np.uint8]) -> Trie:
    """The trie of the same tokens with every byte replaced by its class."""
    num_classes = int(byte_class.max()) + 1
    merged = np.zeros(trie.num_nodes, dtype=np.int64)
    classes = byte_class[trie.symbol]
    parents, symbols, levels = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], [0, 1]
    for depth in range(1, trie.depth + 1):
        here = trie.level(depth)
        keys, place = np.unique(merged[trie.parent[here]] * num_classes + classes[here], return_inverse=True)
        merged[here] = levels[-1] + place.reshape(-1)
        above, symbol = np.divmod(keys, num_classes)
        parents.append(above)
        symbols.append(symbol)
        levels.append(levels[-1] + len(keys))
    return Trie(
        np.concatenate(parents).astype(np.int32),
        np.concatenate(symbols).astype(np.uint8),
        np.array(levels, dtype=np.int64),
        merged[trie.node_of_token].astype(np.int32),
    )
