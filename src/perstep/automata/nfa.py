"""Blocks: nondeterministic automata with one entry and one exit, joined as arrays.

A block's state 0 is its entry, which nothing leads into, and state 1 its exit, which nothing
leaves; so blocks may share those two states without saying anything that neither of them says.
Repeating a block n times is one tiling of its arrays, whatever n. `determinise` in its own
module makes the byte automaton.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.automata.metering import hold, spend
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from perstep.automata.dfa import Dfa

ENTRY, EXIT = 0, 1
_NS_PER_COPY = 8_000
_NS_PER_STEP = 1_500
_FEW_STEPS = 4
_FEW_EDGES = 48  # from which on arrays are copied quicker than lists
_NS_PER_EDGE = 25


Edge = tuple[int, int, int, int]
"""From, lowest byte, highest byte, to."""
Hop = tuple[int, int]
"""From, to, reading nothing."""


class Block:
    """A nondeterministic automaton with one entry (state 0) and one exit (state 1).

    Small blocks are lists, which are joined quicker than arrays; each form is made of the other when it is asked for.

    Args:
        size: number of states.
        edges: int32 [edges, 4], or a list: from, lowest byte, highest byte, to.
        hops: int32 [hops, 2], or a list: from, to, reading nothing.
        steps: the lowest and highest byte of each edge, where all lead from the entry to the exit and there is nothing
            else; None elsewhere.
    """

    __slots__ = ("_arrays", "lists", "size", "steps")

    def __init__(
        self,
        size: int,
        edges: NDArray[np.int32] | list[Edge],
        hops: NDArray[np.int32] | list[Hop],
        steps: tuple[tuple[int, int], ...] | None = None,
    ) -> None:
        self.size = size
        self.steps = steps
        self._arrays: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None
        self.lists: tuple[list[Edge], list[Hop]] | None = None
        if isinstance(edges, list) and isinstance(hops, list):
            self.lists = edges, hops
        else:
            self._arrays = np.asarray(edges), np.asarray(hops)

    @property
    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Edges and hops as arrays."""
        if self._arrays is None:
            assert self.lists is not None  # noqa: S101 - it is made of one form or the other
            edges, hops = self.lists
            self._arrays = (
                np.array(edges, dtype=np.int32).reshape(-1, 4),
                np.array(hops, dtype=np.int32).reshape(-1, 2),
            )
        return self._arrays

    @property
    def edges(self) -> NDArray[np.int32]:
        """The edges, int32 [edges, 4]."""
        return self.arrays[0]

    @property
    def hops(self) -> NDArray[np.int32]:
        """The hops, int32 [hops, 2]."""
        return self.arrays[1]

    @property
    def reads(self) -> bool:
        """Whether there is an edge at all."""
        return bool(self.lists[0]) if self.lists is not None else len(self.edges) > 0

    def listed(self) -> tuple[list[Edge], list[Hop]]:
        """Edges and hops as lists."""
        if self.lists is not None:
            return self.lists
        return list(map(tuple, self.edges.tolist())), list(map(tuple, self.hops.tolist()))

    @property
    def nbytes(self) -> int:
        """Bytes that it takes as arrays."""
        if self.lists is not None:
            return 16 * len(self.lists[0]) + 8 * len(self.lists[1])
        return self.edges.nbytes + self.hops.nbytes


class Graph:
    """A block under construction: states, hops and other blocks put between two states."""

    def __init__(self) -> None:
        self._size = 2
        self._edges: list[NDArray[np.int32]] = []
        self._hops: list[NDArray[np.int32]] = []
        self._own_edges: list[Edge] = []
        self._own_hops: list[Hop] = []

    @property
    def size(self) -> int:
        """States so far."""
        return self._size

    def state(self) -> int:
        """A new state."""
        self._size += 1
        return self._size - 1

    def hop(self, source: int, target: int) -> None:
        """A way from `source` to `target` that reads nothing."""
        self._own_hops.append((source, target))

    def put(self, block: Block, source: int, target: int) -> None:
        """Place a copy of `block` with its entry at `source` and its exit at `target`."""
        if block.steps is not None:
            spend(_NS_PER_STEP * len(block.steps))
            self._own_edges += [(source, low, high, target) for low, high in block.steps]
            return
        if block.lists is not None and len(block.lists[0]) <= _FEW_EDGES:
            self._put_listed(block.size, block.lists, source, target)
            return
        spend(_NS_PER_COPY + _NS_PER_EDGE * len(block.edges))
        place = np.arange(self._size - 2, self._size - 2 + block.size, dtype=np.int32)
        place[:2] = source, target
        self._size += block.size - 2
        if len(block.edges):
            edges = block.edges.copy()
            edges[:, 0] = place[edges[:, 0]]
            edges[:, 3] = place[edges[:, 3]]
            self._edges.append(edges)
        if len(block.hops):
            self._hops.append(place[block.hops])

    def _put_listed(self, size: int, lists: tuple[list[Edge], list[Hop]], source: int, target: int) -> None:
        edges, hops = lists
        spend(_NS_PER_STEP * (len(edges) + len(hops)))
        shift = self._size - 2
        self._size += size - 2
        place = (source, target)
        self._own_edges += [
            (place[a] if a < 2 else a + shift, low, high, place[b] if b < 2 else b + shift) for a, low, high, b in edges
        ]
        self._own_hops += [(place[a] if a < 2 else a + shift, place[b] if b < 2 else b + shift) for a, b in hops]

    def build(self) -> Block:
        """The block."""
        if not self._edges and not self._hops:
            return Block(self._size, self._own_edges, self._own_hops)
        # Parts, their copies and the whole are there at once.
        hold(0, "this", other_bytes=3 * sum(part.nbytes for part in (*self._edges, *self._hops)))
        hops = np.array(self._own_hops, dtype=np.int32).reshape(-1, 2)
        edges = np.array(self._own_edges, dtype=np.int32).reshape(-1, 4)
        return Block(
            size=self._size,
            edges=np.concatenate([edges, *self._edges]) if self._edges else edges,
            hops=np.concatenate([hops, *self._hops]) if self._hops else hops,
        )


NEVER = Block(2, [], [])
"""Accepts nothing."""

EMPTY = Block(2, [], [(ENTRY, EXIT)])
"""Accepts the empty string only."""


def literal(data: bytes) -> Block:
    """Exactly `data`."""
    if not data:
        return EMPTY
    states = [ENTRY, *range(2, len(data) + 1), EXIT]
    edges = [(states[at], byte, byte, states[at + 1]) for at, byte in enumerate(data)]
    return Block(len(data) + 1, edges, [], ((data[0], data[0]),) if len(data) == 1 else None)


def byte_ranges(ranges: Sequence[tuple[int, int]]) -> Block:
    """One byte within one of the ranges, ends included."""
    edges = [(ENTRY, low, high, EXIT) for low, high in ranges]
    return Block(2, edges, [], tuple(ranges) if len(ranges) <= _FEW_STEPS else None)


def sequence(*blocks: Block) -> Block:
    """One block after the other."""
    if not blocks:
        return EMPTY
    graph = Graph()
    at = ENTRY
    for number, block in enumerate(blocks):
        target = EXIT if number == len(blocks) - 1 else graph.state()
        graph.put(block, at, target)
        at = target
    return graph.build()


def union(*blocks: Block) -> Block:
    """Any one of the blocks."""
    graph = Graph()
    for block in blocks:
        graph.put(block, ENTRY, EXIT)
    return graph.build()


def optional(block: Block) -> Block:
    """The block or nothing."""
    return union(block, EMPTY)


def loop(block: Block, between: Block = EMPTY) -> Block:
    """The block once or more, with `between` in between."""
    graph = Graph()
    before, after = graph.state(), graph.state()
    graph.hop(ENTRY, before)
    graph.put(block, before, after)
    graph.put(between, after, before)
    graph.hop(after, EXIT)
    return graph.build()


def repeat(block: Block, low: int, high: int | None, limit: int, what: str) -> Block:
    """The block `low` to `high` times; without an upper bound where `high` is None.

    Args:
        block: what is repeated.
        low: fewest times.
        high: most times, or None.
        limit: most states of the result.
        what: how to call the repetition in an error.

    Raises:
        InputError: if the copies would have more states than `limit`; said before they are made.
    """
    if high is None:
        if low == 0:
            return optional(loop(block))
        return sequence(_tile(block, low - 1, low - 1, limit, what), loop(block))
    return _tile(block, low, high, limit, what)


def _tile(block: Block, low: int, high: int, limit: int, what: str) -> Block:
    if high == 0:
        return EMPTY
    inner = block.size - 2
    size = 2 + high * inner + high - 1
    if size > limit:
        raise InputError(
            f"{what}: {plural(high, 'copy', 'copies')} of {plural(inner + 1, 'state')} each: an automaton of about "
            f"{plural(size, 'state')}, over the limit of {limit:,}: lower the count, raise state_limit, or use an "
            "engine that counts (llguidance)"
        )
    # The states between copies come first, then each copy's inner states.
    joints = np.arange(1, high + 2, dtype=np.int32)
    joints[0], joints[-1] = ENTRY, EXIT
    joints[1:-1] = np.arange(2, high + 1)
    place = np.empty((high, block.size), dtype=np.int32)
    place[:, ENTRY], place[:, EXIT] = joints[:-1], joints[1:]
    place[:, 2:] = high + 1 + np.arange(high * inner, dtype=np.int32).reshape(high, inner)
    edges = np.tile(block.edges, (high, 1, 1))
    edges[:, :, 0] = place[:, block.edges[:, 0]]
    edges[:, :, 3] = place[:, block.edges[:, 3]]
    leave = np.stack([joints[low:-1], np.full(high - low, EXIT, dtype=np.int32)], axis=1)
    hops = np.concatenate([place[:, block.hops].reshape(-1, 2), leave])
    return Block(size, edges.reshape(-1, 4), hops)


def of_dfa(dfa: Dfa) -> Block:
    """The language of a byte automaton as a block."""
    if dfa.is_empty:
        return NEVER
    place = np.arange(1, len(dfa.accepting) + 1, dtype=np.int32)
    size = len(dfa.accepting) + 1
    ends = np.flatnonzero(dfa.accepting)
    hops = []
    # A start that nothing leads back to is the entry itself; one accepting state that nothing leaves, the exit.
    if (dfa.transitions == dfa.start).any() or len(ends) != 1 or dfa.transitions[ends[0]].any() or dfa.start == ends[0]:
        hops = [(ENTRY, place[dfa.start]), *((place[end], EXIT) for end in ends)]
    else:
        others = np.setdiff1d(np.arange(1, len(dfa.accepting)), [dfa.start, ends[0]])
        place[others] = np.arange(2, 2 + len(others))
        place[dfa.start], place[ends[0]] = ENTRY, EXIT
        size = 2 + len(others)
    by_byte = dfa.transitions[:, dfa.byte_class]
    begins = np.ones_like(by_byte, dtype=np.bool_)
    begins[:, 1:] = by_byte[:, 1:] != by_byte[:, :-1]
    states, lows = np.nonzero(begins)
    highs = np.append(lows[1:], 0) - 1
    highs[highs < 0] = 255
    targets = by_byte[states, lows]
    live = targets != 0
    edges = np.stack([place[states], lows, highs, place[targets]], axis=1)[live].astype(np.int32)
    return Block(size, edges, np.array(hops, dtype=np.int32).reshape(-1, 2))
