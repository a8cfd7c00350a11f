"""Sets of characters that the Unicode database of this Python names: general categories, and cases of a letter."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from perstep.automata.charset import Ranges, charset

_LONG_NAMES = {
    "Letter": "L",
    "Cased_Letter": "LC",
    "Uppercase_Letter": "Lu",
    "Lowercase_Letter": "Ll",
    "Titlecase_Letter": "Lt",
    "Modifier_Letter": "Lm",
    "Other_Letter": "Lo",
    "Mark": "M",
    "Nonspacing_Mark": "Mn",
    "Spacing_Mark": "Mc",
    "Enclosing_Mark": "Me",
    "Number": "N",
    "Decimal_Number": "Nd",
    "digit": "Nd",
    "Letter_Number": "Nl",
    "Other_Number": "No",
    "Punctuation": "P",
    "punct": "P",
    "Connector_Punctuation": "Pc",
    "Dash_Punctuation": "Pd",
    "Open_Punctuation": "Ps",
    "Close_Punctuation": "Pe",
    "Initial_Punctuation": "Pi",
    "Final_Punctuation": "Pf",
    "Other_Punctuation": "Po",
    "Symbol": "S",
    "Math_Symbol": "Sm",
    "Currency_Symbol": "Sc",
    "Modifier_Symbol": "Sk",
    "Other_Symbol": "So",
    "Separator": "Z",
    "Space_Separator": "Zs",
    "Line_Separator": "Zl",
    "Paragraph_Separator": "Zp",
    "Other": "C",
    "Control": "Cc",
    "cntrl": "Cc",
    "Format": "Cf",
    "Private_Use": "Co",
    "Unassigned": "Cn",
}


@lru_cache(maxsize=1)
def _categories() -> dict[str, Ranges]:
    """The characters of each category of two letters; surrogates are no characters."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    begin, current = 0, unicodedata.category("\0")
    for point in range(1, 0x110001):
        kind = unicodedata.category(chr(point)) if point < 0x110000 else ""
        if kind != current:
            ranges.setdefault(current, []).append((begin, point - 1))
            begin, current = point, kind
    return {name: charset(*parts) for name, parts in ranges.items() if name != "Cs"}


@lru_cache(maxsize=64)
def category(name: str) -> Ranges | None:
    """The characters of a general category, by its short name, its long one, or as `General_Category=...`."""
    name = name.removeprefix("General_Category=").removeprefix("gc=")
    short = _LONG_NAMES.get(name, name)
    members = ("Lu", "Ll", "Lt") if short == "LC" else tuple(c for c in _categories() if c == short or c[0] == short)
    return charset(*(part for c in members for part in _categories()[c])) if members else None


@lru_cache(maxsize=1)
def _cases() -> dict[int, set[int]]:
    """The other cases of each letter that has some, one character each."""
    cases: dict[int, set[int]] = {}
    for low, high in category("L") or ():
        for point in range(low, high + 1):
            for other in (chr(point).lower(), chr(point).upper()):
                if len(other) == 1 and ord(other) != point:
                    cases.setdefault(point, set()).add(ord(other))
                    cases.setdefault(ord(other), set()).add(point)
    return cases


@lru_cache(maxsize=256)
def in_any_case(ranges: Ranges) -> Ranges:
    """A set with the other cases of its letters."""
    if all(high < 0x80 for _, high in ranges):
        letters = [point for low, high in ranges for point in range(low, high + 1) if chr(point).isalpha()]
        return charset(*ranges, *((point ^ 0x20, point ^ 0x20) for point in letters))
    others = {
        other for point, cases in _cases().items() if any(lo <= point <= hi for lo, hi in ranges) for other in cases
    }
    return charset(*ranges, *((other, other) for other in others))
