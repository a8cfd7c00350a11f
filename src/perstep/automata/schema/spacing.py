"""Whitespace between the tokens of a JSON text, and how a scalar is written.

`fixed` writes ", " and ": " and nothing else, as `json.dumps` does by default; `flexible`
allows any JSON whitespace between tokens, without end; a regex says what may stand there.
"""

from __future__ import annotations

import json

from perstep._json import Json
from perstep.automata.charset import utf8_ways
from perstep.automata.determinise import determinise
from perstep.automata.nfa import Block
from perstep.automata.regex import from_regex, regex_block
from perstep.errors import InputError

ANY_SPACE = "[ \\t\\n\\r]*"


def space_pattern(policy: str) -> str:
    """The regex of what may stand between tokens; `fixed` has none beside its commas and colons."""
    return {"fixed": "", "flexible": ANY_SPACE}.get(policy, policy)


def space_block(policy: str, limit: int) -> Block:
    """What may stand between tokens.

    Raises:
        InputError: if the regex is malformed or matches anything but JSON whitespace.
    """
    space = regex_block(space_pattern(policy), utf8_ways, limit)
    if not (determinise(space, limit, "the whitespace pattern") - from_regex(ANY_SPACE)).is_empty:
        raise InputError(
            f"whitespace must be 'fixed', 'flexible' or a regex that matches only spaces, tabs and line ends; "
            f"got {policy!r}"
        )
    return space


def canonical(value: Json) -> bytes:
    """A scalar as `json.dumps(ensure_ascii=False)` writes it.

    Raises:
        InputError: if JSON cannot hold it: not a number, infinite, or half of a surrogate pair.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise InputError(f"the schema holds {value!r}, which is no JSON value: {error}") from error
