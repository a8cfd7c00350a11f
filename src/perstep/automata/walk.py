"""Where every token leads from every state, by walking the trie instead of the tokens.

A state from which much of the trie is alive is walked over all nodes, one vector operation
a level (about 3 ns a node); the others together, over the live pairs (state, node) alone
(about 50 ns a pair). Which is which is only a matter of speed: both are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perstep.automata.grouping import expand_runs, group_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from perstep.automata.trie import Trie

DENSE_ABOVE = 0.05
"""Share of live nodes above which a state is walked over all of them: 3 ns a node against 50 ns a pair."""

DENSE_FROM = 2_000
"""Live nodes below which it is never worth it: a dense walk costs 0.1 ms before its first node."""

_PAIRS_AT_ONCE = 1_000_000
_LOOK_AHEAD = 4  # a JSON character takes up to six bytes; four tell its middles apart


@dataclass(frozen=True, eq=False)
class Moves:
    """Live moves as parallel arrays: `state` reads the string of trie node `node` and is in `target`."""

    state: NDArray[np.int64]
    node: NDArray[np.int64]
    target: NDArray[np.int64]


def live_shares(transitions: NDArray[np.int32], trie: Trie) -> NDArray[np.float64]:
    """For every state an upper bound on the share of the trie's nodes that are alive, float64 [states].

    It looks two symbols deep and takes everything below as alive.
    """
    classes = transitions.shape[1]
    ones, pairs = trie.nodes_below
    alive = (transitions != 0).astype(np.float64)
    after = alive @ pairs[:classes, :classes].T  # [state, first symbol]: nodes below its live second symbols
    nodes = (alive * (ones[:classes] + after[transitions, np.arange(classes)])).sum(axis=1)
    share: NDArray[np.float64] = nodes / max(trie.num_nodes - 1, 1)
    return share


def live_share(transitions: NDArray[np.int32], trie: Trie, state: int) -> float:
    """The same bound for one state."""
    ones, pairs = trie.nodes_below
    symbols = np.flatnonzero(transitions[state])
    after = (pairs[symbols, : transitions.shape[1]] * (transitions[transitions[state, symbols]] != 0)).sum()
    return float(ones[symbols].sum() + after) / max(trie.num_nodes - 1, 1)


def is_dense(share: NDArray[np.float64] | float, trie: Trie) -> bool | NDArray[np.bool_]:
    """Whether states with this share of live nodes are walked over all nodes; bool, or bool [states]."""
    return (share > DENSE_ABOVE) & (share * trie.num_nodes > DENSE_FROM)


class DenseWalk:
    """Walks one state over all nodes at a time; keeps its scratch arrays between calls."""

    def __init__(self, transitions: NDArray[np.int32], trie: Trie) -> None:
        states, classes = transitions.shape
        self._trie = trie
        self._shift = max(classes - 1, 1).bit_length()
        # A state is held as the place of its row, so that a step is one addition and one look-up.
        padded = np.zeros((states, 1 << self._shift), dtype=np.int32)
        padded[:, :classes] = transitions
        self._next = (padded << self._shift).ravel()
        self._parent, self._symbols = trie.ready_to_take
        self._at = np.zeros(trie.num_nodes, dtype=np.int32)

    def visited(self) -> NDArray[np.int64]:
        """The live states that the last walk came by, ascending."""
        seen = np.zeros(len(self._next), dtype=np.bool_)
        seen[self._at] = True
        places = np.flatnonzero(seen) >> self._shift
        live: NDArray[np.int64] = places[places != 0]
        return live

    def __call__(self, state: int) -> NDArray[np.int32]:
        """The state in which each node of `trie.ends` is, 0 where it is dead; int32 [ends], a new array."""
        self._walk(state)
        ends = self._at.take(self._trie.ends)
        ends >>= self._shift
        return ends

    def nodes(self, state: int) -> NDArray[np.int32]:
        """The state in which every node of the trie is, 0 where it is dead; int32 [nodes], a new array."""
        self._walk(state)
        nodes: NDArray[np.int32] = self._at >> self._shift
        return nodes

    def _walk(self, state: int) -> None:
        at = self._at
        at[0] = state << self._shift
        for depth in range(1, self._trie.depth + 1):
            here = self._trie.level(depth)
            index = at.take(self._parent[here])
            index += self._symbols[here]
            self._next.take(index, out=at[here], mode="clip")  # clip: no copy of `out`; indices are in range


def sparse_walk(
    transitions: NDArray[np.int32], trie: Trie, states: NDArray[np.int64], shares: NDArray[np.float64] | None = None
) -> Iterator[Moves]:
    """All live moves of `states` at nodes where a token ends, as many states at a time as `shares` lets fit."""
    is_end = np.zeros(trie.num_nodes, dtype=np.bool_)
    is_end[trie.ends] = True
    if shares is None:
        yield _walk_pairs(transitions, trie, states, is_end)
        return
    cost = np.cumsum(shares[states] * trie.num_nodes + transitions.shape[1])
    for part in np.split(states, np.flatnonzero(np.diff(cost // _PAIRS_AT_ONCE)) + 1):
        yield _walk_pairs(transitions, trie, part, is_end)


def _walk_pairs(
    transitions: NDArray[np.int32], trie: Trie, states: NDArray[np.int64], is_end: NDArray[np.bool_]
) -> Moves:
    origin, node, at = states, np.zeros(len(states), dtype=np.int64), states
    moves = []
    while len(origin):
        pair, child = expand_runs(trie.first_child[node], trie.first_child[node + 1] - trie.first_child[node])
        target = transitions[at[pair], trie.symbol[child]]
        alive = np.flatnonzero(target)
        origin, node, at = origin[pair[alive]], child[alive], target[alive].astype(np.int64)
        ends = is_end[node]
        moves.append((origin[ends], node[ends], at[ends]))
    return Moves(*(np.concatenate(column) for column in zip(*moves, strict=True)))


@dataclass(frozen=True)
class Copy:
    """State `state` is `distance` beyond a walked one; so is all of its walk from state `pivot` on."""

    state: int
    distance: int
    pivot: int

    @property
    def original(self) -> int:
        """The walked state."""
        return self.state - self.distance

    def move(self, states: NDArray[np.integer]) -> NDArray[np.integer]:
        """The states that the copy's walk comes by where the original's comes by `states`."""
        return np.where(states < self.pivot, states, states + self.distance)


class Copies:
    """Finds states whose walk is a copy of one already made, moved by a distance.

    A counted string of 300 characters is 300 copies of one piece, numbered one piece after the
    other, with common exits numbered far before them. So let m move every state from a pivot on
    by t - s and leave the others in place. If next(m(x)) = m(next(x)) for every state x that the
    walk of s came by, then the walk of t is that of s moved by m. Checked row by row; never assumed.
    """

    def __init__(self, transitions: NDArray[np.int32]) -> None:
        self._transitions = transitions
        # Only states with the same live symbols, and that again some steps on, are compared.
        self._shape = group_rows(transitions != 0)[1]
        for _ in range(_LOOK_AHEAD):
            self._shape = group_rows(self._shape[transitions])[1]
        self._walked: dict[int, tuple[int, int, NDArray[np.int64]]] = {}

    def find(self, state: int) -> Copy | None:
        """What `state` is a copy of, if it is one."""
        walked = self._walked.get(int(self._shape[state]))
        if walked is None:
            return None
        original, pivot, visited = walked
        copy = Copy(state, state - original, pivot)
        places = copy.move(visited)
        if places[-1] >= len(self._shape) or not np.array_equal(self._shape[places], self._shape[visited]):
            return None
        same = np.array_equal(self._transitions[places], copy.move(self._transitions[visited]))
        return copy if same else None

    def walked(self, state: int, visited: NDArray[np.int64]) -> None:
        """Remember a walk: `visited` are the live states it came by, ascending."""
        # The guess of what moves: everything above the widest gap in what the walk could have come by next.
        near = np.zeros(len(self._shape), dtype=np.bool_)
        near[self._transitions[visited]] = True
        near[visited] = near[0] = True
        up_to_here = np.flatnonzero(near[: state + 1])
        pivot = int(up_to_here[np.argmax(np.diff(up_to_here)) + 1])
        self._walked[int(self._shape[state])] = (state, pivot, visited)
