"""Keywords that are about one type: what is left of a shape where they hold, and where they fail.

Each function takes a shape and gives the alternatives, none if there are none. A keyword about another type holds of
every shape and fails of none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from perstep._json import Json
from perstep.automata.schema.keywords import same_value
from perstep.automata.schema.shapes import (
    FALSE,
    TRUE,
    Array,
    Boolean,
    Count,
    Formula,
    Null,
    Number,
    Object,
    Others,
    Shape,
    String,
    Witness,
    both,
    literal,
)
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perstep.automata.schema.documents import Document, Place

_OPPOSITE = {
    "minimum": "exclusiveMaximum",
    "maximum": "exclusiveMinimum",
    "exclusiveMinimum": "maximum",
    "exclusiveMaximum": "minimum",
}


def not_(formula: Formula) -> Formula:
    """The negation of a formula of one place at most."""
    if formula == TRUE:
        return FALSE
    ((place, holds),) = formula
    return literal(place, not holds)


# type, enum


def of_types(shape: Shape, names: Sequence[str], *, holds: bool) -> list[Shape]:
    """What is left where `type` is, or is not, one of `names`."""
    if isinstance(shape, Number) and "number" not in names and "integer" in names:
        if shape.whole is (not holds):
            return []
        return [replace(shape, whole=holds, typed=shape.typed or holds)]
    if (shape.kind in names) is not holds:
        return []
    return [replace(shape, typed=True)] if holds else [shape]


def of_values(document: Document, place: Place, shape: Shape, values: Sequence[Json], *, holds: bool) -> list[Shape]:
    """What is left where the value is, or is not, one of `values`."""
    if not holds:
        return _unlike(document, place, shape, values)
    shape = replace(shape, typed=True)
    if isinstance(shape, Array):
        return [_equal_array(document, place, shape, value) for value in values if isinstance(value, list)]
    if isinstance(shape, Object):
        return [_equal_object(document, place, shape, value) for value in values if isinstance(value, dict)]
    narrowed = _among(shape, values)
    return [] if narrowed is None else [narrowed]


def _among(shape: Shape, values: Sequence[Json]) -> Shape | None:
    """A scalar that is one of `values`."""
    if isinstance(shape, Null):
        return shape if any(value is None for value in values) else None
    if isinstance(shape, Boolean):
        kept = tuple(value for value in shape.values if any(value is other for other in values))
        return replace(shape, values=kept) if kept else None
    if isinstance(shape, String):
        texts = dict.fromkeys(value for value in values if isinstance(value, str))
        kept_texts = tuple(t for t in texts if shape.values is None or t in shape.values)
        return replace(shape, values=kept_texts) if kept_texts else None
    if not isinstance(shape, Number):
        return None
    own = shape.values
    numbers = tuple(
        value for value in values if is_number(value) and (own is None or any(same_value(value, one) for one in own))
    )
    return replace(shape, values=numbers) if numbers else None


def is_number(value: Json) -> bool:
    """Whether a JSON value is a number; true is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _equal_array(document: Document, place: Place, shape: Array, value: list[Json]) -> Array:
    items = [literal(document.constant(item, place)) for item in value]
    return replace(with_items(shape, items, TRUE), low=max(shape.low, len(items)), high=least(shape.high, len(items)))


def _equal_object(document: Document, place: Place, shape: Object, value: dict[str, Json]) -> Object:
    narrowed = replace(shape, declared=tuple(dict.fromkeys([*shape.declared, *value])))
    for key, inner in value.items():
        narrowed = narrowed.with_prop(key, literal(document.constant(inner, place))).with_key(key)
    return replace(narrowed, others=(*narrowed.others, Others(frozenset(value), (), FALSE)))


def _unlike(document: Document, place: Place, shape: Shape, values: Sequence[Json]) -> list[Shape]:
    """A value that is none of `values`."""
    if isinstance(shape, Null):
        return [] if any(value is None for value in values) else [shape]
    if isinstance(shape, Boolean):
        kept = tuple(value for value in shape.values if not any(value is other for other in values))
        return [replace(shape, values=kept)] if kept else []
    if isinstance(shape, String):
        texts = tuple(dict.fromkeys(value for value in values if isinstance(value, str)))
        return [replace(shape, rules=(*shape.rules, ("values", texts, False)))] if texts else [shape]
    if isinstance(shape, Number):
        return _other_numbers(shape, [value for value in values if is_number(value)])
    shapes = [shape]
    for value in values:
        shapes = [other for one in shapes for other in _other_containers(document, place, one, value)]
    return shapes


def _other_containers(document: Document, place: Place, shape: Shape, value: Json) -> list[Shape]:
    """An array or object that is not this value."""
    if isinstance(shape, Array) and isinstance(value, list):
        return _other_arrays(document, place, shape, value)
    if isinstance(shape, Object) and isinstance(value, dict):
        return _other_objects(document, place, shape, value)
    return [shape]


def _other_numbers(shape: Number, values: Sequence[float]) -> list[Shape]:
    """Numbers between the values, at least a double away from each, so that no reader takes one for a value."""
    if shape.values is not None:
        kept = tuple(one for one in shape.values if not any(same_value(one, value) for value in values))
        return [replace(shape, values=kept)] if kept else []
    ordered = sorted(set(values))
    below: list[tuple[tuple[str, float], ...]] = [(("exclusiveMaximum", value),) for value in ordered]
    above: list[tuple[tuple[str, float], ...]] = [(("exclusiveMinimum", value),) for value in ordered]
    gaps = [low + high for low, high in zip([(), *above], [*below, ()], strict=True)]
    return [replace(shape, bounds=shape.bounds + gap) for gap in gaps]


def _other_arrays(document: Document, place: Place, shape: Array, value: list[Json]) -> list[Shape]:
    shapes: list[Shape] = [replace(shape, low=max(shape.low, len(value) + 1))]
    if value:
        shapes.append(replace(shape, high=least(shape.high, len(value) - 1)))
    for number, inner in enumerate(value):
        shapes.append(item_unlike(shape, number, literal(document.constant(inner, place), False)))
    return shapes


def _other_objects(document: Document, place: Place, shape: Object, value: dict[str, Json]) -> list[Shape]:
    shapes: list[Shape] = [replace(shape, some=(*shape.some, Witness(Others(frozenset(value), (), TRUE))))]
    for key, inner in value.items():
        shapes.append(shape.with_prop(key, FALSE))
        shapes.append(shape.with_prop(key, literal(document.constant(inner, place), False)).with_key(key))
    return shapes


# Numbers and strings


def of_bound(shape: Shape, name: str, value: float, *, holds: bool) -> list[Shape]:
    """minimum, maximum, exclusiveMinimum, exclusiveMaximum."""
    if not isinstance(shape, Number):
        return [shape] if holds else []
    bound = (name if holds else _OPPOSITE[name], value)
    return [replace(shape, bounds=(*shape.bounds, bound), about=shape.about or holds)]


def of_multiple(shape: Shape, value: float, *, holds: bool) -> list[Shape]:
    """The keyword multipleOf."""
    if not isinstance(shape, Number):
        return [shape] if holds else []
    return [replace(shape, multiples=(*shape.multiples, (value, holds)), about=shape.about or holds)]


def of_text(shape: Shape, name: str, value: str, *, holds: bool) -> list[Shape]:
    """The keywords pattern and format. A format never fails: it may be an annotation to whoever reads."""
    if not isinstance(shape, String):
        return [shape] if holds else []
    if name == "format" and not holds:
        return []
    return [replace(shape, rules=(*shape.rules, (name, value, holds)), about=shape.about or holds)]


# Counts


def of_size(shape: Shape, kind: str, low: int, high: int | None, *, holds: bool) -> list[Shape]:
    """minLength, maxItems and their like: a string, array or object within a range of sizes, or outside it."""
    if shape.kind != kind or not isinstance(shape, (String, Array, Object)):
        return [shape] if holds else []
    if holds:
        ranges = [(low, high)]
    else:
        ranges = [(0, low - 1)] * (low > 0) + ([(high + 1, None)] if high is not None else [])
    shapes: list[Shape] = []
    for least_size, most_size in ranges:
        most = least(shape.high, most_size)
        if most is None or most >= max(shape.low, least_size):
            shapes.append(replace(shape, low=max(shape.low, least_size), high=most, about=shape.about or holds))
    return shapes


def least(one: int | None, other: int | None) -> int | None:
    """The smaller of two upper bounds; None is no bound."""
    return other if one is None else one if other is None else min(one, other)


# Arrays


def with_items(shape: Array, first: Sequence[Formula], rest: Formula) -> Array:
    """An array whose items also satisfy these formulas, place by place."""
    length = max(len(first), len(shape.prefix))
    prefix = tuple(both(shape.item(number), first[number] if number < len(first) else rest) for number in range(length))
    return replace(shape, prefix=prefix, rest=both(shape.rest, rest))


def item_unlike(shape: Array, number: int, formula: Formula) -> Array:
    """An array with at least this number of items, the last of which satisfies a formula."""
    first = [TRUE] * number + [formula]
    return replace(with_items(shape, first, TRUE), low=max(shape.low, number + 1))


def of_items(shape: Shape, first: Sequence[Formula], rest: Formula, *, said: bool, holds: bool) -> list[Shape]:
    """The keywords prefixItems and items, or their older spellings."""
    if not isinstance(shape, Array):
        return [shape] if holds else []
    if holds:
        return [replace(with_items(shape, first, rest), said=shape.said or said, about=True)]
    shapes: list[Shape] = [item_unlike(shape, number, not_(formula)) for number, formula in enumerate(first)]
    if rest != TRUE:
        shapes.append(replace(shape, some=(*shape.some, (len(first), not_(rest)))))
    return shapes


def of_contains(shape: Shape, formula: Formula, low: int, high: int | None, *, holds: bool) -> list[Shape]:
    """contains, minContains, maxContains."""
    if not isinstance(shape, Array):
        return [shape] if holds else []
    if holds:
        counts = [(low, high)] if low or high is not None else []
        if not counts:
            return [shape]
    else:
        counts = [(0, low - 1)] * (low > 0) + ([(high + 1, None)] if high is not None else [])
    return [
        replace(shape, counts=(*shape.counts, Count(formula, least_count, most)), about=shape.about or holds)
        for least_count, most in counts
        if most is None or most >= least_count
    ]


def of_unique(shape: Shape, path: str, *, holds: bool) -> list[Shape]:
    """uniqueItems: true.

    Raises:
        InputError: if it must fail; equal items cannot be counted.
    """
    if not isinstance(shape, Array):
        return [shape] if holds else []
    if not holds:
        raise InputError(f"{path}: 'uniqueItems' under not, oneOf or if cannot be put into a finite automaton here")
    return [replace(shape, unique=True, about=True)]


# Objects


def of_members(
    shape: Shape,
    properties: Sequence[tuple[str, Formula]],
    patterns: Sequence[tuple[str, Formula]],
    others: Formula | None,
    *,
    holds: bool,
) -> list[Shape]:
    """properties, patternProperties and additionalProperties (None: not there)."""
    if not isinstance(shape, Object):
        return [shape] if holds else []
    covered = Others(frozenset(key for key, _ in properties), tuple(name for name, _ in patterns), others or TRUE)
    if holds:
        props = dict(shape.props)
        props |= {key: both(props.get(key, TRUE), formula) for key, formula in properties}
        return [
            replace(
                shape,
                props=tuple(props.items()),
                declared=tuple(dict.fromkeys([*shape.declared, *(key for key, _ in properties)])),
                patterns=shape.patterns + tuple(patterns),
                others=shape.others + ((covered,) if others else ()),
                said=shape.said or others not in (None, FALSE),
                about=True,
            )
        ]
    unlike: list[Shape] = [shape.with_prop(key, not_(formula)).with_key(key) for key, formula in properties]
    witnesses = [Witness(Others(frozenset(), (), not_(formula)), pattern) for pattern, formula in patterns]
    if others:
        witnesses.append(Witness(replace(covered, formula=not_(others))))
    return [*unlike, *(replace(shape, some=(*shape.some, witness)) for witness in witnesses)]


def of_required(shape: Shape, keys: Sequence[str], *, holds: bool) -> list[Shape]:
    """The keyword required."""
    if not isinstance(shape, Object):
        return [shape] if holds else []
    if not holds:
        return [shape.with_prop(key, FALSE) for key in dict.fromkeys(keys)]
    props = {**dict(shape.props), **{key: TRUE for key in keys if key not in dict(shape.props)}}
    required = tuple(dict.fromkeys([*shape.required, *keys]))
    named = tuple(dict.fromkeys([*shape.named, *keys]))
    return [replace(shape, props=tuple(props.items()), required=required, named=named, about=True)]


def of_names(shape: Shape, formula: Formula, *, holds: bool) -> list[Shape]:
    """The keyword propertyNames."""
    if not isinstance(shape, Object):
        return [shape] if holds else []
    if holds:
        return [replace(shape, name=both(shape.name, formula), about=True)]
    witness = Witness(Others(frozenset(), (), TRUE), name=not_(formula))
    return [replace(shape, some=(*shape.some, witness))]


def of_dependency(shape: Shape, key: str, keys: Sequence[str], *, holds: bool) -> list[Shape]:
    """The keyword dependentRequired of one key."""
    if not isinstance(shape, Object):
        return [shape] if holds else []
    if not holds:
        return [shape.with_key(key).with_prop(other, FALSE) for other in dict.fromkeys(keys)]
    without: list[Shape] = [] if key in shape.required else [shape.with_prop(key, FALSE)]
    return [*without, *of_required(shape.with_key(key), keys, holds=True)]
