"""From a byte automaton and a vocabulary to a token automaton.

Eager: all states against all tokens through the trie, at once. Lazy: nothing now, a row at
the first visit of its state. A state from which no text can be finished with the tokens there
are (because some byte has no token) is cut off, so that a mask never leads into a dead end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from perstep.automata import graphs
from perstep.automata.classes import equivalence_classes
from perstep.automata.grouping import group_rows
from perstep.automata.rows import BUDGET_BYTES
from perstep.automata.table import TokenTable
from perstep.automata.trie import merge_bytes
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from perstep.automata.dfa import Dfa
    from perstep.automata.lazy import LazyTable
    from perstep.automata.vocabulary import Vocabulary


@overload
def compile(  # noqa: A001
    dfa: Dfa,
    vocabulary: Vocabulary,
    *,
    lazy: Literal[False] = ...,
    budget_bytes: int = ...,
    check: Callable[[], None] | None = ...,
) -> TokenTable: ...
@overload
def compile(  # noqa: A001
    dfa: Dfa,
    vocabulary: Vocabulary,
    *,
    lazy: bool,
    budget_bytes: int = ...,
    check: Callable[[], None] | None = ...,
) -> TokenTable | LazyTable: ...
def compile(  # noqa: A001 - the word of the glossary; it is used as automata.compile
    dfa: Dfa,
    vocabulary: Vocabulary,
    *,
    lazy: bool = False,
    budget_bytes: int = BUDGET_BYTES,
    check: Callable[[], None] | None = None,
) -> TokenTable | LazyTable:
    """The token automaton of a byte automaton over a vocabulary.

    Args:
        dfa: the byte automaton; its strings are what the tokens may spell.
        vocabulary: the tokens.
        lazy: make each row at the first visit of its state and not now.
        budget_bytes: what expanded rows may take; the oldest are dropped beyond it.
        check: called before each state while a whole table is made; what it raises ends the work.

    Returns:
        A `TokenTable`, or a `LazyTable` if asked for and the vocabulary has a token for every byte needed
        (without one, dead ends are only known once all states are).

    Raises:
        InputError: if the automaton accepts nothing, or the vocabulary cannot spell any text of it.
    """
    if dfa.is_empty:
        raise InputError(f"{dfa.source or 'the automaton'} accepts nothing, so there is no mask for it")
    missing = unspellable(dfa, vocabulary)
    if lazy and not missing:
        from perstep.automata.lazy import LazyTable

        return LazyTable(dfa, vocabulary, budget_bytes)
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


def unspellable(dfa: Dfa, vocabulary: Vocabulary) -> bytes:
    """The bytes that the automaton reads somewhere and no token spells by itself, ascending."""
    return bytes(sorted(set(dfa.live_bytes()) - set(vocabulary.single_bytes)))


def without_dead_ends(
    class_of_token: NDArray[np.int64], transitions: NDArray[np.int32], accepting: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The same table without moves into states from which no tokens lead to acceptance."""
    alive = graphs.leads_to(transitions, accepting)
    pruned = np.where(alive[transitions], transitions, 0)
    first, group = group_rows(pruned.T)  # classes may have become equal; class 0 stays first
    return group[class_of_token], np.ascontiguousarray(pruned[:, first])


def _names(data: bytes) -> str:
    shown = ", ".join(f"0x{byte:02X}" + (f" ({chr(byte)!r})" if 0x20 < byte < 0x7F else "") for byte in data[:4])
    return shown + (f" (nor {len(data) - 4} others)" if len(data) > 4 else "")
