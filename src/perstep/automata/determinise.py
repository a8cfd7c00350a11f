"""From a block to the minimal byte automaton: the subset construction, mostly in bulk.

In automata made from regexes and schemas nearly every state has one target for each byte;
those rows are made for all states at once. Only sets of several states are followed one by
one in Python, and counted: an automaton that explodes is stopped at the limit, by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.automata import dfa as dfas
from perstep.automata.grouping import expand_runs
from perstep.automata.metering import hold, spend
from perstep.automata.nfa import ENTRY, EXIT, Block
from perstep.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SEVERAL = -1
MAX_WORK = 20_000_000
"""Most moves of states, and of sets that are followed: up to 20 s and under 1 GB."""
MAX_SORTED = 1_000_000_000
"""Most ways without reading, summed over the rounds in which they are sorted anew: about 5 s. Without it
`(\\W*?){1000}` took 250 s."""
_NS_PER_TABLE = 600_000
_NS_PER_CELL = 90
_NS_PER_SET = 25_000
_NS_PER_MEMBER = 300
_NS_PER_TARGET = 350
_NS_PER_PAIR = 6
_MANY = 24  # members of a set from which on they are looked at together
_BYTES_PER_MOVE = 45


def determinise(block: Block, limit: int, source: str, *, merge: bool = True) -> dfas.Dfa:
    """The minimal byte automaton of a block's language.

    Args:
        block: the nondeterministic automaton.
        limit: most states that the automaton, or the construction on its way there, may have.
        source: what it was made from, for messages and for `Dfa.source`.
        merge: whether states of equal behaviour become one; without it the automaton need not be minimal.

    Raises:
        InputError: if more than `limit` states are needed, or more than `MAX_WORK` steps on the way.

    Source: Rabin and Scott, Finite automata and their decision problems (1959).
    """
    byte_class, lowest = _byte_classes(block.edges)
    num_classes = len(lowest)
    hold(block.size * num_classes, source)
    spend(_NS_PER_TABLE + _NS_PER_CELL * block.size * num_classes)
    origins, members = _closure(block, source)
    cells, targets = _moves(block, origins, members, byte_class, num_classes, source)
    hold(block.size * num_classes, source, other_bytes=_BYTES_PER_MOVE * len(cells))
    # State q of the block is row q + 1; row 0 is dead.
    table = np.zeros((block.size + 1) * num_classes, dtype=np.int32)
    table[cells + num_classes] = targets + 1
    several = _cells_with_several(table[num_classes:], cells, targets)
    rows = table.reshape(-1, num_classes)
    table[[cell + num_classes for cell in several]] = _SEVERAL
    accepting = np.zeros(block.size + 1, dtype=np.bool_)
    accepting[1 + origins[members == EXIT]] = True
    universal = _universal(cells, targets, num_classes, accepting)
    del cells, targets, origins, members
    sets = _Sets(rows[1:], several, accepting, universal, limit, source)
    set_rows, set_accepting = sets.follow()
    for cell, group in several.items():
        table[cell + num_classes] = sets.name(group)
    complete = np.concatenate([rows, *(row[None] for row in set_rows)]) if set_rows else rows
    del table, rows, sets
    ends = np.concatenate([accepting, np.array(set_accepting, dtype=np.bool_)])
    result = dfas.minimal(complete, byte_class, ends, ENTRY + 1, source, merge=merge)
    if result.num_states > limit:
        raise too_many_states(source, limit)
    return result


def too_many_states(source: str, limit: int) -> InputError:
    """The error of an automaton that outgrows its limit."""
    return InputError(
        f"{source} needs an automaton of more than {plural(limit, 'state')}: simplify it, raise state_limit, "
        "or use an engine that works without a finite automaton (llguidance)"
    )


def _check_work(steps: int, most: int, source: str) -> None:
    if steps > most:
        raise InputError(
            f"{source} takes more than {plural(most, 'step')} to become an automaton: simplify it (a repetition of "
            "what may be "
            "empty, such as (a*){1000}, is a*), or use an engine that works without a finite automaton (llguidance)"
        )


def _byte_classes(edges: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The class of each byte, uint8 [256], and the lowest byte of each class, int64 [classes]."""
    bounds = np.zeros(257, dtype=np.bool_)
    bounds[0] = True
    bounds[edges[:, 1]] = True
    bounds[edges[:, 2] + 1] = True
    return (np.cumsum(bounds[:256]) - 1).astype(np.uint8), np.flatnonzero(bounds[:256])


def _by_source(sources: NDArray[np.int32], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """An order that groups rows by source, and where each source's group begins, [size + 1]."""
    order = np.argsort(sources, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(sources, minlength=size))])


def _closure(block: Block, source: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every pair (state, state it reaches without reading), each state with itself among them."""
    order, first = _by_source(block.hops[:, 0], block.size)
    hop_targets = block.hops[order, 1].astype(np.int64)
    seen = np.arange(block.size, dtype=np.int64) * (block.size + 1)  # key: state * size + reached
    frontier = seen
    work = 0
    while len(frontier):
        hold(len(seen) + len(frontier), source)
        spend(_NS_PER_PAIR * len(seen))
        origins, reached = np.divmod(frontier, block.size)
        work += len(seen) + int((first[reached + 1] - first[reached]).sum())
        _check_work(work, MAX_SORTED, source)
        run, index = expand_runs(first[reached], first[reached + 1] - first[reached])
        keys = np.unique(origins[run] * block.size + hop_targets[index])
        places = np.minimum(np.searchsorted(seen, keys), len(seen) - 1)
        frontier = keys[seen[places] != keys]
        seen = np.insert(seen, np.searchsorted(seen, frontier), frontier)
    origins, reached = np.divmod(seen, block.size)
    return origins, reached


def _moves(
    block: Block,
    origins: NDArray[np.int64],
    members: NDArray[np.int64],
    byte_class: NDArray[np.uint8],
    num_classes: int,
    source: str,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Every move as a cell (state * classes + class) and its target."""
    order, first = _by_source(block.edges[:, 0], block.size)
    edges = block.edges[order]
    low, high = byte_class[edges[:, 1]].astype(np.int64), byte_class[edges[:, 2]].astype(np.int64)
    _check_work(int((first[members + 1] - first[members]).sum()), MAX_WORK, source)
    pair, edge = expand_runs(first[members], first[members + 1] - first[members])
    _check_work(int((high[edge] - low[edge] + 1).sum()), MAX_WORK, source)
    run, classes = expand_runs(low[edge], high[edge] - low[edge] + 1)
    return origins[pair][run] * num_classes + classes, edges[edge[run], 3]


def _universal(
    cells: NDArray[np.int64], targets: NDArray[np.int32], num_classes: int, accepting: NDArray[np.bool_]
) -> frozenset[int]:
    """Accepting states that every byte which is read at all leads back to; a set that holds one is as good as it."""
    origins, classes = np.divmod(cells, num_classes)
    loops = np.unique(cells[origins == targets])
    looped = np.bincount(loops // num_classes, minlength=len(accepting) - 1)
    universal = np.flatnonzero((looped == len(np.unique(classes))) & accepting[1:])
    return frozenset(universal.tolist())


def _cells_with_several(
    table: NDArray[np.int32], cells: NDArray[np.int64], targets: NDArray[np.int32]
) -> dict[int, tuple[int, ...]]:
    """The cells that were given more than one target, with all of them, ascending."""
    lost = np.unique(cells[table[cells] != targets + 1])
    if not len(lost):
        return {}
    is_lost = np.zeros(len(table), dtype=np.bool_)
    is_lost[lost] = True
    chosen = is_lost[cells]
    by_cell: dict[int, set[int]] = {int(cell): set() for cell in lost}
    for cell, target in zip(cells[chosen].tolist(), targets[chosen].tolist(), strict=True):
        by_cell[cell].add(target)
    return {cell: tuple(sorted(group)) for cell, group in by_cell.items()}


class _Sets:
    """The sets of two or more states that some byte leads to, numbered as they are found."""

    def __init__(
        self,
        rows: NDArray[np.int32],
        several: dict[int, tuple[int, ...]],
        accepting: NDArray[np.bool_],
        universal: frozenset[int],
        limit: int,
        source: str,
    ) -> None:
        self._universal = universal
        self._rows = rows
        self._several = several
        self._accepting = accepting
        self._limit = limit
        self._source = source
        self._work = 0
        self._names: dict[tuple[int, ...], int] = {}
        self._queue: list[tuple[int, ...]] = []
        for group in several.values():
            self.name(group)

    def name(self, members: tuple[int, ...]) -> int:
        """The number of a set; one state keeps its own."""
        if len(members) > 1 and self._universal and not self._universal.isdisjoint(members):
            members = (min(self._universal.intersection(members)),)
        if len(members) == 1:
            return members[0] + 1
        number = self._names.get(members)
        if number is None:
            if len(self._names) >= self._limit:
                raise too_many_states(self._source, self._limit)
            spend(_NS_PER_SET + _NS_PER_MEMBER * len(members))
            number = self._names[members] = len(self._rows) + 1 + len(self._names)
            self._queue.append(members)
        return number

    def follow(self) -> tuple[list[NDArray[np.int32]], list[bool]]:
        """The rows [classes] and acceptance of every set, in the order of their numbers."""
        rows, accepting = [], []
        at = 0
        while at < len(self._queue):
            members = self._queue[at]
            rows.append(self._row(members))
            accepting.append(bool(self._accepting[1 + np.array(members)].any()))
            at += 1
        return rows, accepting

    def _row(self, members: tuple[int, ...]) -> NDArray[np.int32]:
        together = self._rows[list(members)]
        highest = together.max(axis=0)
        lowest = np.where(together == 0, highest, together).min(axis=0)
        row: NDArray[np.int32] = highest.copy()
        names: dict[tuple[tuple[int, ...], ...], int] = {}
        columns = np.flatnonzero((lowest != highest) | (lowest == _SEVERAL)).tolist()
        self._work += len(columns) * len(members)
        _check_work(self._work, MAX_WORK, self._source)
        spend(_NS_PER_TARGET * len(columns) * (len(members) if len(members) < _MANY else _MANY))
        for column in columns:
            if len(members) >= _MANY:
                values = np.unique(together[:, column])
                if values[0] != _SEVERAL:
                    row[column] = self.name(tuple((values[values > 0] - 1).tolist()))
                    continue
            parts = tuple(self._targets(member, column) for member in members)
            if parts not in names:
                names[parts] = self.name(tuple(sorted(set().union(*parts))))
            row[column] = names[parts]
        return row

    def _targets(self, member: int, column: int) -> tuple[int, ...]:
        value = int(self._rows[member, column])
        if value == _SEVERAL:
            return self._several[member * self._rows.shape[1] + column]
        return (value - 1,) if value else ()
