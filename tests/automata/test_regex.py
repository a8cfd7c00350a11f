"""Regular expressions against Python's own and against outlines-core."""

import contextlib
import random
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from outlines_core import Index
from outlines_core import Vocabulary as OutlinesVocabulary

from perstep.automata import Dfa, from_regex
from perstep.automata.charset import ANY, charset, invert, json_block, utf8_block, utf8_sequences
from perstep.automata.determinise import determinise
from perstep.automata.dfa import minimal
from perstep.automata.nfa import literal, sequence
from perstep.automata.regex import regex_block
from perstep.errors import InputError

ALPHABET = "ab0é\U0001f600\n."

atoms = st.sampled_from(
    [
        "a",
        "b",
        "0",
        "é",
        r"\d",
        r"\w",
        r"\s",
        ".",
        "[ab]",
        "[^a]",
        "[a-z0]",
        r"\.",
        r"[\d.]",
        "\U0001f600",
        r"[^\Wb]",
        "",
    ]
)
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}", "*?"])).map(
            lambda two: f"({two[0]}){two[1]}"
        ),
    ),
    max_leaves=8,
)
texts = st.text(ALPHABET, max_size=7)


@given(patterns, st.lists(texts, min_size=1, max_size=12))
@settings(max_examples=400, deadline=None)
def test_accepts_what_python_matches(pattern: str, samples: list[str]) -> None:
    """A pattern's automaton accepts a text exactly when `re.fullmatch` finds it."""
    dfa = from_regex(pattern)
    for text in samples:
        assert dfa.accepts(text.encode()) == bool(re.fullmatch(pattern, text, re.ASCII)), text


@given(patterns, st.sampled_from(["", "^"]), st.sampled_from(["", "$"]), st.lists(texts, min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_search_is_unanchored(pattern: str, begin: str, end: str, samples: list[str]) -> None:
    """Searching matches anywhere unless anchored, as JSON Schema's pattern does."""
    whole = begin + (f"(?:{pattern})" if begin or end else pattern) + end
    dfa = determinise(regex_block(whole, utf8_block, 10_000, search=True), 10_000, "a search")
    for text in samples:
        assert dfa.accepts(text.encode()) == bool(re.search(whole.replace("$", r"\Z"), text, re.ASCII))


@given(patterns)
@settings(max_examples=150, deadline=None)
def test_equals_the_automaton_of_outlines_core(pattern: str) -> None:
    """Two independent compilers agree: the minimal automata are equal array for array.

    Only where nothing follows an accepting state: there outlines-core 0.2.14 loses moves (its index
    of `(ab)*` accepts nothing but the empty text). A `;` at the end makes most patterns so.
    """
    explicit = pattern.replace(r"\d", "[0-9]").replace(r"\w", "[0-9A-Z_a-z]").replace(r"\s", r"[\t-\r ]")
    assume("\\W" not in explicit and "[[" not in explicit)
    ours = from_regex(f"(?:{explicit});")
    assume(not ours.transitions[ours.accepting].any())
    assert ours.hash == _by_outlines(f"(?:{explicit});").hash


def _by_outlines(pattern: str) -> Dfa:
    index = Index(pattern, OutlinesVocabulary(256, {bytes([byte]): [byte] for byte in range(256)}))
    moves, finals = index.get_transitions(), index.get_final_states()
    names = {state: number for number, state in enumerate({index.get_initial_state(), *moves, *finals}, start=1)}
    table = np.zeros((len(names) + 1, 256), dtype=np.int32)
    for state, targets in moves.items():
        for byte, target in targets.items():
            if byte < 256:
                table[names[state], byte] = names[target]
    accepting = np.zeros(len(names) + 1, dtype=np.bool_)
    accepting[[names[state] for state in finals]] = True
    start = names[index.get_initial_state()]
    return minimal(table, np.arange(256, dtype=np.uint8), accepting, start)


@given(patterns, st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_what_it_generates_matches(walk: Callable[[Dfa, random.Random, int], bytes], pattern: str, seed: int) -> None:
    """Any path through the automaton spells a text that Python's own engine matches."""
    dfa = from_regex(pattern)
    if not dfa.is_empty:
        assert re.fullmatch(pattern, walk(dfa, random.Random(seed), 5).decode(), re.ASCII)


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"(a)\1", "backreference"),
        (r"\bword", "word boundary"),
        ("(?=a)b", "look-around"),
        ("(?i)a", "flags"),
        (r"\p{L}", "Unicode property"),
        ("a++", "possessive"),
        ("a**", "quantifier on a quantifier"),
        ("*a", "without anything to repeat"),
        ("(a", "without its )"),
        ("a)", "without its ("),
        ("[a", "without its ]"),
        ("[z-a]", "ends below"),
        ("a{3,2}", "ends below"),
        ("a{,2}", "count without its beginning"),
        ("a{,}", "count without its beginning"),
        ("[,--]", "class within a class"),
        ("[]a]", "at the beginning of a class"),
        ("[^]a]", "at the beginning of a class"),
        ("a^b", "anchor in the middle"),
        ("(^a)", "anchor inside a group"),
        ("a\\", "backslash at its end"),
        (r"\q", "unknown escape"),
        (r"\x4", "hexadecimal"),
        (r"\ud800", "no character"),
        ("[[:alpha:]]", "class within a class"),
        ("(" * 300 + ")" * 300, "nested groups"),
    ],
)
def test_what_is_refused_is_named(pattern: str, what: str) -> None:
    """A pattern that no automaton or no common meaning fits is refused with its name and place."""
    with pytest.raises(InputError, match=re.escape(what)):
        from_regex(pattern)


def test_an_exploding_pattern_stops_at_the_limit() -> None:
    """2^26 states are stopped after 65,535, by name."""
    with pytest.raises(InputError, match=r"more than 65,535 states"):
        from_regex("(a|b)*a(a|b){25}")


def test_a_count_too_large_is_refused_before_it_is_made() -> None:
    """A billion copies are refused by their number, at once."""
    with pytest.raises(InputError, match=r"1,000,000,000 copies"):
        from_regex("a{1000000000}")


def test_groups_escapes_and_classes() -> None:
    """Names, braces as literals, hexadecimal escapes and classes with special members."""
    assert from_regex(r"(?P<year>\d{4})-(?<m>\d\d)").accepts(b"2024-01")
    assert from_regex("a{x}").accepts(b"a{x}")
    assert from_regex(r"\x41\u00e9\U0001f600\u{e9}").accepts("Aé\U0001f600é".encode())
    assert from_regex(r"[]a-]+".replace("[]", r"[\]")).accepts(b"]-a")
    assert from_regex(r"[\b]").accepts(b"\x08")


@given(st.lists(st.tuples(st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF)), max_size=4), st.integers(0, 0x10FFFF))
def test_sets_of_characters(pairs: list[tuple[int, int]], point: int) -> None:
    """A set holds what its ranges hold, its inverse the rest, and surrogates are in neither."""
    ranges = [(min(pair), max(pair)) for pair in pairs]
    chosen = charset(*ranges)
    inside = any(low <= point <= high for low, high in ranges)
    surrogate = 0xD800 <= point <= 0xDFFF
    assert any(low <= point <= high for low, high in chosen) == (inside and not surrogate)
    assert any(low <= point <= high for low, high in invert(chosen)) == (not inside and not surrogate)


@given(
    st.characters(exclude_categories=["Cs"]),
    st.characters(exclude_categories=["Cs"]),
    st.characters(exclude_categories=["Cs"]),
)
@settings(deadline=None)
def test_a_range_of_characters_in_utf8(one: str, other: str, probe: str) -> None:
    """A range accepts the UTF-8 of every character inside it and of none outside."""
    low, high = sorted((one, other))
    dfa = determinise(utf8_block(charset((ord(low), ord(high)))), 1_000, "a range")
    assert dfa.accepts(probe.encode()) == (low <= probe <= high)
    assert dfa.accepts(low.encode())
    assert dfa.accepts(high.encode())


def test_utf8_sequences_cover_every_character_once() -> None:
    """The byte ranges of all characters hold as many strings as there are characters."""
    total = 0
    for low, high in ANY:
        for way in utf8_sequences(low, high):
            total += int(np.prod([last - first + 1 for first, last in way]))
    assert total == 0x110000 - 0x800


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.integers(0, 2**32))
@settings(deadline=None)
def test_every_way_to_write_a_json_character(text: str, seed: int) -> None:
    """Raw, short and hexadecimal spellings of a text are all accepted, and nothing else is."""
    import json

    rng = random.Random(seed)
    dfa = determinise(
        sequence(literal(b'"'), *(json_block(((ord(c), ord(c)),)) for c in text), literal(b'"')), 1_000, "it"
    )
    spelled = ""
    for sign in text:
        ways = [json.dumps(sign, ensure_ascii=False)[1:-1]]
        if ord(sign) < 0x10000:
            code = f"{ord(sign):04x}"
            ways.append("\\u" + "".join(rng.choice([digit, digit.upper()]) for digit in code))
        spelled += rng.choice(ways)
    assert json.loads(f'"{spelled}"') == text
    assert dfa.accepts(f'"{spelled}"'.encode())
    assert not dfa.accepts(f'"{spelled}x"'.encode())


@given(st.text(st.sampled_from(list("ab1(){}[]|*+?^$\\.,-:<P=!dwsxu0\n")), max_size=14))
@settings(max_examples=600, deadline=None)
def test_any_string_is_a_pattern_or_an_error(pattern: str) -> None:
    """Whatever is given as a pattern: an automaton that agrees with Python's, or one line; never another exception."""
    try:
        dfa = from_regex(pattern, state_limit=2_000)
    except InputError as error:
        message = str(error)
    else:
        message = ""
        with contextlib.suppress(re.error, FutureWarning):
            theirs = re.compile(pattern, re.ASCII)
            for text in ("", "a", "ab", "1", "a1b", "\n", "-", "{1}", "a,b", "d", "(", "\\"):
                assert dfa.accepts(text.encode()) == bool(theirs.fullmatch(text)), (pattern, text)
    assert "\n" not in message


@pytest.mark.parametrize("pattern", [r"[^a](\W*?){1000}", "(a*){5000}"])
def test_a_repetition_of_what_may_be_empty_is_bounded(pattern: str) -> None:
    """It is refused by the work that it takes; the first took four minutes."""
    with pytest.raises(InputError, match=r"takes more than [\d,]+ steps to become an automaton: simplify it"):
        from_regex(pattern)


def test_sets_of_states_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the moves of their members, whatever the number of sets; below the bound nothing changes."""
    assert from_regex(r"(.*a.*b.*){6}").accepts(b"ab" * 6)
    monkeypatch.setattr("perstep.automata.determinise.MAX_WORK", 1_000)
    with pytest.raises(InputError, match=r"takes more than 1,000 steps"):
        from_regex(r"(.*a.*b.*){6}")
