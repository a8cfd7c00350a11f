"""The logic of schemas, over all that one allows: the automaton and the validator agree on every value."""

import itertools
import json
import random
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.drawn import examples

from perstep.automata import Dfa, json_schema, metering
from perstep.errors import InputError

Schema = Any
OPEN = {"undeclared": True, "key_order": "any", "max_depth": 1}
KEYS = ("a", "b", "cc")
SCALARS: list[Any] = [None, True, False, -1, 0, 1, 2, 3, 0.5, 2.5, "", "a", "b", "ab"]
VALUES: list[Any] = [
    *SCALARS,
    *([], {}, [1], ["a"], [1, 2], [1, 1], ["a", "b", 3], [None, 2.5], [[]], [{}], [True, 1, 0]),
    *({key: value} for key in KEYS for value in (1, "a", None, [], 2.5)),
    *({one: 1, other: "a"} for one, other in itertools.permutations(KEYS, 2)),
    *({"a": 1, "b": 1, "cc": 1}, {"cc": None, "b": "b", "a": 0.5}, {"a": {}, "b": []}),
]

scalars = st.sampled_from(SCALARS)
names = st.sampled_from(KEYS)
counts = st.integers(0, 2)


def _one(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    return values.map(lambda value: {name: value})


simple: st.SearchStrategy[Schema] = st.one_of(
    st.booleans(),
    _one("type", st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])),
    _one("type", st.just(["integer", "string"])),
    _one("enum", st.lists(st.sampled_from([*SCALARS, [], [1], {}, {"a": 1}]), min_size=1, max_size=3)),
    _one("const", scalars),
    *(_one(name, st.sampled_from([0, 1, 2, 0.5, -1])) for name in ("minimum", "maximum", "exclusiveMinimum")),
    _one("exclusiveMaximum", st.sampled_from([0, 1, 2.5])),
    _one("multipleOf", st.sampled_from([1, 2, 0.5])),
    _one("pattern", st.sampled_from(["a", "^a", "b$", "^$"])),
    *(_one(name, counts) for name in ("minLength", "maxLength", "minItems", "maxItems", "maxProperties")),
    _one("minProperties", st.just(1)),
    _one("required", st.lists(names, max_size=2)),
    _one("dependentRequired", st.dictionaries(names, st.lists(names, max_size=2), max_size=2)),
)


def _holding(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        *(_one(name, several) for name in ("oneOf", "anyOf", "allOf", "oneOf")),
        _one("not", inner),
        st.fixed_dictionaries({"if": inner}, optional={"then": inner, "else": inner}),
        st.fixed_dictionaries(
            {"properties": st.dictionaries(names, inner, max_size=2)},
            optional={
                "additionalProperties": inner,
                "patternProperties": st.dictionaries(st.sampled_from(["^a", "b|c", "cc"]), inner, max_size=2),
                "required": st.lists(names, max_size=1),
            },
        ),
        _one(
            "propertyNames",
            st.sampled_from([{"pattern": "^a"}, {"enum": ["a", "b"]}, {"maxLength": 1}, {"const": "a"}]),
        ),
        _one("dependentSchemas", st.dictionaries(names, inner, max_size=1)),
        st.fixed_dictionaries(
            {"items": inner}, optional={"prefixItems": st.lists(inner, min_size=1, max_size=2), "maxItems": counts}
        ),
        st.fixed_dictionaries({"contains": inner}, optional={"minContains": counts, "maxContains": counts}),
        st.tuples(inner, inner).map(
            lambda two: {**two[0], **two[1]} if isinstance(two[0], dict) and isinstance(two[1], dict) else two[0]
        ),
    )


schemas = st.recursive(simple, _holding, max_leaves=5)


def _compiled(schema: Schema, **policy: Any) -> Dfa | None:
    """The automaton; None where nothing is allowed."""
    try:
        return json_schema(schema, **policy)
    except InputError as error:
        if "no JSON value satisfies" in str(error):
            return None
        raise


@given(schemas)
@settings(max_examples=examples(400))
def test_a_value_is_accepted_exactly_if_it_validates(schema: Schema) -> None:
    """With undeclared keys and keys in any order, every small value is judged as the validator judges it.

    Values that have to nest deeper than one level are not among those that are tried.
    """
    validator = jsonschema.Draft202012Validator(schema)
    try:
        dfa = _compiled(schema, **OPEN)
    except InputError as error:
        assert any(words in str(error) for words in ("several keys", "more than", "cannot be counted")), error  # noqa: PT017
        return
    for value in VALUES:
        found = {dfa is not None and dfa.accepts(text.encode()) for text in _texts(value)}
        valid = validator.is_valid(value)
        assert (True in found) == valid, (schema, value)
        assert found == {valid} or _may_ask_for_an_unnamed_value(schema), (schema, value)


def _texts(value: Any) -> list[str]:
    """The texts of a value, its keys in every order."""
    if not isinstance(value, dict):
        return [json.dumps(value)]
    return [json.dumps(dict(order)) for order in itertools.permutations(value.items())]


def _may_ask_for_an_unnamed_value(schema: Schema) -> bool:
    """Whether an object may have to hold some value under a key that is not named; such a key comes last."""
    return any(word in json.dumps(schema) for word in ("additionalProperties", "patternProperties", "enum"))


@given(schemas, st.integers(0, 2**32), st.sampled_from([OPEN, {"max_depth": 1}]))
@settings(max_examples=examples(300))
def test_what_it_generates_validates(
    walk: Callable[[Dfa, random.Random, int], bytes], schema: Schema, seed: int, policy: dict[str, Any]
) -> None:
    """Every path through the automaton is a JSON text that validates, whatever is written of what validates."""
    try:
        dfa = _compiled(schema, **policy)
    except InputError:
        return
    if dfa is not None:
        for turn in range(3):
            text = walk(dfa, random.Random(seed + turn), 20).decode()
            if "Infinity" not in json.dumps(json.loads(text)):  # beyond a double, which this validator cannot divide
                jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"oneOf": [{"type": "string"}, {"minimum": 2}]}, ["2"], ['"foo"', "1", "null"]),
        (
            {"oneOf": [{"const": 1e22}, {"type": "integer"}]},
            ["1", "10000000000000000000001"],
            ["1e+22", "10000000000000000000000"],
        ),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ["1.5"], ["1", "1.0"]),
        ({"oneOf": [{"type": "null"}, {"type": "null"}, {"type": "boolean"}]}, ["true"], ["null"]),
        (
            {
                "oneOf": [{"properties": {"a": {"type": "null"}}}, {"properties": {"b": {"type": "null"}}}],
                "type": "object",
            },
            [],
            ["{}", '{"a": null}', '{"a": null, "b": null}'],
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            },
            ['{"a": 1}', '{"b": 1}'],
            ["{}", '{"a": 1, "b": 1}'],
        ),
        (
            {"type": "string", "not": {"enum": ["a", "bc"]}, "pattern": "^[abc]+$"},
            ['"b"', '"abc"'],
            ['"a"', '"bc"', r'"\u0061"'],
        ),
        ({"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True}, ["[]", '["b", "a"]'], ['["a", "a"]']),
        (
            {"type": "array", "items": {"enum": [1, 1.0, True]}, "uniqueItems": True},
            ["[1, true]"],
            ["[1, 1.0]", "[1, 1]"],
        ),
        ({"type": "number", "multipleOf": 0.01}, ["0.01", "1", "2.50", "-3.4"], ["0.001", "2.505"]),
        ({"type": "number", "minimum": 2**53 + 1}, ["9007199254740994"], ["9007199254740993.0", "9007199254740992.5"]),
        (
            {
                "$schema": "http://json-schema.org/draft-04/schema#",
                "type": "integer",
                "minimum": 3,
                "exclusiveMinimum": True,
            },
            ["4"],
            ["3"],
        ),
        (
            {"type": "array", "items": [{"type": "null"}, {"type": "integer"}], "additionalItems": {"type": "boolean"}},
            ["[]", "[null, 1]", "[null, 1, true]"],
            ["[1]", "[null, 1, 1]"],
        ),
        (
            {"properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "dependencies": {"a": ["b"]}},
            ["{}", '{"b": null}', '{"a": null, "b": null}'],
            ['{"a": null}'],
        ),
        (
            {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
            ["{}", '{"x": 1, "xy": 2}'],
            ['{"y": 1}', '{"x": null}'],
        ),
        (
            {
                "type": "object",
                "additionalProperties": {"type": ["null", "integer"]},
                "not": {"additionalProperties": {"type": "null"}},
            },
            ['{"x": 1}', '{"y": null, "x": 1}', '{"x": null, "x": 1}'],
            ["{}", '{"x": null}', '{"x": 1, "x": null}'],
        ),
        ({"required": ["a", "a"], "properties": {"a": {"type": "null"}}}, ['{"a": null}'], ["{}"]),
        (  # each key matches one pattern at most, so there are ten kinds of keys and not 512
            {
                "type": "object",
                "patternProperties": {f"^{letter}[0-9]*$": {"type": "integer"} for letter in "abcdefghi"},
                "additionalProperties": {"type": "null"},
            },
            ['{"a": 1, "i12": 2}', '{"x": null, "ab": null}', '{"a1b": null}'],
            ['{"a": null}', '{"x": 1}', '{"i12": null}'],
        ),
        (  # that none of the others holds is sure as soon as there is an item
            {"oneOf": [{"type": "array", "items": {"enum": [letter, letter * 2]}} for letter in "abcdefg"]},
            ['["a"]', '["gg", "g"]'],
            ["[]", '["a", "b"]'],
        ),
    ],
)
def test_what_stands_in_schemas(schema: Schema, good: list[str], bad: list[str]) -> None:
    """Exclusion is decided on what validates, numbers as decimals and as doubles, older drafts as they were."""
    try:
        dfa = json_schema(schema)
    except InputError:
        assert good == []
        return
    assert [text for text in good if not dfa.accepts(text.encode())] == []
    assert [text for text in bad if dfa.accepts(text.encode())] == []


IN_DRAFT_7 = "http://json-schema.org/draft-07/schema#"


def test_references_are_those_of_the_resource_and_of_the_draft() -> None:
    """`#/...` below an `$id` means that resource; anchors, relative names; beside `$ref` nothing counts in draft 7."""
    schema = {
        "$id": "https://example.com/root.json",
        "$defs": {
            "text": {"type": "string"},
            "inner": {
                "$id": "inner.json",
                "$defs": {"text": {"type": "integer"}, "named": {"$anchor": "here", "type": "null"}},
                "properties": {
                    "x": {"$ref": "#/$defs/text"},
                    "y": {"$ref": "root.json#/$defs/text"},
                    "z": {"$ref": "#here"},
                },
            },
        },
        "$ref": "inner.json",
    }
    dfa = json_schema(schema)
    assert dfa.accepts(b'{"x": 1, "y": "t", "z": null}')
    assert not dfa.accepts(b'{"x": "t"}')
    assert not dfa.accepts(b'{"y": 1}')
    beside = {"$ref": "#/definitions/n", "maximum": 3, "definitions": {"n": {"type": "integer"}}}
    assert not json_schema(beside).accepts(b"4")
    assert json_schema({"$schema": IN_DRAFT_7, **beside}).accepts(b"4")
    old = {
        "definitions": {"a": {"id": "x/a", "properties": {"n": {"$ref": "#/definitions/n"}}}, "n": {"type": "null"}},
        "properties": {"p": {"$ref": "x/a"}, "q": {"$ref": "#/definitions/a"}},
    }
    assert json_schema(old).accepts(b'{"p": {"n": null}, "q": {"n": null}}')
    with pytest.raises(InputError, match="points to nothing: there is no 'definitions'"):
        json_schema({"$schema": "http://json-schema.org/draft-04/schema#", **old})
    with pytest.raises(InputError, match="nothing is fetched"):
        json_schema({"$ref": "other.json"})
    with pytest.raises(InputError, match="there is no such anchor"):
        json_schema({"$ref": "#there"})
    with pytest.raises(InputError, match="contains itself without an object or a list"):
        json_schema({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, True]}}, "$ref": "#/$defs/a"})


def test_keys_in_any_order_up_to_eight() -> None:
    """Every order of the keys is written, each key once; more than eight are refused by number."""
    schema: Schema = {"properties": {key: {"type": "null"} for key in "abc"}, "required": ["b"]}
    dfa = json_schema(schema, key_order="any")
    for size in range(4):
        for chosen in itertools.permutations("abc", size):
            text = "{" + ", ".join(f'"{key}": null' for key in chosen) + "}"
            assert dfa.accepts(text.encode()) == ("b" in chosen), text
    assert not dfa.accepts(b'{"b": null, "b": null}')
    with pytest.raises(InputError, match=r"9 properties in any order.*at most 8"):
        json_schema({"properties": {key: {"type": "null"} for key in "abcdefghi"}}, key_order="any")
    with pytest.raises(InputError, match="key_order is 'schema' or 'any'"):
        json_schema(schema, key_order="random")


def test_undeclared_keys_items_and_types_are_an_option() -> None:
    """What a schema allows without naming it is written only where that is asked for."""
    schema: Schema = {"properties": {"a": {"type": "null"}}, "prefixItems": [{"type": "null"}]}
    named, all_of_it = json_schema(schema, max_depth=1), json_schema(schema, max_depth=1, undeclared=True)
    for text in ('{"a": null, "b": 1}', "[null, 1]", '"text"'):
        assert not named.accepts(text.encode()), text
        assert all_of_it.accepts(text.encode()), text
    for text in ('{"a": 1}', "[1]"):
        assert not all_of_it.accepts(text.encode()), text
    assert "undeclared keys too" in all_of_it.source


def test_formats_that_are_not_enforced_are_said_or_refused() -> None:
    """The automaton's description names them; strict refuses them; a known one is neither."""
    schema = {"type": "string", "format": "regex"}
    assert json_schema(schema).source.endswith("not enforced: format 'regex'")
    with pytest.raises(InputError, match="format 'regex' is not enforced"):
        json_schema(schema, strict=True)
    assert "not enforced" not in json_schema({"type": "string", "format": "uri"}, strict=True).source


@pytest.mark.nightly
def test_ten_thousand_texts_validate(walk: Callable[[Dfa, random.Random, int], bytes]) -> None:
    """Random schemas, random texts of their automata: every one parses and validates."""
    rng, done = random.Random(0), 0
    while done < 10_000:
        schema = _random_schema(rng, 3)
        try:
            dfa = _compiled(schema, **rng.choice([OPEN, {"max_depth": 1}, {"max_depth": 2, "undeclared": True}]))
        except InputError:
            continue
        if dfa is None:
            continue
        validator = jsonschema.Draft202012Validator(schema)
        for _ in range(10):
            value = json.loads(walk(dfa, rng, 30))
            if "Infinity" not in json.dumps(value):  # a number beyond a double is no number to this validator
                validator.validate(value)
                done += 1


def _random_schema(rng: random.Random, depth: int) -> Schema:
    """A schema of the strategy above, drawn without Hypothesis, which is not made for so many."""
    inner = [] if depth == 0 else [_random_schema(rng, depth - 1) for _ in range(3)]
    simple_ones = [
        {"type": rng.choice(["null", "integer", "number", "string", "array", "object"])},
        {"enum": rng.sample(SCALARS, 3)},
        {"minimum": rng.choice([0, 0.5, 2])},
        {"maximum": rng.choice([0, 0.5, 2])},
        {"pattern": rng.choice(["a", "^a", "b$"])},
        {"minLength": rng.randint(0, 2)},
        {"required": rng.sample(KEYS, 1)},
        {"multipleOf": rng.choice([2, 0.5])},
    ]
    if not inner:
        return rng.choice(simple_ones)
    return rng.choice(
        [
            {"oneOf": inner[:2]},
            {"anyOf": inner[:2]},
            {"allOf": inner[:2]},
            {"not": inner[0]},
            {"if": inner[0], "then": inner[1], "else": inner[2]},
            {"type": "object", "properties": {"a": inner[0], "b": inner[1]}, "additionalProperties": inner[2]},
            {"type": "object", "patternProperties": {"^a": inner[0]}, "additionalProperties": inner[1]},
            {"type": "array", "prefixItems": [inner[0]], "items": inner[1], "maxItems": 3},
            {"type": "array", "contains": inner[0], "items": inner[1]},
            {"type": "object", "propertyNames": {"pattern": "^a"}, "dependentSchemas": {"a": inner[0]}},
            rng.choice(simple_ones),
        ]
    )


def test_a_compile_is_bounded_whatever_was_compiled_before() -> None:
    """Work and memory are counted and refused by name; what is remembered from another compile counts again."""
    wide: Schema = {"type": "array", "items": {"type": "string", "pattern": "(a|b)*a(a|b){9}"}, "minItems": 3}
    refusals = []
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"more than about 0.05 CPU seconds to compile \(counted, not clocked\)"
        ) as caught:
            json_schema(wide, cpu_seconds=0.05)
        refusals.append(str(caught.value))
        json_schema(wide)
    assert refusals[0] == refusals[1]
    with pytest.raises(InputError, match=r"would take about \d+ MB to compile, over the limit of 1 MB"):
        json_schema({"type": "string", "maxLength": 4_000}, megabytes=1)
    assert json_schema({"type": "string", "maxLength": 4_096}).num_states == 57_347


def test_what_is_counted_is_what_is_done() -> None:
    """A remembered result costs as much in a compile that finds it as in the one that made it, and once."""
    made = []

    @metering.metered_cache(4)
    def work(number: int) -> int:
        made.append(number)
        metering.spend(10)
        return number + (work(number - 1) if number else 0)

    def cost(*numbers: int) -> bool:
        with metering.metered(25e-9, None):
            return all(work(number) >= 0 for number in numbers)

    assert cost(1)
    assert cost(1, 0, 1)
    assert made == [1, 0]
    for _ in range(2):
        with pytest.raises(InputError, match="CPU seconds"):
            cost(2)
        with pytest.raises(InputError, match="CPU seconds"):
            cost(1, 2)


def test_keys_that_must_be_there_without_a_name() -> None:
    """`not` about names asks for a key; several such demands may be met by one key or by several."""
    asks = {"not": {"propertyNames": {"not": {"pattern": "a"}}}}
    also = {"not": {"propertyNames": {"not": {"pattern": "b"}}}}
    dfa = json_schema({"type": "object", "additionalProperties": {"type": "null"}, "allOf": [asks, also]})
    for text in ('{"ab": null}', '{"a": null, "b": null}', '{"b": null, "x": null, "a": null}'):
        assert dfa.accepts(text.encode()), text
    for text in ("{}", '{"a": null}', '{"x": null, "b": null}', '{"ab": 1}'):
        assert not dfa.accepts(text.encode()), text
