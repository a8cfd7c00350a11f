"""Numbers of a JSON schema: integers, decimals, bounds and multiples, as texts.

Integers are written without fraction and exponent. Numbers without bounds are written in all
ways JSON has. Within bounds they are written without an exponent, because 1e400 and its like
cannot be compared digit by digit. An exclusive bound of a number is the inclusive one at the
next double, so that a reader who parses into doubles agrees with the automaton.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from perstep._json import Json
from perstep.automata.charset import utf8_block
from perstep.automata.determinise import determinise
from perstep.automata.dfa import Dfa, minimal
from perstep.automata.nfa import Block, literal, of_dfa, sequence, union
from perstep.automata.regex import from_regex, regex_block
from perstep.errors import InputError

_INTEGER = "-?(0|[1-9][0-9]*)"
_NUMBER = _INTEGER + r"(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_FRACTION = r"(\.[0-9]+)?"
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_LARGEST_MULTIPLE = 10_000


@dataclass(frozen=True)
class _Range:
    """Inclusive bounds; None where there is none."""

    low: Decimal | None
    high: Decimal | None


def number_block(schema: dict[str, Json], path: str, *, whole: bool, limit: int) -> Block:
    """The texts of an integer (`whole`) or a number under the bounds and multiples of `schema`.

    Raises:
        InputError: if `multipleOf` is not a whole number of an integer.
    """
    bounds = _range(schema, whole)
    if bounds.low is None and bounds.high is None:
        text = regex_block(_INTEGER if whole else _NUMBER, utf8_block, limit)
    else:
        text = _bounded(bounds, whole, limit)
    multiple = schema.get("multipleOf")
    if multiple is None:
        return text
    if not whole or multiple != int(multiple) or not 1 <= multiple <= _LARGEST_MULTIPLE:
        raise InputError(
            f"{path}: multipleOf is supported here for type integer and a whole number up to {_LARGEST_MULTIPLE:,}; "
            f"got {multiple!r}: take it out, or use an engine that checks it (llguidance)"
        )
    return of_dfa(determinise(text, limit, path) & _multiples(int(multiple)))


def _range(schema: dict[str, Json], whole: bool) -> _Range:
    found: dict[str, Decimal] = {}
    for name in _BOUNDS:
        if name in schema:
            found[name] = _inclusive(schema[name], name, whole)
    lows = [found[name] for name in ("minimum", "exclusiveMinimum") if name in found]
    highs = [found[name] for name in ("maximum", "exclusiveMaximum") if name in found]
    return _Range(max(lows, default=None), min(highs, default=None))


def _inclusive(value: float, name: str, whole: bool) -> Decimal:
    """A bound as the last value inside."""
    exclusive = name.startswith("exclusive")
    if whole:
        rounded = math.ceil(value) if name.endswith("inimum") else math.floor(value)
        step = (1 if name.endswith("inimum") else -1) if exclusive and rounded == value else 0
        return Decimal(rounded + step)
    if exclusive:
        value = math.nextafter(float(value), math.inf if name.endswith("inimum") else -math.inf)
    return Decimal(repr(value))


def _bounded(bounds: _Range, whole: bool, limit: int) -> Block:
    """Texts within bounds: those without a sign, and those with one, whose magnitudes are bounded the other way."""
    fraction = "" if whole else _FRACTION
    ways = []
    for sign, low, high in ((b"", bounds.low, bounds.high), (b"-", _negated(bounds.high), _negated(bounds.low))):
        if high is not None and high < 0:
            continue
        magnitude = from_regex("(0|[1-9][0-9]*)" + fraction, limit)
        if low is not None and low > 0:
            magnitude = magnitude & from_regex(_at_least(low), limit)
        if high is not None:
            magnitude = magnitude & from_regex(_at_most(high), limit)
        ways.append(sequence(literal(sign), of_dfa(magnitude)))
    return union(*ways)


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


def _multiples(divisor: int) -> Dfa:
    """All digit strings, with or without a sign, whose value the divisor divides; a state a remainder."""
    import numpy as np

    # Classes: 0..9 the digits, 10 the sign, 11 everything else. States: 1 start, 2 after a sign, then remainders.
    byte_class = np.full(256, 11, dtype=np.uint8)
    byte_class[0x30:0x3A] = np.arange(10)
    byte_class[0x2D] = 10
    transitions = np.zeros((3 + divisor, 12), dtype=np.int32)
    remainders = np.arange(divisor)[:, None]
    transitions[3:, :10] = 3 + (remainders * 10 + np.arange(10)) % divisor
    transitions[1, :10] = transitions[2, :10] = 3 + np.arange(10) % divisor
    transitions[1, 10] = 2
    accepting = np.zeros(3 + divisor, dtype=np.bool_)
    accepting[3] = True
    return minimal(transitions, byte_class, accepting, 1, f"a multiple of {divisor}")
