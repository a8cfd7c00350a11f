"""Where a JSON text may have whitespace, and constants written under that policy.

`fixed` writes ", " and ": " and nothing else, as `json.dumps` does by default; `flexible`
allows any JSON whitespace between tokens, without end; a regex says what may stand there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from perstep._json import Json
from perstep.automata.charset import utf8_block
from perstep.automata.determinise import determinise
from perstep.automata.nfa import EMPTY, Block, literal, sequence
from perstep.automata.regex import from_regex, regex_block
from perstep.errors import InputError

_ANY = "[ \\t\\n\\r]*"


@dataclass(frozen=True)
class Spacing:
    """The separators of a JSON text.

    Attributes:
        name: the policy, as the user gave it.
        inside: what may follow an opening bracket, and come before a closing one.
        item: between items.
        colon: between a key and its value.
    """

    name: str
    inside: Block
    item: Block
    colon: Block


def spacing(policy: str, limit: int) -> Spacing:
    """The separators under a policy: `fixed`, `flexible`, or a regex of what may stand between tokens.

    Raises:
        InputError: if the regex is malformed or matches anything but JSON whitespace.
    """
    if policy == "fixed":
        return Spacing(policy, EMPTY, literal(b", "), literal(b": "))
    pattern = _ANY if policy == "flexible" else policy
    space = regex_block(pattern, utf8_block, limit)
    if not (determinise(space, limit, "the whitespace pattern") - from_regex(_ANY)).is_empty:
        raise InputError(
            f"whitespace must be 'fixed', 'flexible' or a regex that matches only spaces, tabs and line ends; "
            f"got {policy!r}"
        )
    return Spacing(policy, space, sequence(space, literal(b","), space), sequence(space, literal(b":"), space))


def canonical(value: Json) -> bytes:
    """A scalar as `json.dumps(ensure_ascii=False)` writes it.

    Raises:
        InputError: if JSON cannot hold it: not a number, infinite, or half of a surrogate pair.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise InputError(f"the schema holds {value!r}, which is no JSON value: {error}") from error


def constant(value: Json, space: Spacing) -> Block:
    """One JSON value, its keys in the order given."""
    if isinstance(value, dict):
        members = [
            sequence(literal(canonical(key)), space.colon, constant(inner, space)) for key, inner in value.items()
        ]
        return _bracketed(b"{", members, b"}", space)
    if isinstance(value, list):
        return _bracketed(b"[", [constant(inner, space) for inner in value], b"]", space)
    return literal(canonical(value))


def _bracketed(opening: bytes, items: list[Block], closing: bytes, space: Spacing) -> Block:
    parts = [literal(opening), space.inside]
    for number, item in enumerate(items):
        parts += [space.item, item] if number else [item]
    if items:
        parts.append(space.inside)
    return sequence(*parts, literal(closing))
