"""From a byte automaton and a vocabulary to a token automaton: whole at once, or a row at a state's first visit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from perstep.automata.lazy import LazyTable
from perstep.automata.rows import BUDGET_BYTES
from perstep.automata.whole import refuse_empty, unspellable, whole_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from perstep.automata.dfa import Dfa
    from perstep.automata.table import TokenTable
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
        dfa: the byte automaton; the tokens may spell its strings.
        vocabulary: the tokens.
        lazy: build each row at the first visit of its state.
        budget_bytes: what expanded rows may take; the oldest are dropped beyond it.
        check: called before each state while a whole table is built; an exception from it stops the work.

    Returns:
        A `TokenTable`, or a `LazyTable` if asked for and the vocabulary has a token for every byte needed
        (without one, dead ends are only known once all states are).

    Raises:
        InputError: if the automaton accepts nothing, or the vocabulary cannot spell any text of it.
    """
    if lazy and not unspellable(dfa, vocabulary):
        refuse_empty(dfa)
        return LazyTable(dfa, vocabulary, budget_bytes)
    return whole_table(dfa, vocabulary, budget_bytes, check)
