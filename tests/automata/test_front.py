"""One front for any schema: all engines allow the same tokens, and the choice is made by counted work."""

import copy
import gc
import json
import pickle
import random
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perstep.automata import Grammar, TokenAutomaton, Vocabulary, mask, prepare
from perstep.automata.engines.parsed import ParsedAutomaton
from perstep.automata.engines.tables import TableEngine
from perstep.automata.metering import metered
from perstep.errors import InputError

TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "inside": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["name"],
    "additionalProperties": False,
}
BOTH: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"type": "string"}, {}),
    ({"type": "string", "minLength": 2, "maxLength": 3}, {}),
    ({"type": "string", "maxLength": 0}, {}),
    ({"type": "string", "pattern": '^[a-c]+"?/'}, {}),
    ({"allOf": [{"type": "string", "pattern": "b"}, {"not": {"pattern": "a|e"}}, {"maxLength": 4}]}, {}),
    ({"type": "string", "pattern": "(^a+$)|b|(c$)"}, {}),
    ({"type": "string", "format": "date"}, {}),
    ({"type": "string", "not": {"enum": ["a", "ab", "é"]}}, {}),
    ({"type": "integer"}, {}),
    ({"type": "number"}, {}),
    ({"type": "number", "minimum": -2.5, "exclusiveMaximum": 12}, {}),
    ({"type": "integer", "minimum": -12, "multipleOf": 4}, {}),
    ({"type": "number", "multipleOf": 0.25, "not": {"multipleOf": 1}}, {}),
    ({"type": "number", "not": {"type": "integer"}}, {}),
    ({"enum": [1, 12, "1", "12", None, True, [1, {"a": []}], 1.0]}, {}),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3}, {}),
    ({"prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": {"type": "integer"}, "minItems": 1}, {}),
    ({"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True}, {}),
    ({"type": "array", "items": {"enum": [1, 2]}, "contains": {"const": 2}, "maxContains": 2}, {}),
    ({"properties": {"a": {"type": "null"}, "ab": {"type": "null"}}, "additionalProperties": {"type": "integer"}}, {}),
    (
        {
            "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}},
            "required": ["b"],
            "maxProperties": 2,
        },
        {},
    ),
    ({"properties": {"a": {"const": 1}, "b": {"const": 2}}, "required": ["b"]}, {"key_order": "any"}),
    ({"type": "object", "patternProperties": {"^x": {"type": "null"}}, "additionalProperties": False}, {}),
    ({"oneOf": [{"type": "integer", "minimum": 3}, {"type": "number", "maximum": 7}]}, {}),
    (
        {
            "if": {"properties": {"k": {"const": 1}}},
            "then": {"required": ["k"]},
            "properties": {"k": {"type": "integer"}},
        },
        {},
    ),
    ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}, {"whitespace": "flexible"}),
    ({"type": "array", "items": {"type": "integer"}}, {"whitespace": "[ ]?"}),
    ({"type": "array", "items": {"type": "boolean"}}, {"whitespace": "[ \\n]+"}),
]
PIECES = [
    b'"a',
    b'": ',
    b'", ',
    b'"]',
    b"[{",
    b"},",
    b", ",
    b"true",
    b"12",
    b"-0",
    b".5",
    b"1e5",
    b"\\u00",
    b'\\"',
    b"abc",
    b"ab",
]


@pytest.fixture(scope="module")
def pieces() -> Vocabulary:
    """Every byte, tokens that lie across the pieces of JSON, a special id, and an end of sequence."""
    longer = [*PIECES, b"  ", "é".encode(), "é".encode()[:1] + b"\xa9x"]
    size = 256 + len(longer)
    return Vocabulary([*(bytes([b]) for b in range(256)), *longer, None, None], special_ids=[size], eos_ids=[size + 1])


def _same_along_walks(one: TokenAutomaton, other: TokenAutomaton, rng: random.Random, walks: int, steps: int) -> None:
    """Equal allowed sets at every step of random texts; structure is preferred, so that texts get on."""
    tokens_of = one.vocabulary.tokens
    for _ in range(walks):
        left, right, text = one.start, other.start, b""
        for _ in range(steps):
            allowed = one.allowed(left)
            assert np.array_equal(allowed, other.allowed(right)), text
            assert one.is_accepting(left) == other.is_accepting(right), text
            among = [token for token in allowed.tolist() if token not in one.vocabulary.eos_ids]
            if not among:
                break
            structure = [token for token in among if not tokens_of[token][:1].isalnum() and tokens_of[token] < b"\x7f"]
            token = rng.choice(structure if structure and rng.random() < 0.5 else among)
            left, right = one.next(left, token), other.next(right, token)
            text += tokens_of[token]


@pytest.mark.parametrize(("schema", "options"), BOTH, ids=[json.dumps(both)[:60] for both in BOTH])
def test_all_engines_allow_the_same_tokens(schema: dict[str, Any], options: dict[str, Any], pieces: Vocabulary) -> None:
    """At every step of random walks, over tokens that lie across the pieces of JSON."""
    table, stack, parsed = (
        mask(pieces, schema=schema, engine=name, **options) for name in ("table", "stack", "llguidance")
    )
    assert (table.engine, stack.engine, parsed.engine) == ("table", "stack", "llguidance")
    _same_along_walks(table, stack, random.Random(0), walks=6, steps=25)
    _same_along_walks(table, parsed, random.Random(0), walks=4, steps=25)


@pytest.mark.nightly
@pytest.mark.parametrize(("schema", "options"), BOTH, ids=[json.dumps(both)[:60] for both in BOTH])
def test_all_engines_allow_the_same_tokens_at_length(
    schema: dict[str, Any], options: dict[str, Any], tekken_4096: Vocabulary
) -> None:
    """10,000 walks each, over real tokens."""
    table = mask(tekken_4096, schema=schema, engine="table", **options)
    for name in ("stack", "llguidance"):
        other = mask(tekken_4096, schema=schema, engine=name, **options)
        _same_along_walks(table, other, random.Random(1), walks=-(-10_000 // len(BOTH)), steps=25)


def _values(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    scalar: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
        [
            {"type": "integer", "maximum": 20},
            {"type": "string", "maxLength": 2},
            {"enum": [1, "a", None]},
            {"type": "null"},
        ]
    )
    if not depth:
        return scalar
    inner = _values(depth - 1)
    return st.one_of(
        scalar,
        st.builds(lambda items, low: {"type": "array", "items": items, "minItems": low}, inner, st.integers(0, 2)),
        st.builds(
            lambda a, b, needed: {"type": "object", "properties": {"a": a, "b": b}, "required": needed},
            inner,
            inner,
            st.sets(st.sampled_from(["a", "b"])).map(sorted),
        ),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
        st.builds(lambda one, other: {"allOf": [one, {"not": other}]}, inner, scalar),
    )


@settings(max_examples=25)
@given(schema=_values(2), seed=st.integers(0, 1_000))
def test_any_schema_gives_the_same_tokens(schema: dict[str, Any], seed: int) -> None:
    """Whatever both engines take."""
    vocabulary = Vocabulary([*(bytes([b]) for b in range(256)), *PIECES, None], eos_ids=[256 + len(PIECES)])
    try:
        table = mask(vocabulary, schema=schema, engine="table-lazy")
    except InputError as refused:
        for name in ("stack", "llguidance"):
            with pytest.raises(InputError, match="no JSON value satisfies"):
                mask(vocabulary, schema=schema, engine=name)
        assert "no JSON value satisfies" in str(refused)  # noqa: PT017
        return
    for name in ("stack", "llguidance"):
        other = mask(vocabulary, schema=schema, engine=name)
        _same_along_walks(table, other, random.Random(seed), walks=2, steps=20)


def _accepts(found: TokenAutomaton, text: str) -> bool:
    return found.accepts(text.encode())


@pytest.mark.parametrize("engine", ["stack", "llguidance"])
def test_recursion_and_any_value_need_no_depth(engine: str, pieces: Vocabulary) -> None:
    """What has a stack takes them, and nests beyond any automaton."""
    found = mask(pieces, schema=TREE, engine=engine)
    text = '{"name": ""}'
    for _ in range(60):
        text = f'{{"name": "é", "inside": [{text}, {{"name": "x"}}]}}'
    assert _accepts(found, text)
    assert not _accepts(found, text[:-1])
    assert not _accepts(found, text[:-1] + "]")
    anything = mask(pieces, schema=True, engine=engine)
    assert _accepts(anything, '[[], {"a": [1, null, {"": 2.5e-3}]}, "\\u00e9"]')
    assert not _accepts(anything, "[[],]")
    _same_along_walks(anything, mask(pieces, schema=True, engine="llguidance"), random.Random(0), walks=10, steps=25)
    with pytest.raises(InputError, match="max_depth is for finite automata"):
        mask(pieces, schema=TREE, engine=engine, max_depth=2)
    assert mask(pieces, schema=TREE, max_depth=1).engine == "table-lazy"


def test_small_pieces_are_read_with_a_stack_and_large_ones_by_the_parser(pieces: Vocabulary) -> None:
    """By counted work, so that the choice is the same after the first compile has been remembered."""
    large = {"type": "string", "pattern": "a.*b.*c", "maxLength": 3_000}
    for _ in range(2):
        found = mask(pieces, schema=TREE)
        assert (found.engine, found.reason[:12]) == ("stack", "small pieces")
        parsed = mask(pieces, schema=large)
        assert parsed.engine == "llguidance"
        assert parsed.reason.startswith("not small: ")
        assert _accepts(parsed, '"abc' + "a" * 2_997 + '"')
    counted = mask(pieces, schema={"type": "string", "maxLength": 50_000})
    assert counted.engine == "stack"
    assert _accepts(counted, '"' + "a" * 50_000 + '"')
    assert not _accepts(counted, '"' + "a" * 50_001 + '"')
    lines = {"type": "array", "items": {"type": "integer"}, "maxItems": 3_000}
    for engine in ("stack", "llguidance"):
        found = mask(pieces, schema=lines, engine=engine)
        assert _accepts(found, "[" + "1, " * 2_999 + "1]")
        assert not _accepts(found, "[" + "1, " * 3_000 + "1]")


def test_a_text_that_could_be_read_in_many_ways_is_not_followed_by_the_stack(pieces: Vocabulary) -> None:
    """Each way would be followed at every step: where alternatives of one type nest without end, the parser reads."""
    branch = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    twice: dict[str, Any] = {"anyOf": [{"type": "null"}, branch, {**branch, "additionalProperties": False}]}
    with pytest.raises(InputError, match="could be read in more than 64 ways"):
        mask(pieces, schema=twice, engine="stack")
    found = mask(pieces, schema=twice)
    assert (found.engine, "more than 64 ways" in found.reason) == ("llguidance", True)


def test_a_key_that_is_named_is_none_of_the_others_however_it_is_written(pieces: Vocabulary) -> None:
    """Raw, by a short escape, or by its number: another key may begin like it, and go on."""
    schema = {"properties": {"ab": {"const": 1}, "a/": {"const": 2}}, "additionalProperties": {"type": "null"}}
    table, stack = (mask(pieces, schema=schema, engine=engine) for engine in ("table", "stack"))
    for text in ('{"ab": null}', r'{"a\u0062": null}', r'{"\u0061b": null}', r'{"a\/": null}', r'{"a\u002F": null}'):
        assert not _accepts(stack, text)
    for text in ('{"ab": 1}', '{"abc": null}', r'{"a": null}', r'{"\u0061": null}', '{"é": null, "a": null}'):
        assert _accepts(stack, text)
    for seed in range(20):
        _same_along_walks(table, stack, random.Random(seed), walks=2, steps=20)


def test_a_stack_is_freed_without_a_garbage_collection(pieces: Vocabulary) -> None:
    """Its rows know who makes them, not the automaton that keeps them: no schema waits for the collector."""
    stack = mask(pieces, schema={"type": "array", "items": {"type": "string"}, "uniqueItems": True}, engine="stack")
    state = stack.start
    for byte in b'["a", "b"':
        assert stack.allowed(state).size
        state = stack.next(state, pieces.tokens.index(bytes((byte,))))
    row, gone = stack.row(state), weakref.ref(stack)
    allowed = row.allowed.tolist()
    gc.disable()
    try:
        del stack
        assert gone() is None
    finally:
        gc.enable()
    assert row.allowed.tolist() == allowed


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 2, "maxLength": 3},
        {"type": "array", "items": {"type": "number", "minimum": 1}, "minItems": 2, "maxItems": 6},
        {"properties": {"ab": {"type": "null"}}, "additionalProperties": {"pattern": "^[ab]+$"}},
    ],
    ids=["counted", "repeated", "keys"],
)
def test_a_row_of_the_stack_is_what_may_follow(schema: dict[str, Any], pieces: Vocabulary) -> None:
    """Every token of the vocabulary: it leads on where the row allows it, and into the dead state elsewhere."""
    stack, rng = mask(pieces, schema=schema, engine="stack"), random.Random(0)
    for _ in range(4):
        state = stack.start
        for _ in range(12):
            leads_on = [token for token in range(pieces.size) if stack.next(state, token)]
            assert leads_on == stack.allowed(state).tolist()
            state = stack.next(state, rng.choice(leads_on))


def test_what_the_parser_cannot_read_is_compiled_within_the_whole_limits(pieces: Vocabulary) -> None:
    """A large multiple beside a counted pattern: the stack takes more than it does by choice, and says so."""
    schema = {
        "properties": {
            "a": {"type": "string", "pattern": "a.*b.*c", "maxLength": 400},
            "b": {"type": "integer", "multipleOf": 97},
        }
    }
    found = mask(pieces, schema=schema)
    assert found.engine == "stack"
    assert "llguidance cannot" in found.reason
    with pytest.raises(InputError, match="multipleOf 97 makes too large an expression for llguidance"):
        mask(pieces, schema=schema, engine="llguidance")
    with pytest.raises(InputError, match=r"no engine holds it\. llguidance: .*multipleOf 97.*; a table: .*megabytes"):
        mask(pieces, schema=schema, megabytes=1)


def test_all_tries_of_a_compile_share_one_limit(pieces: Vocabulary) -> None:
    """What one engine spent before it gave up is not there for the next; what both need is counted once."""
    patterns = ["ab1", "b12", "bc1", "c12", "ca1", "a12", r"\d\d", "[a|b]", "1.*2"]
    schema = {"type": "string", "allOf": [{"pattern": one} for one in patterns], "maxLength": 200}
    with metered(None, None) as spent, pytest.raises(InputError, match="no engine holds it"):
        mask(pieces, schema={**schema, "not": {"pattern": "^x*y"}}, cpu_seconds=0.1)
    assert 0.1 < spent() < 0.11


def test_a_grammar_that_would_crash_the_parser_is_refused(pieces: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    """It follows rules by recursion and dies of a stack that is too small: many optional keys are a table's."""
    schema = {"type": "object", "properties": {f"k{number}": {"type": "null"} for number in range(60)}}
    assert mask(pieces, schema=schema, engine="llguidance").engine == "llguidance"
    monkeypatch.setattr("perstep.automata.schema.grammar._DEEPEST", 50)
    with pytest.raises(InputError, match="rules would lead more than 50 deep into each other"):
        mask(pieces, schema=schema, engine="llguidance")
    assert _accepts(mask(pieces, schema=schema), '{"k1": null, "k59": null}')


def test_states_are_opaque_and_may_be_asked_in_any_order(pieces: Vocabulary) -> None:
    """A state allows what it allowed, however far its text has gone; branches do not disturb each other."""
    parsed, table = (
        mask(pieces, schema={"type": "array", "items": {"enum": [1, 23]}}, engine=e) for e in ("llguidance", "table")
    )
    assert isinstance(parsed, ParsedAutomaton)
    opened = parsed.next(parsed.start, ord("["))
    one, two = parsed.next(opened, ord("1")), parsed.next(opened, ord("2"))
    for state, text in ((two, b"[2"), (one, b"[1"), (opened, b"["), (parsed.start, b"")):
        assert np.array_equal(parsed.allowed(state), table.allowed(table.run(text)))
    assert parsed.next(opened, ord("x")) == 0
    assert np.array_equal(parsed.allowed(opened), table.allowed(table.run(b"[")))
    assert parsed.forced(two) == ord("3")
    ended = parsed.run([*b"[1]", *pieces.eos_ids])
    assert ended == parsed.ended
    assert parsed.is_accepting(ended)
    assert parsed.allowed(ended).tolist() == list(pieces.eos_ids)
    assert parsed.next(ended, ord("1")) == 0
    assert not parsed.allowed(0).size
    assert np.array_equal(parsed.bias(one) == 0, table.bias(table.run(b"[1")) == 0)
    for wrong in (lambda: parsed.next(opened, -1), lambda: parsed.row(77), parsed.whole, lambda: parsed & table):
        with pytest.raises(InputError):
            wrong()


def test_a_copy_goes_on_by_itself(pieces: Vocabulary) -> None:
    """Processors are copied to be tried out: a copied state allows the same, whichever text goes on first."""
    parsed = mask(pieces, schema=TREE, engine="llguidance")
    state = parsed.run(b'{"name": "')
    again, copied = copy.deepcopy((parsed, state))
    ended = parsed.run(b'a"}', state)
    assert parsed.is_accepting(ended)
    assert np.array_equal(again.allowed(copied), parsed.allowed(parsed.run(b'{"name": "')))
    assert pickle.loads(pickle.dumps(pieces)).hash == pieces.hash  # noqa: S301


def test_a_vocabulary_that_lacks_a_byte_is_not_parsed() -> None:
    """It could lead into a dead end; a table leaves out what cannot be spelled."""
    vocabulary = Vocabulary([bytes([b]) for b in range(0x80)] + [None], eos_ids=[0x80])
    with pytest.raises(InputError, match="no token is the byte 0x80"):
        mask(vocabulary, schema={"type": "string"}, engine="llguidance")
    assert mask(vocabulary, schema={"type": "string"}).engine == "table-lazy"


def test_regexes_and_grammars(pieces: Vocabulary) -> None:
    """A regex by either engine; Lark and GBNF by the parser, with every way to cut a text into tokens."""
    table, parsed = (mask(pieces, regex='(ab|a)+é?[^a-z"]{1,3}', engine=e) for e in ("table", "llguidance"))
    _same_along_walks(table, parsed, random.Random(0), walks=10, steps=8)
    balanced = mask(pieces, lark='start: "(" start ")" | "ab"')
    assert balanced.engine == "llguidance"
    assert _accepts(balanced, "(((ab)))")
    assert not _accepts(balanced, "((ab)")
    inside = balanced.run(b"(")
    assert {ord("("), ord("a"), 256 + PIECES.index(b"ab")} == set(balanced.allowed(inside).tolist())
    words = mask(pieces, gbnf='root ::= "a" root "c" | "b"')
    assert _accepts(words, "aabcc")
    assert not _accepts(words, "aabc")
    for options, message in (
        ({}, "give schema or regex or lark or gbnf; got none"),
        ({"regex": "a", "lark": "b"}, "got regex and lark"),
        ({"regex": "a", "engine": "naive"}, "there is no engine 'naive' for a mask"),
        ({"lark": 'start: "a"', "engine": "table"}, "a lark grammar has no table"),
        ({"lark": "start: missing"}, "llguidance refuses the Lark grammar"),
        ({"gbnf": "root ::= ("}, "the GBNF grammar is malformed"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            mask(pieces, **options)
        assert "\n" not in str(caught.value)


def test_the_engine_auto_is_the_front(pieces: Vocabulary) -> None:
    """`perstep mask --engine auto` measures what `mask` chooses."""
    engine = prepare("auto", pieces).build(Grammar(TREE))
    assert isinstance(engine, TableEngine)
    assert engine.table.engine == "stack"
    open_ended = prepare("auto", pieces).build(Grammar({"properties": {"a": {"type": "null"}}}, undeclared=True))
    assert all(open_ended.accept(token) for token in b'{"b": [1]}')
    assert all(engine.accept(token) for token in b'{"name": "a"}')
    assert engine.accept(pieces.eos_ids[0])
    assert engine.is_terminated()
