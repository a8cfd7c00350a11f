"""JSON schema to a context-free grammar in llguidance's Lark: a rule for each formula, so that values nest without end.

What validates, in which order keys stand and how everything is written is decided by the same code as for automata
(`compiler.py`, `containers.py`): there a member's value is a block of bytes, here it is a symbol. A rule's block, an
automaton over symbols, becomes rules that are recursive on the left, which an Earley parser reads at a cost that does
not grow with the text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from perstep.automata.metering import CPU_SECONDS, MEGABYTES
from perstep.automata.nfa import ENTRY, EXIT, Block
from perstep.automata.schema.compiler import ReadSchema
from perstep.automata.schema.rules import RuleCompiler
from perstep.automata.schema.shapes import Formula
from perstep.automata.schema.terminals import InTerminals, Repeated, Symbols, character_line
from perstep.errors import InputError

_Ways = dict[int, list[tuple[int, int | None]]]
"""By state the states before it, each with the symbol between (None: nothing)."""


_RULE = re.compile(r"\br\d+(?:_\d+)?")
_DEEPEST = 500
"""Rules from the start along a chain; llguidance 1.9.1 crashes at about 1,400 of them on a stack of 8 MB."""


@dataclass(frozen=True)
class Lark:
    """A grammar in llguidance's Lark, and what it was made from."""

    text: str
    source: str


def schema_grammar(schema: ReadSchema, cpu_seconds: float = CPU_SECONDS, megabytes: float = MEGABYTES) -> Lark:
    """The grammar of the JSON texts that a schema allows; the same texts as its automaton, where it has one.

    Raises:
        InputError: if the schema is malformed, cannot be held or allows nothing, or llguidance cannot read a pattern.
    """
    if schema.policy.max_depth is not None:
        raise InputError("max_depth is for finite automata; a grammar nests without end: leave it out")
    symbols = Symbols()
    with schema.compiling(cpu_seconds, megabytes):
        expander = schema.expander()
        policy = schema.policy
        writing = InTerminals(policy.whitespace, policy.state_limit, symbols)
        compiler = RuleCompiler(expander, policy, writing, symbols)
        start = expander.follow(expander.document.root)
        blocks = compiler.rules(start)
    source = schema.checked_formats(compiler.loose_formats)
    text = _lark(blocks, start, symbols)
    if text is None:
        raise InputError(f"no JSON value satisfies {source}{compiler.why_empty()}")
    return Lark(text, source)


# Rules


def _lark(blocks: dict[Formula, Block], start: Formula, symbols: Symbols) -> str | None:
    """The grammar's text; None if it has no text."""
    names = symbols.names()
    number = {name: symbol for symbol, name in names.items() if not isinstance(name, str)}
    ways = {number[name]: _ways(block) for name, block in (*blocks.items(), *symbols.parts.items())}
    ways |= {symbol: _times(name) for symbol, name in names.items() if isinstance(name, Repeated)}
    _leave_out_empty(ways, names)
    if number[start] not in ways:
        return None
    lines = ['%llguidance {"no_forcing": true}', f"start: r{number[start]}", character_line()]
    used: set[int] = set()
    called = {symbol: f"r{symbol}" if symbol in ways else f"T{symbol}" for symbol in names}
    for rule, before in sorted(ways.items()):
        name = names[rule]
        if isinstance(name, Repeated):
            lines.append(f"r{rule}: r{name.part}{{{name.low},{name.high}}}" if name.part in ways else f'r{rule}: ""')
        else:
            lines += _rule_lines(rule, before, called, used)
    _check_depth(lines)
    lines += [f"{called[symbol]}: {names[symbol]}" for symbol in sorted(used - ways.keys())]
    return "\n".join(lines) + "\n"


def _check_depth(lines: list[str]) -> None:
    """See that rules do not lead to rules so deeply that llguidance, which recurses, would run out of stack.

    Raises:
        InputError: if they do.
    """
    leads_to = {name: _RULE.findall(text) for name, _, text in (line.partition(": ") for line in lines)}
    seen: set[str] = set()
    waiting = [("start", 0)]
    while waiting:
        name, depth = waiting.pop()
        if name not in seen:
            if depth > _DEEPEST:
                raise InputError(f"llguidance cannot: rules would lead more than {_DEEPEST} deep into each other")
            seen.add(name)
            waiting += [(other, depth + 1) for other in leads_to[name] if other not in seen]


def _times(name: Repeated) -> _Ways:
    """What leads to the exit of a repetition, for the question whether anything does."""
    return {EXIT: [(ENTRY, name.part), *[(ENTRY, None)] * (not name.low)]}


def _ways(block: Block) -> _Ways:
    """What leads to each state of a block."""
    before: _Ways = defaultdict(list)
    edges, hops = block.listed()
    for source, symbol, _, target in edges:
        before[target].append((source, symbol))
    for source, target in hops:
        before[target].append((source, None))
    return before


def _leave_out_empty(ways: dict[int, _Ways], names: dict[int, object]) -> None:
    """Take out what no text satisfies: rules without any, edges that need them, and states that lead nowhere."""
    productive = {symbol for symbol, name in names.items() if isinstance(name, str)}
    pending = dict(ways)
    while True:
        nonempty = [rule for rule, before in pending.items() if EXIT in _reached(before, productive)]
        if not nonempty:
            break
        productive.update(nonempty)
        for rule in nonempty:
            del pending[rule]
    for rule in pending:
        del ways[rule]
    for rule, before in ways.items():
        reached = _reached(before, productive)
        kept: _Ways = {}
        waiting = [EXIT]
        while waiting:
            state = waiting.pop()
            if state not in kept:
                kept[state] = [
                    (s, symbol)
                    for s, symbol in before.get(state, ())
                    if s in reached and (symbol is None or symbol in productive)
                ]
                waiting += [s for s, _ in kept[state]]
        ways[rule] = kept


def _reached(before: _Ways, productive: set[int]) -> set[int]:
    """The states that can be reached by productive symbols."""
    after: dict[int, list[int]] = defaultdict(list)
    for target, sources in before.items():
        for source, symbol in sources:
            if symbol is None or symbol in productive:
                after[source].append(target)
    reached, waiting = {ENTRY}, [ENTRY]
    while waiting:
        for target in after[waiting.pop()]:
            if target not in reached:
                reached.add(target)
                waiting.append(target)
    return reached


def _rule_lines(rule: int, before: _Ways, called: dict[int, str], used: set[int]) -> list[str]:
    """The rules of one block: each says which texts lead to a state; that of the exit is the block's own."""
    out_of: dict[int, int] = defaultdict(int)
    for sources in before.values():
        for source, _ in sources:
            out_of[source] += 1

    def alternative(source: int, symbol: int | None) -> str:
        parts = [symbol]
        while source != ENTRY and out_of[source] == 1 and len(before[source]) == 1:
            ((source, symbol),) = before[source]
            parts.append(symbol)
        used.update(part for part in parts if part is not None)
        words = [] if source == ENTRY else [f"r{rule}_{source}"]
        words += [called[part] for part in reversed(parts) if part is not None]
        return " ".join(words) or '""'

    lines = []
    for state, sources in sorted(before.items()):
        inlined = state not in (ENTRY, EXIT) and out_of[state] == 1 and len(sources) == 1
        if state == ENTRY or inlined:
            continue
        name = f"r{rule}" if state == EXIT else f"r{rule}_{state}"
        lines.append(f"{name}: {' | '.join(dict.fromkeys(alternative(*way) for way in sources))}")
    return lines
