"""One way to a mask for any schema, regex or grammar: our table where the language is regular and small, else a parser.

The engine is chosen once, before the first token, by counted work and not by the clock, so the same grammar gives the
same engine on every machine. Both engines allow the same tokens: a schema is worked out once and written either as
an automaton or as a grammar of the same texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perstep._json import Json
from perstep._words import plural
from perstep.automata.compiling import compile as compile_table
from perstep.automata.dfa import STATE_LIMIT
from perstep.automata.metering import CPU_SECONDS, MEGABYTES, metered
from perstep.automata.regex import PYTHON, from_regex
from perstep.automata.schema.compiler import Policy, ReadSchema
from perstep.automata.schema.programs import SchemaProgram, schema_program
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from perstep.automata.dfa import Dfa
    from perstep.automata.schema.grammar import Lark
    from perstep.automata.table import TokenAutomaton
    from perstep.automata.vocabulary import Vocabulary

CHOICES = ("auto", "stack", "table", "table-lazy", "llguidance")
SMALL_SECONDS = 0.1
"""Counted work of a compile up to which `auto` takes our own engine."""
SMALL_MEGABYTES = 50.0
"""Memory of a compile up to which `auto` takes our own engine."""


def mask(
    vocabulary: Vocabulary,
    *,
    schema: str | bytes | Mapping[str, Json] | bool | None = None,
    regex: str | None = None,
    lark: str | None = None,
    gbnf: str | None = None,
    engine: str = "auto",
    whitespace: str = "fixed",
    max_depth: int | None = None,
    undeclared: bool = False,
    key_order: str = "schema",
    strict: bool = False,
    cpu_seconds: float = CPU_SECONDS,
    megabytes: float = MEGABYTES,
) -> TokenAutomaton:
    """The mask of a grammar over a vocabulary, by whichever engine suits it.

    Args:
        vocabulary: the tokens.
        schema: a JSON schema, as text or parsed; what of it is written is the same for every engine (`json_schema`).
        regex: a regular expression, matched from end to end (`from_regex`).
        lark: a grammar in llguidance's Lark.
        gbnf: a grammar in llama.cpp's GBNF.
        engine: `auto`, `table` (compiled whole), `table-lazy` (each row at the first visit), or `llguidance`.
        whitespace: of a schema, as in `json_schema`; so are `undeclared`, `key_order` and `strict`.
        max_depth: how deep a schema may nest; only for tables, since a parser needs no such limit.
        cpu_seconds: most work of a table's compile, counted and not clocked.
        megabytes: most memory of a table's compile.

    Returns:
        An automaton with `start`, `allowed(state)`, `next(state, token)`, `is_accepting(state)`; its `engine` and
        `reason` say which engine it is and why. States are opaque.

    Raises:
        InputError: if not exactly one grammar is given, it is malformed or allows nothing, or the engine asked for
            cannot hold it.

    Examples:
        >>> found = mask(vocabulary, schema={"type": "boolean"})  # doctest: +SKIP
        >>> found.engine, found.reason  # doctest: +SKIP
        ('table-lazy', 'the automaton is small: ...')
    """
    name = _only({"schema": schema, "regex": regex, "lark": lark, "gbnf": gbnf})
    if engine not in CHOICES:
        raise InputError(f"there is no engine {engine!r} for a mask; there are {', '.join(CHOICES)}")
    limits = cpu_seconds, megabytes
    if schema is not None:
        policy = Policy(whitespace, max_depth, STATE_LIMIT, undeclared, key_order, strict)
        return mask_of_schema(vocabulary, ReadSchema(schema, policy), engine, limits)
    if regex is not None:
        return _Choice(vocabulary, _of_regex(regex)).take(engine, limits)
    text, source = _grammar_text(lark, gbnf)
    if engine not in ("auto", "llguidance"):
        raise InputError(f"a {name} grammar has no table: use engine='llguidance' or 'auto'")
    return _parsed(vocabulary, text, source, f"a {name} grammar is for a parser")


def _only(given: Mapping[str, object]) -> str:
    """The name of the one grammar that was given."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise InputError(f"a mask is of one grammar: give {' or '.join(given)}; got {' and '.join(names) or 'none'}")
    return names[0]


def mask_of_schema(
    vocabulary: Vocabulary, schema: ReadSchema, engine: str, limits: tuple[float, float] = (CPU_SECONDS, MEGABYTES)
) -> TokenAutomaton:
    """The mask of a schema that was read.

    Raises:
        InputError: as for `mask`.
    """

    def grammar(cpu_seconds: float, megabytes: float) -> Lark:
        from perstep.automata.schema.grammar import schema_grammar

        return schema_grammar(schema, cpu_seconds, megabytes)

    def program(cpu_seconds: float, megabytes: float) -> SchemaProgram:
        return schema_program(schema, cpu_seconds, megabytes)

    return _Choice(vocabulary, _Forms(schema.as_automaton, grammar, program)).take(engine, limits)


@dataclass(frozen=True)
class _Forms:
    """A grammar in the forms that engines read.

    Attributes:
        as_automaton: makes its byte automaton within CPU seconds and megabytes.
        as_grammar: makes its grammar for llguidance within CPU seconds and megabytes.
        as_program: makes its program of pieces within CPU seconds and megabytes; None where it has none.
    """

    as_automaton: Callable[[float, float], Dfa]
    as_grammar: Callable[[float, float], Lark]
    as_program: Callable[[float, float], SchemaProgram] | None = None


class _Choice:
    """The engines over a vocabulary, for a grammar."""

    def __init__(self, vocabulary: Vocabulary, forms: _Forms) -> None:
        self._vocabulary = vocabulary
        self._forms = forms

    def take(self, engine: str, limits: tuple[float, float]) -> TokenAutomaton:
        """The mask by an engine, or by the one that suits."""
        if engine == "llguidance":
            return self._by_parser("asked for", limits)
        if engine == "stack":
            return self._by_stack(limits, limits, "asked for")
        if engine != "auto":
            return self._by_table(engine, limits, "asked for")
        with metered(limits[0], None):  # all tries together
            return self._by_the_first_that_can(limits)

    def _by_the_first_that_can(self, limits: tuple[float, float]) -> TokenAutomaton:
        small = min(SMALL_SECONDS, limits[0]), min(SMALL_MEGABYTES, limits[1])
        try:
            if self._forms.as_program is None:
                return self._by_table("table-lazy", small, "")
            return self._by_stack(small, limits, "")
        except InputError as error:
            too_large = error
        try:
            return self._by_parser(f"not small: {too_large}", limits)
        except InputError as error:
            refused = error
        reason = f"llguidance cannot: {refused}"
        if self._forms.as_program is not None:
            with suppress(InputError):
                return self._by_stack(limits, limits, reason)
        try:
            return self._by_table("table-lazy", limits, reason)
        except InputError as error:
            raise InputError(f"no engine holds it. llguidance: {refused}; a table: {error}") from error

    def _by_stack(
        self, limits: tuple[float, float], limits_of_table: tuple[float, float], reason: str
    ) -> TokenAutomaton:
        from perstep.automata.stack.automaton import StackAutomaton

        if self._forms.as_program is None:
            raise InputError("the engine 'stack' is for schemas: use 'table', 'table-lazy' or 'auto'")
        read = self._forms.as_program(*limits)
        automaton = StackAutomaton(
            read.program, self._vocabulary, read.source, lambda: self._forms.as_automaton(*limits_of_table)
        )
        automaton.reason = reason or f"small pieces, {plural(read.program.num_nodes, 'node')} between them"
        return automaton

    def _by_table(self, engine: str, limits: tuple[float, float], reason: str) -> TokenAutomaton:
        dfa = self._forms.as_automaton(*limits)
        table = compile_table(dfa, self._vocabulary, lazy=engine == "table-lazy")
        table.engine, table.reason = engine, reason or f"a small language of {plural(dfa.num_states, 'state')}"
        return table

    def _by_parser(self, reason: str, limits: tuple[float, float]) -> TokenAutomaton:
        grammar = self._forms.as_grammar(*limits)
        return _parsed(self._vocabulary, grammar.text, grammar.source, reason)


def _parsed(vocabulary: Vocabulary, text: str, source: str, reason: str) -> TokenAutomaton:
    from perstep.automata.engines.parsed import ParsedAutomaton

    automaton = ParsedAutomaton(text, vocabulary, source)
    automaton.engine, automaton.reason = "llguidance", reason
    return automaton


def _of_regex(pattern: str) -> _Forms:
    def automaton(cpu_seconds: float, megabytes: float) -> Dfa:
        with metered(cpu_seconds, megabytes):
            return from_regex(pattern)

    def grammar(_cpu_seconds: float, _megabytes: float) -> Lark:
        from perstep.automata.schema.grammar import Lark
        from perstep.automata.schema.terminals import plain_source, regex_source

        source = regex_source(pattern, PYTHON, plain_source)
        return Lark(f'%llguidance {{"no_forcing": true}}\nstart: TEXT\nTEXT: /{source}/\n', f"the regex {pattern!r}")

    return _Forms(automaton, grammar)


def _grammar_text(lark: str | None, gbnf: str | None) -> tuple[str, str]:
    """The Lark of a grammar, without forced tokens, and what it is.

    Raises:
        InputError: if GBNF is malformed.
    """
    if lark is None:
        from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

        try:
            lark = gbnf_to_lark(gbnf)
        except GbnfToLarkError as error:
            raise InputError(f"the GBNF grammar is malformed: {error}") from error
    kind = "Lark" if gbnf is None else "GBNF"
    return f'%llguidance {{"no_forcing": true}}\n{lark}', f"the {kind} grammar"
