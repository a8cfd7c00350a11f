"""Our own engines: the token table, compiled whole or as it is visited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perstep.automata.compiling import compile as compile_table
from perstep.automata.engines.protocol import Engine, Grammar
from perstep.automata.lazy import prepare_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from perstep.automata.table import TokenAutomaton
    from perstep.automata.trie import Trie
    from perstep.automata.vocabulary import Vocabulary


class TableEngine(Engine):
    """One text on a token automaton: two look-ups a step."""

    def __init__(self, table: TokenAutomaton, name: str) -> None:
        self.name = name
        self.table = table
        self.state = table.start
        self._row, self._next = table.row, table.next

    def reset(self) -> None:
        """Begin a new text."""
        self.state = self.table.start

    def fill(self) -> NDArray[np.int32]:
        """The mask of the next token as packed bits, int32 [ceil(tokens / 32)]."""
        return self._row(self.state).bits

    def accept(self, token: int) -> bool:
        """Take the token that came; False if it was not allowed."""
        self.state = state = self._next(self.state, token)
        return state != 0

    def is_terminated(self) -> bool:
        """Whether the text has been ended."""
        return self.state == self.table.ended

    def fork(self) -> TableEngine:
        """Another text of the same grammar."""
        other = TableEngine(self.table, self.name)
        other.setup_ns, other.build_ns = self.setup_ns, self.build_ns
        return other


def prepare(vocabulary: Vocabulary) -> Trie:
    """The trie of the vocabulary, and what is derived from it once."""
    trie = vocabulary.trie
    _ = trie.first_child, trie.end_of_token, trie.nodes_below
    prepare_rows(vocabulary)
    return trie


def build(
    _shared: Trie, vocabulary: Vocabulary, grammar: Grammar, check: Callable[[], None] | None = None
) -> TableEngine:
    """The table of a grammar, whole."""
    return _build(vocabulary, grammar, check, lazy=False)


def build_lazy(
    _shared: Trie, vocabulary: Vocabulary, grammar: Grammar, check: Callable[[], None] | None = None
) -> TableEngine:
    """The table of a grammar, whose rows are made when their states are visited."""
    return _build(vocabulary, grammar, check, lazy=True)


def _build(vocabulary: Vocabulary, grammar: Grammar, check: Callable[[], None] | None, *, lazy: bool) -> TableEngine:
    return TableEngine(
        compile_table(grammar.as_automaton(), vocabulary, lazy=lazy, check=check), "table-lazy" if lazy else "table"
    )
