r"""Regular expressions to byte automata, over UTF-8 text or over the inside of a JSON string.

The syntax is what Python, Rust and ECMA-262 agree on: literals, `.`, classes, groups, `|`,
`* + ? {n,m}`, `\d \w \s` (ASCII, as ECMA-262 has them), `\xHH`, `\uHHHH`. What no finite
automaton can do, or what the three mean differently (backreferences, look-around, word
boundaries, flags), is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from perstep._words import plural
from perstep.automata.charset import ANY, Ranges, charset, invert, utf8_block
from perstep.automata.determinise import determinise
from perstep.automata.dfa import STATE_LIMIT
from perstep.automata.nfa import EMPTY, Block, loop, optional, repeat, sequence, union
from perstep.errors import InputError

if TYPE_CHECKING:
    from perstep.automata.dfa import Dfa

Encoding = Callable[[Ranges], Block]
"""How one character of a set is written: `utf8_block` or `json_block`."""

DIGIT = charset((0x30, 0x39))
WORD = charset((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE = charset((0x09, 0x0D), (0x20, 0x20))
_NOT_NEWLINE = invert(charset((0x0A, 0x0A)))
_CLASSES = {"d": DIGIT, "w": WORD, "s": SPACE, "D": invert(DIGIT), "W": invert(WORD), "S": invert(SPACE)}
_CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B, "a": 0x07, "0": 0x00}
_HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
_REFUSED_ESCAPES = {
    **dict.fromkeys("bB", "a word boundary"),
    **dict.fromkeys("123456789", "a backreference"),
    **dict.fromkeys("pP", "a Unicode property"),
    "k": "a backreference",
}
_COUNT = re.compile(r"\{(\d+)(,(\d*))?\}")


def from_regex(pattern: str, state_limit: int = STATE_LIMIT) -> Dfa:
    r"""The automaton of all texts, in UTF-8, that match `pattern` from end to end (as `re.fullmatch`).

    Args:
        pattern: the expression; a leading `^` and a trailing `$` are allowed and have no effect.
        state_limit: most states of the automaton.

    Raises:
        InputError: if the expression is malformed, uses an unsupported feature, or exceeds the limit.

    Example:
        >>> from_regex(r"[a-z]+(-[a-z]+)*").accepts(b"well-known")
        True
    """
    return determinise(regex_block(pattern, utf8_block, state_limit), state_limit, f"the regex {_short(pattern)}")


def regex_block(pattern: str, encoding: Encoding, state_limit: int, *, search: bool = False) -> Block:
    """The block of a regular expression under an encoding of characters.

    Args:
        pattern: the expression.
        encoding: how one character of a set is written in bytes.
        state_limit: most states that a repetition may make.
        search: match anywhere, as JSON Schema's `pattern` does, and not from end to end.

    Raises:
        InputError: as for `from_regex`.
    """
    return _Parser(pattern, encoding, state_limit).parse(search)


def _short(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 60 else pattern[:57] + "...")


class _Parser:
    """A recursive descent over the expression; every method leaves `_at` behind what it read."""

    def __init__(self, pattern: str, encoding: Encoding, state_limit: int) -> None:
        self._pattern = pattern
        self._encoding = encoding
        self._limit = state_limit
        self._at = 0
        self._depth = 0

    def parse(self, search: bool) -> Block:
        around = optional(loop(self._encoding(ANY))) if search else EMPTY
        ways = []
        while True:
            begins = self._take("^") or self._take(r"\A")
            body = self._branch(top=True)
            ends = self._take("$") or self._take(r"\Z") or self._take(r"\z")
            ways.append(sequence(EMPTY if begins else around, body, EMPTY if ends else around))
            if not self._take("|"):
                break
        if self._at < len(self._pattern):
            raise self._error("an anchor in the middle" if self._peek() in "^$\\" else "a ) without its (")
        return ways[0] if len(ways) == 1 else union(*ways)

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

    def _alternatives(self) -> Block:
        ways = [self._branch(top=False)]
        while self._take("|"):
            ways.append(self._branch(top=False))
        return ways[0] if len(ways) == 1 else union(*ways)

    def _branch(self, *, top: bool) -> Block:
        parts = []
        while self._at < len(self._pattern) and self._peek() not in "|)":
            if self._peek() in "^$" or self._pattern[self._at : self._at + 2] in (r"\A", r"\Z", r"\z"):
                if top:
                    break
                raise self._error("an anchor inside a group")
            parts.append(self._quantified(self._atom()))
        return parts[0] if len(parts) == 1 else sequence(*parts)

    def _quantified(self, block: Block) -> Block:
        at = self._at
        bounds = self._bounds()
        if bounds is None:
            return block
        if self._take("+"):
            raise self._error("a possessive quantifier", at)
        self._take("?")  # a lazy quantifier matches the same texts
        if self._at < len(self._pattern) and (self._peek() in "*+?" or _COUNT.match(self._pattern, self._at)):
            raise self._error("a quantifier on a quantifier")
        low, high = bounds
        if high is not None and high < low:
            raise self._error("a count that ends below its beginning", at)
        return repeat(block, low, high, self._limit, f"the regex {_short(self._pattern)} at position {at}")

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        found = _COUNT.match(self._pattern, self._at)
        if found is None:
            if re.compile(r"\{,\d*\}").match(self._pattern, self._at):
                raise self._error(
                    "a count without its beginning, which regex dialects read differently (write {0,...})"
                )
            return None
        self._at = found.end()
        low = int(found[1])
        if found[2] is None:
            return low, low
        return low, int(found[3]) if found[3] else None

    def _atom(self) -> Block:
        at = self._at
        sign = self._peek()
        if sign == "(":
            return self._group()
        if sign == "[":
            return self._encoding(self._class())
        if sign in "*+?":
            raise self._error("a quantifier without anything to repeat")
        if sign == "\\":
            found = self._escape()
            if isinstance(found, str):
                raise self._error(found, at)
            return self._encoding(found)
        self._at += 1
        if sign == ".":
            return self._encoding(_NOT_NEWLINE)
        return self._encoding(self._one(sign))

    def _one(self, sign: str) -> Ranges:
        point = ord(sign)
        if 0xD800 <= point <= 0xDFFF:
            raise self._error("half of a surrogate pair")
        return ((point, point),)

    def _group(self) -> Block:
        at = self._at
        self._at += 1
        self._depth += 1
        if self._depth > 100:
            raise self._error("more than 100 nested groups", at)
        if self._take("?"):
            named = re.compile(r"P?<[A-Za-z_]\w*>").match(self._pattern, self._at)
            if named:
                self._at = named.end()
            elif not self._take(":"):
                raise self._error("a group with flags or look-around", at)
        block = self._alternatives()
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
        if sign in _CLASSES:
            return _CLASSES[sign]
        if sign in _REFUSED_ESCAPES:
            return _REFUSED_ESCAPES[sign]
        if sign in _CONTROLS:
            return ((_CONTROLS[sign], _CONTROLS[sign]),)
        if sign in _HEX_LENGTHS:
            return self._hex(_HEX_LENGTHS[sign])
        if sign.isalnum():
            return f"the unknown escape \\{sign}"
        return self._one(sign)

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
                if len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1] or high[0][0] != high[0][1]:
                    raise self._error("a range between things that are not characters", at)
                if low[0][0] > high[0][0]:
                    raise self._error("a range that ends below its beginning", at)
                ranges.append((low[0][0], high[0][0]))
            else:
                ranges.extend(low)
        chosen = charset(*ranges)
        return invert(chosen) if negated else chosen

    def _class_item(self) -> Ranges:
        at = self._at
        if self._peek() != "\\":
            self._at += 1
            return self._one(self._pattern[at])
        if self._pattern[at + 1 : at + 2] == "b":  # inside a class, backspace
            self._at += 2
            return ((0x08, 0x08),)
        found = self._escape()
        if isinstance(found, str):
            raise self._error(found, at)
        return found
