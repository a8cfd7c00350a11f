"""The engine `auto`: what `perstep.automata.mask` chooses for a grammar, behind the protocol of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perstep.automata.engines import llguidance
from perstep.automata.engines.tables import TableEngine
from perstep.automata.engines.tables import prepare as prepare_tables
from perstep.automata.front import mask_of_schema
from perstep.automata.schema.compiler import Policy, ReadSchema
from perstep.automata.stack.automaton import prepare_walks

if TYPE_CHECKING:
    from perstep.automata.engines.protocol import Grammar
    from perstep.automata.vocabulary import Vocabulary


def prepare(vocabulary: Vocabulary) -> None:
    """What every engine needs once a vocabulary; the parser only where an id ends a text."""
    prepare_tables(vocabulary)
    prepare_walks(vocabulary).prepare()
    if vocabulary.eos_ids:
        vocabulary.derived("llguidance", llguidance.prepare)


def build(_shared: None, vocabulary: Vocabulary, grammar: Grammar) -> TableEngine:
    """The mask of a grammar by the engine that suits it."""
    policy = Policy(grammar.whitespace, grammar.max_depth, undeclared=grammar.undeclared, key_order=grammar.key_order)
    schema = ReadSchema(grammar.schema, policy)
    return TableEngine(mask_of_schema(vocabulary, schema, "auto"), "auto")
