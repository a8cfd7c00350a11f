"""Arrays without equal items, of values that cannot all be listed: for programs of pieces alone.

Strings and numbers are compared by value. Of objects the first property that all of them must have, and that has
values without end, tells them apart; where there is none, one object may be among the items, and one array.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from perstep.automata.metering import metered_cache
from perstep.automata.nfa import EMPTY, NEVER, Block, sequence, union
from perstep.automata.regex import from_regex
from perstep.automata.schema.compiler import Compiler
from perstep.automata.schema.containers import are_few_sets
from perstep.automata.schema.numbers import listed_numbers, unlisted_number
from perstep.automata.schema.rules import RuleCompiler, ways_of
from perstep.automata.schema.shapes import Array, Boolean, Formula, Null, Number, Object, Shape, String
from perstep.automata.schema.spacing import canonical
from perstep.automata.schema.strings import listed_values, pattern_matches
from perstep.automata.stack.pieces import Scanner, Value
from perstep.automata.stack.unequal import Compared, Listed, Unequal
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from perstep.automata.dfa import Dfa
    from perstep.automata.schema.compiler import Policy
    from perstep.automata.schema.expanding import Expander
    from perstep.automata.schema.piecewise import InPieces
    from perstep.automata.schema.terminals import Symbols

_ONE_WAY = r"0|-?[1-9][0-9]*|-?(0|[1-9][0-9]*)\.[0-9]*[1-9]"
_FEW_DIGITS = r"-?([0-9]\.?){0,14}[0-9]"
"""A number written in one way, and so short that no reader rounds two of them to one."""


class PieceCompiler(RuleCompiler):
    """Writes rules over pieces, arrays without equal items among them."""

    def __init__(self, expander: Expander, policy: Policy, writing: InPieces, symbols: Symbols) -> None:
        super().__init__(expander, policy, writing, symbols)
        self._pieces = writing
        self._telling: dict[str, tuple[Compared, ...]] = {}

    def _unequal(self, shape: Array, path: str, opened: tuple[Formula, ...]) -> Block:
        if shape.prefix or shape.counts or shape.some or self._are_few(shape):
            return super()._unequal(shape, path, opened)
        if shape.rest in opened:
            raise InputError(
                f"{path}: 'uniqueItems' over arrays that hold such arrays again cannot be put into a mask here: "
                "take it out, or check it afterwards"
            )
        opened = (*opened, shape.rest)
        items = Compiler._written(self, self.expander.shapes(shape.rest))
        self.ways[self._writes] *= ways_of(items)
        path += "/items"
        listed = tuple(one for item in items for one in _listed(item))
        compared = tuple(one for item in items for one in self._compared(item, path))
        arrays = union(*(self._shape(item, path, opened) for item in items if isinstance(item, Array)))
        objects = [one for item in items if isinstance(item, Object) for one in self._witnessed(item)]
        rules: list[tuple[Block, Value | None]] = [(arrays, ("array", None)), *self._objects(objects, path, opened)]
        rules = [(block, value) for block, value in rules if block.reads]
        empty = EMPTY if shape.low == 0 else NEVER
        filled: Block = NEVER
        if listed or compared or rules:
            named = tuple((self._symbols.part(block), value) for block, value in rules)
            low = max(shape.low, 1)
            apart = Unequal(low, shape.high, self._pieces.comma, listed, compared, named)
            self._check_low(apart, len({piece.stands_for for piece in listed}) + len(rules), path)
            filled = sequence(self._symbols.block(apart), self._pieces.inside)
        opening, closing = self._pieces.text(b"["), self._pieces.text(b"]")
        return sequence(opening, self._pieces.inside, union(empty, filled), closing)

    def _are_few(self, shape: Array) -> bool:
        """Whether the sets of values can be listed, as other engines do."""
        values = self._values_by_place(shape)[0] if self._goes_on(shape) else []
        return values is not None and are_few_sets(len(values), shape.high)

    def _compared(self, item: Shape, path: str) -> Iterator[Compared]:
        """The pieces of a string or number that is not listed."""
        if isinstance(item, String) and item.values is None:
            self._note_formats(item)
            piece = self._pieces.string_piece(item, path)
            if piece is not None:
                endless = not isinstance(piece, Scanner) or (item.high is None and _is_endless(piece.dfa))
                yield Compared(piece, "string", endless and item.high != 0)
        elif isinstance(item, Number) and item.values is None:
            dfa = _one_way(item, path)
            if not dfa.is_empty:
                yield Compared(Scanner(dfa), "number", False)

    def _objects(
        self, objects: Sequence[Object], path: str, opened: tuple[Formula, ...]
    ) -> Iterator[tuple[Block, Value | None]]:
        """Objects told apart by a property; or one that stands for all."""
        for key in objects[0].keys if objects else ():
            if all(key in one.required for one in objects):
                compared = [self._compared_value(one, key, path) for one in objects]
                if all(compared):
                    blocks = []
                    for one, pieces in zip(objects, compared, strict=True):
                        with self._compared_by(key, pieces):
                            blocks.append(self._object(one, path, opened))
                    yield union(*blocks), None
                    return
        yield union(*(self._object(one, path, opened) for one in objects)), ("object", None)

    def _compared_value(self, shape: Object, key: str, path: str) -> tuple[Compared, ...]:
        """The pieces of a property, if it is a string with values without end; else none."""
        value = Compiler._written(self, self.expander.shapes(shape.value_of(key, pattern_matches)))
        if not all(isinstance(one, String) and one.values is None for one in value):
            return ()
        strings = [piece for one in value for piece in self._compared(one, f"{path}/properties")]
        compared = tuple(replace(piece, kind="property") for piece in strings)
        return compared if any(one.endless for one in compared) else ()

    @contextmanager
    def _compared_by(self, key: str, pieces: tuple[Compared, ...]) -> Iterator[None]:
        self._telling = {key: pieces}
        try:
            yield
        finally:
            self._telling = {}

    def _member(self, key: str, formula: Formula, path: str, opened: tuple[Formula, ...]) -> Block:
        if key in self._telling:
            return union(*(self._symbols.block(compared) for compared in self._telling[key]))
        return super()._member(key, formula, path, opened)

    def _check_low(self, apart: Unequal, listed: int, path: str) -> None:
        """See that there are as many values as there must be items.

        Raises:
            InputError: if that is not known.
        """
        endless = any(compared.endless for compared in apart.compared) or any(value is None for _, value in apart.rules)
        if apart.low > max(listed, 1) and not endless:
            raise InputError(
                f"{path}: 'uniqueItems' with minItems {apart.low} over items of which there may be fewer cannot be "
                "put into a mask here: take one out, or check it afterwards"
            )


def _listed(item: Shape) -> Iterator[Listed]:
    """The values that are written in one way."""
    if isinstance(item, Null):
        yield Listed(b"null", ("null", None))
    elif isinstance(item, Boolean):
        yield from (Listed(canonical(value), ("boolean", value)) for value in item.values)
    elif isinstance(item, String) and item.values is not None:
        yield from (Listed(canonical(value), ("string", value)) for value in listed_values(item))
    elif isinstance(item, Number) and item.values is not None:
        yield from (Listed(text, ("number", Decimal(text.decode()))) for text in listed_numbers(item))


@metered_cache(64)
def _one_way(shape: Number, path: str) -> Dfa:
    """The numbers of a shape that are written in one way."""
    return unlisted_number(shape, path) & from_regex(_ONE_WAY) & from_regex(_FEW_DIGITS)


def _is_endless(dfa: Dfa) -> bool:
    """Whether there is no longest text: some state is left over when those that lead nowhere are taken out."""
    left = np.ones(len(dfa.transitions), dtype=np.bool_)
    left[0] = False
    while True:
        still = left & left[dfa.transitions].any(axis=1)
        if (still == left).all():
            return bool(left.any())
        left = still
