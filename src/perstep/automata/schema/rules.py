"""A rule for each formula of a schema: its texts as a block over symbols, in which other formulas stand by a symbol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perstep.automata.schema.compiler import Compiler, Policy
from perstep.automata.schema.shapes import Array, Formula, Object, Shape

if TYPE_CHECKING:
    from perstep.automata.nfa import Block
    from perstep.automata.schema.expanding import Expander
    from perstep.automata.schema.terminals import Symbols
    from perstep.automata.schema.writing import Writing


class RuleCompiler(Compiler):
    """Writes each formula once, as a block over symbols, and stands for it by a symbol elsewhere.

    Attributes:
        ways: in how many ways the texts of a formula may have come about, as far as they open the same bracket.
    """

    def __init__(self, expander: Expander, policy: Policy, writing: Writing, symbols: Symbols) -> None:
        super().__init__(expander, policy, writing)
        self._symbols = symbols
        self._paths: dict[Formula, str] = {}
        self._writes: Formula = ()
        self.ways: dict[Formula, int] = {}

    def rules(self, start: Formula) -> dict[Formula, Block]:
        """The block of every formula that is reached from `start`."""
        self.value(start, "#", ())
        blocks: dict[Formula, Block] = {}
        while len(blocks) < len(self._paths):
            for formula, path in list(self._paths.items()):
                if formula not in blocks:
                    self._writes = formula
                    blocks[formula] = self._block(formula, path, ())
        return blocks

    def value(self, formula: Formula, path: str, opened: tuple[Formula, ...]) -> Block:
        """The symbol of a formula."""
        del opened
        self._paths.setdefault(formula, path)
        return self._symbols.block(formula)

    def _is_too_deep(self, shapes: list[Shape]) -> bool:
        del shapes
        return False

    def _written(self, shapes: tuple[Shape, ...]) -> list[Shape]:
        written = super()._written(shapes)
        self.ways[self._writes] = ways_of(written)
        return written


def ways_of(shapes: list[Shape]) -> int:
    """In how many ways a text of some shapes may have come about, as far as they open the same bracket."""
    arrays = sum(1 + 3 * bool(one.counts or one.some) for one in shapes if isinstance(one, Array))
    objects: int = sum((1 + len(one.props)) ** len(one.some) for one in shapes if isinstance(one, Object))
    return max(arrays, objects, 1)
