"""Listed values (`enum`, `const`): as a trie of their texts, so that 100,000 of them are one pass.

A whole float may be written with or without its fraction (1.0 is 1). Containers are written
under the whitespace policy, their keys in the order given.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from perstep._json import Json
from perstep.automata.determinise import determinise
from perstep.automata.nfa import EXIT, NEVER, Block, union
from perstep.automata.schema.keywords import ABOUT, Schema, type_allows, types_of
from perstep.automata.schema.spacing import Spacing, canonical, constant
from perstep.automata.schema.strings import string_block
from perstep.automata.trie import build_trie
from perstep.errors import InputError

_LARGEST_WHOLE_FLOAT = 2**53


def enum_block(schema: Schema, space: Spacing, path: str, limit: int, block_limit: int) -> Block:
    """The values of `schema["enum"]` that its type and other keywords allow.

    Raises:
        InputError: if they need too many states, or a container stands beside keywords about containers.
    """
    values = list(schema["enum"])
    if "type" in schema:
        values = [value for value in values if any(type_allows(name, value) for name in types_of(schema))]
    containers = [value for value in values if isinstance(value, (dict, list))]
    if containers and any(name in schema for kind in ("object", "array") for name in ABOUT[kind]):
        raise InputError(
            f"{path}: an enum of objects or lists cannot be combined with other keywords here; remove them"
        )
    values = _that_fit(values, schema, path, limit, block_limit)
    texts = {text for value in values if not isinstance(value, (dict, list)) for text in _spellings(value)}
    blocks = [_trie_block(sorted(texts), path, block_limit)] if texts else []
    return union(*blocks, *(constant(value, space) for value in containers)) if blocks or containers else NEVER


def _spellings(value: Json) -> list[bytes]:
    found = [canonical(value)]
    if isinstance(value, float) and value == int(value) and abs(value) < _LARGEST_WHOLE_FLOAT:
        found.append(canonical(int(value)))
    return found


def _that_fit(values: list[Json], schema: Schema, path: str, limit: int, block_limit: int) -> list[Json]:
    """The values that keep the keywords about strings and numbers beside the enum."""
    if any(name in schema for name in ABOUT["string"]) and any(isinstance(value, str) for value in values):
        strings = determinise(string_block(schema, path, limit, block_limit), limit, path)
        values = [value for value in values if not isinstance(value, str) or strings.accepts(canonical(value))]
    return [value for value in values if not _is_number(value) or _number_fits(value, schema)]


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number_fits(value: float, schema: Schema) -> bool:
    multiple = schema.get("multipleOf")
    return (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and ("exclusiveMinimum" not in schema or schema["exclusiveMinimum"] < value)
        and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
        and (multiple is None or Fraction(repr(value)) % Fraction(repr(multiple)) == 0)
    )


def _trie_block(texts: list[bytes], path: str, block_limit: int) -> Block:
    trie = build_trie(texts)
    if trie.num_nodes > block_limit:
        raise InputError(
            f"{path}: {len(texts):,} listed values make a tree of {trie.num_nodes:,} states, over the limit of "
            f"{block_limit:,}: list fewer, raise state_limit, or use another engine (llguidance)"
        )
    # Node 0, the root, is the entry; the others follow the exit.
    place = np.arange(1, trie.num_nodes + 1, dtype=np.int32)
    place[0] = 0
    symbols = trie.symbol[1:].astype(np.int32)
    edges = np.stack([place[trie.parent[1:]], symbols, symbols, place[1:]], axis=1)
    hops = np.stack([place[trie.ends], np.full(len(trie.ends), EXIT)], axis=1).astype(np.int32)
    return Block(trie.num_nodes + 1, edges, hops)
