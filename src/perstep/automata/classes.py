"""Token equivalence classes: tokens that lead every state to the same state are one class.

The matrix states x tokens is never held. Its columns are grouped as they are made, some
states at a time, by a hash that is checked exactly before the columns are let go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perstep.automata.grouping import number_by_first, random_words
from perstep.automata.walk import Copies, Copy, DenseWalk, Moves, is_dense, live_shares, sparse_walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from perstep.automata.trie import Trie

_STATES_AT_ONCE = 64


def equivalence_classes(
    transitions: NDArray[np.int32], trie: Trie, check: Callable[[], None] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The class of each token and where each class leads.

    Args:
        transitions: next state by state and symbol, int32 [states, symbols]; row 0 is dead.
        trie: the tokens over the same symbols.
        check: called before each state that is walked; what it raises ends the work.

    Returns:
        The class of each token, int64 [tokens], where class 0 leads nowhere from anywhere (tokens
        without bytes are in it); the next state by state and class, int32 [states, classes].
    """
    share = live_shares(transitions, trie)
    is_walked_whole = is_dense(share, trie)
    dense, sparse = np.flatnonzero(is_walked_whole), np.flatnonzero((share > 0) & ~is_walked_whole)
    columns = _Columns(len(trie.ends), len(transitions))
    # Copies are looked for where there are many: remembering what a walk came by costs a third of the walk.
    copies = Copies(transitions) if len(dense) > _STATES_AT_ONCE else None
    _split_by_dense(columns, dense, DenseWalk(transitions, trie), copies, check)
    if len(sparse):
        for moves in sparse_walk(transitions, trie, sparse, share):
            if check:
                check()
            columns.split_sparse(Moves(moves.state, np.searchsorted(trie.ends, moves.node), moves.target))
    return _with_dead_class(columns, trie)


def _split_by_dense(
    columns: _Columns,
    states: NDArray[np.int64],
    walk: DenseWalk,
    copies: Copies | None,
    check: Callable[[], None] | None,
) -> None:
    """Split the groups by the walks of `states`; copies of a walk split nothing further and are only noted."""
    walked: list[int] = []
    targets: list[NDArray[np.int32]] = []
    for state in states.tolist():
        if check:
            check()
        copy = copies.find(state) if copies else None
        if copy is not None:
            columns.copies.append(copy)
            continue
        walked.append(state)
        targets.append(walk(state))
        if copies:
            copies.walked(state, walk.visited())
        if len(walked) == _STATES_AT_ONCE:
            columns.split_dense(np.array(walked), np.array(targets))
            walked, targets = [], []
    if walked:
        columns.split_dense(np.array(walked), np.array(targets))


def _with_dead_class(columns: _Columns, trie: Trie) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Number the classes so that 0 is the one that is dead everywhere, whether or not a token is in it."""
    targets = columns.targets()
    is_dead = ~targets.any(axis=0)
    number = np.where(is_dead, 0, np.cumsum(~is_dead))
    by_end = number[columns.label]
    of_token = np.zeros(len(trie.node_of_token), dtype=np.int64)
    spelled = trie.node_of_token > 0
    of_token[spelled] = by_end[np.searchsorted(trie.ends, trie.node_of_token[spelled])]
    dead = np.zeros((len(targets), 1), dtype=np.int32)
    return of_token, np.concatenate([dead, targets[:, ~is_dead]], axis=1)


class _Columns:
    """The grouping of columns so far, and the states' targets seen so far, one column a group."""

    def __init__(self, num_columns: int, num_states: int) -> None:
        self.label = np.zeros(num_columns, dtype=np.int64)
        self._first = np.zeros(min(num_columns, 1), dtype=np.int64)
        self._num_states = num_states
        self._dense: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.integer]]] = []
        self._sparse: list[Moves] = []
        self.copies: list[Copy] = []

    def split_dense(self, states: NDArray[np.int64], targets: NDArray[np.integer]) -> None:
        """Split groups by the targets [states, columns] of `states`."""
        seed = 0
        while True:
            words = random_words(self._num_states, seed)
            key = random_words(len(self._first), seed + 1)[self.label]
            for factor, row in zip(random_words(len(states), seed + 2), targets, strict=True):
                key += words.take(row) * factor
            first, label = number_by_first(key)
            same_group = np.array_equal(self.label, self.label[first][label])
            if same_group and all(np.array_equal(row, row.take(first).take(label)) for row in targets):
                break
            seed += 3
        self._first, self.label = first, label
        self._dense.append((states, label, targets[:, first]))

    def split_sparse(self, moves: Moves) -> None:
        """Split groups by moves in which `node` is a column's number; what is not named is dead."""
        seed = 0
        while True:
            key = random_words(len(self._first), seed)[self.label]
            step = (
                random_words(self._num_states, seed + 1)[moves.state]
                * random_words(self._num_states, seed + 2)[moves.target]
            )
            np.add.at(key, moves.node, step)
            first, label = number_by_first(key)
            if np.array_equal(self.label, self.label[first[label]]) and _agree(moves, label, len(first)):
                break
            seed += 3
        self._first, self.label = first, label
        self._sparse.append(moves)

    def targets(self) -> NDArray[np.int32]:
        """Where each group leads from each state, int32 [states, groups]."""
        result = np.zeros((self._num_states, len(self._first)), dtype=np.int32)
        for states, label, targets in self._dense:
            result[states] = targets[:, label[self._first]]
        for moves in self._sparse:
            result[moves.state, self.label[moves.node]] = moves.target
        for copy in self.copies:
            result[copy.state] = copy.move(result[copy.original])
        return result


def _agree(moves: Moves, label: NDArray[np.int64], num_groups: int) -> bool:
    """Whether, in each state, either all columns of a group move, and to one target, or none does."""
    sizes = np.bincount(label, minlength=num_groups)
    key = moves.state * num_groups + label[moves.node]
    order = np.argsort(key, kind="stable")
    key, target = key[order], moves.target[order]
    begins = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])[: len(key)])
    counts = np.diff(np.append(begins, len(key)))
    return np.array_equal(counts, sizes[key[begins] % num_groups]) and np.array_equal(
        target, np.repeat(target[begins], counts)
    )
