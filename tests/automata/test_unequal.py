"""Arrays without equal items, where the items cannot be listed: read with a stack."""

import json
import random
from typing import Any

import jsonschema
import pytest

from perstep.automata import TokenAutomaton, Vocabulary, mask
from perstep.errors import InputError

BYTES = [bytes([byte]) for byte in range(256)]


def _array(**items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "uniqueItems": True}


NAMED = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "id": {"enum": ["x", "y"]}, "name": {"type": "string"}},
    "required": ["id", "name"],
}
CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (
        _array(type="string"),
        ["[]", '["a"]', '["a", "ab", ""]', '["\\u0061", "b"]', '["é", "\\u00e8"]', '["\\ud7ff", "\\ue000"]'],
        ['["a", "a"]', '["a", "\\u0061"]', '["/", "b", "\\/"]', '["é", "\\u00E9"]', '["", ""]'],
    ),
    (_array(type="string", pattern="^[ab]?$"), ['["a", "b", ""]', '["", "b"]'], ['["b", "b"]', '["a", "", "b", "']),
    (_array(type="string", **{"not": {"const": "a"}}), ['["b", "aa"]'], ['["a"]', '["b", "\\u0062"]']),
    (_array(type="integer"), ["[1, 12, 2, -1]", "[0]"], ["[1, 1]", "[-0]", "[12, 1, 12]", f"[{10**15}]"]),
    (_array(type="number"), ["[1, 1.5, 0.25]"], ["[1, 1.0]", "[1.5, 1.50]", "[1e1]"]),
    (_array(enum=[*range(60), "7", 7.0]), ['[7, 17, "7"]'], ["[7, 7.0]", "[17, 1, 17]"]),
    (
        {"uniqueItems": True},
        ['[1, "1", null, true, [1], {"a": [1, 1]}]'],
        ["[null, null]", "[1, 1]", "[{}, {}]", "[[], [1]"],
    ),
    (
        _array(**NAMED),
        ['[{"id": "x", "name": "a"}, {"id": "x", "name": "b"}]', '[{"n": 1, "id": "x", "name": "a"}]'],
        ['[{"id": "x", "name": "a"}, {"id": "y", "name": "a"', '[{"id": "x", "name": "a"}, {"id": "x", "name": "a"}]'],
    ),
    (
        _array(anyOf=[{"type": "string"}, {**NAMED, "required": ["name"]}]),
        ['["a", {"name": "a"}, {"n": 1, "name": "b"}]'],
        ['["a", {"name": "b"}, {"n": 1, "name": "b"', '[{"name": "a"}, "a", "a"]'],
    ),
    (_array(type=["string", "object"]), ['["a", {"b": 1}, "c"]'], ['[{"a": 1}, {']),
    ({**_array(type="string"), "minItems": 2, "maxItems": 3}, ['["a", "b"]'], ['["a"]', '["a", "b", "c", ']),
]
"""Schemas, texts that are whole, and texts that no text begins with, or that may not end."""


def _after(found: TokenAutomaton, text: bytes) -> int:
    state = found.start
    for byte in text:
        state = found.next(state, byte)
    return state


@pytest.fixture(scope="module")
def plain() -> Vocabulary:
    """The bytes."""
    return Vocabulary([*BYTES, None], eos_ids=[256])


@pytest.mark.parametrize(("schema", "whole", "wrong"), CASES, ids=[json.dumps(case[0])[:50] for case in CASES])
def test_no_two_items_are_equal(schema: dict[str, Any], whole: list[str], wrong: list[str], plain: Vocabulary) -> None:
    """As values: however a string is written; and no text is begun that could not be ended."""
    found = mask(plain, schema=schema)
    assert found.engine == "stack"
    for text in whole:
        jsonschema.validate(json.loads(text), schema)
        assert found.is_accepting(_after(found, text.encode())), text
    for text in wrong:
        assert not found.is_accepting(_after(found, text.encode())), text
        assert text.endswith("]") or not _after(found, text.encode()), text


ACROSS = [
    b'"a',
    b'", "',
    b'", "a',
    b'a"',
    b'"a", "a"',
    b'a", "b"',
    b'"], ["',
    b'", "b", "a',
    b"1, 1",
    b", 1",
    b"12",
    b"ab",
]
ACROSS += [
    b"\\u006",
    b"1\\",
    b'"}, {"',
    b'"name": "a"',
    b'{"id": "x", "name": "',
    b'","',
    "é".encode()[1:] + b'"',
    b"[1",
]


@pytest.mark.parametrize("whitespace", ["fixed", "flexible"])
def test_a_token_is_allowed_if_its_bytes_are(whitespace: str, plain: Vocabulary) -> None:
    """Tokens that end an item, hold whole items, and begin another: each row is what the bytes allow one by one."""
    across = Vocabulary([*BYTES, *ACROSS, None], eos_ids=[256 + len(ACROSS)])
    for seed, schema in enumerate([*(case[0] for case in CASES), {"type": "array", "items": {"type": "string"}}]):
        rng = random.Random(seed)
        rows, bytewise = (mask(vocabulary, schema=schema, whitespace=whitespace) for vocabulary in (across, plain))
        for _ in range(3):
            state, text = rows.start, b""
            for _ in range(10):
                allowed = set(rows.allowed(state).tolist())
                for token, data in enumerate([*BYTES, *ACROSS]):
                    assert (token in allowed) == bool(_after(bytewise, text + data)), (schema, text, data)
                among = sorted(allowed - {across.size - 1})
                longer = [token for token in among if token >= 256 or chr(token) in '"],[ab'] or among
                if not among:
                    break
                token = rng.choice(longer)
                text += across.tokens[token]
                state = rows.next(state, token)


def test_random_texts_validate(plain: Vocabulary) -> None:
    """Whatever is drawn, to its end: short items, so that the same are tried again and again."""
    rng = random.Random(0)
    several = 0
    for schema, _, _ in CASES:
        found = mask(plain, schema=schema)
        for _ in range(12):
            state, text = found.start, b""
            while state != found.ended and len(text) < 60:
                allowed = found.allowed(state).tolist()
                assert allowed, text
                likely = [token for token in allowed if token == 256 or chr(token) in '"],[ab1{}nameidx: '] or allowed
                token = rng.choice(likely)
                state = found.next(state, token)
                text += BYTES[token] if token < 256 else b""
            if state == found.ended:
                value = json.loads(text)
                jsonschema.validate(value, schema)
                several += isinstance(value, list) and len(value) > 1
    assert several > 10


def test_more_items_than_there_are_values_are_refused(plain: Vocabulary) -> None:
    """Where the values may run out before there are enough of them, no text could be promised an end."""
    schema = {**_array(anyOf=[{"pattern": "^[ab]$", "type": "string"}, {"enum": [*range(30)]}]), "minItems": 2}
    assert mask(plain, schema=schema).engine == "stack"
    with pytest.raises(InputError, match="'uniqueItems' with minItems 31 over items of which there may be fewer"):
        mask(plain, schema={**schema, "minItems": 31}, engine="stack")
