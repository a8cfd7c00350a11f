"""JSON schema to a program of pieces (`automata/stack`): the rules of a grammar, whose terminals are byte automata.

The same rules as for llguidance (`grammar.py`), and the same automata of strings and numbers as for a table; nothing is
joined to one automaton of the whole. So it is made in a millisecond, and nests without end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from perstep.automata.determinise import determinise
from perstep.automata.metering import CPU_SECONDS, MEGABYTES, metered_cache
from perstep.automata.nfa import EMPTY, ENTRY, EXIT, NEVER, Block, literal, optional, sequence, union
from perstep.automata.schema.numbers import listed_numbers, unlisted_number
from perstep.automata.schema.shapes import Number, String
from perstep.automata.schema.spacing import canonical, space_block
from perstep.automata.schema.strings import listed_values, string_automaton
from perstep.automata.schema.terminals import InRules, Repeated, Symbols
from perstep.automata.schema.unequal import Apart, PieceCompiler
from perstep.automata.stack.pieces import Key, Literal, Piece, Scanner, Text
from perstep.automata.stack.program import Counted, Program
from perstep.automata.stack.unequal import Told, Unequal
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


class InPieces(InRules):
    """Writes symbols that stand for pieces.

    Args:
        policy: `fixed`, `flexible`, or a regex of what may stand between tokens.
        limit: most states of the automaton of a piece.
        symbols: their numbers; literals are named by their bytes, other pieces by themselves.

    Raises:
        InputError: if the regex is malformed or matches anything but JSON whitespace.
    """

    def __init__(self, policy: str, limit: int, symbols: Symbols) -> None:
        super().__init__(symbols)
        self._limit = limit
        if policy == "fixed":
            self.inside, self.item, self.colon = EMPTY, self.text(b", "), self.text(b": ")
            self.comma: Piece = Literal(b", ")
            return
        spaces = _spaces(policy, limit)
        some = EMPTY if spaces.some is None else symbols.block(spaces.some)
        self.inside = optional(some) if spaces.or_none else some
        self.item, self.colon = symbols.block(spaces.comma), symbols.block(spaces.colon)
        self.comma = spaces.comma

    def text(self, data: bytes) -> Block:
        """Exactly `data`."""
        return self._symbols.block(data)

    def string(self, shape: String, path: str) -> Block:
        """The texts of a string, quotes included."""
        if shape.values is not None:
            return union(*(self.text(canonical(value)) for value in sorted(listed_values(shape))))
        piece = self.string_piece(shape, path)
        return NEVER if piece is None else self._symbols.block(piece)

    def string_piece(self, shape: String, path: str) -> Piece | None:
        """The piece of a string that is not listed; None if there is no such string."""
        if not shape.rules:
            return _text(shape.low, shape.high)
        if shape.low == 0 and shape.high is None and len(shape.rules) == 1:
            name, words, holds = shape.rules[0]
            if name == "values" and not holds:
                return _key(words)
        try:
            return _scanner(shape, self._limit)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def number(self, shape: Number, path: str) -> Block:
        """The texts of a number."""
        if shape.values is not None:
            return union(*(self.text(text) for text in listed_numbers(shape)))
        piece = _number(shape, path)
        return NEVER if piece is None else self._symbols.block(piece)


@lru_cache(maxsize=512)
def _text(low: int, high: int | None) -> Text:
    return Text(low, high)


@lru_cache(maxsize=256)
def _key(words: tuple[str, ...]) -> Key:
    return Key(words)


@metered_cache(256)
def _scanner(shape: String, limit: int) -> Scanner | None:
    """The piece of a string with rules; None if there is no such string."""
    dfa = string_automaton(shape, limit)
    return None if dfa.is_empty else Scanner(dfa)


@metered_cache(256)
def _number(shape: Number, path: str) -> Scanner | None:
    dfa = unlisted_number(shape, path)
    return None if dfa.is_empty else Scanner(dfa)


@dataclass(frozen=True, eq=False)
class _Spaces:
    """What may stand between tokens.

    Attributes:
        some: whitespace inside brackets; None if there is never any.
        or_none: whether there may be none.
        comma: a comma and what is around it.
        colon: a colon and what is around it.
    """

    some: Scanner | None
    or_none: bool
    comma: Scanner
    colon: Scanner


@metered_cache(16)
def _spaces(policy: str, limit: int) -> _Spaces:
    space = space_block(policy, limit)
    every = determinise(space, limit, policy)
    some = every - determinise(EMPTY, limit, "nothing")
    comma, colon = (Scanner(determinise(sequence(space, literal(sign), space), limit, policy)) for sign in (b",", b":"))
    return _Spaces(None if some.is_empty else Scanner(some), every.accepts(b""), comma, colon)


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
            elif isinstance(name, Apart):
                program.call(begin + source, _unequal(name, first), begin + target)
            elif isinstance(name, Told):
                program.tell(begin + source, name, begin + target)
            else:
                program.call(begin + source, first[read] + ENTRY, begin + target)
    program.begin(first[number[start]] + ENTRY)
    return program


def _unequal(name: Apart, first: dict[int, int]) -> Unequal:
    rules = tuple((first[part] + ENTRY, value) for part, value in name.rules if part in first)
    return Unequal(name.low, name.high, name.comma, name.listed, name.told, rules)


def _useful(rules: dict[int, _Rule], names: dict[int, Hashable]) -> set[int]:
    """The symbols that some text satisfies, and 0."""
    useful = {symbol for symbol, name in names.items() if isinstance(name, (Piece, bytes, Told))} | {0}
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
    elif isinstance(name, Apart):
        satisfied = bool(name.listed or name.told) or any(part in useful for part, _ in name.rules)
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
    inside |= {symbol: {part for part, _ in name.rules} for symbol, name in names.items() if isinstance(name, Apart)}
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
