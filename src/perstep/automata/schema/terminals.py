"""The pieces of a JSON text as terminals of a grammar: the texts that `InBytes` writes, as regexes of llguidance.

A terminal is an expression of llguidance's Lark: regexes joined by `&` and `~`, which its lexer follows by derivatives,
so that a length of 100,000 costs nothing before it is met. Every terminal ends where JSON's own tokens do, so that the
longest match is the only one. Does not know schemas: `grammar.py` puts the symbols together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from perstep.automata.alphabet import Alphabet
from perstep.automata.charset import ANY, RAW_IN_JSON, SHORT_ESCAPES, Ranges, charset, hex_sequences, intersect
from perstep.automata.determinise import determinise
from perstep.automata.dfa import STATE_LIMIT
from perstep.automata.nfa import EMPTY, Block, byte_ranges, optional, repeat, union
from perstep.automata.regex import ECMA, PYTHON, Dialect, regex_parts, regex_sets, regex_text
from perstep.automata.regular import regex_of
from perstep.automata.schema.formats import FORMATS
from perstep.automata.schema.numbers import listed_numbers, multiples_of, number_rules
from perstep.automata.schema.spacing import canonical, space_block, space_pattern
from perstep.automata.schema.strings import listed_values
from perstep.automata.schema.writing import Writing
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from perstep.automata.schema.shapes import Number, String

FIRST_SYMBOL = 256
"""Symbols are numbered from here on, behind the bytes."""

COUNTED_FROM = 4
"""Fewer copies are written one by one."""

CHARACTER = "CHARACTER"
"""The terminal of one character inside a string; `character_line` says what it is."""


@dataclass(frozen=True)
class Repeated:
    """The name of a rule that repeats another one.

    Attributes:
        part: the symbol of what is repeated.
        low: fewest times.
        high: most times.
    """

    part: int
    low: int
    high: int


class Symbols:
    """Numbers for terminals (their expressions) and rules (whatever names them), each once.

    Attributes:
        parts: blocks that are rules of their own because something repeats them, by what names them.
    """

    def __init__(self) -> None:
        self._number: dict[Hashable, int] = {}
        self.parts: dict[Hashable, Block] = {}

    def block(self, name: Hashable) -> Block:
        """A symbol as a block."""
        number = self._number.setdefault(name, FIRST_SYMBOL + len(self._number))
        return byte_ranges([(number, number)])

    def repeated(self, block: Block, low: int, high: int) -> Block:
        """A block several times, as a symbol."""
        return self.block(Repeated(self.part(block), low, high))

    def part(self, block: Block) -> int:
        """The symbol of a block that is a rule of its own."""
        edges, hops = block.listed()
        name = (*edges, *hops)
        self.parts[name] = block
        return int(self.block(name).edges[0, 1])

    def names(self) -> dict[int, Hashable]:
        """What each number stands for."""
        return {number: name for name, number in self._number.items()}


class InRules(Writing):
    """Writes symbols, some of which are rules of their own.

    Args:
        symbols: their numbers.
    """

    def __init__(self, symbols: Symbols) -> None:
        self._symbols = symbols

    def key(self, shape: String, matching: tuple[tuple[str, bool], ...], but: tuple[str, ...], path: str) -> Block:
        """The keys that a shape allows."""
        return self.string(shape.as_key(matching, but), path)

    def repeat(self, block: Block, low: int, high: int | None, limit: int, what: str) -> Block:
        """A block `low` to `high` times, as a rule of its own, which is counted without copies."""
        if high is None or high < COUNTED_FROM:
            return repeat(block, low, high, limit, what)
        return EMPTY if high == 0 else self._symbols.repeated(block, low, high)


class InTerminals(InRules):
    """Writes symbols.

    Args:
        policy: `fixed`, `flexible`, or a regex of what may stand between tokens.
        limit: most states of the automaton of that regex.
        symbols: their numbers.

    Raises:
        InputError: if the regex is malformed or matches anything but JSON whitespace.
    """

    def __init__(self, policy: str, limit: int, symbols: Symbols) -> None:
        super().__init__(symbols)
        if policy == "fixed":
            self.inside, self.item, self.colon = EMPTY, self.text(b", "), self.text(b": ")
            return
        space = space_block(policy, limit)
        source = regex_source(space_pattern(policy), PYTHON, plain_source)
        some = symbols.block(f"/{source}/ & /[ \\t\\r\\n]+/")
        self.inside = optional(some) if determinise(space, limit, policy).accepts(b"") else some
        self.item = symbols.block(f"/{source}/ {quoted(b',')} /{source}/")
        self.colon = symbols.block(f"/{source}/ {quoted(b':')} /{source}/")

    def text(self, data: bytes) -> Block:
        """Exactly `data`."""
        return self._symbols.block(quoted(data))

    def string(self, shape: String, path: str) -> Block:
        """The texts of a string, quotes included."""
        if shape.values is not None:
            return union(*(self.text(canonical(value)) for value in sorted(listed_values(shape))))
        try:
            return self._symbols.block(_string(shape))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def number(self, shape: Number, path: str) -> Block:
        """The texts of a number."""
        if shape.values is not None:
            return union(*(self.text(text) for text in listed_numbers(shape)))
        ways, rest = number_rules(shape), []
        for divisor, holds in shape.multiples:
            multiples = multiples_of(Fraction(repr(divisor)), path)
            source = regex_of(multiples, f"{path}: multipleOf {divisor!r}", _ascii_source)
            rest.append((source, holds))
        whole = " | ".join(
            " ".join([*[quoted(sign)] * bool(sign), f"({' & '.join(f'/{pattern}/' for pattern in patterns)})"])
            for sign, patterns in ways.ways
        )
        also = "".join(f" & {'' if holds else '~'}/{pattern}/" for pattern, holds in (*ways.also, *rest))
        return self._symbols.block(f"({whole}){also}" if ways.ways else "/[^\\s\\S]/")


def character_line() -> str:
    """The line of a grammar that defines `CHARACTER`."""
    return f"{CHARACTER}: /{json_source(ANY)}/"


def _string(shape: String) -> str:
    """The expression of a string that is not listed.

    Each rule is over the whole text, quotes included. So llguidance sees that what is common to many tokens keeps it,
    and computes a mask in 20 µs; with rules over the inside alone it took 900.
    """
    if shape.high == 0 and not shape.rules:
        return quoted(b'""')
    rules = []
    for name, argument, holds in shape.rules:
        sign = "" if holds else "~"
        if name == "pattern":
            rules.append(sign + _in_quotes(f"/{_pattern(argument)}/"))
        elif name == "format":
            if argument in FORMATS:
                rules.append(sign + _in_quotes(f"/{regex_source(FORMATS[argument], PYTHON, json_source)}/"))
        else:
            words = ("".join(json_source(((ord(c), ord(c)),)) for c in word) for word in argument)
            rules.append(sign + _in_quotes(f"/{'|'.join(words)}/"))
    if shape.low or shape.high:
        rules.append(_in_quotes(f"{CHARACTER}{{{shape.low},{'' if shape.high is None else shape.high}}}"))
    elif shape.high == 0:
        rules.append(_in_quotes('""'))
    elif all(rule.startswith("~") for rule in rules):
        rules.append(_in_quotes(f"{CHARACTER}*"))
    return " & ".join(rules)


def _in_quotes(inside: str) -> str:
    quote = quoted(b'"')
    return f"({quote} {inside} {quote})"


def _pattern(pattern: str) -> str:
    """The regex of a pattern that is searched for; one with anchors inside is made of its automaton."""
    try:
        return regex_source(pattern, ECMA, json_source, search=True)
    except _AnchorInsideError:
        alphabet = Alphabet(regex_sets(pattern, ECMA))
        text = regex_text(pattern, alphabet, ECMA, STATE_LIMIT, search=True)

        def symbols(read: list[int]) -> str:
            atoms = [alphabet.atoms[symbol] for symbol in read if symbol < len(alphabet)]
            return json_source(charset(*(pair for atom in atoms for pair in atom)))

        return regex_of(text, f"the regex {pattern[:60]!r}", symbols)


def _ascii_source(read: list[int]) -> str:
    return plain_source(tuple((byte, byte) for byte in read))


class _AnchorInsideError(InputError):
    """A regex has an anchor elsewhere than at its ends."""


def quoted(data: bytes) -> str:
    """A text as a string of Lark."""
    return json.dumps(data.decode())


# Regexes


def regex_source(pattern: str, dialect: Dialect, character: Callable[[Ranges], str], *, search: bool = False) -> str:
    """A regular expression as llguidance reads it, every character written by `character`.

    Raises:
        InputError: as for `from_regex`, and for an anchor inside a group.
    """
    return regex_parts(pattern, _Source(character, pattern), dialect, search=search)


class _Source:
    """Makes the text of a regex; every part can be repeated as it is."""

    def __init__(self, character: Callable[[Ranges], str], pattern: str) -> None:
        self._character = character
        self._pattern = pattern

    def characters(self, ranges: Ranges) -> str:
        """One character of a set."""
        return self._character(ranges)

    def marks(self, symbols: Iterable[int]) -> str:
        """Refused: the regexes of llguidance have no anchors."""
        del symbols
        raise _AnchorInsideError(f"the regex {self._pattern[:60]!r} has an anchor within, which llguidance cannot read")

    def sequence(self, *parts: str) -> str:
        """One after the other."""
        return f"(?:{''.join(parts)})"

    def union(self, *parts: str) -> str:
        """Any one of them."""
        return f"(?:{'|'.join(parts)})"

    def repeat(self, part: str, low: int, high: int | None, what: str) -> str:
        """A part several times."""
        del what
        return f"(?:{part}{{{low},{'' if high is None else high}}})"


def plain_source(ranges: Ranges) -> str:
    """One character of a set in UTF-8."""
    return f"[{''.join(_range_source(*pair) for pair in ranges)}]" if ranges else "[^\\s\\S]"


@lru_cache(maxsize=4096)
def json_source(ranges: Ranges) -> str:
    """One character of a set as it may be written inside a JSON string."""
    raw = intersect(ranges, RAW_IN_JSON)
    ways = [plain_source(raw)] * bool(raw)
    short = "".join(
        f"\\x{{{text[1]:X}}}" for point, text in SHORT_ESCAPES.items() if intersect(ranges, ((point, point),))
    )
    ways += [f"\\\\[{short}]"] * bool(short)
    ways += [
        f"\\\\u{''.join(map(_digit_source, digits))}"
        for low, high in intersect(ranges, ((0, 0xFFFF),))
        for digits in hex_sequences(low, high)
    ]
    return f"(?:{'|'.join(ways)})" if ways else "[^\\s\\S]"


def _digit_source(digit: list[tuple[int, int]]) -> str:
    return f"[{''.join(_range_source(*pair) for pair in digit)}]"


def _range_source(low: int, high: int) -> str:
    return f"\\x{{{low:X}}}" if low == high else f"\\x{{{low:X}}}-\\x{{{high:X}}}"
