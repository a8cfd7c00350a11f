"""Automata over characters: the same arrays as over bytes, whose symbols are sets of characters.

What the sets in a pattern cannot tell apart is one symbol (an atom), so that a repetition of n characters has n states
and not n times those of an encoding, and products and complements are made before any byte is written. `spelled` turns
the result into bytes: each state's choice of the next character is one small tree, shared by all states whose choices
are alike. Encodings are prefix codes, so the result is deterministic without a subset construction.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.automata.charset import ANY, Ranges, charset
from perstep.automata.determinise import determinise
from perstep.automata.dfa import Dfa
from perstep.automata.grouping import group_rows
from perstep.automata.metering import metered_cache
from perstep.automata.nfa import ENTRY, EXIT, Block, byte_ranges, literal, sequence, union
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

Encoding = Callable[[Ranges], Block]
"""How one character of a set is written: `utf8_block` or `json_block`."""

MOST_ATOMS = 250
_COMPARED_AT_ONCE = 1 << 22


class Alphabet:
    """A partition of all characters into atoms, each a symbol.

    Attributes:
        atoms: the sets, disjoint, together every character, in the order of their first characters.
    """

    def __init__(self, sets: Iterable[Ranges]) -> None:
        """The coarsest partition that tells all `sets` apart.

        Raises:
            InputError: if there are more than 250 atoms.
        """
        chosen = tuple(dict.fromkeys(sets))
        self.atoms = _atoms(chosen)
        if len(self.atoms) > MOST_ATOMS:
            raise InputError(
                f"the patterns on a string tell {len(self.atoms):,} kinds of characters apart, over the limit of "
                f"{MOST_ATOMS}: use fewer classes, or an engine without a table of them (llguidance)"
            )
        self._firsts = [atom[0][0] for atom in self.atoms]

    def __len__(self) -> int:
        return len(self.atoms)

    def symbols(self, ranges: Ranges) -> list[int]:
        """The atoms within a set; it must be one of the sets this was made of, or a union of them."""
        return [number for number, first in enumerate(self._firsts) if _holds(ranges, first)]

    def block(self, ranges: Ranges) -> Block:
        """One character of the set, as symbols."""
        return byte_ranges([(symbol, symbol) for symbol in self.symbols(ranges)])

    def word(self, text: str) -> bytes:
        """A text as symbols; half of a surrogate pair becomes a symbol that no automaton reads."""
        return bytes(self._symbol(ord(sign)) for sign in text)

    def _symbol(self, point: int) -> int:
        return next((number for number, atom in enumerate(self.atoms) if _holds(atom, point)), 255)

    def everything(self) -> Dfa:
        """Every text."""
        byte_class = np.full(256, 1, dtype=np.uint8)
        byte_class[: len(self)] = 0
        return Dfa(np.array([[0, 0], [1, 0]], np.int32), byte_class, np.array([False, True]), 1, "any text")


def _holds(ranges: Ranges, point: int) -> bool:
    return any(low <= point <= high for low, high in ranges)


@lru_cache(maxsize=64)
def _atoms(sets: tuple[Ranges, ...]) -> tuple[Ranges, ...]:
    """The atoms of the algebra that the sets make."""
    bounds = {low for low, _ in ANY} | {high + 1 for _, high in ANY}
    bounds |= {point for ranges in sets for low, high in ranges for point in (low, high + 1)}
    begins = np.array(sorted(bounds), dtype=np.int64)
    begins, ends = begins[:-1], begins[1:] - 1
    member = np.zeros((len(begins), len(sets)), dtype=np.int64)
    for column, ranges in enumerate(sets):
        for low, high in ranges:
            member[np.searchsorted(begins, low) : np.searchsorted(begins, high, side="right"), column] = 1
    characters = ~((begins >= 0xD800) & (begins <= 0xDFFF))
    begins, ends, member = begins[characters], ends[characters], member[characters]
    _, group = group_rows(member)
    parts: list[list[tuple[int, int]]] = [[] for _ in range(int(group.max()) + 1)]
    for number, low, high in zip(group.tolist(), begins.tolist(), ends.tolist(), strict=True):
        parts[number].append((low, high))
    return tuple(charset(*ranges) for ranges in parts)


def of_length(low: int, high: int | None) -> Dfa:
    """Texts of `low` to `high` characters, over any alphabet; no upper bound where `high` is None."""
    states = (low if high is None else high) + 1
    transitions = np.arange(1, states + 2, dtype=np.int32)[:, None]
    transitions[0] = 0
    transitions[states:, 0] = states if high is None else 0
    if states > 1:
        transitions[1:states, 0] = np.arange(2, states + 1)
    accepting = np.zeros(states + 1, dtype=np.bool_)
    accepting[low + 1 :] = True
    return Dfa(transitions, np.zeros(256, np.uint8), accepting, 1, f"{low} to {high} characters")


def complement(text: Dfa, alphabet: Alphabet) -> Dfa:
    """Every text that an automaton does not accept."""
    return alphabet.everything() - text


# Into bytes


def spelled(text: Dfa, alphabet: Alphabet, encoding: Encoding, limit: int, what: str) -> Block:
    """The texts of an automaton over characters in bytes.

    Args:
        text: the automaton.
        alphabet: its characters.
        encoding: how one of them is written.
        limit: most states of the result.
        what: how to call it in an error.

    Raises:
        InputError: if there would be more states; said before they are made.
    """
    if text.is_empty:
        return byte_ranges([])
    targets = text.transitions[:, text.byte_class[: len(alphabet)]]
    first_like = _first_alike(targets)
    kinds, kind_of = group_rows(first_like)
    trees = [_tree(tuple(_choices(first_like[kind], alphabet)), encoding) for kind in kinds.tolist()]
    inner = np.array([tree.num_inner for tree in trees], dtype=np.int64)[kind_of]
    inner[0] = 0
    size = 2 + text.num_states + int(inner.sum())
    if size > limit:
        raise InputError(
            f"{what}: about {plural(size, 'state is', 'states are')} needed to write "
            f"{plural(text.num_states, 'step')} of characters in bytes, over the limit of "
            f"{limit:,}: lower the count, raise state_limit, or use an engine that counts (llguidance)"
        )
    # After the entry and the exit come the states between characters, then those inside them.
    place = np.arange(1, len(text.accepting) + 1, dtype=np.int64)
    inside = 2 + text.num_states + np.cumsum(inner) - inner
    edges = [trees[kind].edges(np.flatnonzero(kind_of == kind), place, inside, targets) for kind in range(len(kinds))]
    ends = np.flatnonzero(text.accepting)
    hops = [(ENTRY, place[text.start]), *((place[end], EXIT) for end in ends.tolist())]
    return Block(
        size,
        np.concatenate([np.zeros((0, 4), np.int32), *edges]).astype(np.int32),
        np.array(hops, dtype=np.int32).reshape(-1, 2),
    )


def _first_alike(targets: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each state and symbol the first symbol with the same target; -1 where it is dead. int64 [states, symbols]."""
    states, symbols = targets.shape
    first = np.empty((states, symbols), dtype=np.int64)
    step = max(1, _COMPARED_AT_ONCE // max(1, symbols * symbols))
    for low in range(0, states, step):
        part = targets[low : low + step]
        first[low : low + step] = (part[:, :, None] == part[:, None, :]).argmax(axis=2)
    first[targets == 0] = -1
    return first


def _choices(first_like: NDArray[np.int64], alphabet: Alphabet) -> list[tuple[int, Ranges]]:
    """The first symbol and all characters of each group of symbols that lead to one state."""
    groups: dict[int, list[tuple[int, int]]] = {}
    for symbol, first in enumerate(first_like.tolist()):
        if first >= 0:
            groups.setdefault(first, []).extend(alphabet.atoms[symbol])
    return [(first, charset(*ranges)) for first, ranges in groups.items()]


class _Tree:
    """How one character is read when each of some sets leads elsewhere: states inside it, and edges between them."""

    def __init__(self, choices: tuple[tuple[int, Ranges], ...], encoding: Encoding) -> None:
        # A byte behind each character says which set it was of: encodings are prefix codes, so it is unmistakable.
        ways = [sequence(encoding(ranges), literal(bytes([mark]))) for mark, (_, ranges) in enumerate(choices)]
        dfa = determinise(union(*ways), 100_000, "one character")
        end = int(np.flatnonzero(dfa.accepting)[0]) if dfa.accepting.any() else 0
        by_byte = dfa.transitions[:, dfa.byte_class]
        complete = (by_byte == end).any(axis=1) if end else np.zeros(len(by_byte), np.bool_)
        complete[0] = False
        mark_of = np.where(complete, (by_byte == end).argmax(axis=1), 0)
        between = np.flatnonzero(~complete)
        between = between[(between != 0) & (between != end) & (between != dfa.start)]
        number = np.zeros(len(by_byte), dtype=np.int64)
        number[between] = np.arange(1, len(between) + 1)
        self.num_inner = len(between)
        rows = np.concatenate([[dfa.start], between]).astype(np.int64)
        states, lows, highs, targets = _runs(by_byte[rows])
        symbols = np.array([first for first, _ in choices], dtype=np.int64)
        leaves = complete[targets]
        self._inner = np.stack([states, lows, highs, number[targets]], axis=1)[~leaves]
        self._leaves = np.stack([states, lows, highs, symbols[mark_of[targets]]], axis=1)[leaves]

    def edges(
        self,
        states: NDArray[np.int64],
        place: NDArray[np.int64],
        inside: NDArray[np.int64],
        targets: NDArray[np.int32],
    ) -> NDArray[np.int64]:
        """The edges of this tree at each of `states`; [edges, 4] as a block's."""
        states = states[states != 0]
        inner, leaves = self._inner, self._leaves
        count = len(states)
        edges = np.empty((count, len(inner) + len(leaves), 4), dtype=np.int64)
        both = np.concatenate([inner, leaves])
        edges[:, :, 1], edges[:, :, 2] = both[:, 1], both[:, 2]
        at = inside[states][:, None]
        edges[:, :, 0] = np.where(both[:, 0] == 0, place[states][:, None], at + both[:, 0] - 1)
        edges[:, : len(inner), 3] = at + inner[:, 3] - 1
        edges[:, len(inner) :, 3] = place[targets[states][:, leaves[:, 3]]]
        return edges.reshape(-1, 4)


def _runs(
    by_byte: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Runs of bytes that lead a row to one live state: row, lowest byte, highest byte, state."""
    begins = np.ones_like(by_byte, dtype=np.bool_)
    begins[:, 1:] = by_byte[:, 1:] != by_byte[:, :-1]
    states, lows = np.nonzero(begins)
    highs = np.append(lows[1:], 0) - 1
    highs[highs < 0] = 255
    targets = by_byte[states, lows]
    live = targets != 0
    return states[live], lows[live], highs[live], targets[live]


@metered_cache(512)
def _tree(choices: tuple[tuple[int, Ranges], ...], encoding: Encoding) -> _Tree:
    return _Tree(choices, encoding)
