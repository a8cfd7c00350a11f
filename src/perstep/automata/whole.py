"""A whole token table from a byte automaton: all states against all tokens through the trie, at once.

A state from which no text can be finished with the tokens there are (because some byte has no token) is cut off, so
that a mask never leads into a dead end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perstep._words import plural
from perstep.automata.classes import equivalence_classes
from perstep.automata.table import TokenTable, without_dead_ends
from perstep.automata.trie import merge_bytes
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from perstep.automata.dfa import Dfa
    from perstep.automata.vocabulary import Vocabulary


def whole_table(
    dfa: Dfa, vocabulary: Vocabulary, budget_bytes: int, check: Callable[[], None] | None = None
) -> TokenTable:
    """The token automaton with every row and class known; arguments and errors as of `automata.compile`."""
    refuse_empty(dfa)
    missing = unspellable(dfa, vocabulary)
    trie = merge_bytes(vocabulary.trie, dfa.byte_class)
    class_of_token, transitions = equivalence_classes(dfa.transitions, trie, check)
    if missing:
        class_of_token, transitions = without_dead_ends(class_of_token, transitions, dfa.accepting)
        if not (dfa.accepting[dfa.start] or transitions[dfa.start].any()):
            raise InputError(
                f"the vocabulary cannot spell any text of {dfa.source or 'the automaton'}: "
                f"no token is the single byte {_names(missing)}"
            )
    return TokenTable(transitions, class_of_token, dfa.accepting, dfa.start, vocabulary, dfa.source, budget_bytes)


def refuse_empty(dfa: Dfa) -> None:
    """Raise InputError if the automaton accepts nothing."""
    if dfa.is_empty:
        raise InputError(f"{dfa.source or 'the automaton'} accepts nothing, so there is no mask for it")


def unspellable(dfa: Dfa, vocabulary: Vocabulary) -> bytes:
    """The bytes that the automaton reads somewhere and no token spells by itself, ascending."""
    return bytes(sorted(set(dfa.live_bytes()) - set(vocabulary.single_bytes)))


def _names(data: bytes) -> str:
    shown = ", ".join(f"0x{byte:02X}" + (f" ({chr(byte)!r})" if 0x20 < byte < 0x7F else "") for byte in data[:4])
    return shown + (f" (nor {plural(len(data) - 4, 'other')})" if len(data) > 4 else "")
