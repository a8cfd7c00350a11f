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
from perstep.automata.charset import ANY, Ranges, Way, charset
from perstep.automata.dfa import Dfa
from perstep.automata.grouping import group_rows
from perstep.automata.metering import metered_cache, spend
from perstep.automata.nfa import ENTRY, EXIT, Block, byte_ranges
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

Encoding = Callable[[Ranges], tuple[Way, ...]]
"""How one character of a set is written: `utf8_ways` or `json_ways`."""

MOST_ATOMS = 250
_COMPARED_AT_ONCE = 1 << 22
_NS_PER_RUN = 2_000


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
        self._symbol_of: dict[str, int] = {}
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
        for sign in set(text) - self._symbol_of.keys():
            self._symbol_of[sign] = self._symbol(ord(sign))
        return bytes(self._symbol_of[sign] for sign in text)

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
        root: _Branch = {}
        for symbol, ranges in choices:
            for way in encoding(ranges):
                _insert(root, way, symbol)
        numbers: dict[tuple[_Run, ...], int] = {}
        runs = _numbered(root, numbers)
        spend(_NS_PER_RUN * sum(map(len, numbers)))
        self.num_inner = len(numbers) - 1
        # The root was numbered last; it is the state before the character, 0.
        rows = [(0, *run) for run in runs]
        rows += [(number, *run) for inner, number in numbers.items() if number <= self.num_inner for run in inner]
        table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        # A target is the number of a state inside, or, below 0, a symbol.
        leaves = table[:, 3] < 0
        self._inner, self._leaves = table[~leaves], table[leaves]
        self._leaves[:, 3] = ~self._leaves[:, 3]

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


_Branch = dict[tuple[tuple[int, int], ...], "_Branch | int"]
"""By the ranges of a byte what follows: more bytes, or the symbol of the character that is complete."""
_Run = tuple[int, int, int]
"""A range of bytes, and the number of the state behind it; of a symbol s it is ~s."""


def _insert(branch: _Branch, way: Way, symbol: int) -> None:
    """Enter one way to write a character. Ways of different characters part in ranges that are equal or disjoint."""
    for ranges in way[:-1]:
        inner = branch.setdefault(ranges, {})
        assert isinstance(inner, dict)  # noqa: S101 - an encoding is a prefix code
        branch = inner
    branch[way[-1]] = symbol


def _numbered(branch: _Branch, numbers: dict[tuple[_Run, ...], int]) -> tuple[_Run, ...]:
    """The runs of a branch, those of branches in it numbered first; equal branches have one number, from 1 on."""
    runs_in_order = sorted(
        (low, high, ~inner if isinstance(inner, int) else numbers[_numbered(inner, numbers)])
        for ranges, inner in branch.items()
        for low, high in ranges
    )
    joined: list[_Run] = []
    for low, high, target in runs_in_order:
        if joined and joined[-1][1] + 1 == low and joined[-1][2] == target:
            joined[-1] = (joined[-1][0], high, target)
        else:
            joined.append((low, high, target))
    runs = tuple(joined)
    numbers.setdefault(runs, len(numbers) + 1)
    return runs


@metered_cache(512)
def _tree(choices: tuple[tuple[int, Ranges], ...], encoding: Encoding) -> _Tree:
    return _Tree(choices, encoding)
