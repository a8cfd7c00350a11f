r"""Strings of a JSON schema: length, pattern and format, counted and matched in characters.

A character may be written raw, by a short escape or as `\uXXXX` (`charset.json_block`); the
automaton reads every way. `pattern` is searched for, as JSON Schema says, unless anchored.
Formats are enforced where a regular expression can (below); the others are annotations, which
is what JSON Schema makes of all of them by default.
"""

from __future__ import annotations

from perstep._json import Json
from perstep.automata.charset import ANY, json_block
from perstep.automata.determinise import determinise
from perstep.automata.nfa import NEVER, Block, literal, loop, of_dfa, optional, repeat, sequence
from perstep.automata.regex import regex_block

_MONTH_DAY = "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"  # 0001 to 9999
_LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE = f"({_YEAR}-{_MONTH_DAY}|{_LEAP_YEAR}-02-29)"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_HEX = "[0-9A-Fa-f]"

FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    "ipv4": rf"({_OCTET}\.){{3}}{_OCTET}",
}
"""The formats that are enforced."""


def string_block(schema: dict[str, Json], path: str, limit: int, block_limit: int) -> Block:
    """The texts of a string under the keywords of `schema`, quotes included.

    Raises:
        InputError: if a length makes too many states, or a pattern cannot be read.
    """
    low, high = count(schema, "minLength") or 0, count(schema, "maxLength")
    rules = []
    if high is not None or low:
        what = f"{path}: maxLength {high}" if high is not None else f"{path}: minLength {low}"
        too_short = high is not None and high < low
        rules.append(NEVER if too_short else repeat(json_block(ANY), low, high, block_limit, what))
    if "pattern" in schema:
        rules.append(regex_block(schema["pattern"], json_block, block_limit, search=True))
    if schema.get("format") in FORMATS:
        rules.append(regex_block(FORMATS[schema["format"]], json_block, block_limit))
    return sequence(literal(b'"'), _all_of(rules, path, limit), literal(b'"'))


def _all_of(rules: list[Block], path: str, limit: int) -> Block:
    """The inside of a string that keeps all rules."""
    if not rules:
        return optional(loop(json_block(ANY)))
    if len(rules) == 1:
        return rules[0]
    together = determinise(rules[0], limit, path)
    for rule in rules[1:]:
        together = together & determinise(rule, limit, path)
    return of_dfa(together)


def count(schema: dict[str, Json], name: str) -> int | None:
    """A keyword that is a whole number; None where it is absent."""
    return int(schema[name]) if name in schema else None
