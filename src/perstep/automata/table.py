"""The token automaton: what every step of a constrained decode asks.

After compilation a step is two look-ups: the row of the state says which tokens are allowed,
`next` says where the chosen one leads. State 0 is dead. End-of-sequence ids are allowed
exactly in accepting states and lead to `ended`, where only they are allowed, so that a row
of a batch that has finished still has a token to repeat and never an empty mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.automata import graphs
from perstep.automata.grouping import group_masks, group_rows, number_by_first
from perstep.automata.rows import BUDGET_BYTES, Row, RowStore, pack_bits
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from perstep.automata.vocabulary import Vocabulary


class TokenAutomaton(ABC):
    """An automaton over token ids: compiled completely (`TokenTable`) or state by state when visited (`LazyTable`).

    Attributes:
        vocabulary: the tokens it was compiled against.
        start: the state before the first token.
        ended: the state after an end-of-sequence id.
        num_states: live states, without the dead one and `ended`.
        source: what it was made from, in words.
        engine: what computes its rows; `table`, `table-lazy` or `llguidance`.
        reason: why `mask` chose that engine; empty where it was not asked.
    """

    vocabulary: Vocabulary
    start: int
    ended: int
    num_states: int
    source: str
    engine: str
    reason: str = ""
    _store: RowStore

    @abstractmethod
    def next(self, state: int, token: int) -> int:
        """The state after `token`; the dead state 0 if it is not allowed.

        Raises:
            InputError: if there is no such token id.
        """

    @abstractmethod
    def row(self, state: int) -> Row:
        """The mask row of `state`."""

    @abstractmethod
    def is_accepting(self, state: int) -> bool:
        """Whether the text may end in `state`."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Distinct mask rows of the live states; in a `LazyTable` those built so far."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the automaton itself, without the expanded rows."""

    @property
    def rows_nbytes(self) -> int:
        """Bytes of the expanded rows held now."""
        return self._store.used_bytes

    def allowed(self, state: int) -> NDArray[np.int32]:
        """The allowed token ids, ascending, int32; shared, read-only."""
        return self.row(state).allowed

    def bits(self, state: int) -> NDArray[np.int32]:
        """The mask as packed bits, int32 [ceil(tokens / 32)]: token t is bit t & 31 of word t >> 5."""
        return self.row(state).bits

    def bias(self, state: int) -> NDArray[np.float32]:
        """What to add to the logits: 0 where allowed, -inf elsewhere; float32 [tokens]."""
        return self.row(state).bias

    def forced(self, state: int) -> int | None:
        """The token id, where exactly one is allowed; else None."""
        row = self.row(state)
        return int(row.allowed[0]) if row.count == 1 else None

    def run(self, tokens: Iterable[int], state: int | None = None) -> int:
        """The state after `tokens`, begun at `state` (the start by default); 0 once one was not allowed."""
        at = self.start if state is None else state
        for token in tokens:
            at = self.next(at, token)
        return at

    def accepts(self, tokens: Iterable[int]) -> bool:
        """Whether the tokens spell a complete text, with or without an end-of-sequence id at its end."""
        return self.is_accepting(self.run(tokens))

    @abstractmethod
    def whole(self) -> TokenTable:
        """The same automaton with every row and class known."""

    @abstractmethod
    def __and__(self, other: TokenAutomaton) -> TokenAutomaton:
        """The automaton of what both allow. They must be over one vocabulary."""


class TokenTable(TokenAutomaton):
    """A completely compiled token automaton, as arrays.

    Args:
        transitions: next state by state and token class, int [states + 1, classes]; row 0 and column 0 are dead.
        class_of_token: int [tokens]; 0 for tokens that are never allowed, end-of-sequence ids among them.
        accepting: bool [states + 1].
        start: the state before the first token.
        vocabulary: the tokens.
        source: what it was made from, in words.
        budget_bytes: what expanded rows may take.

    Attributes:
        transitions: with `ended` as the last row and end of sequence as the last class.
        class_of_token: with the class of end of sequence.
    """

    engine = "table"

    def __init__(
        self,
        transitions: NDArray[np.integer],
        class_of_token: NDArray[np.integer],
        accepting: NDArray[np.bool_],
        start: int,
        vocabulary: Vocabulary,
        source: str,
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        states, classes = transitions.shape
        self.vocabulary = vocabulary
        self.start = start
        self.source = source
        self.ended = states
        self.num_states = states - 1
        self.num_classes = classes
        self.accepting = np.append(accepting, True)
        state_type = np.uint16 if states < 65_536 else np.int32
        self.transitions: NDArray[np.integer] = np.zeros((states + 1, classes + 1), dtype=state_type)
        self.transitions[:-1, :-1] = transitions
        self.transitions[self.accepting, -1] = self.ended
        self.class_of_token: NDArray[np.integer] = class_of_token.astype(np.uint16 if classes < 65_536 else np.int32)
        self.class_of_token[list(vocabulary.eos_ids)] = classes
        self._class_sizes = np.bincount(self.class_of_token, minlength=classes + 1)
        self._store = RowStore(budget_bytes)
        first, row_of = group_masks(self.transitions != 0)
        self._row_states = first
        self._row_of: list[int] = row_of.tolist()
        self._rows: list[Row | None] = [None] * len(first)
        # Memory views index faster than arrays, and without making NumPy scalars.
        self._next: memoryview[int] = memoryview(self.transitions.reshape(-1))  # type: ignore[arg-type]
        self._class: memoryview[int] = memoryview(self.class_of_token)  # type: ignore[arg-type]
        self._width = classes + 1
        self._accepts: list[bool] = self.accepting.tolist()

    @property
    def num_rows(self) -> int:
        """Distinct mask rows of the live states."""
        return len(set(self._row_of[1 : self.ended]))

    @property
    def nbytes(self) -> int:
        """Bytes of the automaton itself, without the expanded rows."""
        return self.transitions.nbytes + self.class_of_token.nbytes + self.accepting.nbytes + self.row_of.nbytes

    @property
    def budget_bytes(self) -> int:
        """What expanded rows may take."""
        return self._store.budget_bytes

    @cached_property
    def row_of(self) -> NDArray[np.int32]:
        """The number of each state's mask row, int32 [states + 2], the dead state's and `ended`'s among them."""
        return np.array(self._row_of, dtype=np.int32)

    def bits_by_row(self) -> NDArray[np.int32]:
        """The packed bits of every row number, int32 [row numbers, ceil(tokens / 32)], made anew.

        With `row_of`, `transitions` and `class_of_token` this is the complete automaton, for copies on a device; it is
        not counted in the budget.
        """
        masks = (self.transitions[state] != 0 for state in self._row_states)
        return np.stack([pack_bits(mask.take(self.class_of_token)) for mask in masks])

    def next(self, state: int, token: int) -> int:
        """The state after `token`; the dead state 0 if it is not allowed."""
        if token < 0:
            raise InputError(
                f"token {token} is not an id of this vocabulary of {plural(self.vocabulary.size, 'token')}"
            )
        try:
            target: int = self._next[state * self._width + self._class[token]]
        except IndexError as error:
            raise InputError(
                f"state {state} or token {token} does not exist: {plural(self.num_states, 'state')}, "
                f"{plural(self.vocabulary.size, 'token')}"
            ) from error
        return target

    def row(self, state: int) -> Row:
        """The mask row of `state`."""
        number = self._row_of[state]
        return self._rows[number] or self._new_row(number)

    def is_accepting(self, state: int) -> bool:
        """Whether the text may end in `state`."""
        return self._accepts[state]

    def whole(self) -> TokenTable:
        """The same automaton with every row and class known."""
        return self

    def __and__(self, other: TokenAutomaton) -> TokenTable:
        return both(self, other.whole())

    def _new_row(self, number: int) -> Row:
        by_class: NDArray[np.bool_] = self.transitions[self._row_states[number]] != 0

        def expand() -> NDArray[np.bool_]:
            return by_class.take(self.class_of_token)

        row = Row(self.vocabulary.size, int(self._class_sizes[by_class].sum()), expand, self._store)
        self._rows[number] = row
        return row


def same_vocabulary(left: TokenAutomaton, right: TokenAutomaton) -> None:
    """Check that two automata may be combined.

    Raises:
        InputError: if they are over different vocabularies.
    """
    if left.vocabulary is not right.vocabulary and left.vocabulary.hash != right.vocabulary.hash:
        raise InputError(
            f"two tables combine over one vocabulary; these are over {left.vocabulary.size:,} and "
            f"{plural(right.vocabulary.size, 'token')} of different bytes"
        )


def without_dead_ends(
    class_of_token: NDArray[np.int64], transitions: NDArray[np.int32], accepting: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The same table without moves into states from which no tokens lead to acceptance."""
    alive = graphs.leads_to(transitions, accepting)
    pruned = np.where(alive[transitions], transitions, 0)
    first, group = group_rows(pruned.T)  # classes may have become equal; class 0 stays first
    return group[class_of_token], np.ascontiguousarray(pruned[:, first])


def both(left: TokenTable, right: TokenTable) -> TokenTable:
    """The table of what both tables allow: states are pairs, a token is allowed where both allow it.

    Pairs from which the two can never end together are cut off, so that the product leads into no dead end that neither
    table has alone.

    Raises:
        InputError: if they are over different vocabularies, or no text satisfies both.
    """
    same_vocabulary(left, right)
    classes, class_of_token = _joint_classes(left, right)
    # Without the column of end of sequence and the row of `ended`, which are added again at the end.
    left_rows = left.transitions[:-1, classes // right.num_classes].astype(np.int64)
    right_rows = right.transitions[:-1, classes % right.num_classes].astype(np.int64)
    width = right.num_states + 1

    def follow(keys: NDArray[np.int64]) -> NDArray[np.int64]:
        one, other = left_rows[keys // width], right_rows[keys % width]
        return np.where((one == 0) | (other == 0), 0, one * width + other)

    start = left.start * width + right.start
    keys = graphs.explore(start, follow)
    keys = np.concatenate([[0], keys[keys != 0]])
    transitions = np.searchsorted(keys, follow(keys)).astype(np.int32)
    accepting = left.accepting[keys // width] & right.accepting[keys % width]
    class_of_token, transitions = without_dead_ends(class_of_token, transitions, accepting)
    first = int(np.searchsorted(keys, start))
    source = f"({left.source}) and ({right.source})"
    if not (accepting[first] or transitions[first].any()):
        raise InputError(f"no text satisfies both {left.source} and {right.source}")
    return TokenTable(transitions, class_of_token, accepting, first, left.vocabulary, source, left.budget_bytes)


def _joint_classes(left: TokenTable, right: TokenTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of classes (left * classes of right + right) that tokens have; the pair of each token.

    Pair 0 is dead: all tokens that either side never allows, end of sequence among them.
    """
    one, other = left.class_of_token.astype(np.int64), right.class_of_token.astype(np.int64)
    dead = (one == 0) | (other == 0) | (one == left.num_classes) | (other == right.num_classes)
    pair = np.where(dead, 0, one * right.num_classes + other)
    first, group = number_by_first(np.concatenate([[0], pair]))
    return np.concatenate([[0], pair])[first], group[1:]
