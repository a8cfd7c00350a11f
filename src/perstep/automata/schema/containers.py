"""Objects and arrays of a JSON schema as blocks: a walk over what is written so far.

A node says what has been written as far as it matters (how many members, which of them); a move writes one more member
or item and leads to another node. All ways to arrive before the same text and node share one copy of it, so keys in the
schema's order need a size that grows with their number, not its square.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Generic, TypeVar

from perstep._words import plural
from perstep.automata.nfa import ENTRY, EXIT, NEVER, Block, Graph, loop, sequence
from perstep.automata.schema.spacing import canonical
from perstep.automata.schema.writing import Writing
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

Node = TypeVar("Node", bound="Hashable")
Text = tuple[Block, ...]
"""Blocks one after the other; joined only where they are written, so that a value is copied once."""
_Passed = tuple[int, int, int, int]

MOST_IN_ANY_ORDER = 8
"""Members of an object that may be written in any order: each set of them is a state."""
_MOST_SETS = 1_100  # of values already used in an array without equal items


@dataclass(frozen=True, eq=False)
class Move(Generic[Node]):
    """One more member or item: its text, the node behind it; or, with `text` None, another node for free."""

    text: Text | None
    to: Node


def walk(
    brackets: tuple[bytes, bytes],
    start: Node,
    moves: Callable[[Node], Iterable[Move[Node]]],
    ends: Callable[[Node], bool],
    writing: Writing,
    limit: int,
    path: str,
) -> Block:
    """A bracketed list of texts between separators.

    Args:
        brackets: the opening and the closing one.
        start: the node before anything is written.
        moves: where it goes on from a node.
        ends: whether it may end there.
        writing: how its pieces are written.
        limit: most states.
        path: where it stands, for an error.

    Raises:
        InputError: if there are more states.
    """
    graph = Graph()
    closing = graph.state()
    graph.put(writing.text(brackets[1]), closing, EXIT)
    # A node is two states: with nothing written so far (no separator before the next), and with something.
    states: dict[tuple[Node, bool], int] = {(start, False): graph.state()}
    graph.put(sequence(writing.text(brackets[0]), writing.inside), ENTRY, states[start, False])
    written: dict[tuple[int, Node], int] = {}
    waiting: list[tuple[Node, bool]] = [(start, False)]

    def state_of(node: Node, begun: bool) -> int:
        if (node, begun) not in states:
            states[node, begun] = graph.state()
            waiting.append((node, begun))
        return states[node, begun]

    while waiting:
        node, begun = waiting.pop()
        at = states[node, begun]
        if ends(node):
            graph.put(writing.inside, at, closing) if begun else graph.hop(at, closing)
        for move in moves(node):
            if move.text is None:
                graph.hop(at, state_of(move.to, begun))
                continue
            key = (id(move.text), move.to)
            if key not in written:
                written[key] = graph.state()
                _put(graph, move.text, written[key], state_of(move.to, True))
                if graph.size > limit:
                    what = "members" if brackets[0] == b"{" else "items"
                    raise InputError(
                        f"{path}: the {what} need more than {plural(limit, 'state')}: simplify them, raise "
                        "state_limit, or use an engine that counts (llguidance)"
                    )
            graph.put(writing.item, at, written[key]) if begun else graph.hop(at, written[key])
    return graph.build()


def _put(graph: Graph, text: Text, source: int, target: int) -> None:
    """Place the blocks of a text one after the other."""
    for part in text[:-1]:
        between = graph.state()
        graph.put(part, source, between)
        source = between
    graph.put(text[-1], source, target)


# Objects


@dataclass(frozen=True, eq=False)
class Member:
    """A property: key, separator and value in one text, and whether it must be there."""

    text: Text
    required: bool


@dataclass(frozen=True, eq=False)
class Members:
    """What an object holds.

    Attributes:
        named: the members with a known key, in order.
        others: texts of members with another key; any number, and a key may come twice.
        witnesses: texts of members with another key, and as bits which demands each meets.
        demands: how many demands must all be met.
        witness_last: whether no other may follow one, which could take its key and give it a value of another kind.
        low: fewest members.
        high: most members.
        any_order: whether the named and the others may come in any order.
    """

    named: Sequence[Member]
    others: Sequence[Text]
    witnesses: Sequence[tuple[int, Text]]
    demands: int
    witness_last: bool
    low: int
    high: int | None
    any_order: bool


def member_text(key: str, value: Block, writing: Writing) -> Text:
    """A member with a known key."""
    return (sequence(writing.text(canonical(key)), writing.colon), value)


def object_block(members: Members, writing: Writing, limit: int, path: str) -> Block:
    """An object.

    Raises:
        InputError: if its members cannot be counted, are too many to come in any order, or need too many states.
    """
    num_required = sum(member.required for member in members.named)
    low = 0 if members.low <= num_required + bool(members.demands) else members.low
    high = members.high if members.others or members.demands or _over(members.high, len(members.named)) else None
    if low > 1 and (members.others or members.demands) and low > num_required + 1:
        raise InputError(
            f"{path}: minProperties {members.low} with keys that the schema does not name cannot be counted here, "
            "since a key may come twice: make properties required, or use an engine that counts them (llguidance)"
        )
    if members.any_order and len(members.named) > MOST_IN_ANY_ORDER:
        raise InputError(
            f"{path}: {plural(len(members.named), 'property', 'properties')} in any order: a state for each set "
            f"of them; at most {MOST_IN_ANY_ORDER} can be: use the schema's order, or an engine with a stack "
            "(llguidance)"
        )
    return _Objects(members, low, high).block(writing, limit, path)


def _over(high: int | None, number: int) -> bool:
    return high is not None and high < number


class _Objects:
    """A node: how many named members were passed (in any order: which, as bits), counts, demands met."""

    def __init__(self, members: Members, low: int, high: int | None) -> None:
        self._members = members
        self._low, self._high = low, high
        self._most_named = max(low, 0 if high is None else high + 1)
        self._most_others = high + 1 if high is not None else min(low, 1)

    def block(self, writing: Writing, limit: int, path: str) -> Block:
        """The block of the whole object."""
        return walk((b"{", b"}"), (0, 0, 0, 0), self._moves, self._ends, writing, limit, path)

    def _moves(self, node: _Passed) -> Iterable[Move[_Passed]]:
        at, named, others, seen = node
        if self._high is not None and named + others > self._high:
            return
        members = self._members
        more = min(named + 1, self._most_named)
        if members.any_order:
            for number, member in enumerate(members.named):
                if not at >> number & 1:
                    yield Move(member.text, (at | 1 << number, more, others, seen))
        elif at < len(members.named):
            yield Move(members.named[at].text, (at + 1, more, others, seen))
            if not members.named[at].required:
                yield Move(None, (at + 1, named, others, seen))
            return
        if seen and members.witness_last:
            return
        for text in members.others:
            yield Move(text, (at, named, min(others + 1, self._most_others), seen))
        for met, text in members.witnesses:
            yield Move(text, (at, named, min(others + 1, self._most_others), seen | met))

    def _ends(self, node: _Passed) -> bool:
        at, named, others, seen = node
        if self._members.any_order:
            done = all(at >> number & 1 or not member.required for number, member in enumerate(self._members.named))
        else:
            done = at == len(self._members.named)
        return (
            done
            and seen == (1 << self._members.demands) - 1
            and named + min(others, 1) >= self._low
            and (self._high is None or named + others <= self._high)
        )


# Arrays


@dataclass(frozen=True, eq=False)
class Items:
    """What an array holds: its first values one by one, then any number of `rest` (None: no more)."""

    first: Sequence[Block]
    rest: Block | None
    low: int
    high: int | None


def array_block(items: Items, writing: Writing, block_limit: int, path: str) -> Block:
    """An array of at least `items.low` and at most `items.high` values."""
    if items.high is not None and items.high < items.low:
        return NEVER
    graph = Graph()
    at, filled, closing = graph.state(), graph.state(), graph.state()
    graph.put(sequence(writing.text(b"["), writing.inside), ENTRY, at)
    graph.put(writing.inside, filled, closing)
    graph.put(writing.text(b"]"), closing, EXIT)
    for number, value in enumerate(items.first):
        if number >= items.low:
            graph.hop(at, filled if number else closing)
        if items.high is not None and number >= items.high:
            return graph.build()
        then = graph.state()
        graph.put(sequence(writing.item, value) if number else value, at, then)
        at = then
    number = len(items.first)
    if number >= items.low:
        graph.hop(at, filled if number else closing)
    if items.rest is not None and (items.high is None or items.high > number):
        high = None if items.high is None else items.high - number
        graph.put(_rest(items, items.rest, max(items.low - number, 1), high, writing, block_limit, path), at, filled)
    return graph.build()


def _rest(
    items: Items, item: Block, low: int, high: int | None, writing: Writing, block_limit: int, path: str
) -> Block:
    """`low` to `high` further values, at least one; the first without a separator if none came before."""
    if not items.first and high is None and low == 1:
        return loop(item, writing.item)
    what = f"{path}: minItems {items.low}" if high is None else f"{path}: maxItems {items.high}"
    separated = sequence(writing.item, item)
    if items.first:
        return writing.repeat(separated, low, high, block_limit, what)
    more = writing.repeat(separated, low - 1, None if high is None else high - 1, block_limit, what)
    return sequence(item, more)


@dataclass(frozen=True, eq=False)
class Kind:
    """Items that are alike to all that is counted.

    Attributes:
        places: the first place where such an item may stand, and the last (None: any later one).
        text: its text.
        adds: by how much each count grows.
    """

    places: tuple[int, int | None]
    text: Text
    adds: tuple[int, ...]


def counted_array(
    kinds: Sequence[Kind],
    num_places: int,
    size: tuple[int, int | None],
    counts: Sequence[tuple[int, int | None]],
    writing: Writing,
    limit: int,
    path: str,
) -> Block:
    """An array whose items are counted by kind: a node is the number of items and of each that counts.

    Args:
        kinds: the items.
        num_places: places from which on one is like the other.
        size: fewest and most items.
        counts: fewest and most of each that counts.
        writing: how its pieces are written.
        limit: most states.
        path: where it stands, for an error.
    """
    most = max(num_places, size[0], 0 if size[1] is None else size[1] + 1)
    caps = [low if high is None else high + 1 for low, high in counts]

    def moves(node: tuple[int, tuple[int, ...]]) -> Iterable[Move[tuple[int, tuple[int, ...]]]]:
        at, reached = node
        for kind in kinds:
            first, last = kind.places
            if at < first or (last is not None and at > last) or (size[1] is not None and at >= size[1]):
                continue
            more = tuple(min(a + b, cap) for a, b, cap in zip(reached, kind.adds, caps, strict=True))
            if all(high is None or n <= high for n, (_, high) in zip(more, counts, strict=True)):
                yield Move(kind.text, (min(at + 1, most), more))

    def ends(node: tuple[int, tuple[int, ...]]) -> bool:
        at, reached = node
        return at >= size[0] and all(n >= low for n, (low, _) in zip(reached, counts, strict=True))

    return walk((b"[", b"]"), (0, (0,) * len(counts)), moves, ends, writing, limit, path)


def are_few_sets(number: int, high: int | None) -> bool:
    """Whether a state can be made for every set of at most `high` of a number of values."""
    most = number if high is None else min(number, high)
    return number <= _MOST_SETS and sum(comb(number, size) for size in range(most + 1)) <= _MOST_SETS


def unequal_array(
    values: Sequence[Text],
    allowed: Callable[[int], Iterable[int]],
    size: tuple[int, int | None],
    writing: Writing,
    limit: int,
    path: str,
) -> Block:
    """An array of listed values, none twice: a node is the set of values used.

    Args:
        values: the texts of each value.
        allowed: the numbers of the values that may stand at a place.
        size: fewest and most items.
        writing: how its pieces are written.
        limit: most states.
        path: where it stands, for an error.

    Raises:
        InputError: if there are too many sets.
    """
    most = min(len(values), len(values) if size[1] is None else size[1])
    if not are_few_sets(len(values), most):
        raise InputError(
            f"{path}: 'uniqueItems' over {plural(len(values), 'value')} would need a state for every set of values, "
            f"more than {_MOST_SETS:,}: take it out, give maxItems, or use an engine that checks it afterwards"
        )

    def moves(used: int) -> Iterable[Move[int]]:
        number = used.bit_count()
        if number < most:
            yield from (Move(values[v], used | 1 << v) for v in allowed(number) if not used >> v & 1)

    def ends(used: int) -> bool:
        return used.bit_count() >= size[0]

    return walk((b"[", b"]"), 0, moves, ends, writing, limit, path)
