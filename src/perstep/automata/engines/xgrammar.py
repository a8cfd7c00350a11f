"""The engine xgrammar: a pushdown automaton with the masks of context-free states made beforehand.

It brings torch and transformers along and is used only where it is installed. Its fill says
whether there is anything to apply at all; the row is handed out either way.
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


class XgrammarEngine(Engine):
    """One text of an xgrammar grammar."""

    name = "xgrammar"

    def __init__(self, compiled: Native, vocabulary: Vocabulary) -> None:
        import xgrammar

        self._compiled = compiled
        self._vocabulary = vocabulary
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._mask = xgrammar.allocate_token_bitmask(1, vocabulary.size)
        self._row: NDArray[np.int32] = self._mask.numpy()[0]

    def reset(self) -> None:
        """Begin a new text."""
        self._matcher.reset()

    def fill(self) -> NDArray[np.int32]:
        """The mask of the next token as packed bits, int32 [ceil(tokens / 32)]."""
        self._matcher.fill_next_token_bitmask(self._mask, 0)
        return self._row

    def accept(self, token: int) -> bool:
        """Take the token that came; False if it was not allowed."""
        return bool(self._matcher.accept_token(token))

    def is_terminated(self) -> bool:
        """Whether the text has been ended."""
        return bool(self._matcher.is_terminated())

    def fork(self) -> XgrammarEngine:
        """Another text of the same grammar."""
        other = XgrammarEngine(self._compiled, self._vocabulary)
        other.setup_ns, other.build_ns = self.setup_ns, self.build_ns
        return other


def prepare(vocabulary: Vocabulary) -> Native:
    """The compiler of xgrammar for a vocabulary; one thread, no cache, so that a build is a build.

    Raises:
        InputError: if no id ends a text; xgrammar needs one.
    """
    import xgrammar

    if not vocabulary.eos_ids:
        raise InputError("xgrammar needs an end-of-sequence id: give eos_ids to the vocabulary")
    info = xgrammar.TokenizerInfo(
        list(vocabulary.tokens),
        xgrammar.VocabType.RAW,
        vocab_size=vocabulary.size,
        stop_token_ids=list(vocabulary.eos_ids),
    )
    return xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)


def build(shared: Native, vocabulary: Vocabulary, grammar: Grammar) -> XgrammarEngine:
    """The engine of a grammar.

    Raises:
        InputError: if the whitespace policy is a regex, or xgrammar refuses the schema.
    """
    if grammar.whitespace not in ("fixed", "flexible"):
        raise InputError(f"xgrammar supports whitespace fixed and flexible, not {grammar.whitespace!r}")
    spacing: dict[str, Native] = {"any_whitespace": True}
    if grammar.whitespace == "fixed":
        spacing = {"any_whitespace": False, "separators": (", ", ": ")}
    try:
        compiled = shared.compile_json_schema(json.dumps(grammar.schema), strict_mode=True, **spacing)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"xgrammar refuses the schema: {str(error).strip().splitlines()[0]}") from error
    return XgrammarEngine(compiled, vocabulary)
