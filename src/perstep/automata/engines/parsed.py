"""A token automaton whose states are places in a parse by llguidance: for languages that no finite automaton holds.

A state is an integer as everywhere, and carries the text that leads to it; what it allows is computed when it is asked.
The parser itself stands in one place of each text and moves along with it. A state that is asked again after its text
has gone on is read anew from the beginning, so going on costs one token and turning back a text.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.automata.engines.llguidance import prepare
from perstep.automata.engines.protocol import Native
from perstep.automata.rows import BUDGET_BYTES, Row, RowStore
from perstep.automata.table import TokenAutomaton, TokenTable
from perstep.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perstep.automata.vocabulary import Vocabulary

_DEAD, _ENDED = 0, 1
_LEXER_FUEL = 20_000_000
"""Of llguidance's compile: about 0.4 s; its own default is a twentieth of it."""
_MOST_ITEMS = 50_000
"""Of its parser in one row and in one step: about 2.5 ms."""
_MOST_ROWS = 256
"""Rows that are remembered by what they allow, so that what was derived of one serves the next like it."""


class Place(int):
    """A state: a number of its own, and the text behind it."""

    before: Place | None
    token: int
    matcher: Native | None
    row: Row | None

    @classmethod
    def new(cls, number: int, before: Place | None, token: int, matcher: Native | None) -> Place:
        """A state after `token`."""
        place = cls(number)
        place.before, place.token, place.matcher, place.row = before, token, matcher, None
        return place

    def __deepcopy__(self, memo: dict[int, object]) -> Place:
        """Itself: what it says does not change, and a parser that stands elsewhere is made anew."""
        return self


class ParsedAutomaton(TokenAutomaton):
    """A token automaton on an llguidance grammar.

    Args:
        lark: the grammar, in llguidance's Lark.
        vocabulary: the tokens.
        source: what it was made from, in words.
        budget_bytes: what expanded rows may take.

    Attributes:
        num_states: states made so far; there is no end to them.

    Raises:
        InputError: if llguidance refuses the grammar, or the vocabulary has no end-of-sequence id or lacks a byte.
    """

    engine = "llguidance"

    def __init__(self, lark: str, vocabulary: Vocabulary, source: str, budget_bytes: int = BUDGET_BYTES) -> None:
        from llguidance import LLMatcher, LLParserLimits
        from llguidance.numpy import fill_next_token_bitmask

        vocabulary.require_bytes("llguidance")
        self.vocabulary = vocabulary
        self.source = source
        self.ended = _ENDED
        limits = LLParserLimits(
            initial_lexer_fuel=_LEXER_FUEL,
            max_items_in_row=_MOST_ITEMS,
            step_max_items=_MOST_ITEMS,
            verbose_errors=False,
        )
        self._fresh = LLMatcher(
            vocabulary.derived("llguidance", prepare), LLMatcher.grammar_from_lark(lark), log_level=0, limits=limits
        )
        if self._fresh.is_error():
            raise InputError(f"llguidance refuses {source}: {self._error(self._fresh)}")
        self._fill = fill_next_token_bitmask
        self._words = -(-vocabulary.size // 32)
        self._store = RowStore(budget_bytes)
        self._by_bits: OrderedDict[bytes, Row] = OrderedDict()
        self.num_states = 0
        self.start = self._new_place(None, -1, None)

    def __deepcopy__(self, memo: dict[int, object]) -> ParsedAutomaton:
        """Itself: texts share nothing but what is the same for all of them."""
        return self

    @property
    def num_rows(self) -> int:
        """Distinct rows that are remembered."""
        return len(self._by_bits)

    @property
    def nbytes(self) -> int:
        """0: what llguidance keeps is not known."""
        return 0

    def next(self, state: int, token: int) -> int:
        """The state after `token`; the dead state 0 if it is not allowed."""
        if not 0 <= token < self.vocabulary.size:
            raise InputError(
                f"token {token} is not an id of this vocabulary of {plural(self.vocabulary.size, 'token')}"
            )
        if token in self.vocabulary.eos_ids:
            return _ENDED if self.is_accepting(state) else _DEAD
        if state in (_DEAD, _ENDED):
            return _DEAD
        place = self._place(state)
        matcher = self._matcher(place)
        place.matcher = None
        if not matcher.consume_token(token):
            return _DEAD  # the parser does not recover from it: it is given up
        return self._new_place(place, token, matcher)

    def row(self, state: int) -> Row:
        """The mask row of `state`."""
        if state in (_DEAD, _ENDED):
            return self._special_row(state == _ENDED)
        place = self._place(state)
        if place.row is None:
            place.row = self._new_row(place)
        return place.row

    def is_accepting(self, state: int) -> bool:
        """Whether the text may end in `state`."""
        if state in (_DEAD, _ENDED):
            return state == _ENDED
        return bool(self._matcher(self._place(state)).is_accepting())

    def whole(self) -> TokenTable:
        """Refused: there are states without end.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.source} is parsed by llguidance and has no table: use it on the host, or a grammar that a finite "
            "automaton holds"
        )

    def __and__(self, other: TokenAutomaton) -> TokenAutomaton:
        raise InputError(f"{self.source} is parsed by llguidance, and only tables can be combined")

    def _new_place(self, before: Place | None, token: int, matcher: Native | None) -> Place:
        self.num_states += 1
        return Place.new(_ENDED + self.num_states, before, token, matcher)

    def _place(self, state: int) -> Place:
        if not isinstance(state, Place):
            raise InputError(f"{state} is no state of this automaton: take those that `start` and `next` give")
        return state

    def _matcher(self, place: Place) -> Native:
        """The parser behind the text of a place, which owns it until the text goes on."""
        if place.matcher is None:
            tokens, at = [], place
            while at.before is not None:
                tokens.append(at.token)
                at = at.before
            matcher = self._fresh.deep_copy()
            if not matcher.consume_tokens(tokens[::-1]):
                raise InputError(f"llguidance gives up on {self.source}: {self._error(matcher)}")
            place.matcher = matcher
        return place.matcher

    def _new_row(self, place: Place) -> Row:
        matcher = self._matcher(place)
        bits: NDArray[np.int32] = np.zeros((1, self._words), np.int32)
        self._fill(matcher, bits, 0)
        if matcher.is_error():
            raise InputError(f"llguidance gives up on {self.source}: {self._error(matcher)}")
        key = bits.tobytes()
        row = self._by_bits.get(key)
        if row is None:
            row = self._by_bits[key] = Row.of_bits(bits[0], self.vocabulary.size, self._store)
            if len(self._by_bits) > _MOST_ROWS:
                self._by_bits.popitem(last=False)
        return row

    def _special_row(self, ended: bool) -> Row:
        allowed = np.zeros(self.vocabulary.size, np.bool_)
        allowed[list(self.vocabulary.eos_ids)] = ended
        return Row(self.vocabulary.size, int(allowed.sum()), lambda: allowed, self._store)

    @staticmethod
    def _error(matcher: Native) -> str:
        return str(matcher.get_error()).strip().splitlines()[0]
