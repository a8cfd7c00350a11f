"""From a small automaton back to a regular expression, for an engine that reads those."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from perstep.automata.dfa import Dfa

MOST_CHARACTERS = 100_000


def regex_of(dfa: Dfa, what: str, symbols: Callable[[list[int]], str]) -> str:
    """A regular expression of an automaton, by taking its states out one by one.

    Args:
        dfa: the automaton, over bytes or over symbols in their place.
        what: what it is, for an error.
        symbols: the expression of one symbol of several.

    Raises:
        InputError: if the expression grows beyond 100,000 characters.

    Source: Brzozowski and McCluskey, Signal flow graph techniques for sequential circuit state diagrams (1963).
    """
    ways = _edges(dfa, symbols)
    start, end = -1, -2
    ways[start] = {dfa.start: ""}
    for state in np.flatnonzero(dfa.accepting).tolist():
        ways.setdefault(state, {})[end] = ""
    left = {state for state in ways if state > 0}
    while left:
        into = {state: [s for s in ways if s != state and state in ways[s]] for state in left}
        state = min(left, key=lambda s: (len(into[s]) * (len(ways[s]) - (s in ways[s])), s))
        left.remove(state)
        out = ways.pop(state)
        own = out.pop(state, None)
        loop = f"(?:{own})*" if own is not None else ""
        for source in into[state]:
            first = ways[source].pop(state)
            for target, then in out.items():
                joined = f"{_grouped(first)}{loop}{_grouped(then)}"
                other = ways[source].get(target)
                ways[source][target] = joined if other is None else f"{other}|{joined}"
        if sum(len(text) for targets in ways.values() for text in targets.values()) > MOST_CHARACTERS:
            raise InputError(f"{what} makes too large an expression for llguidance")
    return ways[start].get(end, "[^\\s\\S]")


def _edges(dfa: Dfa, symbols: Callable[[list[int]], str]) -> dict[int, dict[int, str]]:
    """The expression from each live state to each."""
    ways: dict[int, dict[int, str]] = {}
    by_byte = dfa.transitions[:, dfa.byte_class]
    for state in range(1, len(by_byte)):
        by_target: dict[int, list[int]] = {}
        for byte in np.flatnonzero(by_byte[state]).tolist():
            by_target.setdefault(int(by_byte[state, byte]), []).append(byte)
        ways[state] = {target: symbols(read) for target, read in by_target.items()}
    return ways


def _grouped(text: str) -> str:
    return f"(?:{text})" if "|" in text else text
