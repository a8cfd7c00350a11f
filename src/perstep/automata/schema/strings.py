r"""Strings of a JSON schema: length, pattern and format, counted and matched in characters.

A character may be written raw, by a short escape or as `\uXXXX` (`charset.json_block`); the
automaton reads every way. `pattern` is searched for, as JSON Schema says, unless anchored. All rules on a string are
made one automaton over characters (`alphabet.py`) before any byte is written.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from perstep._json import Json
from perstep.automata.alphabet import Alphabet, complement, of_length, spelled
from perstep.automata.charset import ANY, charset, json_block, json_ways
from perstep.automata.determinise import determinise
from perstep.automata.dfa import STATE_LIMIT, Dfa, together
from perstep.automata.metering import metered_cache
from perstep.automata.nfa import NEVER, Block, literal, loop, optional, sequence, union
from perstep.automata.regex import ECMA, PYTHON, regex_sets, regex_text
from perstep.automata.schema.enums import trie_block
from perstep.automata.schema.formats import FORMATS
from perstep.automata.schema.spacing import canonical
from perstep.errors import InputError

if TYPE_CHECKING:
    from perstep.automata.charset import Ranges
    from perstep.automata.schema.shapes import String

_LONGEST_LOOKED_AT = 1_000  # characters; longer strings are taken for possible without a look


def string_block(shape: String, path: str, limit: int) -> Block:
    """The texts of a string, quotes included.

    Raises:
        InputError: if a length makes too many states, or a pattern cannot be read.
    """
    try:
        return _string_block(shape, limit)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


@metered_cache(256)
def string_automaton(shape: String, limit: int) -> Dfa:
    """The automaton of a string, quotes included; not minimal, since that takes longer than to read with it.

    Raises:
        InputError: as for `string_block`.
    """
    return determinise(_string_block(shape, limit), limit, _what(shape), merge=False)


@metered_cache(256)
def _string_block(shape: String, limit: int) -> Block:
    if shape.values is not None:
        return trie_block(sorted(canonical(value) for value in listed_values(shape)), limit)
    if not shape.rules and not shape.low and shape.high is None:
        return _any_string()
    alphabet, text = _text(shape.rules, shape.low, shape.high, limit)
    inside = spelled(text, alphabet, json_ways, limit, _what(shape))
    return sequence(literal(b'"'), inside, literal(b'"'))


def key_block(
    shape: String, matching: tuple[tuple[str, bool], ...], but: tuple[str, ...], path: str, limit: int
) -> Block:
    """The keys that a shape allows, that match some patterns and not others, and that are none of `but`."""
    return string_block(shape.as_key(matching, but), path, limit)


@lru_cache(maxsize=1)
def _any_string() -> Block:
    return sequence(literal(b'"'), optional(loop(json_block(ANY))), literal(b'"'))


def _what(shape: String) -> str:
    if shape.high is not None:
        return f"maxLength {shape.high}"
    return f"minLength {shape.low}" if shape.low else "the pattern"


def listed_values(shape: String) -> list[str]:
    """The listed values of a string that keep its rules."""
    kept = [v for v in shape.values or () if shape.low <= len(v) and (shape.high is None or len(v) <= shape.high)]
    for name, argument, holds in shape.rules:
        if name == "values":
            kept = [value for value in kept if (value in argument) is holds]
        elif name == "pattern":
            kept = [value for value in kept if pattern_matches(argument, value) is holds]
        elif argument in FORMATS:
            kept = [value for value in kept if _is_of_format(argument, value)]
    return kept


def can_be_string(shape: String) -> bool:
    """Whether some string keeps the rules; True where it would take long to know."""
    if shape.high is not None and shape.low > shape.high:
        return False
    if shape.values is not None:
        return bool(listed_values(shape))
    if not shape.rules or max(shape.low, shape.high or 0) > _LONGEST_LOOKED_AT:
        return True
    return not _text(shape.rules, shape.low, shape.high, STATE_LIMIT)[1].is_empty


@metered_cache(4096)
def pattern_matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text."""
    alphabet = Alphabet(regex_sets(pattern, ECMA))
    return _pattern(pattern, alphabet.atoms, STATE_LIMIT).accepts(alphabet.word(text))


def _is_of_format(name: str, text: str) -> bool:
    alphabet = Alphabet(regex_sets(FORMATS[name], PYTHON))
    return _format(name, alphabet.atoms).accepts(alphabet.word(text))


@metered_cache(256)
def _text(rules: tuple, low: int, high: int | None, limit: int) -> tuple[Alphabet, Dfa]:  # type: ignore[type-arg]
    """The alphabet of all rules of a string, and the automaton of what keeps them."""
    sets: list[Ranges] = [ANY]
    for name, argument, _ in rules:
        sets += _sets(name, argument)
    alphabet = Alphabet(sets)
    text = None
    for name, argument, holds in rules:
        rule = _rule(name, argument, alphabet, limit)
        if rule is not None:
            rule = rule if holds else complement(rule, alphabet)
            text = rule if text is None else together(text, rule, limit)
    if low or high is not None:
        if max(low, high or 0) > limit:
            raise InputError(
                f"a length of {max(low, high or 0):,} needs a state for each character, over the limit of {limit:,}: "
                "lower it, raise state_limit, or use an engine that counts (llguidance)"
            )
        size = of_length(low, high)
        # Hardly two places in a pattern are alike at one length, and to look for them takes longer than all else.
        text = size if text is None else together(text, size, limit, merge=False)
    return alphabet, alphabet.everything() if text is None else text


def _sets(name: str, argument: Json) -> list[Ranges]:
    """The sets of characters that a rule tells apart."""
    if name == "pattern":
        return list(regex_sets(argument, ECMA))
    if name == "format":
        return list(regex_sets(FORMATS[argument], PYTHON)) if argument in FORMATS else []
    return [charset((ord(sign), ord(sign))) for sign in sorted(set("".join(argument)))]


def _rule(name: str, argument: Json, alphabet: Alphabet, limit: int) -> Dfa | None:
    if name == "pattern":
        return _pattern(argument, alphabet.atoms, limit)
    if name == "format":
        return _format(argument, alphabet.atoms) if argument in FORMATS else None
    words = union(*(literal(alphabet.word(word)) for word in argument)) if argument else NEVER
    return determinise(words, limit, "listed values")


@metered_cache(512)
def _pattern(pattern: str, atoms: tuple[Ranges, ...], limit: int) -> Dfa:
    return regex_text(pattern, Alphabet(atoms), ECMA, limit, search=True)


@metered_cache(64)
def _format(name: str, atoms: tuple[Ranges, ...]) -> Dfa:
    return regex_text(FORMATS[name], Alphabet(atoms), PYTHON, STATE_LIMIT)
