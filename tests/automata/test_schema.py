"""JSON schemas: the automaton accepts what validates and nothing else, and names what it cannot hold."""

import json
import random
import sys
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.drawn import examples

from perstep.automata import FORMATS, Dfa, Vocabulary, compile, json_schema  # noqa: A004
from perstep.automata.schema.keywords import TYPES, same_value
from perstep.errors import InputError

Schema = dict[str, Any]

IN_2020 = "https://json-schema.org/draft/2020-12/schema"
METASCHEMA = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA)

PATTERNS = ["^[a-c]+$", "b", "^a", "é$", r"^\d{2,3}$", '"', "^$", "a|^b$", r"\\"]
texts = st.text(st.sampled_from('ab1é"\\/\n\x01\x7f😀c '), max_size=5)
keys = st.sampled_from(["a", "ab", "b", 'q"', "é", ""])
numbers = st.one_of(
    st.integers(-130, 130), st.floats(-9, 9, width=16), st.sampled_from([0.1, -0.5, 1e-7, 2.25, 10**12])
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)


@st.composite
def string_schemas(draw: st.DrawFn) -> Schema:
    """Strings with lengths and patterns."""
    schema: Schema = {"type": "string"}
    for name, values in (
        ("minLength", st.integers(0, 3)),
        ("maxLength", st.integers(0, 4)),
        ("pattern", st.sampled_from(PATTERNS)),
    ):
        if draw(st.booleans()):
            schema[name] = draw(values)
    return schema


@st.composite
def number_schemas(draw: st.DrawFn) -> Schema:
    """Integers and numbers within bounds."""
    whole = draw(st.booleans())
    schema: Schema = {"type": "integer" if whole else "number"}
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if draw(st.integers(0, 3)) == 0:
            schema[name] = draw(st.one_of(st.integers(-120, 120), st.sampled_from([0.5, -1.25, 2.75, 9.99, 0.1])))
    if whole and draw(st.integers(0, 3)) == 0:
        schema["multipleOf"] = draw(st.integers(1, 12))
    return schema


enums = st.lists(scalars, min_size=1, max_size=4).map(lambda values: {"enum": values})
leaves = st.one_of(
    string_schemas(),
    number_schemas(),
    enums,
    st.sampled_from(
        [{"type": "null"}, {"type": "boolean"}, {"const": "x"}, {"type": ["string", "null"]}, {"const": {"k": [1]}}]
    ),
)


@st.composite
def object_schemas(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    """Objects, closed or with a schema for other keys."""
    properties = draw(st.dictionaries(keys, inner, max_size=3))
    required = [key for key in properties if draw(st.booleans())]
    schema: Schema = {"type": "object", "properties": properties, "required": required}
    if not properties or draw(st.booleans()):
        schema["additionalProperties"] = draw(st.one_of(st.just(False), inner))
    return schema


@st.composite
def array_schemas(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    """Arrays with a prefix, bounds and items."""
    schema: Schema = {"type": "array", "items": draw(st.one_of(inner, st.just(False)))}
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=2))
    for name, values in (("minItems", st.integers(0, 2)), ("maxItems", st.integers(0, 3))):
        if draw(st.booleans()):
            schema[name] = draw(values)
    return schema


schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        object_schemas(inner),
        array_schemas(inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda branches: {"anyOf": branches}),
        st.tuples(inner, inner).map(lambda two: {"anyOf": [{"allOf": [two[0]]}, two[1]], "title": "nested"}),
    ),
    max_leaves=6,
)


def _compiled(schema: Schema, **policy: Any) -> Dfa | None:
    """The automaton, or None where the schema allows nothing."""
    try:
        return json_schema(schema, **policy)
    except InputError as error:
        if "no JSON value satisfies" not in str(error):
            raise
        return None


def _values(schema: Any) -> st.SearchStrategy[Any]:
    """Values near a schema: most satisfy it, some do not; keys in its order."""
    if not isinstance(schema, dict):
        return scalars
    if "allOf" in schema:
        return _values(schema["allOf"][0])
    if "anyOf" in schema:
        return st.one_of(*map(_values, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return st.one_of(st.sampled_from(schema.get("enum", [schema.get("const")])), scalars)
    if schema["type"] == "object":
        return _objects(schema)
    if schema["type"] == "array":
        first = [_values(part) for part in schema.get("prefixItems", [])]
        rest = st.lists(_values(schema["items"]), max_size=3)
        return st.tuples(st.tuples(*first), rest, st.integers(0, 4)).map(lambda t: [*t[0], *t[1]][: t[2]])
    kinds = {"string": texts, "integer": st.integers(-130, 130), "number": numbers}
    return st.one_of(kinds.get(schema["type"], scalars) if isinstance(schema["type"], str) else scalars, scalars)


@st.composite
def _objects(draw: st.DrawFn, schema: Schema) -> dict[str, Any]:
    value = {key: draw(_values(inner)) for key, inner in schema["properties"].items() if draw(st.integers(0, 4))}
    if isinstance(schema.get("additionalProperties"), dict):
        for key in draw(st.lists(keys, max_size=2)):
            if key not in schema["properties"]:
                value[key] = draw(_values(schema["additionalProperties"]))
    return value


def _fits_the_policy(value: Any, bounded: bool) -> bool:
    """Whether the text of a value is one the policy writes: no 2.0 for an integer, no exponent within bounds."""
    if isinstance(value, float):
        return not (value == int(value) or (bounded and "e" in json.dumps(value)))
    if isinstance(value, (list, dict)):
        inner = value.values() if isinstance(value, dict) else value
        return all(_fits_the_policy(part, bounded) for part in inner)
    return True


def _written(schema: Any, value: Any) -> bool:
    """Whether the policy writes a value under a schema: it validates, and its keys stand in the schema's order."""
    if "anyOf" in schema:
        return any(_written(branch, value) for branch in schema["anyOf"])
    if "allOf" in schema:
        return all(_written(part, value) for part in schema["allOf"])
    valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    if not valid or "enum" in schema or "const" in schema:
        return valid
    if isinstance(value, dict):
        named = [key for key in schema["properties"] if key in value]
        others = [key for key in value if key not in schema["properties"]]
        extra = schema.get("additionalProperties", False)
        return (
            list(value) == named + others
            and all(_written(schema["properties"][key], value[key]) for key in named)
            and all(extra is not False and _written(extra, value[key]) for key in others)
        )
    if isinstance(value, list):
        prefix = schema.get("prefixItems", [])
        pairs = [(prefix[i] if i < len(prefix) else schema["items"], part) for i, part in enumerate(value)]
        return all(inner is not False and _written(inner, part) for inner, part in pairs)
    return True


@given(st.data())
@settings(max_examples=examples(500), deadline=None)
def test_a_value_is_accepted_exactly_if_it_validates(data: st.DataObject) -> None:
    """For values that fit the policy the automaton and the validator agree, both ways.

    The policy leaves out keys that a schema does not name, and keys in another order (`_written`).
    """
    schema = data.draw(schemas)
    value = data.draw(_values(schema))
    if not _fits_the_policy(value, bounded="imum" in json.dumps(schema)):
        return
    dfa = _compiled(schema)
    text = json.dumps(value, ensure_ascii=False)
    accepted = dfa is not None and dfa.accepts(text.encode())
    assert accepted == _written(schema, value), (schema, text)
    if accepted:
        jsonschema.Draft202012Validator(schema).validate(value)


@given(schemas, st.integers(0, 2**32), st.sampled_from(["fixed", "flexible", "[ ]?"]))
@settings(max_examples=examples(400), deadline=None)
def test_what_it_generates_parses_and_validates(
    walk: Callable[[Dfa, random.Random, int], bytes], schema: Schema, seed: int, whitespace: str
) -> None:
    """Every path through the automaton is a JSON text that validates, under every whitespace policy."""
    dfa = _compiled(schema, whitespace=whitespace)
    if dfa is not None:
        text = walk(dfa, random.Random(seed), 25).decode()
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@given(st.data())
@settings(max_examples=examples(150), deadline=None)
def test_the_whitespace_policy_is_what_it_says(data: st.DataObject) -> None:
    """`flexible` accepts any indentation, `fixed` only json.dumps' own, a regex what it matches."""
    schema = data.draw(schemas)
    value = data.draw(_values(schema))
    if not _fits_the_policy(value, bounded="imum" in json.dumps(schema)):
        return
    valid = _written(schema, value)
    indented = json.dumps(value, ensure_ascii=False, indent=2)
    compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    usual = json.dumps(value, ensure_ascii=False)
    wanted = {
        "fixed": (usual,),
        "flexible": (usual, indented, compact),
        "[ ]?": (usual, compact),
        "": (compact,),
    }
    for policy, accepted in wanted.items():
        dfa = _compiled(schema, whitespace=policy)
        for text in (usual, indented, compact):
            found = dfa is not None and dfa.accepts(text.encode())
            assert found == (valid and text in accepted), (policy, text)


@pytest.mark.parametrize("name", ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"])
@pytest.mark.parametrize("bound", [0, 7, -7, 10, 21, 110, 99, 100, -1234, 5.15, 0.5, -0.25, 3.07, 12.5, -99.995])
def test_bounds_are_exact(name: str, bound: float) -> None:
    """Around a bound every decimal is judged as arithmetic does, for integers and numbers."""
    compare = {
        "minimum": lambda v: v >= bound,
        "maximum": lambda v: v <= bound,
        "exclusiveMinimum": lambda v: v > bound,
        "exclusiveMaximum": lambda v: v < bound,
    }[name]
    whole = json_schema({"type": "integer", name: bound})
    real = json_schema({"type": "number", name: bound})
    for value in [*range(-140, 140), *range(-1300, -1200), int(bound) * 10, -int(bound) * 10]:
        assert whole.accepts(str(value).encode()) == compare(value), value
        assert real.accepts(str(value).encode()) == compare(value), value
    for hundredths in range(-1400, 1400):
        text = f"{hundredths / 100:.2f}"
        assert real.accepts(text.encode()) == compare(float(text)), text
    for text in (f"{bound:.3f}", f"{bound:.3f}01", f"{bound:.2f}99", f"{bound - 1:.3f}", f"-{abs(bound):.4f}"):
        assert real.accepts(text.encode()) == compare(float(text)), text


@given(st.integers(1, 60), st.integers(-10_000, 10_000))
@settings(max_examples=100, deadline=None)
def test_multiples(divisor: int, value: int) -> None:
    """An integer is accepted exactly if the divisor divides it."""
    assert json_schema({"type": "integer", "multipleOf": divisor}).accepts(str(value).encode()) == (
        value % divisor == 0
    )


def test_strings_count_characters() -> None:
    """Lengths are counted in characters, however each is written; half a surrogate pair is none."""
    dfa = json_schema({"type": "string", "minLength": 2, "maxLength": 2})
    for text in ('"ab"', '"é😀"', r'"\n\u00e9"', r'"\"\\"', r'"\/\u0001"'):
        assert dfa.accepts(text.encode()), text
    for text in ('"a"', '"abc"', r'"\ud83d\ude00"', r'"\ud800a"', '"\x01a"', r'"\x41a"', '"""'):
        assert not dfa.accepts(text.encode()), text


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "date",
            ["2024-02-29", "2000-02-29", "0001-01-01", "1999-12-31"],
            ["2023-02-29", "1900-02-29", "0000-01-01", "2024-04-31"],
        ),
        (
            "time",
            ["00:00:00Z", "23:59:59.5+05:30", "23:59:60Z", "12:00:00.123456789z"],
            ["24:00:00Z", "12:00:00", "12:60:00Z", "12:00:60Z", "23:59:60+01:00"],
        ),
        (
            "date-time",
            ["2024-02-29T12:00:00Z", "2024-02-29t12:00:00z", "1990-12-31T23:59:60Z"],
            ["2024-02-30T12:00:00Z", "2024-02-29 12:00:00Z"],
        ),
        ("duration", ["P1Y2M3DT4H5M6S", "PT1M", "P4W"], ["P1D2Y", "PT", "P", "P1Y2W", "P1YT"]),
        ("ipv6", ["::", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4", "1::8"], ["1::2::3", "12345::", "1:2:3:4:5:6:7", "::1%e"]),
        ("hostname", ["a.b-c.d"], ["-a", "a_b", "", "a..b", "a" * 64]),
        ("email", ["joe.b@x.com"], ["invalid", "a@", "@b", ".a@b", "a..b@c"]),
        (
            "uri",
            ["http://a.b/c?d#e", "mailto:a@b.c", "urn:x:y", "http://u:p@[::1]:80/"],
            ["//a", "a b", "http://a b", "://x", "not a url", "http://[::1", "http://a/%2"],
        ),
        ("uri-reference", ["/a", "a/b:c", "#x", "", "?q", "//h/p"], ["a:b c", "\\\\a", "#a#b"]),
        ("json-pointer", ["", "/a/~0~1"], ["a", "/~2"]),
        ("relative-json-pointer", ["0#", "12/a"], ["/a", "01", "#"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000"]),
        ("ipv4", ["0.0.0.1", "255.10.1.99"], ["256.1.1.1", "1.1.1", "01.1.1.1"]),
    ],
)
def test_formats(name: str, good: list[str], bad: list[str]) -> None:
    """The formats that are enforced accept and refuse what they should; an unknown one is an annotation."""
    assert name in FORMATS
    dfa = json_schema({"type": "string", "format": name})
    assert all(dfa.accepts(json.dumps(text).encode()) for text in good)
    assert not any(dfa.accepts(json.dumps(text).encode()) for text in bad)
    assert json_schema({"type": "string", "format": "unheard-of"}).hash == json_schema({"type": "string"}).hash


def test_every_day_of_four_centuries() -> None:
    """The date format is the calendar: every day from 1900 to 2000, and its neighbours that are none."""
    import datetime

    dfa = json_schema({"type": "string", "format": "date"})
    for year in range(1896, 2005):
        for month in range(1, 13):
            for day in range(1, 33):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    datetime.date.fromisoformat(text)
                    real = True
                except ValueError:
                    real = False
                assert dfa.accepts(f'"{text}"'.encode()) == real, text


TREE: Schema = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["v"],
}


def _tree(depth: int) -> str:
    return '{"v": 1}' if depth == 0 else f'{{"v": 1, "kids": [{_tree(depth - 1)}]}}'


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_recursion_nests_as_deep_as_said(depth: int) -> None:
    """With `max_depth` d, d levels inside the first are accepted and d + 1 are not."""
    dfa = json_schema(TREE, max_depth=depth)
    assert dfa.accepts(_tree(depth).encode())
    assert not dfa.accepts(_tree(depth + 1).encode())
    assert f"depth {depth}" in dfa.source


def test_any_value_nests_as_deep_as_said() -> None:
    """A value of unknown shape: all kinds, containers within containers to the depth."""
    dfa = json_schema(True, max_depth=1)
    for text in ("1", "null", '"x"', "[]", "{}", "[1, true]", '{"a": "b"}', "[[]]", "[{}]"):
        assert dfa.accepts(text.encode()), text
    assert not dfa.accepts(b"[[1]]")
    assert json_schema({}, max_depth=1).hash == dfa.hash


def test_references_and_combinations() -> None:
    """$ref with siblings, escaped pointers, allOf, anyOf beside keywords, oneOf with constants."""
    schema = {
        "$defs": {
            "a/b": {"type": "integer", "minimum": 0},
            "list": {"type": "array", "items": {"$ref": "#/$defs/a~1b"}},
        },
        "type": "object",
        "properties": {
            "x": {"$ref": "#/$defs/a~1b", "maximum": 9},
            "y": {"allOf": [{"$ref": "#/$defs/list"}, {"maxItems": 1}]},
        },
        "anyOf": [{"required": ["x"]}, {"required": ["y"]}],
    }
    dfa = json_schema(schema)
    for text in ('{"x": 9}', '{"y": [10]}', '{"x": 0, "y": []}'):
        assert dfa.accepts(text.encode()), text
    for text in ("{}", '{"x": 10}', '{"y": [1, 2]}', '{"x": -1}'):
        assert not dfa.accepts(text.encode()), text
    shapes = {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": "dot"}, "r": {"type": "integer"}},
                "required": ["kind", "r"],
            },
            {
                "type": "object",
                "properties": {"w": {"type": "integer"}, "kind": {"const": "box"}},
                "required": ["kind"],
            },
            {"type": "null"},
        ]
    }
    dfa = json_schema(shapes)
    assert dfa.accepts(b'{"w": 1, "kind": "box"}')
    assert dfa.accepts(b'{"kind": "dot", "r": 1}')
    assert dfa.accepts(b"null")
    assert not dfa.accepts(b'{"kind": "box", "r": 1}')


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ("{", "not JSON"),
        ("3", "an object, true or false"),
        (b"\xff\xfe{", "not JSON"),
        ({"$ref": "#/$defs/missing"}, "points to nothing: there is no '\\$defs'"),
        ({"$ref": "https://example.com/s.json"}, "does not point into this schema"),
        ({"$ref": 3}, "does not point into this schema"),
        (TREE, "contains itself.*give max_depth"),
        ({"$ref": "#"}, "contains itself"),
        ({}, "any value is allowed here.*max_depth"),
        ({"type": "array"}, "any value"),
        ({"type": "object"}, "any value"),
        (False, "no JSON value satisfies"),
        ({"enum": []}, "nothing satisfies #"),
        ({"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]}, "nothing satisfies #/properties/a"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no JSON value satisfies"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "no JSON value satisfies"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "no JSON value satisfies"),
        ({"not": {"type": "null"}}, "any value"),
        ({"unevaluatedItems": False}, "'unevaluatedItems' cannot be put into a finite automaton"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "'uniqueItems' would need"),
        (
            {"type": "array", "items": {"enum": list(range(40))}, "uniqueItems": True},
            "'uniqueItems' over 40 values would need a state for every set",
        ),
        (
            {"type": "object", "patternProperties": {letter: {"type": "null"} for letter in "abcdefg"}},
            "may meet on one key in more than 64 ways",
        ),
        (
            {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 2},
            "minProperties 2 .* a key may",
        ),
        (
            {"$schema": IN_2020, "type": "number", "minimum": 1, "exclusiveMinimum": True},
            "exclusiveMinimum as true or false is draft 4's",
        ),
        ({"type": "number", "multipleOf": 0.12345}, "multipleOf 0.12345 would need a state"),
        ({"type": "text"}, "type must be among"),
        ({"type": "string", "maxLength": "3"}, "maxLength must be a whole number"),
        ({"type": "string", "maxLength": -1}, "maxLength must be a whole number"),
        ({"type": "integer", "minimum": "3"}, "minimum must be a number"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"type": "string", "pattern": 3}, "pattern must be a string"),
        ({"type": "object", "properties": []}, "properties must be an object"),
        ({"type": "object", "properties": {"a": 3}}, "#/properties/a: a schema is an object"),
        ({"type": "object", "required": [3]}, "property names"),
        ({"enum": {}}, "enum must be a list"),
        ({"anyOf": []}, "anyOf must be a list of at least one"),
        ({"allOf": {}}, "allOf must be a list"),
        ({"enum": [float("nan")]}, "not JSON: Out of range float"),
        ('{"maximum": 1e999}', "not JSON: Out of range float"),
        ({"enum": [object()]}, "not JSON: Object of type object"),
        ("1" * 5_000, "not JSON: Exceeds the limit"),
        ({"anyOf": [True], "$ref": "#/anyOf/" + "9" * 5_000}, "points to nothing"),
        ({"const": "\ud800"}, "no JSON value"),
        ({"type": "string", "maxLength": 100_000}, r"maxLength 100000: about 1,400,003 states .* over the limit"),
        ({"type": "string", "pattern": "^(a|b)*a(a|b){25}$"}, "more than about 2 CPU seconds to compile"),
        ({"enum": [f"{i * 7919 % 1_000_003}-{i:x}" for i in range(100_000)]}, "100,000 listed values make a tree of"),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(schema: Any, what: str) -> None:
    """Bad schemas and what no finite automaton holds: one line with the place, the keyword and what to do."""
    with pytest.raises(InputError, match=what) as caught:
        json_schema(schema)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("whitespace", ["a", "[ x]*", "("])
def test_whitespace_must_be_whitespace(whitespace: str) -> None:
    """A policy that would let other characters in, or is no regex, is refused."""
    with pytest.raises(InputError):
        json_schema({"type": "null"}, whitespace=whitespace)


def test_a_huge_enum_that_folds_works() -> None:
    """100,000 values that share their ends are a small automaton."""
    dfa = json_schema({"enum": [f"v{i:06d}" for i in range(100_000)]})
    assert dfa.num_states == 10
    assert dfa.accepts(b'"v054321"')
    assert not dfa.accepts(b'"v100000"')


def test_an_enum_is_filtered_by_what_stands_beside_it() -> None:
    """Type, length, pattern and bounds take values out of an enum; a const may lie in it or not."""
    values = ["a", "bb", "ccc", 1, 2.5, 40, None, True]
    cases = [
        ({"type": "string"}, ["a", "bb", "ccc"]),
        ({"type": ["string", "null"], "minLength": 2}, ["bb", "ccc", None]),
        ({"type": "integer"}, [1, 40]),
        ({"minimum": 2, "pattern": "c"}, ["ccc", 2.5, 40, None, True]),
        ({"multipleOf": 2, "type": "number"}, [40]),
        ({"minimum": 2.5, "type": "number"}, [2.5, 40]),
        ({"multipleOf": 0.5, "type": "number"}, [1, 2.5, 40]),
        ({"maximum": 40, "type": "number"}, [1, 2.5, 40]),
        ({"const": 40}, [40]),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 40}, ["a", "bb", "ccc", 2.5, None, True]),
    ]
    for beside, left in cases:
        dfa = json_schema({"enum": values, **beside})
        assert [v for v in values if dfa.accepts(json.dumps(v).encode())] == left, beside
    exact = json_schema({"enum": [1e300, 1.25], "multipleOf": 0.5})  # a quotient of 300 digits
    assert exact.accepts(b"1e+300")
    assert not exact.accepts(b"1.25")


def test_a_whole_float_may_be_written_without_its_fraction() -> None:
    """1.0 and 1 are one value."""
    dfa = json_schema({"enum": [1.0]})
    assert dfa.accepts(b"1")
    assert dfa.accepts(b"1.0")


def test_additional_keys_are_other_keys() -> None:
    """An additional key cannot be a named one, not even in escapes, so no text has a named key twice."""
    dfa = json_schema({"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "integer"}})
    assert dfa.accepts(b'{"a": null, "b": 1, "ab": 2}')
    for text in (r'{"\u0061": 1}', '{"a": 1}', '{"b": 1, "a": null}', '{"b": null}'):
        assert not dfa.accepts(text.encode()), text


def test_the_conjugation_schema(conjugation: Schema) -> None:
    """The default schema: its states under each policy, and that text and parsed form are one."""
    assert [json_schema(conjugation, whitespace=w).num_states for w in ("fixed", "flexible", "[ ]?")] == [557, 550, 566]
    assert json_schema(json.dumps(conjugation)).hash == json_schema(conjugation).hash
    assert json_schema(conjugation).source == "the JSON schema 'Conjugation' (whitespace fixed)"


@given(schemas, schemas)
@settings(max_examples=examples(200), deadline=None)
def test_all_of_is_both(left: Schema, right: Schema) -> None:
    """The conjunction accepts what both parts accept."""
    try:
        both = json_schema({"allOf": [left, right]})
    except InputError as error:
        message = str(error)
        assert any(words in message for words in ("no JSON value", "any value")), message
        return
    value_schema = {"allOf": [left, right]}
    for seed in range(3):
        text = _sample(both, seed)
        jsonschema.Draft202012Validator(value_schema).validate(json.loads(text))


def _sample(dfa: Dfa, seed: int) -> str:
    """A random text that ends soon."""
    rng = random.Random(seed)
    queue = [(dfa.start, b"")]
    seen = {dfa.start}
    for state, text in queue:
        if dfa.accepting[state]:
            return text.decode()
        choices = list(range(256))
        rng.shuffle(choices)
        for byte in choices:
            target = dfa.run(bytes([byte]), state)
            if target and target not in seen:
                seen.add(target)
                queue.append((target, text + bytes([byte])))
    raise AssertionError("an automaton without an end")


def test_equality_of_json_values() -> None:
    """Numbers are equal by value, true is not 1, containers member by member."""
    assert same_value(1, 1.0)
    assert not same_value(True, 1)
    assert same_value({"a": [1, {"b": None}]}, {"a": [1.0, {"b": None}]})
    assert not same_value([1], [1, 2])


SAMPLED: list[Schema] = [
    {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": -5, "maximum": 300},
            "s": {"type": "string", "maxLength": 12},
        },
    },
    {"type": "array", "items": {"enum": ["red", "green", 3, None]}, "maxItems": 4},
    {
        "type": "object",
        "properties": {"d": {"type": "string", "format": "date"}, "ok": {"type": "boolean"}},
        "required": ["d"],
    },
    {"anyOf": [{"type": "string", "pattern": "^[a-z]{1,8}$"}, {"type": "number", "minimum": 0, "maximum": 1}]},
    {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}},
]


@pytest.mark.nightly
def test_ten_thousand_samples_under_a_mask(tekken: Vocabulary, conjugation: Schema) -> None:
    """Tokens drawn at temperature 1 from random logits under the mask: every text parses and validates."""
    import numpy as np

    rng = np.random.default_rng(0)
    vocabulary = tekken.first(1024)[0]
    for schema in [conjugation, *SAMPLED]:
        table = compile(json_schema(schema), vocabulary)
        validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        for _ in range(10_000 // (len(SAMPLED) + 1) + 1):
            state, out = table.start, []
            while state != table.ended:
                allowed = table.allowed(state)
                scores = rng.normal(size=len(allowed)) * 2
                # Texts without an upper bound end sooner or later: what ends them gains weight with every token.
                scores[np.isin(allowed, list(vocabulary.eos_ids))] += len(out) / 8
                token = int(allowed[np.argmax(scores + rng.gumbel(size=len(allowed)))])
                out.append(token)
                state = table.next(state, token)
            validator.validate(json.loads(vocabulary.spell(out).decode()))


KEYWORDS = [
    *("type", "enum", "const", "properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    *("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "allOf", "anyOf", "oneOf", "$ref"),
    *("minLength", "maxLength", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
]
JSON_VALUES: list[Any] = [
    *(None, True, False, -1, 0, 2, 2.5, "x", "null", [], [3], [[]], [{}], ["null"], ["x", "x"], ["null", "null"]),
    *({}, {"a": 3}, {"a": []}),
]


def _is_taken(name: str, value: Any) -> bool:
    """What older drafts say, and names that are listed twice, are read although this metaschema refuses them."""
    if name == "items":
        return isinstance(value, list) and all(isinstance(part, (dict, bool)) for part in value)
    if name in ("exclusiveMinimum", "exclusiveMaximum"):
        return isinstance(value, bool)
    return (
        name in ("type", "required") and value in (["x", "x"], ["null", "null"]) and (name, value[0]) != ("type", "x")
    )


@pytest.mark.parametrize("name", KEYWORDS)
@pytest.mark.parametrize("place", ["#", "#/properties/a", "#/anyOf/0", "#/allOf/1"])
def test_a_keyword_of_another_form_is_refused_by_name(name: str, place: str) -> None:
    """What the metaschema of JSON Schema refuses is one line that names the place and the keyword, in any place."""
    refused = [value for value in JSON_VALUES if not METASCHEMA.is_valid({name: value}) and not _is_taken(name, value)]
    assert bool(refused) == (name != "const")
    for value in refused:
        schema = {name: value}
        nested = {
            "#": schema,
            "#/properties/a": {"properties": {"a": schema}},
            "#/anyOf/0": {"anyOf": [schema, {"type": "null"}]},
            "#/allOf/1": {"allOf": [{"title": "first"}, schema]},
        }[place]
        with pytest.raises(InputError) as caught:
            json_schema(nested, max_depth=1)
        message = str(caught.value)
        assert message.startswith("#"), (value, message)
        assert name in message, (value, message)
        assert "\n" not in message


@pytest.mark.parametrize(
    "name", ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "maxItems"]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_that_no_double_holds_is_refused_by_name(name: str, sign: int) -> None:
    """Readers of JSON hold numbers in doubles; the last double has no next one, so it is refused too."""
    for value in (sign * 10**400, sign * sys.float_info.max):
        with pytest.raises(InputError, match=f"#: {name} must be"):
            json_schema({name: value})


junk = st.recursive(
    st.one_of(
        scalars,
        st.floats(),
        st.integers(),
        st.sampled_from(["#", "#/a", "\ud800", *TYPES, *PATTERNS, 10**400, 1e-300, 1e300]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=2), st.sampled_from(KEYWORDS)), inner, max_size=4),
    ),
    max_leaves=12,
)


@st.composite
def malformed(draw: st.DrawFn) -> Any:
    """A schema each of whose keywords holds what belongs there, or any JSON value; subschemas too."""
    inner = st.one_of(st.booleans(), malformed())
    right: dict[str, st.SearchStrategy[Any]] = {
        "type": st.one_of(st.sampled_from(TYPES), st.lists(st.sampled_from(TYPES), max_size=2)),
        "properties": st.dictionaries(keys, inner, max_size=2),
        "required": st.lists(keys, max_size=2),
        **dict.fromkeys(["prefixItems", "allOf", "anyOf", "oneOf"], st.lists(inner, max_size=2)),
        **dict.fromkeys(["items", "additionalProperties"], inner),
        **dict.fromkeys(["enum"], st.lists(junk, max_size=3)),
    }
    names = draw(st.lists(st.sampled_from(KEYWORDS), max_size=4, unique=True))
    return {name: draw(right[name] if name in right and draw(st.integers(0, 3)) else junk) for name in names}


@given(st.one_of(junk, malformed()), st.sampled_from([None, 0, 2]))
@settings(max_examples=examples(500))
def test_nonsense_is_an_error_of_one_line_or_a_schema(schema: Any, max_depth: int | None) -> None:
    """Whatever stands in a schema: an automaton, or one line that says what was wrong; never another exception."""
    message = ""
    try:
        json_schema(schema, max_depth=max_depth, state_limit=2_000)
    except InputError as error:
        message = str(error)
    assert "\n" not in message


def test_deep_and_wide_recursion_is_stopped() -> None:
    """A tree that doubles at each level, and a schema nested a thousand times, end with a line and soon."""
    binary = {"type": "object", "properties": {"l": {"$ref": "#"}, "r": {"$ref": "#"}}, "additionalProperties": False}
    assert json_schema(binary, max_depth=3).accepts(b'{"l": {"r": {}}}')
    with pytest.raises(InputError, match="need more than 262,140 states"):
        json_schema(binary, max_depth=40)
    nested: Schema = {"type": "null"}
    for _ in range(3_000):
        nested = {"type": "array", "items": nested}
    with pytest.raises(InputError, match="nested too deeply"):
        json_schema(nested)


def test_scalars_of_all_kinds_need_no_depth() -> None:
    """A list of scalar types is no value of unknown shape."""
    dfa = json_schema({"type": ["null", "boolean", "number", "string", "integer"]})
    assert all(dfa.accepts(text.encode()) for text in ("null", "true", "1.5", '"x"'))
    assert not dfa.accepts(b"[]")


def test_a_path_is_one_line() -> None:
    """Keys with slashes and line ends are escaped in the place an error names."""
    with pytest.raises(InputError, match=r"#/properties/a~1b\\nc: any value"):
        json_schema({"type": "object", "properties": {"a/b\nc": {}}})
