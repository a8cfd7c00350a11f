"""The engine llguidance: an Earley parser over a lexer, a mask computed at each step.

It remembers the mask of the state it is in: a second `fill` without `accept` is not a second
measurement. Its grammar is JSON Schema's own, so it counts, nests and needs no depth.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from perstep.automata.engines.protocol import Engine, Grammar, Native
from perstep.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from perstep.automata.vocabulary import Vocabulary


class LlguidanceEngine(Engine):
    """One text of an llguidance grammar."""

    name = "llguidance"

    def __init__(self, matcher: Native, vocabulary: Vocabulary) -> None:
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        self._fresh = matcher  # one that has refused a token never recovers, so it is kept unused
        self._matcher = matcher.deep_copy()
        self._vocabulary = vocabulary
        self._fill = fill_next_token_bitmask
        self._mask: NDArray[np.int32] = allocate_token_bitmask(1, vocabulary.size)
        self._row: NDArray[np.int32] = self._mask[0]
        self._ended = False

    def reset(self) -> None:
        """Begin a new text."""
        if self._matcher.is_error():
            self._matcher = self._fresh.deep_copy()
        else:
            self._matcher.reset()
        self._ended = False

    def fill(self) -> NDArray[np.int32]:
        """The mask of the next token as packed bits, int32 [ceil(tokens / 32)]."""
        self._fill(self._matcher, self._mask, 0)
        return self._row

    def accept(self, token: int) -> bool:
        """Take the token that came; False if it was not allowed."""
        taken = bool(self._matcher.consume_token(token))
        if taken and token in self._vocabulary.eos_ids:
            self._ended = True
        return taken

    def is_terminated(self) -> bool:
        """Whether the text has been ended."""
        return self._ended

    def fork(self) -> LlguidanceEngine:
        """Another text of the same grammar."""
        other = LlguidanceEngine(self._fresh, self._vocabulary)
        other.setup_ns, other.build_ns = self.setup_ns, self.build_ns
        return other


class _Tokens:
    """A vocabulary in the shape llguidance reads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        special = vocabulary.special_ids
        self.tokens = [f"<special {i}>".encode() if i in special else t for i, t in enumerate(vocabulary.tokens)]
        self.special_token_ids = sorted(special)
        self.eos_token_id = vocabulary.eos_ids[0]
        self.bos_token_id = None
        self._id_of = {data: token for token, data in enumerate(vocabulary.tokens) if data}
        self._longest = max(map(len, self._id_of))

    def __call__(self, text: bytes | str) -> list[int]:
        """The longest token at each place; llguidance asks for it where it forces text."""
        data = text.encode() if isinstance(text, str) else text
        ids, at = [], 0
        while at < len(data):
            for end in range(min(len(data), at + self._longest), at, -1):
                if data[at:end] in self._id_of:
                    ids.append(self._id_of[data[at:end]])
                    at = end
                    break
            else:
                raise InputError(f"the vocabulary cannot spell the byte 0x{data[at]:02X}")
        return ids


def prepare(vocabulary: Vocabulary) -> Native:
    """The tokenizer object of llguidance.

    Raises:
        InputError: if no id ends a text; llguidance needs one.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    if not vocabulary.eos_ids:
        raise InputError("llguidance needs an end-of-sequence id: give eos_ids to the vocabulary")
    tokens = TokenizerWrapper(_Tokens(vocabulary))
    return LLTokenizer(tokens, n_vocab=vocabulary.size, eos_token=list(vocabulary.eos_ids))


def build(shared: Native, vocabulary: Vocabulary, grammar: Grammar) -> LlguidanceEngine:
    """The engine of a grammar.

    Raises:
        InputError: if the whitespace policy is a regex, or llguidance refuses the schema.
    """
    from llguidance import LLMatcher

    if grammar.whitespace not in ("fixed", "flexible"):
        raise InputError(f"llguidance supports whitespace fixed and flexible, not {grammar.whitespace!r}")
    spacing = {"whitespace_flexible": True}
    if grammar.whitespace == "fixed":
        spacing = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # type: ignore[dict-item]
    matcher = LLMatcher(
        shared, LLMatcher.grammar_from_json_schema(json.dumps(grammar.schema), overrides=spacing), log_level=0
    )
    if matcher.is_error():
        raise InputError(f"llguidance refuses the schema: {matcher.get_error().strip().splitlines()[0]}")
    return LlguidanceEngine(matcher, vocabulary)
