"""JSON schema to a program of pieces (`automata/stack`): the rules of a grammar, whose terminals are byte automata.

The same rules as for llguidance (`grammar.py`), and the same automata of strings and numbers as for a table; nothing is
joined to one automaton of the whole. So it is made in a millisecond, and nests without end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from perstep.automata.metering import CPU_SECONDS, MEGABYTES
from perstep.automata.nfa import ENTRY, EXIT, Block
from perstep.automata.schema.piecewise import InPieces
from perstep.automata.schema.terminals import Repeated, Symbols
from perstep.automata.schema.unequal import PieceCompiler
from perstep.automata.stack.pieces import Literal, Piece
from perstep.automata.stack.program import Counted, Program
from perstep.automata.stack.unequal import Compared, Unequal
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from perstep.automata.schema.compiler import ReadSchema
    from perstep.automata.schema.shapes import Formula

_MOST_WAYS = 64
"""Ways in which one text may have come about; each is followed at every step."""


@dataclass(frozen=True)
class SchemaProgram:
    """A program, and what it was made from."""

    program: Program
    source: str


def schema_program(schema: ReadSchema, cpu_seconds: float = CPU_SECONDS, megabytes: float = MEGABYTES) -> SchemaProgram:
    """The program of the JSON texts that a schema allows; the same texts as its automaton, where it has one.

    Raises:
        InputError: if the schema is malformed, cannot be held or allows nothing, or is over a limit.
    """
    policy = schema.policy
    if policy.max_depth is not None:
        raise InputError("max_depth is for finite automata; a program nests without end: leave it out")
    symbols = Symbols()
    with schema.compiling(cpu_seconds, megabytes):
        expander = schema.expander()
        writing = InPieces(policy.whitespace, policy.state_limit, symbols)
        compiler = PieceCompiler(expander, policy, writing, symbols)
        start = expander.follow(expander.document.root)
        rules = compiler.rules(start)
    source = schema.checked_formats(compiler.loose_formats)
    program = _program(rules, start, compiler.ways, symbols)
    if program is None:
        raise InputError(f"no JSON value satisfies {source}{compiler.why_empty()}")
    return SchemaProgram(program, source)


# Rules to nodes


class _Rule:
    """A block over symbols as lists: by state the ways out, each with its symbol (0: nothing is read)."""

    def __init__(self, block: Block) -> None:
        self.out: list[list[tuple[int, int]]] = [[] for _ in range(block.size)]
        edges, hops = block.listed()
        for source, symbol, _, target in edges:
            self.out[source].append((symbol, target))
        for source, target in hops:
            self.out[source].append((0, target))
        self.calls = {symbol for ways in self.out for symbol, _ in ways}

    def reached(self, useful: set[int]) -> set[int]:
        """The states that useful symbols lead to."""
        out = self.out
        reached, waiting = {ENTRY}, [ENTRY]
        while waiting:
            for symbol, target in out[waiting.pop()]:
                if target not in reached and symbol in useful:
                    reached.add(target)
                    waiting.append(target)
        return reached

    def kept(self, useful: set[int]) -> list[tuple[int, int, int]]:
        """The ways (state, symbol, state) on paths from the entry to the exit."""
        reached = self.reached(useful)
        ways = [(s, symbol, t) for s in reached for symbol, t in self.out[s] if symbol in useful]
        into: dict[int, list[int]] = {}
        for source, _, target in ways:
            into.setdefault(target, []).append(source)
        leads_on, waiting = {EXIT}, [EXIT]
        while waiting:
            for source in into.get(waiting.pop(), ()):
                if source not in leads_on:
                    leads_on.add(source)
                    waiting.append(source)
        return [way for way in ways if way[2] in leads_on]


def _program(
    blocks: dict[Formula, Block], start: Formula, ways: dict[Formula, int], symbols: Symbols
) -> Program | None:
    """The program of the rules; None if no text satisfies the first."""
    names = symbols.names()
    number: dict[Hashable, int] = {name: symbol for symbol, name in names.items() if isinstance(name, tuple)}
    rules = {number[name]: _Rule(block) for name, block in (*blocks.items(), *symbols.parts.items())}
    useful = _useful(rules, names)
    if number[start] not in useful:
        return None
    _check_ways(rules, names, {number[formula]: count for formula, count in ways.items() if count > 1})
    program = Program()
    first = {symbol: program.nodes(len(rule.out)) for symbol, rule in rules.items() if symbol in useful}
    pieces: dict[int, Piece] = {
        symbol: name if isinstance(name, Piece) else Literal(name)
        for symbol, name in names.items()
        if isinstance(name, (Piece, bytes))
    }
    for symbol, begin in first.items():
        program.leave(begin + EXIT)
        for source, read, target in rules[symbol].kept(useful):
            name = names.get(read)
            if read in pieces:
                program.read(begin + source, pieces[read], begin + target)
            elif not read or (isinstance(name, Repeated) and name.part not in first):
                program.hop(begin + source, begin + target)
            elif isinstance(name, Repeated):
                counted = Counted(first[name.part] + ENTRY, name.low, name.high)
                program.call(begin + source, counted, begin + target)
            elif isinstance(name, Unequal):
                program.call(begin + source, _unequal(name, first), begin + target)
            elif isinstance(name, Compared):
                program.compare(begin + source, name, begin + target)
            else:
                program.call(begin + source, first[read] + ENTRY, begin + target)
    program.begin(first[number[start]] + ENTRY)
    return program


def _unequal(name: Unequal, first: dict[int, int]) -> Unequal:
    rules = tuple((first[part] + ENTRY, value) for part, value in name.rules if part in first)
    return replace(name, rules=rules)


def _useful(rules: dict[int, _Rule], names: dict[int, Hashable]) -> set[int]:
    """The symbols that some text satisfies, and 0."""
    useful = {symbol for symbol, name in names.items() if isinstance(name, (Piece, bytes, Compared))} | {0}
    pending = [symbol for symbol in reversed(names) if symbol not in useful]  # what is named later stands further in
    while True:
        left = [symbol for symbol in pending if not _is_useful(symbol, rules, names, useful)]
        if len(left) == len(pending):
            return useful
        pending = left


def _is_useful(symbol: int, rules: dict[int, _Rule], names: dict[int, Hashable], useful: set[int]) -> bool:
    name = names[symbol]
    if isinstance(name, Repeated):
        satisfied = not name.low or name.part in useful
    elif isinstance(name, Unequal):
        satisfied = bool(name.listed or name.compared) or any(part in useful for part, _ in name.rules)
    else:
        satisfied = EXIT in rules[symbol].reached(useful)
    if satisfied:
        useful.add(symbol)
    return satisfied


def _check_ways(rules: dict[int, _Rule], names: dict[int, Hashable], ways: dict[int, int]) -> None:
    """See that no text can have come about in many ways, all of which would have to be followed.

    Raises:
        InputError: if one can.
    """
    if not ways:
        return
    inside: dict[int, set[int]] = {symbol: rule.calls & names.keys() for symbol, rule in rules.items()}
    inside |= {symbol: {name.part} for symbol, name in names.items() if isinstance(name, Repeated)}
    inside |= {symbol: {part for part, _ in name.rules} for symbol, name in names.items() if isinstance(name, Unequal)}
    most = dict.fromkeys(inside, 1)
    changed = True
    while changed:
        changed = False
        for symbol, parts in inside.items():
            count = ways.get(symbol, 1) * max((most[part] for part in parts if part in most), default=1)
            if count > _MOST_WAYS:
                raise InputError(
                    f"the same text could be read in more than {_MOST_WAYS} ways, since alternatives of one type "
                    "are inside each other: they would all be followed"
                )
            if count > most[symbol]:
                most[symbol], changed = count, True
