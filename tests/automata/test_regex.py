"""Regular expressions against Python's own and against outlines-core."""

import contextlib
import itertools
import random
import re
from collections.abc import Callable

import numpy as np
import pytest
import regex
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from outlines_core import Index
from outlines_core import Vocabulary as OutlinesVocabulary
from tests.drawn import examples

from perstep.automata import Dfa, from_regex
from perstep.automata.alphabet import Alphabet
from perstep.automata.charset import ANY, charset, invert, json_block, utf8_block, utf8_sequences
from perstep.automata.determinise import determinise
from perstep.automata.dfa import minimal
from perstep.automata.nfa import literal, sequence
from perstep.automata.regex import ECMA, PYTHON, regex_sets, regex_text
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
@settings(max_examples=examples(400), deadline=None)
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
    alphabet = Alphabet(regex_sets(whole, PYTHON))
    dfa = regex_text(whole, alphabet, PYTHON, 10_000, search=True)
    for text in samples:
        assert dfa.accepts(alphabet.word(text)) == bool(re.search(whole.replace("$", r"\Z"), text, re.ASCII))


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
        ("(?s)a", "flags"),
        ("a(?i)b", "flags"),
        (r"\p{Script=Greek}", "Unicode property"),
        (r"\pL", "Unicode property"),
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
@settings(max_examples=examples(600), deadline=None)
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


SEARCHED = [
    *(
        "(^a|b$)",
        "(^|,)a",
        "a(b|$)",
        "x^",
        "a^b",
        "a(b$|,)",
        "(a|$)(^b|)",
        "^(?:a|^b)$",
        "$",
        "^",
        "(a|b)*$|^,",
        "(^a){2}",
    ),
    *(
        r"[\w-.]+",
        r"[a-\d]",
        "(?i)ab",
        "(?i)[^ab]",
        "(?i:a)b",
        "(?i)[a-z]é",
        r"\p{Lu}",
        r"^\p{L}+$",
        r"[^\p{L}\d]",
        r"\P{Ll}",
    ),
    *("foo.{0,20}", "a.{3}b", "(ab|ba|,,)+$"),
]


@pytest.mark.parametrize("pattern", SEARCHED)
def test_what_schemas_write_in_patterns(pattern: str) -> None:
    """Anchors in any place, a hyphen beside a class, cases and general categories: as the module `regex` searches."""
    alphabet = Alphabet(regex_sets(pattern, PYTHON))
    dfa = regex_text(pattern, alphabet, PYTHON, 10_000, search=True)
    spelled_out = pattern.replace(r"[\w-.]", r"[\w\-.]").replace(r"[a-\d]", r"[a\-\d]").replace("$", r"\Z")
    peer = regex.compile(spelled_out, 0 if "p{" in pattern.lower() or "é" in pattern else regex.ASCII)
    for length in range(4):
        for signs in itertools.product("abAB,-é0xÉ", repeat=length):
            text = "".join(signs)
            assert dfa.accepts(alphabet.word(text)) == bool(peer.search(text)), text


def test_classes_are_those_of_ecma_262_where_a_schema_asks() -> None:
    """White space beyond ASCII is of the class, and a dot stops at every line end; Python with re.ASCII differs."""
    for sign, is_space, is_dot in (
        ("\u00a0", 1, 1),
        ("\u2028", 1, 0),
        ("\r", 1, 0),
        ("\ufeff", 1, 1),
        ("\x1c", 0, 1),
        ("é", 0, 1),
    ):
        for pattern, wanted in ((r"^\s$", is_space), (r"^\S$", not is_space), ("^.$", is_dot)):
            alphabet = Alphabet(regex_sets(pattern, ECMA))
            dfa = regex_text(pattern, alphabet, ECMA, 100, search=True)
            assert dfa.accepts(alphabet.word(sign)) == bool(wanted), (sign, pattern)
    assert not from_regex(r"\s").accepts("\u00a0".encode())


def test_a_repetition_costs_characters_and_not_their_encodings() -> None:
    """States are counted on the automaton itself: what explodes on the way to a few dozen states is not refused."""
    alphabet = Alphabet(regex_sets("foo.{0,20}", ECMA))
    assert regex_text("foo.{0,20}", alphabet, ECMA, 30, search=True).num_states == 4
    words = "alpha|beta|gamma|delta|epsilon|zeta|eta"
    alphabet = Alphabet(regex_sets(words, ECMA))
    assert regex_text(words, alphabet, ECMA, 100, search=True).num_states == 18


def test_more_kinds_of_characters_than_symbols_are_refused() -> None:
    """An alphabet of more than 250 atoms is named."""
    with pytest.raises(InputError, match="kinds of characters apart, over the limit of 250"):
        Alphabet([((point, point),) for point in range(0x100, 0x200)])
