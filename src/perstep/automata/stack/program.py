"""A grammar as nodes: what may be read at each, which rule may be entered there, and where it goes on.

Where a text stands is a set of items: a piece, the place inside it, and a frame, which says what follows the piece (a
node, and the frame of whoever entered its rule). Frames and what they lead to are worked out when they are first met.
Nothing here knows tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from perstep.automata.stack.pieces import Literal, Piece, Value
from perstep.automata.stack.unequal import Compared, Listed, Unequal, Unlike

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perstep.automata.search import Search

Item = tuple[Piece, int, int]
"""A piece, the place inside it, and the frame behind it."""

Way = TypeVar("Way")

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

_Stage = tuple[int, Unequal, int, frozenset[Value]]
"""Where an array without equal items stands: behind this number of items, before another, or in it; and the values."""

_BEHIND, _BEFORE, _INSIDE = 0, 1, 2


@dataclass(frozen=True, eq=False, slots=True)
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
        # Nodes without pieces, calls or hops share one empty tuple: garbage collections come by every list.
        self._pieces: list[Sequence[tuple[Piece, int]]] = []
        self._calls: list[Sequence[tuple[int | Counted | Unequal, int | _Round]]] = []
        self._compared: dict[int, list[tuple[Compared, int]]] = {}
        self._hops: list[Sequence[int]] = []
        self._exits: list[bool] = []
        self._frames: list[tuple[int, int]] = [(-1, END)]
        self._frame_of: dict[tuple[int, int], int] = {}
        self._then: list[Then | None] = [Then((), True)]
        self._rounds: dict[_Round, int] = {}
        self._stages: dict[_Stage, int] = {}
        self._stage_of: dict[int, _Stage] = {}
        self._empty: set[int] = set()  # nodes of stages that nobody has come by
        self.start = END

    # Nodes

    def nodes(self, count: int) -> int:
        """Make nodes; the number of the first."""
        first = len(self._pieces)
        for ways in (self._pieces, self._calls, self._hops):
            ways += [()] * count
        self._exits += [False] * count
        return first

    def leave(self, node: int) -> None:
        """A rule may end at a node."""
        self._exits[node] = True

    def hop(self, node: int, target: int) -> None:
        """From a node to another without reading."""
        _add(self._hops, node, target)

    def read(self, node: int, piece: Piece, target: int) -> None:
        """A piece between two nodes."""
        _add(self._pieces, node, (piece, target))

    def compare(self, node: int, compared: Compared, target: int) -> None:
        """A piece between two nodes of a rule that an array without equal items enters: by it these are compared."""
        self._compared.setdefault(node, []).append((compared, target))

    def call(self, node: int, rule: int | Counted | Unequal, target: int) -> None:
        """A rule, by the node where it begins, between two nodes."""
        _add(self._calls, node, (rule, target))

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
            if self._pieces[node] or self._calls[node] or node in self._compared:
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
            if node in self._empty:
                self._fill(node)
            for piece, target in self._read_at(node, parent):
                items[piece, 0, self._frame(target, parent)] = None
            ways = [(hop, parent) for hop in self._hops[node]]
            for called, behind in self._calls[node]:
                start = called if isinstance(called, int) else self._begin(called)
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
                _add(self._calls, node, (rule.start, (rule, number + 1)))
        return node

    def _begin(self, rule: Counted | Unequal) -> int:
        """The node where a rule begins that is made as it is come by."""
        if isinstance(rule, Counted):
            return self._round((rule, 0))
        return self._stage((_BEFORE, rule, 0, frozenset()))

    # Arrays without equal items

    def _stage(self, stage: _Stage) -> int:
        """The node of a stage."""
        node = self._stages.get(stage)
        if node is None:
            node = self._stages[stage] = self.nodes(1)
            self._stage_of[node] = stage
            self._empty.add(node)
        return node

    def _fill(self, node: int) -> None:
        """Make what may be read at a stage."""
        self._empty.remove(node)
        where, rule, number, seen = self._stage_of[node]
        if where == _BEHIND:
            self._exits[node] = number >= rule.low
            if rule.goes_on(number, seen):
                self.read(node, rule.comma, self._stage((_BEFORE, rule, number, seen)))
        elif where == _BEFORE:
            inside = self._stage((_INSIDE, rule, number, seen))
            pieces: list[Piece] = [piece for piece in rule.listed if piece.stands_for not in seen]
            pieces += [
                piece for piece in (rule.unlike(compared, seen) for compared in rule.compared) if piece.can_begin
            ]
            for piece in pieces:
                self.read(node, piece, inside)
            for start, value in rule.rules:
                if value is None:
                    self.call(node, start, inside)
                elif value not in seen:
                    self.call(node, start, self._stage((_BEHIND, rule, number + 1, seen | {value})))

    def _read_at(self, node: int, parent: int) -> Sequence[tuple[Piece, int]]:
        """The pieces at a node; those by which an array compares its items are without the values that have been."""
        compared = self._compared.get(node)
        if compared is None:
            return self._pieces[node]
        _, rule, _, values = self._stage_of[self._frames[parent][0]]
        unlike = [(rule.unlike(one, values), target) for one, target in compared]
        return [*self._pieces[node], *((piece, target) for piece, target in unlike if piece.can_begin)]

    def behind(self, frame: int, value: Value | None) -> int:
        """The frame behind a piece that tells a value: there the array knows it. None: as if it were no value."""
        node, parent = self._frames[frame]
        stage = self._stage_of.get(node)
        if stage is None or stage[0] != _INSIDE:
            return self._frame(node, self.behind(parent, value))
        _, rule, number, seen = stage
        return self._frame(self._stage((_BEHIND, rule, number + 1, seen if value is None else seen | {value})), parent)

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
                    then = self.then(self.behind(frame, piece.value(place, data, at, end)) if piece.tells else frame)
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
                if isinstance(piece, Unlike):
                    waiting += self._compared_tokens((piece, place, frame), at, search, tokens)
                    continue
                if isinstance(piece, Literal):
                    complete: Sequence[int] = _along(piece.data, place, at, search, tokens)
                else:
                    complete = _within(piece, place, at, search, tokens)
                if complete:
                    then = self.then(self.behind(frame, piece.stands_for) if isinstance(piece, Listed) else frame)
                    if then.items:
                        waiting += [(end, then.items) for end in complete]
        return tokens

    def _compared_tokens(
        self, item: Item, node: int, search: Search, tokens: set[int]
    ) -> list[tuple[int, tuple[Item, ...]]]:
        """Go through a piece that tells its value; the nodes where it is complete, and what follows there."""
        piece, place, frame = item
        complete: list[tuple[int, tuple[Item, ...]]] = []
        waiting = [(node, place)]
        while waiting:
            node, place = waiting.pop()
            for byte, child in search.children(node).items():
                data = bytes((byte,))
                after, ends = piece.read(place, data, 0)
                if not ends and after < 0:
                    continue
                tokens.update(search.tokens_at(child))
                if ends:
                    complete.append((child, self.then(self.behind(frame, piece.value(place, data, 0, 1))).items))
                if after >= 0:
                    waiting.append((child, after))
        return [(child, items) for child, items in complete if items and search.children(child)]


def _add(ways: list[Sequence[Way]], node: int, way: Way) -> None:
    """Add a way out of a node."""
    there = ways[node]
    if isinstance(there, list):
        there.append(way)
    else:
        ways[node] = [way]


def _along(data: bytes, place: int, node: int, search: Search, tokens: set[int]) -> list[int]:
    """Go along fixed bytes; the node behind them, if there is one that has others below it."""
    for byte in data[place:] if place else data:
        child = search.children(node).get(byte)
        if child is None:
            return []
        node = child
        tokens.update(search.tokens_at(node))
    return [node] if search.children(node) else []


def _within(piece: Piece, place: int, node: int, search: Search, tokens: set[int]) -> tuple[int, ...]:
    """Go through a piece; the nodes where it is complete and that have others below them."""
    key = (piece, place, node)
    walked = search.walked.get(key)
    if walked is None:
        tokens_below, complete = _walked(piece, place, node, search)
        walked = search.walked[key] = tuple(tokens_below), tuple(complete)
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
