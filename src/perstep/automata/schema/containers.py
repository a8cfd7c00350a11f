"""Objects and arrays of a JSON schema as blocks.

Keys come in the order of the schema's `properties`; optional ones may be left out. What
`properties` does not name appears only where `additionalProperties` says so itself (`true` or
a schema), after the named ones. The size grows with the number of properties, not its square:
all ways to arrive before a key share one copy of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from perstep.automata.charset import ANY, json_block
from perstep.automata.determinise import determinise
from perstep.automata.nfa import (
    ENTRY,
    EXIT,
    NEVER,
    Block,
    Graph,
    literal,
    loop,
    of_dfa,
    optional,
    repeat,
    sequence,
    union,
)
from perstep.automata.schema.spacing import Spacing, canonical


@dataclass(frozen=True)
class Member:
    """A property: its key, its value's texts, and whether it must be there."""

    key: str
    value: Block
    required: bool


def object_block(members: list[Member], additional: Block | None, space: Spacing, limit: int) -> Block:
    """An object with `members` in order, and then any number of others with `additional` values."""
    graph = Graph()
    # `none`: no member written yet; `some`: at least one; a member's text stands between `write` and the next `some`.
    none, some = graph.state(), graph.state()
    graph.put(sequence(literal(b"{"), space.inside), ENTRY, none)
    for member in members:
        write, next_none, next_some = graph.state(), graph.state(), graph.state()
        graph.hop(none, write)
        graph.put(space.item, some, write)
        graph.put(sequence(literal(canonical(member.key)), space.colon, member.value), write, next_some)
        if not member.required:
            graph.hop(none, next_none)
            graph.hop(some, next_some)
        none, some = next_none, next_some
    if additional is not None:
        write = graph.state()
        graph.hop(none, write)
        graph.put(space.item, some, write)
        key = _other_key([member.key for member in members], limit)
        graph.put(sequence(key, space.colon, additional), write, some)
    closing = graph.state()
    graph.hop(none, closing)
    graph.put(space.inside, some, closing)
    graph.put(literal(b"}"), closing, EXIT)
    return graph.build()


def _other_key(keys: list[str], limit: int) -> Block:
    """Every string, quotes included, but those that spell one of `keys`, in whatever escapes."""
    anything = sequence(literal(b'"'), optional(loop(json_block(ANY))), literal(b'"'))
    if not keys:
        return anything
    spelled = [sequence(*(json_block(((ord(sign), ord(sign)),)) for sign in key)) for key in keys]
    named = sequence(literal(b'"'), union(*spelled), literal(b'"'))
    return of_dfa(determinise(anything, limit, "a key") - determinise(named, limit, "the keys"))


@dataclass(frozen=True)
class Items:
    """What an array holds: its first values one by one, then any number of `rest` (None: no more)."""

    first: list[Block]
    rest: Block | None
    low: int
    high: int | None


def array_block(items: Items, space: Spacing, block_limit: int, path: str) -> Block:
    """An array of at least `items.low` and at most `items.high` values."""
    if items.high is not None and items.high < items.low:
        return NEVER
    graph = Graph()
    at, filled, closing = graph.state(), graph.state(), graph.state()
    graph.put(sequence(literal(b"["), space.inside), ENTRY, at)
    graph.put(space.inside, filled, closing)
    graph.put(literal(b"]"), closing, EXIT)
    for number, value in enumerate(items.first):
        if number >= items.low:
            graph.hop(at, filled if number else closing)
        if items.high is not None and number >= items.high:
            return graph.build()
        then = graph.state()
        graph.put(sequence(space.item, value) if number else value, at, then)
        at = then
    number = len(items.first)
    if number >= items.low:
        graph.hop(at, filled if number else closing)
    if items.rest is not None and (items.high is None or items.high > number):
        high = None if items.high is None else items.high - number
        graph.put(_rest(items, items.rest, max(items.low - number, 1), high, space, block_limit, path), at, filled)
    return graph.build()


def _rest(items: Items, item: Block, low: int, high: int | None, space: Spacing, block_limit: int, path: str) -> Block:
    """`low` to `high` further values, at least one; the first without a separator if none came before."""
    if not items.first and high is None and low == 1:
        return loop(item, space.item)
    what = f"{path}: minItems {items.low}" if high is None else f"{path}: maxItems {items.high}"
    separated = sequence(space.item, item)
    if items.first:
        return repeat(separated, low, high, block_limit, what)
    more = repeat(separated, low - 1, None if high is None else high - 1, block_limit, what)
    return sequence(item, more)
