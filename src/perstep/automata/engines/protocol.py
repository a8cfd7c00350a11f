"""What computes token masks, behind one protocol, so that each can be compared with the others.

An engine serves one text: `fill` says which tokens may come next, `accept` takes the one that
came. What is built once a vocabulary (a trie, a tokenizer object) and once a schema (a table, a
compiled grammar) is timed apart from the steps. Applying a mask to logits is no part of an engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perstep._json import Json

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from perstep.automata.dfa import Dfa


Native = Any
"""An object of the engine's own library, which mypy does not read."""


@dataclass(frozen=True)
class Grammar:
    """The grammar that an engine enforces.

    Attributes:
        schema: a JSON schema, parsed.
        whitespace: `fixed`, `flexible`, or a regex (as `json_schema`); not every engine supports every policy.
        max_depth: how deep recursion may nest, for engines that work by finite automata.
        undeclared: as for `json_schema`; so is `key_order`. Other libraries read the schema by their own rules.
    """

    schema: Mapping[str, Json]
    whitespace: str = "fixed"
    max_depth: int | None = None
    undeclared: bool = False
    key_order: str = "schema"

    def as_automaton(self) -> Dfa:
        """The byte automaton of its texts.

        Raises:
            InputError: as for `json_schema`.
        """
        from perstep.automata.schema import json_schema

        return json_schema(
            self.schema,
            whitespace=self.whitespace,
            max_depth=self.max_depth,
            undeclared=self.undeclared,
            key_order=self.key_order,
        )


class Engine(ABC):
    """The mask of one growing text.

    Attributes:
        name: what the engine is called on the command line.
        setup_ns: build time for the vocabulary, in ns; used by every grammar.
        build_ns: build time for the grammar, in ns; used by every text.
    """

    name: str
    setup_ns: int = 0
    build_ns: int = 0

    @abstractmethod
    def reset(self) -> None:
        """Begin a new text."""

    @abstractmethod
    def fill(self) -> NDArray[np.int32]:
        """The mask of the next token as packed bits, int32 [ceil(tokens / 32)], valid until the next call.

        Token t is bit t & 31 of word t >> 5. Bits beyond the vocabulary mean nothing.
        """

    @abstractmethod
    def accept(self, token: int) -> bool:
        """Take the chosen token; False if it was not allowed, and then `reset` must follow."""

    @abstractmethod
    def is_terminated(self) -> bool:
        """Whether the text has been ended by an end-of-sequence id."""

    @abstractmethod
    def fork(self) -> Engine:
        """An engine for another text of the same grammar, at its start; shares the built data."""
