"""One contract for every engine: the same texts, and the same masks but for differences that are named."""

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import perstep.automata.engines as engines_module
from perstep.automata import ENGINES, Engine, Grammar, Vocabulary, available, json_schema, prepare, unpack_bits
from perstep.errors import InputError, how_to_install

OURS = ("naive", "naive-memo", "table", "table-lazy", "auto")
POLICIES = ("fixed", "flexible")


@pytest.fixture(scope="module")
def engine(tekken_4096: Vocabulary, conjugation: dict[str, Any]) -> Callable[[str, str], Engine]:
    """Engines of the conjugation schema, each built once."""
    built: dict[tuple[str, str], Engine] = {}

    def get(name: str, policy: str) -> Engine:
        if (name, policy) not in built:
            built[name, policy] = prepare(name, tekken_4096).build(Grammar(conjugation, policy))
        found = built[name, policy]
        found.reset()
        return found

    return get


def _objects(schema: dict[str, Any], count: int, letters: str) -> Iterator[str]:
    rng = random.Random(0)
    properties = schema["properties"]
    for _ in range(count):
        value = {name: rng.choice(properties[name]["enum"]) for name in ("verb", "tense", "person")}
        if rng.random() < 0.8:
            value["spanish"] = "".join(rng.choices(letters, k=rng.randint(0, 30)))
        yield json.dumps(value, ensure_ascii=False)


def _tokens(text: str, vocabulary: Vocabulary, rng: random.Random) -> list[int]:
    """One of the ways to cut a text into tokens, mostly greedy."""
    ids = {token: number for number, token in enumerate(vocabulary.tokens) if token}
    data, at, found = text.encode(), 0, []
    while at < len(data):
        ends = [end for end in range(min(len(data), at + 20), at, -1) if data[at:end] in ids]
        end = ends[0] if rng.random() < 0.8 else rng.choice(ends)
        found.append(ids[data[at:end]])
        at = end
    return found


def _accepts(engine: Engine, tokens: list[int]) -> bool:
    engine.reset()
    return all(engine.accept(token) for token in tokens) and engine.is_terminated()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", available())
def test_every_engine_accepts_and_refuses_the_same_texts(
    engine: Callable[[str, str], Engine], name: str, policy: str, tekken_4096: Vocabulary, conjugation: dict[str, Any]
) -> None:
    """Valid objects are accepted whole; wrong values, keys, order, length or ends are not."""
    tested, rng, end = engine(name, policy), random.Random(1), tekken_4096.eos_ids[0]
    for text in _objects(conjugation, 25, "abz eéñ😀{}:,0"):
        tokens = _tokens(text, tekken_4096, rng)
        assert _accepts(tested, [*tokens, end]), text
        assert not _accepts(tested, tokens), "without its end a text is not ended"
        assert not _accepts(tested, [*tokens[:-1], end]), "a text cannot end early"
        assert not _accepts(tested, [*tokens, tokens[-1], end]), "nothing comes after the object"
    good = next(_objects(conjugation, 1, "a"))
    spanish = re.sub(r'(, "spanish": "a*")?\}$', ', "spanish": "%s"}', good)
    for text in (
        good.replace('"verb"', '"Verb"'),
        re.sub('"verb": "[a-z]+"', '"verb": "sing"', good),
        re.sub('("verb": "[a-z]+"), ("tense": "[a-z_]+")', r"\2, \1", good),
        spanish % ("a" * 31),
        spanish % 'a"b',
        spanish.replace('"%s"', "1"),
        good[:-1] + ', "more": 1}',
    ):
        assert not _accepts(tested, [*_tokens(text, tekken_4096, rng), end]), text
    assert _accepts(tested, [*_tokens(spanish % ("é" * 30), tekken_4096, rng), end])


def _is_spelling(text: bytes) -> bool:
    """Whether the open string holds what engines write in different ways.

    llguidance has no escape but for what needs one, and U+007F only escaped; outlines-core has neither
    hexadecimal escapes nor U+007F to U+009F; xgrammar 0.2.8, where a length is bounded, has no escapes at
    all and lets control characters through, which is not JSON.
    """
    string = text.partition(b'"spanish"')[2].partition(b'"')[2]
    return bool(re.search(rb"[\\\x00-\x1f\x7f]|\xc2[\x80-\x9f]", string))


def _is_forced(allowed: list[bytes], less: list[bytes]) -> bool:
    """Whether an engine allows one token of a text that is forced anyway, and the others are its beginnings or more."""
    return len(allowed) == 1 and all(t.startswith(allowed[0]) or allowed[0].startswith(t) for t in less)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", [name for name in available() if name != "table"])
def test_masks_are_equal_state_by_state_or_the_difference_has_a_name(
    engine: Callable[[str, str], Engine], name: str, policy: str, tekken_4096: Vocabulary, conjugation: dict[str, Any]
) -> None:
    """Ours are equal bit for bit; another engine's may differ in spelling and in forced text, in nothing else."""
    tested, reference, rng = engine(name, policy), engine("table", policy), random.Random(2)
    size, tokens_of = tekken_4096.size, tekken_4096.tokens
    texts = _objects(conjugation, 4 if name == "naive" else 15, 'ab eéñ😀"\n')
    for text in texts:
        tested.reset()
        reference.reset()
        so_far = b""
        for token in [*_tokens(text, tekken_4096, rng), tekken_4096.eos_ids[0]]:
            found, wanted = unpack_bits(tested.fill(), size), unpack_bits(reference.fill(), size)
            if not np.array_equal(found, wanted):
                assert name not in OURS
                more = [so_far + tokens_of[i] for i in np.flatnonzero(found & ~wanted)]
                less = [tokens_of[i] for i in np.flatnonzero(wanted & ~found)]
                spelled = all(map(_is_spelling, more)) and all(_is_spelling(so_far + token) for token in less)
                forced = not more and _is_forced([tokens_of[i] for i in np.flatnonzero(found)], less)
                assert spelled or (name == "llguidance" and forced), (so_far, more[:5], less[:5])
            assert reference.accept(token)
            so_far += tokens_of[token]
            if not tested.accept(token):
                assert _is_spelling(so_far)
                assert name not in OURS
                break


@pytest.mark.parametrize("name", available())
def test_a_fork_is_a_text_of_its_own(engine: Callable[[str, str], Engine], name: str, tekken_4096: Vocabulary) -> None:
    """What one text accepts does not move the other, and a refused token is forgotten at reset."""
    first = engine(name, "fixed")
    start = first.fill().copy()
    opening = _tokens('{"', tekken_4096, random.Random(0))
    assert all(first.accept(token) for token in opening)
    second = first.fork()
    assert (second.name, second.build_ns, second.setup_ns) == (name, first.build_ns, first.setup_ns)
    assert np.array_equal(second.fill(), start)
    assert not np.array_equal(first.fill(), start)
    assert not second.accept(opening[0] + 1 if not _allows(start, opening[0] + 1) else opening[0] + 2)
    second.reset()
    assert np.array_equal(second.fill(), start)
    assert second.accept(opening[0])
    first.reset()
    assert np.array_equal(first.fill(), start)


def _allows(bits: np.ndarray, token: int) -> bool:
    return bool(int(bits[token >> 5]) >> (token & 31) & 1)


@pytest.mark.parametrize("name", available())
def test_several_ids_may_end_a_text(name: str) -> None:
    """Each of several end-of-sequence ids is allowed exactly where a text may end."""
    letters = [bytes([byte]) for byte in range(256)]
    vocabulary = Vocabulary([*letters, None, None, None], special_ids=[257], eos_ids=[256, 258])
    tested = prepare(name, vocabulary).build(Grammar({"enum": ["a", "ab"]}))
    for end in (256, 258):
        tested.reset()
        for byte, may_end in zip(b'"a"', (False, False, False), strict=True):
            assert [_allows(tested.fill(), token) for token in (256, 257, 258)] == [may_end, False, may_end]
            assert tested.accept(byte)
        assert [_allows(tested.fill(), token) for token in (256, 257, 258)] == [True, False, True]
        assert not tested.is_terminated()
        assert tested.accept(end)
        assert tested.is_terminated()


@pytest.mark.parametrize("name", OURS)
def test_after_the_end_only_the_end_may_follow(name: str, byte_vocabulary: Vocabulary) -> None:
    """A row of a batch that has ended repeats its end."""
    tested = prepare(name, byte_vocabulary).build(Grammar({"type": "integer"}))
    assert tested.accept(ord("7"))
    end = byte_vocabulary.eos_ids[0]
    assert tested.accept(end)
    assert np.flatnonzero(unpack_bits(tested.fill(), byte_vocabulary.size)).tolist() == [end]
    assert tested.accept(end)
    assert not tested.accept(ord("7"))


def test_building_is_timed_apart(byte_vocabulary: Vocabulary) -> None:
    """Setup and build are what the clock passed meanwhile."""
    ticks = itertools.count(step=100)
    prepared = prepare("table", byte_vocabulary, now_ns=lambda: next(ticks))
    built = prepared.build(Grammar({"type": "null"}))
    assert (prepared.setup_ns, built.setup_ns, built.build_ns) == (100, 100, 100)


def test_an_engine_that_is_not_there_is_told_how_to_get(
    monkeypatch: pytest.MonkeyPatch, byte_vocabulary: Vocabulary
) -> None:
    """An unknown name lists the known ones; a library that is not installed is named with its command."""
    with pytest.raises(InputError, match="there is no engine 'magic'; there are naive, naive-memo, table"):
        prepare("magic", byte_vocabulary)
    monkeypatch.setattr(engines_module, "find_spec", lambda name: None)
    assert available() == list(OURS)
    for name, command in (
        ("llguidance", "pip install llguidance"),
        ("xgrammar", how_to_install("xgrammar")),
        ("outlines", "pip install outlines-core"),
    ):
        with pytest.raises(InputError, match=re.escape(f"the engine {name} is not installed: {command}")):
            prepare(name, byte_vocabulary)
    assert set(ENGINES) == {*OURS, "llguidance", "outlines", "xgrammar"}


@pytest.mark.parametrize("name", [name for name in available() if name not in OURS])
def test_what_an_engine_cannot_do_is_said(name: str, byte_vocabulary: Vocabulary) -> None:
    """No id to end with, a schema it refuses, a policy it does not know: one line each."""
    with pytest.raises(InputError, match="needs an end-of-sequence id"):
        prepare(name, Vocabulary([b"a"]))
    prepared = prepare(name, byte_vocabulary)
    with pytest.raises(InputError, match="refuses the schema") as caught:
        prepared.build(Grammar({"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}}))
    assert "\n" not in str(caught.value)
    if name == "outlines":
        assert prepared.build(Grammar({"const": [1, 2]}, "[ ]?")).accept(ord("["))
    else:
        with pytest.raises(InputError, match="fixed and flexible"):
            prepared.build(Grammar({"type": "null"}, "[ ]?"))


def test_a_table_engine_holds_the_table(byte_vocabulary: Vocabulary) -> None:
    """The grammar's policy and depth reach the automaton."""
    grammar = Grammar({"type": "array", "items": {"$ref": "#"}}, "flexible", max_depth=2)
    for name in OURS:
        tested = prepare(name, byte_vocabulary).build(grammar)
        assert all(tested.accept(byte) for byte in b"[ [[],[\n]] ]"), name
    dfa = json_schema(grammar.schema, whitespace="flexible", max_depth=2)
    assert not dfa.accepts(b"[[[[]]]]")
