r"""Regular expressions to automata over characters, and those to bytes.

The syntax is what Python, Rust and ECMA-262 agree on: literals, `.`, classes, groups, `|`,
`* + ? {n,m}`, anchors anywhere, `\d \w \s`, `\xHH`, `\uHHHH`, general categories as `\p{Lu}`, `(?i)`. What no
finite automaton can do, or what the three mean differently (backreferences, look-around, word
boundaries, other flags), is refused by name. `\s` and `.` are Python's with `re.ASCII`, or ECMA-262's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from perstep._words import plural
from perstep.automata import casing
from perstep.automata.alphabet import Alphabet, Encoding, spelled
from perstep.automata.charset import ANY, Ranges, charset, invert, utf8_ways
from perstep.automata.determinise import determinise
from perstep.automata.dfa import STATE_LIMIT, Dfa
from perstep.automata.metering import metered_cache
from perstep.automata.nfa import Block, byte_ranges, loop, optional, repeat, sequence, union
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

Part = TypeVar("Part")

DIGIT = charset((0x30, 0x39))
WORD = charset((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B, "a": 0x07, "0": 0x00}
_HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
_REFUSED_ESCAPES = {
    **dict.fromkeys("bB", "a word boundary"),
    **dict.fromkeys("123456789", "a backreference"),
    "k": "a backreference",
}
_COUNT = re.compile(r"\{(\d+)(,(\d*))?\}")
_PROPERTY = re.compile(r"\{(\^?)([A-Za-z_=]+)\}")
_LAST_ANCHOR = re.compile(r"(\$|\\[Zz])(?=\||$)")
_BEGIN, _END = 253, 254  # symbols that stand for the two ends of a text; atoms are fewer than 250


@dataclass(frozen=True)
class Dialect:
    r"""What `\s` and `.` mean.

    Attributes:
        space: the characters of `\s`.
        line_ends: what `.` does not match.
    """

    space: Ranges
    line_ends: Ranges


PYTHON = Dialect(charset((0x09, 0x0D), (0x20, 0x20)), charset((0x0A, 0x0A)))
"""Python's with `re.ASCII`."""

ECMA = Dialect(
    charset(
        *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
        *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
    ),
    charset((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)),
)
r"""ECMA-262's, which JSON Schema refers to: `\s` is WhiteSpace and LineTerminator."""


class Builder(Protocol[Part]):
    """What an expression is made into while it is read."""

    def characters(self, ranges: Ranges) -> Part:
        """One character of a set."""
        ...

    def marks(self, symbols: Iterable[int]) -> Part:
        """One of the marks for the two ends of a text."""
        ...

    def sequence(self, *parts: Part) -> Part:
        """One after the other; nothing for no parts."""
        ...

    def union(self, *parts: Part) -> Part:
        """Any one of them; what matches no text for no parts."""
        ...

    def repeat(self, part: Part, low: int, high: int | None, what: str) -> Part:
        """A part `low` to `high` times; `what` names it in an error."""
        ...


class _Blocks:
    """Makes blocks over the symbols of an alphabet."""

    def __init__(self, alphabet: Alphabet, state_limit: int) -> None:
        self._alphabet, self._limit = alphabet, state_limit

    def characters(self, ranges: Ranges) -> Block:
        """One character of a set."""
        return self._alphabet.block(ranges)

    def marks(self, symbols: Iterable[int]) -> Block:
        """One of the marks."""
        return byte_ranges([(symbol, symbol) for symbol in symbols])

    def sequence(self, *parts: Block) -> Block:
        """One after the other."""
        return sequence(*parts)

    def union(self, *parts: Block) -> Block:
        """Any one of them."""
        return union(*parts)

    def repeat(self, part: Block, low: int, high: int | None, what: str) -> Block:
        """A part several times."""
        return repeat(part, low, high, self._limit, what)


class _Sets:
    """Notes the sets of characters alone."""

    def __init__(self) -> None:
        self.found: dict[Ranges, None] = {ANY: None}

    def characters(self, ranges: Ranges) -> None:
        """One character of a set."""
        self.found[ranges] = None

    def marks(self, symbols: Iterable[int]) -> None:
        """Nothing."""

    def sequence(self, *parts: None) -> None:
        """Nothing."""

    def union(self, *parts: None) -> None:
        """Nothing."""

    def repeat(self, part: None, low: int, high: int | None, what: str) -> None:
        """Nothing."""


def from_regex(pattern: str, state_limit: int = STATE_LIMIT) -> Dfa:
    r"""The automaton of all texts, in UTF-8, that match `pattern` from end to end (as `re.fullmatch`).

    Args:
        pattern: the expression; a leading `^` and a trailing `$` are allowed and have no effect.
        state_limit: most states of the automaton.

    Raises:
        InputError: if the expression is malformed, uses an unsupported feature, or exceeds the limit.

    Examples:
        >>> from_regex(r"[a-z]+(-[a-z]+)*").accepts(b"well-known")
        True
    """
    return determinise(regex_block(pattern, utf8_ways, state_limit), state_limit, f"the regex {_short(pattern)}")


def regex_block(pattern: str, encoding: Encoding, state_limit: int) -> Block:
    """The block of a regular expression, matched from end to end, under an encoding of characters.

    Raises:
        InputError: as for `from_regex`.
    """
    alphabet = Alphabet(regex_sets(pattern, PYTHON))
    text = regex_text(pattern, alphabet, PYTHON, state_limit)
    return spelled(text, alphabet, encoding, 4 * state_limit, f"the regex {_short(pattern)}")


@metered_cache(512)
def regex_sets(pattern: str, dialect: Dialect) -> tuple[Ranges, ...]:
    """The sets of characters that a pattern speaks of.

    Raises:
        InputError: as for `from_regex`.
    """
    sets = _Sets()
    _Parser(pattern, sets, dialect).parse(search=False)
    return tuple(sets.found)


def regex_text(pattern: str, alphabet: Alphabet, dialect: Dialect, state_limit: int, *, search: bool = False) -> Dfa:
    """The automaton over characters of a regular expression.

    Args:
        pattern: the expression.
        alphabet: characters, made of its `regex_sets` and perhaps others.
        dialect: what its classes mean.
        state_limit: most states.
        search: match anywhere, as JSON Schema's `pattern` does, and not from end to end.

    Raises:
        InputError: as for `from_regex`.
    """
    parser = _Parser(pattern, _Blocks(alphabet, state_limit), dialect)
    block = parser.parse(search)
    source = f"the regex {_short(pattern)}"
    text = determinise(block, state_limit, source)
    return _without_ends(text, alphabet, state_limit) if parser.anchors_inside else text


def regex_parts(pattern: str, build: Builder[Part], dialect: Dialect, *, search: bool = False) -> Part:
    """A regular expression in another form than automata.

    Args:
        pattern: the expression.
        build: makes the parts.
        dialect: what its classes mean.
        search: match anywhere, and not from end to end.

    Raises:
        InputError: as for `from_regex`; and of the builder's own, where it has no marks for the ends.
    """
    return _Parser(pattern, build, dialect).parse(search)


def _without_ends(text: Dfa, alphabet: Alphabet, state_limit: int) -> Dfa:
    """The texts x such that some of begin marks, x, and some of end marks is in a language with such marks."""
    characters = alphabet.block(ANY)
    begin, end = byte_ranges([(_BEGIN, _BEGIN)]), byte_ranges([(_END, _END)])
    around = sequence(optional(loop(begin)), loop(characters), optional(loop(end)))
    empty = optional(loop(byte_ranges([(_BEGIN, _END)])))
    marked = text & determinise(union(around, empty), state_limit, text.source)
    by_byte = marked.transitions[:, marked.byte_class]
    states, symbols = np.nonzero(by_byte)
    targets = by_byte[states, symbols]
    is_mark = symbols >= _BEGIN
    place = np.arange(1, len(marked.accepting) + 1)  # after the entry; the exit is 1
    edges = np.stack([place[states], symbols, symbols, place[targets]], axis=1)[~is_mark]
    hops = [
        np.array([[0, place[marked.start]]]).repeat(0 if marked.is_empty else 1, axis=0),
        np.stack([place[states], place[targets]], axis=1)[is_mark],
        np.stack([place[marked.accepting], np.ones(marked.accepting.sum(), np.int64)], axis=1),
    ]
    size = len(marked.accepting) + 1
    erased = Block(max(size, 2), edges.astype(np.int32), np.concatenate(hops).astype(np.int32))
    return determinise(erased, state_limit, text.source)


def _short(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 60 else pattern[:57] + "...")


class _Parser(Generic[Part]):
    """A recursive descent over the expression; every method leaves `_at` behind what it read.

    Attributes:
        anchors_inside: whether an anchor stood elsewhere than around a branch; then the block reads marks for the ends.
    """

    def __init__(self, pattern: str, build: Builder[Part], dialect: Dialect) -> None:
        self._pattern = pattern
        self._build = build
        self._dialect = dialect
        self._classes = {
            "d": DIGIT,
            "w": WORD,
            "s": dialect.space,
            "D": invert(DIGIT),
            "W": invert(WORD),
            "S": invert(dialect.space),
        }
        self._at = 0
        self._depth = 0
        self._ignores_case = False
        self.anchors_inside = False

    def parse(self, search: bool) -> Part:
        """The block of the whole expression."""
        self._ignores_case = self._take("(?i)")
        begin = self._at
        ways = self._top(search, marks=False)
        if self.anchors_inside:
            self._at = begin
            ways = self._top(search, marks=True)
        if self._at < len(self._pattern):
            raise self._error("a ) without its (")
        return self._build.union(*ways)

    def _top(self, search: bool, *, marks: bool) -> list[Part]:
        """The branches of the expression, with what may stand around each."""
        build = self._build
        anything = [build.characters(ANY)] * search
        before, after = (
            build.repeat(build.union(*anything, *([build.marks([mark])] if marks else [])), 0, None, "")
            if search or marks
            else build.sequence()
            for mark in (_BEGIN, _END)
        )
        ways = []
        while True:
            begins = not marks and (self._take("^") or self._take(r"\A"))
            body = self._branch(top=True)
            ends = not marks and bool(self._anchor())
            ways.append(build.sequence(*[before] * (not begins), body, *[after] * (not ends)))
            if not self._take("|"):
                return ways

    def _anchor(self) -> str:
        """The anchor that stands next, taken; nothing if none does."""
        for sign in ("^", r"\A", "$", r"\Z", r"\z"):
            if self._take(sign):
                return "begin" if sign in ("^", r"\A") else "end"
        return ""

    def _error(self, what: str, at: int | None = None) -> InputError:
        place = self._at if at is None else at
        return InputError(
            f"the regex {_short(self._pattern)} has {what} at position {place}, "
            "which cannot be compiled to an automaton"
        )

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        if not self._pattern.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _alternatives(self) -> Part:
        ways = [self._branch(top=False)]
        while self._take("|"):
            ways.append(self._branch(top=False))
        return ways[0] if len(ways) == 1 else self._build.union(*ways)

    def _branch(self, *, top: bool) -> Part:
        parts = []
        while self._at < len(self._pattern) and self._peek() not in "|)":
            if top and not self.anchors_inside and _LAST_ANCHOR.match(self._pattern, self._at):
                break
            anchor = self._anchor()
            self.anchors_inside |= bool(anchor)
            mark = _BEGIN if anchor == "begin" else _END
            atom = self._build.repeat(self._build.marks([mark]), 1, None, "") if anchor else self._atom()
            parts.append(self._quantified(atom))
        return parts[0] if len(parts) == 1 else self._build.sequence(*parts)

    def _quantified(self, part: Part) -> Part:
        at = self._at
        bounds = self._bounds()
        if bounds is None:
            return part
        if self._take("+"):
            raise self._error("a possessive quantifier", at)
        self._take("?")  # a lazy quantifier matches the same texts
        if self._at < len(self._pattern) and (self._peek() in "*+?" or _COUNT.match(self._pattern, self._at)):
            raise self._error("a quantifier on a quantifier")
        low, high = bounds
        if high is not None and high < low:
            raise self._error("a count that ends below its beginning", at)
        return self._build.repeat(part, low, high, f"the regex {_short(self._pattern)} at position {at}")

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        match = _COUNT.match(self._pattern, self._at)
        if match is None:
            if re.compile(r"\{,\d*\}").match(self._pattern, self._at):
                raise self._error(
                    "a count without its beginning, which regex dialects read differently (write {0,...})"
                )
            return None
        self._at = match.end()
        low = int(match[1])
        if match[2] is None:
            return low, low
        return low, int(match[3]) if match[3] else None

    def _atom(self) -> Part:
        at = self._at
        sign = self._peek()
        if sign == "(":
            return self._group()
        if sign == "[":
            return self._build.characters(self._class())
        if sign in "*+?":
            raise self._error("a quantifier without anything to repeat")
        if sign == "\\":
            escaped = self._escape()
            if isinstance(escaped, str):
                raise self._error(escaped, at)
            return self._set(escaped)
        self._at += 1
        if sign == ".":
            return self._set(invert(self._dialect.line_ends))
        return self._set(self._one(sign))

    def _set(self, ranges: Ranges) -> Part:
        return self._build.characters(casing.in_any_case(ranges) if self._ignores_case else ranges)

    def _one(self, sign: str) -> Ranges:
        point = ord(sign)
        if 0xD800 <= point <= 0xDFFF:
            raise self._error("half of a surrogate pair")
        return ((point, point),)

    def _group(self) -> Part:
        at = self._at
        self._at += 1
        self._depth += 1
        if self._depth > 100:
            raise self._error("more than 100 nested groups", at)
        if self._take("?"):
            named = re.compile(r"P?<[A-Za-z_]\w*>").match(self._pattern, self._at)
            if named:
                self._at = named.end()
            elif self._take("i:"):
                return self._rest_of_group(at, ignores_case=True)
            elif not self._take(":"):
                raise self._error("a group with flags or look-around", at)
        return self._rest_of_group(at, ignores_case=self._ignores_case)

    def _rest_of_group(self, at: int, *, ignores_case: bool) -> Part:
        outside, self._ignores_case = self._ignores_case, ignores_case
        block = self._alternatives()
        self._ignores_case = outside
        if not self._take(")"):
            raise self._error("a ( without its )", at)
        self._depth -= 1
        return block

    def _escape(self) -> Ranges | str:
        """The characters an escape stands for, or what kind of refused escape it is."""
        self._at += 1
        sign = self._peek()
        self._at += 1
        if sign == "":
            return "a backslash at its end"
        if sign in self._classes:
            return self._classes[sign]
        if sign in "pP":
            return self._property(sign == "P")
        if sign in _REFUSED_ESCAPES:
            return _REFUSED_ESCAPES[sign]
        if sign in _CONTROLS:
            return ((_CONTROLS[sign], _CONTROLS[sign]),)
        if sign in _HEX_LENGTHS:
            return self._hex(_HEX_LENGTHS[sign])
        if sign.isalnum():
            return f"the unknown escape \\{sign}"
        return self._one(sign)

    def _property(self, negated: bool) -> Ranges | str:
        """The characters of a general category, by its short or long name."""
        match = _PROPERTY.match(self._pattern, self._at)
        chosen = casing.category(match[2]) if match else None
        if match is None or chosen is None:
            return "a Unicode property that is no general category"
        self._at = match.end()
        return invert(chosen) if negated != bool(match[1]) else chosen

    def _hex(self, length: int) -> Ranges | str:
        braced = re.compile(r"\{([0-9A-Fa-f]{1,8})\}").match(self._pattern, self._at)
        digits = braced[1] if braced else self._pattern[self._at : self._at + length]
        if (len(digits) < length and not braced) or not re.fullmatch("[0-9A-Fa-f]+", digits):
            return f"an escape without its {plural(length, 'hexadecimal digit')}"
        self._at = braced.end() if braced else self._at + length
        point = int(digits, 16)
        if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
            return "an escape that is no character"
        return ((point, point),)

    def _class(self) -> Ranges:
        at = self._at
        self._at += 1
        negated = self._take("^")
        if self._peek() == "]":
            raise self._error(
                "a ] at the beginning of a class, which regex dialects read differently (write \\] for it)"
            )
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            if self._at >= len(self._pattern):
                raise self._error("a [ without its ]", at)
            if self._pattern[self._at : self._at + 2] in ("[:", "&&", "--", "~~", "||") or self._peek() == "[":
                raise self._error("a class within a class (write \\[ for the character)")
            low = self._class_item()
            if self._pattern.startswith("--", self._at):
                raise self._error("a class within a class (write \\- for the character)")
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._class_item()
                if not (_is_character(low) and _is_character(high)):  # the hyphen is itself, as ECMA-262 says
                    ranges.extend([*low, (0x2D, 0x2D), *high])
                    continue
                if low[0][0] > high[0][0]:
                    raise self._error("a range that ends below its beginning", at)
                ranges.append((low[0][0], high[0][0]))
            else:
                ranges.extend(low)
        chosen = charset(*ranges)
        if self._ignores_case:
            chosen = casing.in_any_case(chosen)
        return invert(chosen) if negated else chosen

    def _class_item(self) -> Ranges:
        at = self._at
        if self._peek() != "\\":
            self._at += 1
            return self._one(self._pattern[at])
        if self._pattern[at + 1 : at + 2] == "b":  # inside a class, backspace
            self._at += 2
            return ((0x08, 0x08),)
        escaped = self._escape()
        if isinstance(escaped, str):
            raise self._error(escaped, at)
        return escaped


def _is_character(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]
