r"""The engine outlines-core: a table of transitions by state and token, made in full beforehand.

Its own translation of the schema is used, with the whitespace policy worked in. That
translation ignores what it does not know (minimum, multipleOf, allOf) and allows no `\uXXXX`;
the differences are its own and are shown as such.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from perstep.automata.engines.protocol import Engine, Grammar, Native
from perstep.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perstep.automata.vocabulary import Vocabulary

_SPACE = "(?:perstep)"  # stands for whitespace until the policy is put in its place


class OutlinesEngine(Engine):
    """One text on an outlines index."""

    name = "outlines"

    def __init__(self, index: Native, vocabulary: Vocabulary) -> None:
        from outlines_core import Guide

        self._index = index
        self._vocabulary = vocabulary
        self._guide = Guide(index)
        self._row = np.zeros(-(-vocabulary.size // 32), dtype=np.int32)
        self._address = self._row.ctypes.data
        self._ended = False

    def reset(self) -> None:
        """Begin a new text."""
        self._guide.reset()
        self._ended = False

    def fill(self) -> NDArray[np.int32]:
        """The mask of the next token as packed bits, int32 [ceil(tokens / 32)]."""
        self._guide.write_mask_into(self._address, self._row.size, 4)
        first, *others = self._vocabulary.eos_ids
        for token in others:  # it knows a single id for the end
            bit = (int(self._row[first >> 5]) >> (first & 31)) & 1
            word = int(self._row[token >> 5]) & 0xFFFFFFFF & ~(1 << (token & 31)) | bit << (token & 31)
            self._row[token >> 5] = np.uint32(word).astype(np.int32)
        return self._row

    def accept(self, token: int) -> bool:
        """Take the token that came; False if it was not allowed."""
        if token in self._vocabulary.eos_ids:  # its index has no move for the end, only states where it may come
            self._ended = self._ended or bool(self._guide.is_finished())
            return self._ended
        try:
            self._guide.advance(token, return_tokens=False)
        except ValueError:
            return False
        return True

    def is_terminated(self) -> bool:
        """Whether the text has been ended."""
        return self._ended

    def fork(self) -> OutlinesEngine:
        """Another text of the same grammar."""
        other = OutlinesEngine(self._index, self._vocabulary)
        other.setup_ns, other.build_ns = self.setup_ns, self.build_ns
        return other


def prepare(vocabulary: Vocabulary) -> Native:
    """The vocabulary of outlines-core.

    Raises:
        InputError: if no id ends a text; outlines-core needs one.
    """
    from outlines_core import Vocabulary as OutlinesVocabulary

    if not vocabulary.eos_ids:
        raise InputError("outlines needs an end-of-sequence id: give eos_ids to the vocabulary")
    ids: dict[bytes, list[int]] = {}
    for token, data in enumerate(vocabulary.tokens):
        if data:
            ids.setdefault(data, []).append(token)
    return OutlinesVocabulary(vocabulary.eos_ids[0], ids)


def build(shared: Native, vocabulary: Vocabulary, grammar: Grammar) -> OutlinesEngine:
    """The engine of a grammar.

    Raises:
        InputError: if outlines-core refuses the schema or makes a pattern of it that matches nothing here.
    """
    from outlines_core import Index

    try:
        return OutlinesEngine(Index(schema_regex(grammar), shared), vocabulary)
    except ValueError as error:
        raise InputError(f"outlines refuses the schema: {str(error).strip().splitlines()[0]}") from error


def schema_regex(grammar: Grammar) -> str:
    """The regex that outlines-core makes of a schema, under the whitespace policy."""
    from outlines_core.json_schema import build_regex_from_schema

    depth = 3 if grammar.max_depth is None else grammar.max_depth
    regex = str(build_regex_from_schema(json.dumps(grammar.schema), _SPACE, depth))
    if grammar.whitespace == "fixed":
        regex = regex.replace(f"{_SPACE},{_SPACE}", ", ").replace(f"{_SPACE}:{_SPACE}", ": ")
        return regex.replace(_SPACE, "")
    return regex.replace(_SPACE, r"[ \t\n\r]*" if grammar.whitespace == "flexible" else grammar.whitespace)
