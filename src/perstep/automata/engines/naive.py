"""The method everybody writes first: every token, byte by byte, in Python, at every step.

It is here to be measured, and as the reference the others are checked against. `naive-memo`
keeps what it found for each state, which is all that most steps need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perstep.automata.engines.protocol import Engine, Grammar
from perstep.automata.rows import pack_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perstep.automata.dfa import Dfa
    from perstep.automata.vocabulary import Vocabulary


class NaiveEngine(Engine):
    """Walks the byte automaton through every token at every step."""

    name = "naive"

    def __init__(self, dfa: Dfa, vocabulary: Vocabulary) -> None:
        self._dfa = dfa
        self._vocabulary = vocabulary
        self._rows = dfa.rows
        self._accepting: list[bool] = dfa.accepting.tolist()
        self._texts = [(token, data) for token, data in enumerate(vocabulary.tokens) if data]
        self.reset()

    def reset(self) -> None:
        """Begin a new text."""
        self._state = self._dfa.start
        self._ended = False

    def fill(self) -> NDArray[np.int32]:
        """The mask of the next token as packed bits, int32 [ceil(tokens / 32)]."""
        return pack_bits(self._mask())

    def accept(self, token: int) -> bool:
        """Take the token that came; False if it was not allowed."""
        if token in self._vocabulary.eos_ids:
            self._ended = self._ended or self._accepting[self._state]
            return self._ended
        data = self._vocabulary.tokens[token]
        self._state = self._dfa.run(data, self._state) if data and not self._ended else 0
        return self._state != 0

    def is_terminated(self) -> bool:
        """Whether the text has been ended."""
        return self._ended

    def fork(self) -> NaiveEngine:
        """Another text of the same grammar."""
        other = type(self)(self._dfa, self._vocabulary)
        other.setup_ns, other.build_ns = self.setup_ns, self.build_ns
        return other

    def _mask(self) -> NDArray[np.bool_]:
        mask = np.zeros(self._vocabulary.size, dtype=np.bool_)
        mask[list(self._vocabulary.eos_ids)] = self._ended or self._accepting[self._state]
        if self._ended:
            return mask
        rows, start = self._rows, self._state
        for token, data in self._texts:
            state = start
            for byte in data:
                state = rows[state][byte]
                if not state:
                    break
            else:
                mask[token] = True
        return mask


class MemoEngine(NaiveEngine):
    """The naive engine, with the masks of the states it has been in."""

    name = "naive-memo"

    def __init__(self, dfa: Dfa, vocabulary: Vocabulary) -> None:
        self._found: dict[tuple[int, bool], NDArray[np.int32]] = {}
        super().__init__(dfa, vocabulary)

    def fill(self) -> NDArray[np.int32]:
        """The mask of the next token as packed bits, int32 [ceil(tokens / 32)]."""
        key = (self._state, self._ended)
        bits = self._found.get(key)
        if bits is None:
            bits = self._found[key] = super().fill()
        return bits

    def fork(self) -> MemoEngine:
        """Another text of the same grammar."""
        other = MemoEngine(self._dfa, self._vocabulary)
        other.setup_ns, other.build_ns = self.setup_ns, self.build_ns
        other._found = self._found
        return other


def prepare(vocabulary: Vocabulary) -> None:
    """Nothing is built for the vocabulary."""


def build(_shared: None, vocabulary: Vocabulary, grammar: Grammar) -> NaiveEngine:
    """The naive engine of a grammar."""
    return NaiveEngine(grammar.as_automaton(), vocabulary)


def build_memo(_shared: None, vocabulary: Vocabulary, grammar: Grammar) -> MemoEngine:
    """The remembering engine of a grammar."""
    return MemoEngine(grammar.as_automaton(), vocabulary)
