"""The byte automaton: a deterministic finite automaton over bytes, as arrays.

State 0 is dead: no byte leaves it and nothing is accepted there. Every function of this
room that returns an automaton returns the minimal one in canonical numbering (start state 1,
breadth first by byte class), so that two automata of one language are equal array for array,
and a hash of the arrays names the language. Nothing here knows of tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.automata import graphs
from perstep.automata.grouping import group_rows, number_by_first
from perstep.automata.metering import hold, spend
from perstep.automata.minimise import same_behaviour
from perstep.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NS_PER_PRODUCT = 600_000
_NS_PER_CELL = 200
STATE_LIMIT = 65_535
"""Most live states unless the caller raises it: what a uint16 table can name."""


@dataclass(frozen=True, eq=False)
class Dfa:
    """A deterministic automaton over bytes.

    Attributes:
        transitions: next state by state and byte class, int32 [states + 1, byte classes]; row 0 is dead.
        byte_class: the class of each byte, uint8 [256].
        accepting: where a string may end, bool [states + 1].
        start: the state before the first byte; 0 where the language is empty.
        source: a description of its origin; not part of its identity.
    """

    transitions: NDArray[np.int32]
    byte_class: NDArray[np.uint8]
    accepting: NDArray[np.bool_]
    start: int
    source: str = ""

    def __post_init__(self) -> None:
        rows, classes = self.transitions.shape
        if self.byte_class.shape != (256,) or self.accepting.shape != (rows,) or not 0 <= self.start < rows:
            raise InputError(
                "an automaton needs transitions [states, classes], byte_class [256], accepting [states] "
                f"and a start state among them; got {self.transitions.shape}, {self.byte_class.shape}, "
                f"{self.accepting.shape} and {self.start}"
            )
        if self.transitions[0].any() or self.accepting[0]:
            raise InputError("state 0 of an automaton is dead: its transitions are 0 and it does not accept")
        if classes and (
            self.transitions.min() < 0 or self.transitions.max() >= rows or self.byte_class.max() >= classes
        ):
            raise InputError("an automaton's transitions or byte classes point outside its arrays")

    @property
    def num_states(self) -> int:
        """Live states; the dead one is not counted."""
        return len(self.accepting) - 1

    @property
    def num_byte_classes(self) -> int:
        """Groups of bytes that no state distinguishes."""
        return int(self.transitions.shape[1])

    @property
    def is_empty(self) -> bool:
        """Whether it accepts nothing; only a minimal automaton without states does."""
        return self.start == 0

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the arrays: one name for one language, if the automaton is minimal."""
        digest = hashlib.sha256(f"dfa {self.transitions.shape} {self.start}".encode())
        for array in (self.transitions, self.byte_class, self.accepting):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @cached_property
    def rows(self) -> list[list[int]]:
        """The transitions by byte, not by class, as nested lists, for a walk in plain Python."""
        by_byte: list[list[int]] = self.transitions[:, self.byte_class].tolist()
        return by_byte

    @cached_property
    def _walked(self) -> tuple[memoryview[int], bytes, int]:
        """The transitions in one row, the class of each byte, and the number of classes."""
        flat: memoryview[int] = memoryview(np.ascontiguousarray(self.transitions).reshape(-1))  # type: ignore[arg-type]
        return flat, self.byte_class.tobytes(), self.num_byte_classes

    def run(self, data: bytes, state: int | None = None) -> int:
        """The state after `data`, starting at `state` (by default the start state); 0 once nothing can follow."""
        transitions, byte_class, width = self._walked
        at = self.start if state is None else state
        for symbol in data.translate(byte_class):
            at = transitions[at * width + symbol]
        return at

    def accepts(self, data: bytes) -> bool:
        """Whether `data` is in the language."""
        return bool(self.accepting[self.run(data)])

    def live_bytes(self) -> bytes:
        """The bytes that some state can read without dying, ascending."""
        read = np.count_nonzero(self.transitions, axis=0)
        return bytes(np.flatnonzero(read[self.byte_class]).tolist())

    def __and__(self, other: Dfa) -> Dfa:
        return _combine(self, other, np.logical_and, "and")

    def __or__(self, other: Dfa) -> Dfa:
        return _combine(self, other, np.logical_or, "or")

    def __sub__(self, other: Dfa) -> Dfa:
        return _combine(self, other, np.greater, "but not")

    def __invert__(self) -> Dfa:
        """Every byte string that this automaton does not accept (UTF-8 or not)."""
        return replace(anything() - self, source=f"not ({self.source})")


def anything() -> Dfa:
    """Every byte string, valid UTF-8 or not."""
    return Dfa(
        transitions=np.array([[0], [1]], dtype=np.int32),
        byte_class=np.zeros(256, dtype=np.uint8),
        accepting=np.array([False, True]),
        start=1,
        source="anything",
    )


def nothing() -> Dfa:
    """No string, not even the empty one."""
    return Dfa(np.zeros((1, 1), np.int32), np.zeros(256, np.uint8), np.zeros(1, np.bool_), 0, "nothing")


def minimal(
    transitions: NDArray[np.int32],
    byte_class: NDArray[np.uint8],
    accepting: NDArray[np.bool_],
    start: int,
    source: str = "",
) -> Dfa:
    """The minimal automaton of a complete transition table (state 0 dead), numbered canonically.

    States that cannot be reached or cannot reach acceptance fall away, then states of equal
    behaviour are merged, then byte classes that no state tells apart.
    """
    live = graphs.reachable(transitions, start) & graphs.leads_to(transitions, accepting)
    if not live[start]:
        return replace(nothing(), source=source)
    if not live[1:].all():
        renumber = np.where(live, np.cumsum(live), 0).astype(np.int32)
        transitions = transitions[np.concatenate([[0], np.flatnonzero(live)])]
        np.take(renumber, transitions, out=transitions, mode="clip")  # in place: the table may be large
        accepting = np.concatenate([[False], accepting[live]])
        start = int(renumber[start])
    block = same_behaviour(transitions, accepting)
    first_of_block = np.zeros(int(block.max()) + 1, dtype=np.int64)
    first_of_block[block[::-1]] = np.arange(len(block))[::-1]
    transitions, accepting = block[transitions[first_of_block]], accepting[first_of_block]
    transitions, byte_class = _merge_classes(transitions, byte_class)
    order = graphs.breadth_first(transitions, int(block[start]))
    number = np.zeros(len(order) + 1, dtype=np.int32)
    number[order] = np.arange(1, len(order) + 1)
    order = np.concatenate([[0], order])
    return Dfa(number[transitions[order]], byte_class, accepting[order], 1, source)


def _merge_classes(
    transitions: NDArray[np.int32], byte_class: NDArray[np.uint8]
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Equal columns become one; classes are numbered by the first byte that falls into each."""
    _, column_group = group_rows(transitions.T)
    first_byte, by_byte = number_by_first(column_group[byte_class])
    return np.ascontiguousarray(transitions[:, byte_class[first_byte]]), by_byte.astype(np.uint8)


def together(left: Dfa, right: Dfa, limit: int) -> Dfa:
    """`left & right`, of at most `limit` states before it is made minimal.

    Raises:
        InputError: if more are needed.
    """
    return _combine(left, right, np.logical_and, "and", limit)


def _combine(left: Dfa, right: Dfa, accept: np.ufunc, word: str, limit: int | None = None) -> Dfa:
    """The automaton of pairs of states: a pair accepts where `accept` says so of its two halves."""
    pair_of_byte = left.byte_class.astype(np.int64) * right.num_byte_classes + right.byte_class
    pairs, byte_class = np.unique(pair_of_byte, return_inverse=True)
    left_rows = left.transitions[:, pairs // right.num_byte_classes].astype(np.int64)
    right_rows = right.transitions[:, pairs % right.num_byte_classes]
    width = len(right.accepting)
    source = f"({left.source}) {word} ({right.source})"

    def follow(keys: NDArray[np.int64]) -> NDArray[np.int64]:
        one, other = left_rows[keys // width], right_rows[keys % width]
        targets = one * width + other
        if accept is np.logical_and:
            targets[(one == 0) | (other == 0)] = 0
        elif accept is np.greater:
            targets[one == 0] = 0
        return targets

    keys = graphs.explore(left.start * width + right.start, follow, limit)
    if limit is not None and len(keys) > limit:
        raise InputError(
            f"{source} needs more than {plural(limit, 'state')}: simplify it, raise state_limit, "
            "or use an engine that works without a finite automaton (llguidance)"
        )
    keys = np.concatenate([[0], keys[keys != 0]])
    hold(len(keys) * len(pairs), source)
    spend(_NS_PER_PRODUCT + _NS_PER_CELL * len(keys) * len(pairs))
    transitions = np.searchsorted(keys, follow(keys)).astype(np.int32)
    accepting = accept(left.accepting[keys // width], right.accepting[keys % width])
    start = int(np.searchsorted(keys, left.start * width + right.start))
    return minimal(transitions, byte_class.reshape(-1).astype(np.uint8), accepting, start, source)
