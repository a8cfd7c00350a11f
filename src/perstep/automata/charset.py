r"""Sets of Unicode characters and how they are written in bytes: plain UTF-8, or inside a JSON string.

A set is a tuple of code point ranges, ends included, ascending and apart; surrogates are no
characters and never belong to one. In a JSON string a character may be written raw (unless it
is a quote, a backslash or below U+0020), by its short escape, or as `\uXXXX`. A pair of
surrogate escapes is not offered: characters beyond U+FFFF are written raw, so that one
character is one repetition and minLength and maxLength count what JSON Schema counts.
"""

from __future__ import annotations

from functools import lru_cache

from perstep.automata.determinise import determinise
from perstep.automata.nfa import Block, byte_ranges, of_dfa, sequence, union

Ranges = tuple[tuple[int, int], ...]

_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
SHORT_ESCAPES = {
    0x22: b'\\"',
    0x5C: b"\\\\",
    0x2F: b"\\/",
    0x08: b"\\b",
    0x0C: b"\\f",
    0x0A: b"\\n",
    0x0D: b"\\r",
    0x09: b"\\t",
}
"""How JSON escapes these characters with two signs."""

_HEX_DIGITS = ((0, 9, 0x30), (10, 15, 0x41), (10, 15, 0x61))


def charset(*ranges: tuple[int, int]) -> Ranges:
    """The set of the given ranges: sorted, joined, without surrogates."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        for start, end in ((low, min(high, _SURROGATES[0] - 1)), (max(low, _SURROGATES[1] + 1), high)):
            if start > end:
                continue
            if joined and start <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            else:
                joined.append((start, end))
    return tuple(joined)


def invert(ranges: Ranges) -> Ranges:
    """Every character that is not in the set."""
    gaps, at = [], 0
    for low, high in ranges:
        if low > at:
            gaps.append((at, low - 1))
        at = high + 1
    if at <= _LAST:
        gaps.append((at, _LAST))
    return charset(*gaps)


def intersect(left: Ranges, right: Ranges) -> Ranges:
    """The characters in both sets."""
    return charset(*((max(a, c), min(b, d)) for a, b in left for c, d in right if max(a, c) <= min(b, d)))


ANY = charset((0, _LAST))
RAW_IN_JSON = invert(charset((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)))


Way = tuple[tuple[tuple[int, int], ...], ...]
"""One way to write a character of a set: for each byte in turn the ranges it is in."""


@lru_cache(maxsize=512)
def utf8_ways(ranges: Ranges) -> tuple[Way, ...]:
    """How a character of the set is written in UTF-8."""
    return tuple(tuple((part,) for part in way) for low, high in ranges for way in utf8_sequences(low, high))


@lru_cache(maxsize=512)
def json_ways(ranges: Ranges) -> tuple[Way, ...]:
    """How a character of the set may be written inside a JSON string."""
    ways = list(utf8_ways(intersect(ranges, RAW_IN_JSON)))
    for point, escape in SHORT_ESCAPES.items():
        if any(low <= point <= high for low, high in ranges):
            ways.append(tuple(((byte, byte),) for byte in escape))
    for low, high in intersect(ranges, ((0, 0xFFFF),)):
        ways += [(((0x5C, 0x5C),), ((0x75, 0x75),), *map(tuple, digits)) for digits in hex_sequences(low, high)]
    return tuple(ways)


@lru_cache(maxsize=64)
def utf8_block(ranges: Ranges) -> Block:
    """One character of the set in UTF-8."""
    return _block(utf8_ways(ranges))


@lru_cache(maxsize=64)
def json_block(ranges: Ranges) -> Block:
    """One character of the set as it may be written inside a JSON string."""
    return _block(json_ways(ranges))


def _block(ways: tuple[Way, ...]) -> Block:
    one = union(*(sequence(*map(byte_ranges, way)) for way in ways))
    return of_dfa(determinise(one, 10_000, "a set of characters"))


def utf8_sequences(low: int, high: int) -> list[list[tuple[int, int]]]:
    """The UTF-8 encodings of [low, high] as sequences of byte ranges; no surrogate may lie within.

    Source: the Unicode Standard, table 3-7; the splitting is that of Russ Cox's RE2.
    """
    for longest in (0x7F, 0x7FF, 0xFFFF):
        if low <= longest < high:
            return utf8_sequences(low, longest) + utf8_sequences(longest + 1, high)
    if high <= 0x7F:
        return [[(low, high)]]
    # Split until every trailing byte is either fixed or free to be anything.
    for bits in (6, 12, 18):
        mask = (1 << bits) - 1
        if low & ~mask != high & ~mask:
            if low & mask:
                return utf8_sequences(low, low | mask) + utf8_sequences((low | mask) + 1, high)
            if high & mask != mask:
                return utf8_sequences(low, (high & ~mask) - 1) + utf8_sequences(high & ~mask, high)
    return [list(zip(chr(low).encode(), chr(high).encode(), strict=True))]


def hex_sequences(low: int, high: int) -> list[list[list[tuple[int, int]]]]:
    """[low, high] as sequences of four hexadecimal digits; each digit is a list of byte ranges."""
    for bits in (4, 8, 12):
        mask = (1 << bits) - 1
        if low & ~mask != high & ~mask:
            if low & mask:
                return hex_sequences(low, low | mask) + hex_sequences((low | mask) + 1, high)
            if high & mask != mask:
                return hex_sequences(low, (high & ~mask) - 1) + hex_sequences(high & ~mask, high)
    return [[_hex_digit((low >> shift) & 15, (high >> shift) & 15) for shift in (12, 8, 4, 0)]]


def _hex_digit(low: int, high: int) -> list[tuple[int, int]]:
    """The bytes that write the hexadecimal digits low to high, in either case."""
    return [
        (base + max(low, first) - first, base + min(high, last) - first)
        for first, last, base in _HEX_DIGITS
        if max(low, first) <= min(high, last)
    ]
