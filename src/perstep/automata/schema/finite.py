"""The values of a formula that has few: booleans, listed values, small ranges; for arrays without equal items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perstep.automata.schema.numbers import finite_numbers
from perstep.automata.schema.shapes import Array, Boolean, Formula, Null, Number, Object, Shape, String
from perstep.automata.schema.strings import listed_values

if TYPE_CHECKING:
    from perstep._json import Json
    from perstep.automata.schema.expanding import Expander

_MOST = 1_000


def finite_values(expander: Expander, formula: Formula) -> list[Json] | None:
    """All values of a formula, some perhaps twice; None if they are not known to be few."""
    all_values: list[Json] = []
    for shape in expander.shapes(formula):
        values = _of_shape(shape)
        if values is None or len(all_values) + len(values) > _MOST:
            return None
        all_values += values
    return all_values


def _of_shape(shape: Shape) -> list[Json] | None:
    if isinstance(shape, Null):
        return [None]
    if isinstance(shape, Boolean):
        return list(shape.values)
    if isinstance(shape, Number):
        return finite_numbers(shape, _MOST)
    if isinstance(shape, String) and shape.values is not None:
        return list(listed_values(shape))
    if isinstance(shape, Array) and shape.high == 0:
        return [[]]
    if isinstance(shape, Object) and shape.high == 0:
        return [{}]
    return None
