"""Valid UTF-8 as an automaton: eight states, whatever the text.

It accepts at character boundaries only. Overlong forms, surrogates and anything beyond
U+10FFFF die, as in `bytes.decode`; the states are those of the Unicode Standard, table 3-7.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from perstep.automata.charset import ANY, utf8_block
from perstep.automata.determinise import determinise
from perstep.automata.dfa import Dfa, minimal
from perstep.automata.nfa import loop, optional


@lru_cache(maxsize=1)
def utf8() -> Dfa:
    """The automaton of all valid UTF-8 texts, the empty one among them.

    Examples:
        >>> utf8().num_states, utf8().accepts("né".encode()), utf8().accepts("né".encode()[:-1])
        (8, True, False)
    """
    return determinise(optional(loop(utf8_block(ANY))), 100, "valid UTF-8")


def ignoring_invalid(dfa: Dfa) -> Dfa:
    r"""The automaton of all bytes whose text is in the language of `dfa`, what is not valid UTF-8 being passed over.

    That is the text of `bytes.decode(errors="ignore")`: bytes that begin no character, and characters that are broken
    off, add nothing. `dfa` itself need know nothing but valid UTF-8.

    Examples:
        >>> from perstep.automata import from_regex
        >>> ignoring_invalid(from_regex("né")).accepts(b"n\xaf\xc3\xa9\xe3")
        True
    """
    text, valid = dfa.rows, utf8().rows
    whole = utf8().accepting
    # A state: that of `dfa` behind the last whole character, that behind the bytes since, and that of UTF-8.
    start = (dfa.start, dfa.start, utf8().start)
    number, states, rows = {start: 1}, [start], [[0] * 256]

    def after(state: tuple[int, int, int], byte: int) -> tuple[int, int, int]:
        settled, inside, reading = state
        following = valid[reading][byte]
        if following:
            inside = text[inside][byte]
            return (inside, inside, following) if whole[following] else (settled, inside, following)
        between = (settled, settled, start[2])
        return between if whole[reading] else after(between, byte)  # broken off: the byte may begin a character

    for state in states:  # which grows
        row = []
        for byte in range(256):
            target = after(state, byte)
            if target[0] == 0:
                row.append(0)
                continue
            if target not in number:
                number[target] = len(states) + 1
                states.append(target)
            row.append(number[target])
        rows.append(row)
    accepting = np.array([False, *(bool(dfa.accepting[settled]) for settled, _, _ in states)])
    source = f"{dfa.source}, invalid bytes skipped"
    return minimal(np.array(rows, np.int32), np.arange(256, dtype=np.uint8), accepting, 1, source)
