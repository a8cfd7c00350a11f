"""Token automata: a byte automaton compiled against a vocabulary is a mask for every step.

A grammar mask, UTF-8 validity and stop strings are one thing here: an automaton over bytes
(`from_regex`, `json_schema`, `utf8`, `stop_strings`), compiled once against a `Vocabulary`.
After that a step is two look-ups. Needs NumPy alone until something is built.
"""

from perstep.automata.applying import apply
from perstep.automata.cache import DiskCache, default_folder
from perstep.automata.compiling import compile  # noqa: A004 - the word of the glossary
from perstep.automata.dfa import STATE_LIMIT, Dfa
from perstep.automata.engines import ENGINES, Engine, Grammar, available, prepare
from perstep.automata.front import mask
from perstep.automata.lazy import LazyTable
from perstep.automata.regex import from_regex
from perstep.automata.rows import BUDGET_BYTES, Row, pack_bits, unpack_bits
from perstep.automata.schema import FORMATS, json_schema
from perstep.automata.stop import stop_strings
from perstep.automata.table import TokenAutomaton, TokenTable
from perstep.automata.trigger import after, tagged
from perstep.automata.utf8 import utf8
from perstep.automata.vocabulary import Vocabulary

__all__ = [
    "BUDGET_BYTES",
    "ENGINES",
    "FORMATS",
    "STATE_LIMIT",
    "Dfa",
    "DiskCache",
    "Engine",
    "Grammar",
    "LazyTable",
    "Row",
    "TokenAutomaton",
    "TokenTable",
    "Vocabulary",
    "after",
    "apply",
    "available",
    "compile",
    "default_folder",
    "from_regex",
    "json_schema",
    "mask",
    "pack_bits",
    "prepare",
    "stop_strings",
    "tagged",
    "unpack_bits",
    "utf8",
]
