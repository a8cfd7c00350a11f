"""Valid UTF-8 as an automaton: eight states, whatever the text.

It accepts at character boundaries only. Overlong forms, surrogates and anything beyond
U+10FFFF die, as in `bytes.decode`; the states are those of the Unicode Standard, table 3-7.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from perstep.automata.charset import ANY, utf8_block
from perstep.automata.determinise import determinise
from perstep.automata.nfa import loop, optional

if TYPE_CHECKING:
    from perstep.automata.dfa import Dfa


@lru_cache(maxsize=1)
def utf8() -> Dfa:
    """The automaton of all valid UTF-8 texts, the empty one among them.

    Example:
        >>> utf8().num_states, utf8().accepts("né".encode()), utf8().accepts("né".encode()[:-1])
        (8, True, False)
    """
    return determinise(optional(loop(utf8_block(ANY))), 100, "valid UTF-8")
