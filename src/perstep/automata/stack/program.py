"""A grammar as nodes: what may be read at each, which rule may be entered there, and where it goes on.

Where a text stands is a set of items: a piece, the place inside it, and a frame, which says what follows the piece (a
node, and the frame of whoever entered its rule). Frames and what they lead to are worked out when they are first met.
Nothing here knows tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perstep.automata.stack.pieces import Literal, Piece

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perstep.automata.search import Search

Item = tuple[Piece, int, int]
"""A piece, the place inside it, and the frame behind it."""

_MOST_WALKED = 20_000
"""Places of pieces whose tokens below a node of a trie are kept; most are a few."""

END = 0
"""The frame behind the whole text."""


@dataclass(frozen=True, eq=False)
class Counted:
    """A rule that is entered `low` to `high` times, one after the other.

    Attributes:
        start: the node where the rule begins.
        low: fewest times.
        high: most times.
    """

    start: int
    low: int
    high: int


_Round = tuple[Counted, int]
"""A counted rule, and how many times it was entered."""


@dataclass(frozen=True, eq=False)
class Then:
    """What follows: the items that may be read, and whether the text may end."""

    items: tuple[Item, ...]
    accepting: bool


class Program:
    """Nodes, and where texts stand in them.

    Attributes:
        start: the frame before the text.
    """

    def __init__(self) -> None:
        self._pieces: list[list[tuple[Piece, int]]] = []
        self._calls: list[list[tuple[int | Counted, int | _Round]]] = []
        self._hops: list[list[int]] = []
        self._exits: list[bool] = []
        self._frames: list[tuple[int, int]] = [(-1, END)]
        self._frame_of: dict[tuple[int, int], int] = {}
        self._then: list[Then | None] = [Then((), True)]
        self._rounds: dict[_Round, int] = {}
        self.start = END

    # Nodes

    def nodes(self, count: int) -> int:
        """Make nodes; the number of the first."""
        first = len(self._pieces)
        self._pieces += [[] for _ in range(count)]
        self._calls += [[] for _ in range(count)]
        self._hops += [[] for _ in range(count)]
        self._exits += [False] * count
        return first

    def leave(self, node: int) -> None:
        """A rule may end at a node."""
        self._exits[node] = True

    def hop(self, node: int, target: int) -> None:
        """From a node to another without reading."""
        self._hops[node].append(target)

    def read(self, node: int, piece: Piece, target: int) -> None:
        """A piece between two nodes."""
        self._pieces[node].append((piece, target))

    def call(self, node: int, rule: int | Counted, target: int) -> None:
        """A rule, by the node where it begins, between two nodes."""
        self._calls[node].append((rule, target))

    def begin(self, node: int) -> None:
        """The text is what is read from this node on."""
        self.start = self._frame(node, END)

    @property
    def num_nodes(self) -> int:
        """Nodes made so far."""
        return len(self._pieces)

    # Frames

    def _frame(self, node: int, parent: int) -> int:
        """The frame of a node; that of its parent where nothing but the end of the rule follows."""
        while self._exits[node] or len(self._hops[node]) == 1:
            if self._pieces[node] or self._calls[node]:
                break
            if self._exits[node]:
                if self._hops[node]:
                    break
                return parent
            node = self._hops[node][0]
        key = (node, parent)
        frame = self._frame_of.get(key)
        if frame is None:
            frame = self._frame_of[key] = len(self._frames)
            self._frames.append(key)
            self._then.append(None)
        return frame

    def then(self, frame: int) -> Then:
        """What follows at a frame."""
        then = self._then[frame]
        if then is None:
            then = self._then[frame] = self._follow(frame)
        return then

    def _follow(self, frame: int) -> Then:
        items: dict[Item, None] = {}
        accepting = False
        waiting = [self._frames[frame]]
        seen = set(waiting)
        while waiting:
            node, parent = waiting.pop()
            if node < 0:
                accepting = True
                continue
            for piece, target in self._pieces[node]:
                items[piece, 0, self._frame(target, parent)] = None
            ways = [(hop, parent) for hop in self._hops[node]]
            for rule, behind in self._calls[node]:
                start = rule if isinstance(rule, int) else self._round((rule, 0))
                then = behind if isinstance(behind, int) else self._round(behind)
                ways.append((start, self._frame(then, parent)))
            if self._exits[node]:
                ways.append(self._frames[parent])
            for way in ways:
                if way not in seen:
                    seen.add(way)
                    waiting.append(way)
        return Then(tuple(items), accepting)

    def _round(self, key: _Round) -> int:
        """The node where a counted rule was entered this number of times; the next is made when it is come by."""
        node = self._rounds.get(key)
        if node is None:
            rule, number = key
            node = self._rounds[key] = self.nodes(1)
            self._exits[node] = number >= rule.low
            if number < rule.high:
                self._calls[node].append((rule.start, (rule, number + 1)))
        return node

    # Reading

    def advance(self, items: Sequence[Item], data: bytes) -> Then:
        """Where items stand after some bytes."""
        reached: dict[Item, None] = {}
        accepting = False
        waiting = [(items, 0)]
        while waiting:
            some, at = waiting.pop()
            for piece, place, frame in some:
                after, ends = piece.read(place, data, at)
                if after >= 0:
                    reached[piece, after, frame] = None
                for end in ends:
                    then = self.then(frame)
                    if end < len(data):
                        waiting.append((then.items, end))
                        continue
                    accepting |= then.accepting
                    for item in then.items:
                        reached[item] = None
        return Then(tuple(reached), accepting)

    def tokens(self, items: Sequence[Item], search: Search, node: int = 0) -> set[int]:
        """The tokens below a node of a trie that may be read; a search along the bytes that are alive."""
        tokens: set[int] = set()
        waiting = [(node, items)]
        while waiting:
            at, some = waiting.pop()
            for piece, place, frame in some:
                if isinstance(piece, Literal):
                    complete = _along(piece.data, place, at, search, tokens)
                else:
                    complete = _within(piece, place, at, search, tokens)
                if complete:
                    then = self.then(frame)
                    if then.items:
                        waiting += [(end, then.items) for end in complete]
        return tokens


def _along(data: bytes, place: int, node: int, search: Search, tokens: set[int]) -> list[int]:
    """Go along fixed bytes; the node behind them, if there is one that has others below it."""
    for byte in data[place:] if place else data:
        child = search.children(node).get(byte)
        if child is None:
            return []
        node = child
        tokens.update(search.tokens_at(node))
    return [node] if search.children(node) else []


def _within(piece: Piece, place: int, node: int, search: Search, tokens: set[int]) -> list[int]:
    """Go through a piece; the nodes where it is complete and that have others below them."""
    key = (piece, place, node)
    walked = search.walked.get(key)
    if walked is None:
        walked = search.walked[key] = _walked(piece, place, node, search)
        if len(search.walked) > _MOST_WALKED:
            search.walked.popitem(last=False)
    tokens.update(walked[0])
    return walked[1]


def _walked(piece: Piece, place: int, node: int, search: Search) -> tuple[list[int], list[int]]:
    tokens: list[int] = []
    complete: list[int] = []
    waiting = [(node, place)]
    step = piece.step
    while waiting:
        node, place = waiting.pop()
        for byte, child in search.children(node).items():
            after, done = step(place, byte)
            if done or after >= 0:
                tokens += search.tokens_at(child)
                if search.children(child):
                    if done:
                        complete.append(child)
                    if after >= 0:
                        waiting.append((child, after))
    return tokens, complete
