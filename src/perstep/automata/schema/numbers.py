"""Numbers of a JSON schema: integers, decimals, bounds and multiples, as texts.

Integers are written without fraction and exponent. Numbers of which nothing else is said are written in all
ways JSON has; others without an exponent, because 1e400 and its like
cannot be compared digit by digit. An exclusive bound of a number is the inclusive one at the
next double, and a bound that no double holds the nearest one inside, so that a reader who parses into doubles agrees
with the automaton. Multiples are those of the decimals that are written, as JSON Schema has it, not of their doubles.
What must not be whole, or not be a multiple, has at most 15 digits, so that no reader rounds it to what it must not be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from perstep.automata.charset import utf8_ways
from perstep.automata.determinise import determinise
from perstep.automata.dfa import Dfa, minimal
from perstep.automata.metering import metered_cache
from perstep.automata.nfa import Block, literal, of_dfa, sequence, union
from perstep.automata.regex import regex_block
from perstep.errors import InputError

if TYPE_CHECKING:
    from perstep.automata.schema.shapes import Number

_INTEGER = "-?(0|[1-9][0-9]*)"
_NUMBER = _INTEGER + r"(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_DECIMAL = _INTEGER + r"(\.[0-9]+)?"
_FRACTION = r"(\.[0-9]+)?"
_FEW_DIGITS = r"-?([0-9]\.?){0,14}[0-9]"  # no two such decimals are one double
_LARGEST_MULTIPLE = 10_000
_LARGEST_WHOLE_FLOAT = 2**53


def number_block(shape: Number, path: str) -> Block:
    """The texts of a number.

    Raises:
        InputError: if a divisor is too large.
    """
    if shape.values is not None:
        return union(*map(literal, listed_numbers(shape)))
    return of_dfa(unlisted_number(shape, path))


@metered_cache(512)
def unlisted_number(shape: Number, path: str) -> Dfa:
    """The automaton of a number that is not listed.

    Listed ones are not remembered: 1 and 1.0 are equal and written differently.
    """
    rules = number_rules(shape)
    text = determinise(
        union(*(sequence(literal(sign), of_dfa(_all_of(patterns))) for sign, patterns in rules.ways)),
        100_000,
        "a number",
    )
    for pattern, holds in rules.also:
        text = text & _regex(pattern) if holds else text - _regex(pattern)
    for divisor, holds in shape.multiples:
        multiples = multiples_of(Fraction(repr(divisor)), path)
        text = text & multiples if holds else text - multiples
    return text


def _all_of(patterns: tuple[str, ...]) -> Dfa:
    text = _regex(patterns[0])
    for pattern in patterns[1:]:
        text = text & _regex(pattern)
    return text


@dataclass(frozen=True)
class NumberRules:
    """The texts of a number as regexes, without its multiples.

    Attributes:
        ways: a sign, and patterns that what follows it keeps together.
        also: patterns that the whole text keeps, or must not.
    """

    ways: tuple[tuple[bytes, tuple[str, ...]], ...]
    also: tuple[tuple[str, bool], ...]


def number_rules(shape: Number) -> NumberRules:
    """What the texts of a number that is not listed keep, but for its multiples."""
    low, high = _range(shape)
    if low is not None or high is not None:
        ways = _bounded(low, high, shape.whole is True)
    elif shape.whole:
        ways = ((b"", (_INTEGER,)),)
    else:
        ways = ((b"", (_NUMBER if shape.whole is None and not shape.multiples else _DECIMAL,)),)
    also: list[tuple[str, bool]] = []
    if shape.whole is False:
        also.append((_INTEGER + r"(\.0+)?", False))
    if shape.whole is False or not all(holds for _, holds in shape.multiples):
        also.append((_FEW_DIGITS, True))
    return NumberRules(ways, tuple(also))


def can_be_number(shape: Number) -> bool:
    """Whether some number is left, as far as bounds and values say."""
    if shape.values is not None:
        return any(_fits(shape, value) for value in shape.values)
    low, high = _range(shape)
    return low is None or high is None or low <= high


def finite_numbers(shape: Number, most: int) -> list[int | float] | None:
    """All numbers of a shape, if they are few."""
    if shape.values is not None:
        return [value for value in shape.values if _fits(shape, value)]
    low, high = _range(shape)
    if shape.whole is not True or low is None or high is None or high - low >= most:
        return None
    return [value for value in range(int(low), int(high) + 1) if _fits(shape, value)]


def listed_numbers(shape: Number) -> list[bytes]:
    """The texts of the listed values that keep the bounds and multiples."""
    return [text for value in shape.values or () if _fits(shape, value) for text in spellings(value)]


def spellings(value: float) -> list[bytes]:
    """How a listed number may be written: as json.dumps does, and a whole one without its fraction too."""
    forms = [repr(value).encode()]
    if isinstance(value, float) and value == int(value) and abs(value) < _LARGEST_WHOLE_FLOAT:
        forms.append(str(int(value)).encode())
    return forms


def _fits(shape: Number, value: float) -> bool:
    """Whether a value is within the bounds and keeps the multiples."""
    if shape.whole is not None and (value == int(value)) is not shape.whole:
        return False
    met = {
        "minimum": lambda bound: bound <= value,
        "maximum": lambda bound: value <= bound,
        "exclusiveMinimum": lambda bound: bound < value,
        "exclusiveMaximum": lambda bound: value < bound,
    }
    return all(met[name](bound) for name, bound in shape.bounds) and all(
        (Fraction(repr(value)) % Fraction(repr(divisor)) == 0) is holds for divisor, holds in shape.multiples
    )


def _range(shape: Number) -> tuple[Decimal | None, Decimal | None]:
    """Inclusive bounds; None where there is none."""
    lows = [_inclusive(value, name, shape.whole is True) for name, value in shape.bounds if name.endswith("inimum")]
    highs = [_inclusive(value, name, shape.whole is True) for name, value in shape.bounds if name.endswith("aximum")]
    return max(lows, default=None), min(highs, default=None)


def _inclusive(value: float, name: str, whole: bool) -> Decimal:
    """A bound as the last value inside."""
    exclusive, up = name.startswith("exclusive"), name.endswith("inimum")
    if whole:
        rounded = math.ceil(value) if up else math.floor(value)
        return Decimal(rounded + (1 if up else -1) * (exclusive and rounded == value))
    inside = math.inf if up else -math.inf
    double = float(value)
    if (exclusive and double == value) or (double < value if up else double > value):
        double = math.nextafter(double, inside)
    return Decimal(repr(double))


@metered_cache(256)
def _regex(pattern: str) -> Dfa:
    return determinise(regex_block(pattern, utf8_ways, 100_000), 100_000, "a number")


def _bounded(low: Decimal | None, high: Decimal | None, whole: bool) -> tuple[tuple[bytes, tuple[str, ...]], ...]:
    """Texts within bounds: those without a sign, and those with one, whose magnitudes are bounded the other way."""
    fraction = "" if whole else _FRACTION
    ways = []
    for sign, least, most in ((b"", low, high), (b"-", _negated(high), _negated(low))):
        if most is not None and most < 0:
            continue
        patterns = ["(0|[1-9][0-9]*)" + fraction]
        if least is not None and least > 0:
            patterns.append(_at_least(least))
        if most is not None:
            patterns.append(_at_most(most))
        ways.append((sign, tuple(patterns)))
    return tuple(ways)


def _negated(value: Decimal | None) -> Decimal | None:
    return None if value is None else -value


def _digits(value: Decimal) -> tuple[str, str]:
    """The digits before and after the point, without needless zeros."""
    whole, _, fraction = format(abs(value), "f").partition(".")
    return whole.lstrip("0") or "0", fraction.rstrip("0")


def _at_most(value: Decimal) -> str:
    """The regex of all decimals from 0 up to `value`."""
    whole, fraction = _digits(value)
    ways = []
    if len(whole) > 1:
        ways.append(f"(0|[1-9][0-9]{{0,{len(whole) - 2}}}){_FRACTION}")
    for place, digit in enumerate(whole):
        lowest = 1 if place == 0 and len(whole) > 1 else 0
        if int(digit) > lowest:
            tail = f"[0-9]{{{len(whole) - place - 1}}}"
            ways.append(f"{whole[:place]}[{lowest}-{int(digit) - 1}]{tail}{_FRACTION}")
    smaller = [f"{fraction[:place]}[0-{int(d) - 1}][0-9]*" for place, d in enumerate(fraction) if d != "0"]
    shorter = [fraction[:place] for place in range(1, len(fraction))]
    ways.append(rf"{whole}(\.({'|'.join([*smaller, *shorter, fraction + '0*' if fraction else '0+'])}))?")
    return "|".join(ways)


def _at_least(value: Decimal) -> str:
    """The regex of all decimals from `value` (which is above 0) on."""
    whole, fraction = _digits(value)
    ways = [f"[1-9][0-9]{{{len(whole)},}}{_FRACTION}"]
    for place, digit in enumerate(whole):
        if digit != "9":
            ways.append(f"{whole[:place]}[{int(digit) + 1}-9][0-9]{{{len(whole) - place - 1}}}{_FRACTION}")
    if not fraction:
        ways.append(whole + _FRACTION)
        return "|".join(ways)
    larger = [f"{fraction[:place]}[{int(d) + 1}-9][0-9]*" for place, d in enumerate(fraction) if d != "9"]
    ways.append(rf"{whole}\.({'|'.join([*larger, fraction + '[0-9]*'])})")
    return "|".join(ways)


@metered_cache(64)
def multiples_of(divisor: Fraction, path: str) -> Dfa:
    """All decimals, with or without a sign, that a divisor divides.

    A state is a remainder and a place behind the point.

    Raises:
        InputError: if the divisor has too many digits.
    """
    import numpy as np

    places = 0
    while divisor * 10**places != int(divisor * 10**places) and places < 20:
        places += 1
    whole = int(divisor * 10**places)
    if whole * (places + 1) > _LARGEST_MULTIPLE or divisor * 10**places != whole:
        raise InputError(
            f"{path}: multipleOf {float(divisor)!r} would need a state for each of {whole:,} remainders, over the "
            f"limit of {_LARGEST_MULTIPLE:,}: take it out, or use an engine that checks it (llguidance)"
        )
    # Classes: 0..9 the digits, 10 the sign, 11 the point, 12 everything else. States: 1 start, 2 after a sign, then
    # remainders of `whole` before the point and at each place behind it, then zeros behind the last place that counts.
    byte_class = np.full(256, 12, dtype=np.uint8)
    byte_class[0x30:0x3A] = np.arange(10)
    byte_class[0x2D], byte_class[0x2E] = 10, 11
    levels = [3 + whole * level for level in range(places + 1)]
    zeros = levels[-1] + whole
    transitions = np.zeros((zeros + 1, 13), dtype=np.int32)
    remainders = np.arange(whole)
    following = (remainders[:, None] * 10 + np.arange(10)) % whole
    transitions[levels[0] : levels[0] + whole, :10] = levels[0] + following
    transitions[1, :10] = transitions[2, :10] = levels[0] + np.arange(10) % whole
    transitions[1, 10] = 2
    accepting = np.zeros(zeros + 1, dtype=np.bool_)
    for level, start in enumerate(levels):
        accepting[start : start + whole] = remainders * 10 ** (places - level) % whole == 0
        if level:
            transitions[start : start + whole, :10] = levels[min(level + 1, places)] + following
    # The point, and past the last place that counts zeros alone.
    transitions[zeros, 0] = zeros
    accepting[zeros] = True
    if places:
        last = slice(levels[-1], levels[-1] + whole)
        transitions[last] = 0
        transitions[levels[-1], 0] = levels[-1]
        pointed = np.zeros((whole, 13), dtype=np.int32)
        pointed[:, :10] = levels[1] + following
        transitions = np.concatenate([transitions, pointed])
        accepting = np.concatenate([accepting, np.zeros(whole, np.bool_)])
        transitions[levels[0] : levels[0] + whole, 11] = zeros + 1 + remainders
    else:
        transitions = np.concatenate([transitions, np.zeros((1, 13), np.int32)])
        transitions[zeros + 1, 0] = zeros
        accepting = np.concatenate([accepting, [False]])
        transitions[levels[0], 11] = zeros + 1
    return minimal(transitions, byte_class, accepting, 1, f"a multiple of {float(divisor)!r}")
