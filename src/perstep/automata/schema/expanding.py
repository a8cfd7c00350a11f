"""From formulas to shapes: every keyword of every place worked in, alternative by alternative.

What cannot be satisfied is dropped as soon as that is seen. A branch of oneOf need only fail where it could hold too;
where two branches exclude each other nothing is added, so that the usual union costs what anyOf costs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from perstep._json import Json
from perstep.automata.metering import spend
from perstep.automata.schema import asserting
from perstep.automata.schema.keywords import Schema
from perstep.automata.schema.numbers import can_be_number
from perstep.automata.schema.shapes import (
    EVERY,
    FALSE,
    TRUE,
    Array,
    Boolean,
    Formula,
    Number,
    Object,
    Shape,
    String,
    literal,
)
from perstep.automata.schema.strings import can_be_string, pattern_matches
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from perstep.automata.schema.documents import Document, Place

    _About = Callable[["Expander", Shape, Place, Schema, bool], list[Shape]]
    _Combine = Callable[["Expander", list[Shape], Place, Schema, bool], list[Shape]]

MOST_SHAPES = 4_000
_NS_PER_KEYWORD = 12_000
_MOST_REFERENCES = 100  # one inside another without an object or array in between
_LOOKED_INTO = 6  # levels of required members and items that are searched for a contradiction

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_SIZES = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}
_ORDER = {
    name: number
    for number, names in enumerate(
        (
            ("type", "enum", "const"),
            ("$ref", "$dynamicRef", "$recursiveRef"),
            ("properties", "patternProperties", "additionalProperties"),  # which say the order of keys
            (),  # all others
            (
                "required",
                "dependentRequired",
                "dependencies",
                "dependentSchemas",
                "allOf",
                "not",
                "if",
                "anyOf",
                "oneOf",
            ),
        )
    )
    for name in names
}
"""Keywords in the order in which they are worked in: what leaves fewer alternatives first, what makes more last."""


class Expander:
    """The shapes of formulas over one document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._shapes: dict[Formula, tuple[Shape, ...]] = {}
        self._possible: dict[Formula, bool] = {}
        self._entered: list[tuple[int, bool]] = []

    def begin(self) -> None:
        """Forget what an error left half done."""
        self._entered = []
        self._possible = {}

    def shapes(self, formula: Formula) -> tuple[Shape, ...]:
        """The alternatives of a formula, none that is known to be impossible.

        Raises:
            InputError: if there are more than 4,000, or a keyword cannot be worked in.
        """
        if formula not in self._shapes:
            shapes: Iterable[Shape] = EVERY
            for place, holds in formula:
                shapes = self._apply(shapes, place, holds)
            self._shapes[formula] = tuple(dict.fromkeys(shapes))
        return self._shapes[formula]

    def is_possible(self, formula: Formula, depth: int = 0) -> bool:
        """Whether a formula is not known to be unsatisfiable."""
        if formula == FALSE:
            return False
        if formula == TRUE or depth > _LOOKED_INTO:
            return True
        if formula not in self._possible:
            self._possible[formula] = True  # while it is asked for: a recursion says nothing against it
            entered, self._entered = self._entered, []
            self._possible[formula] = any(self._can_be(shape, depth) for shape in self.shapes(formula))
            self._entered = entered
        return self._possible[formula]

    def _can_be(self, shape: Shape, depth: int) -> bool:
        if isinstance(shape, Array):
            return all(self.is_possible(shape.item(n), depth + 1) for n in range(min(shape.low, len(shape.prefix) + 1)))
        if isinstance(shape, Object):
            return all(self.is_possible(shape.value_of(key, pattern_matches), depth + 1) for key in shape.required)
        return True

    # One place

    def _apply(self, shapes: Iterable[Shape], number: int, holds: bool) -> list[Shape]:
        """What is left of shapes where a place holds, or fails."""
        place = self.document.places[number]
        narrowed = list(shapes)
        if isinstance(place.schema, bool):
            return narrowed if place.schema is holds else []
        if len(self._entered) > _MOST_REFERENCES or (number, holds) in self._entered:
            raise InputError(f"{place.path}: a $ref contains itself without an object or a list in between")
        self._entered.append((number, holds))
        keywords = self.document.keywords(place)
        if holds:
            asserted = [name for name in keywords if name in _COMBINING or name in _ABOUT_ONE]
            for name in sorted(asserted, key=lambda word: _ORDER.get(word, 3)):
                narrowed = self._checked(place, self._keyword(narrowed, place, keywords, name, holds=True))
        else:
            names = list(keywords)
            if "$ref" in keywords and place.resource.draft is None:
                names = ["$ref"]  # what stands beside it may mean nothing to whoever reads
            narrowed = self._checked(
                place, [one for name in names for one in self._keyword(narrowed, place, keywords, name, holds=False)]
            )
        self._entered.pop()
        return narrowed

    def _checked(self, place: Place, shapes: Iterable[Shape]) -> list[Shape]:
        """The shapes that can be, each once."""
        possible = [shape for shape in dict.fromkeys(shapes) if _is_possible(shape)]
        if len(possible) > MOST_SHAPES:
            raise InputError(
                f"{place.path}: not, oneOf, anyOf, if and their like make more than {MOST_SHAPES:,} cases here: "
                "simplify it, or use an engine that works without a finite automaton (llguidance)"
            )
        return possible

    def _keyword(
        self, shapes: list[Shape], place: Place, keywords: Schema, name: str, *, holds: bool
    ) -> Iterable[Shape]:
        """What is left where one keyword holds, or fails."""
        spend(_NS_PER_KEYWORD * (1 + len(shapes)))
        if name in _COMBINING:
            return _COMBINING[name](self, shapes, place, keywords, holds)
        about_one = _ABOUT_ONE.get(name)
        if about_one is None:
            return shapes if holds else []
        return (one for shape in shapes for one in about_one(self, shape, place, keywords, holds))

    def child(self, place: Place, schema: Json, *names: str) -> Formula:
        """The formula of a subschema."""
        number = self.document.child(place, schema, *names)
        return self.follow(number)

    def follow(self, number: int) -> Formula:
        """The formula of a place; of one that is a reference alone, that of what it points to."""
        for _ in range(_MOST_REFERENCES):
            place = self.document.places[number]
            if not isinstance(place.schema, dict):
                break
            asserted = [name for name in self.document.keywords(place) if name in _COMBINING or name in _ABOUT_ONE]
            if asserted != ["$ref"]:
                return TRUE if not asserted else literal(number)
            number = self.document.target(place, "$ref")
        return literal(number)

    # Keywords with subschemas for the same value

    def reference(self, shapes: list[Shape], place: Place, name: str, holds: bool) -> list[Shape]:
        """$ref and its like."""
        return self._apply(shapes, self.document.target(place, name), holds)

    def _parts(self, place: Place, keywords: Schema, name: str) -> list[int]:
        return [self.document.child(place, part, name, str(number)) for number, part in enumerate(keywords[name])]

    def all_of(self, shapes: list[Shape], place: Place, keywords: Schema, holds: bool) -> list[Shape]:
        """The keyword allOf."""
        parts = self._parts(place, keywords, "allOf")
        return self._every(shapes, parts, True) if holds else self._either(shapes, [(part, False) for part in parts])

    def any_of(self, shapes: list[Shape], place: Place, keywords: Schema, holds: bool) -> list[Shape]:
        """The keyword anyOf."""
        parts = self._parts(place, keywords, "anyOf")
        return self._either(shapes, [(part, True) for part in parts]) if holds else self._every(shapes, parts, False)

    def _every(self, shapes: list[Shape], parts: list[int], holds: bool) -> list[Shape]:
        for part in parts:
            shapes = self._apply(shapes, part, holds)
        return shapes

    def _either(self, shapes: list[Shape], parts: list[tuple[int, bool]]) -> list[Shape]:
        return [
            replace(shape, branch=(*shape.branch, (part, holds)))
            for part, holds in parts
            for shape in self._apply(shapes, part, holds)
        ]

    def one_of(self, shapes: list[Shape], place: Place, keywords: Schema, holds: bool) -> list[Shape]:
        """The keyword oneOf."""
        parts = self._parts(place, keywords, "oneOf")
        if holds:
            cases = []
            for number, part in enumerate(parts):
                taken = self._either(shapes, [(part, True)])
                cases += self._but_none_of(taken, place, parts[:number] + parts[number + 1 :])
            return cases
        none = self._every(shapes, parts, False)
        two = [
            shape
            for number, one in enumerate(parts)
            for other in parts[number + 1 :]
            for shape in self._apply(self._apply(shapes, one, True), other, True)
        ]
        return [*none, *two]

    def _but_none_of(self, shapes: list[Shape], place: Place, others: list[int]) -> list[Shape]:
        """Shapes for which no other branch of oneOf holds."""
        for other in others:
            rest: list[Shape] = []
            for shape in shapes:
                if any(self._can_be(met, 0) for met in self._apply([shape], other, True)):
                    rest += self._apply([shape], other, False)
                else:
                    rest.append(shape)
            shapes = self._checked(place, (shape for shape in rest if self._can_be(shape, 0)))
        return shapes

    def not_(self, shapes: list[Shape], place: Place, keywords: Schema, holds: bool) -> list[Shape]:
        """The keyword not."""
        return self._apply(shapes, self.document.child(place, keywords["not"], "not"), not holds)

    def if_(self, shapes: list[Shape], place: Place, keywords: Schema, holds: bool) -> list[Shape]:
        """The keywords if, then and else."""
        condition = self.document.child(place, keywords["if"], "if")
        cases = []
        for name, met in (("then", True), ("else", False)):
            taken = self._either(shapes, [(condition, met)])
            if name in keywords:
                cases += self._apply(taken, self.document.child(place, keywords[name], name), holds)
            elif holds:
                cases += taken
        return cases

    def dependencies(self, shapes: list[Shape], place: Place, keywords: Schema, name: str, holds: bool) -> list[Shape]:
        """The keywords dependentSchemas, dependentRequired, and the older keyword that is both."""
        failing: list[Shape] = []
        for key, what in keywords[name].items():
            if isinstance(what, list) and all(isinstance(other, str) for other in what):
                narrowed = [one for shape in shapes for one in asserting.of_dependency(shape, key, what, holds=holds)]
            else:
                narrowed = self._dependent_schema(shapes, self.document.child(place, what, name, key), key, holds)
            if holds:
                shapes = self._checked(place, narrowed)
            else:
                failing += narrowed
        return shapes if holds else failing

    def _dependent_schema(self, shapes: list[Shape], number: int, key: str, holds: bool) -> list[Shape]:
        objects = [shape for shape in shapes if isinstance(shape, Object)]
        met = self._apply([shape.with_key(key) for shape in objects], number, holds)
        if not holds:
            return met
        absent = [shape.with_prop(key, FALSE) for shape in objects if key not in shape.required]
        return [*(shape for shape in shapes if not isinstance(shape, Object)), *absent, *met]


def _is_possible(shape: Shape) -> bool:
    """Whether a shape does not contradict itself, as far as is seen without looking into members and items."""
    if isinstance(shape, Boolean):
        return bool(shape.values)
    if isinstance(shape, Number):
        return can_be_number(shape)
    if isinstance(shape, String):
        return can_be_string(shape)
    if isinstance(shape, Array):
        return shape.high is None or shape.low <= shape.high
    if isinstance(shape, Object):
        props = dict(shape.props)
        return (shape.high is None or max(shape.low, len(shape.required)) <= shape.high) and all(
            props[key] != FALSE for key in shape.required
        )
    return True


# Keywords about one type: from a shape, the place and its keywords to what is left


def _type(_: Expander, shape: Shape, __: Place, keywords: Schema, holds: bool) -> list[Shape]:
    given = keywords["type"]
    return asserting.of_types(shape, given if isinstance(given, list) else [given], holds=holds)


def _enum(to: Expander, shape: Shape, place: Place, keywords: Schema, holds: bool) -> list[Shape]:
    return asserting.of_values(to.document, place, shape, keywords["enum"], holds=holds)


def _const(to: Expander, shape: Shape, place: Place, keywords: Schema, holds: bool) -> list[Shape]:
    return asserting.of_values(to.document, place, shape, [keywords["const"]], holds=holds)


def _bound(name: str) -> _About:
    exclusive = "exclusive" + name[0].upper() + name[1:]

    def apply(_: Expander, shape: Shape, __: Place, keywords: Schema, holds: bool) -> list[Shape]:
        value = keywords[name]
        if isinstance(value, bool):  # draft 4: what minimum and maximum mean
            return [shape] if holds else []
        old = keywords.get(exclusive) is True
        return asserting.of_bound(shape, exclusive if old else name, value, holds=holds)

    return apply


def _multiple(_: Expander, shape: Shape, __: Place, keywords: Schema, holds: bool) -> list[Shape]:
    return asserting.of_multiple(shape, keywords["multipleOf"], holds=holds)


def _text(name: str) -> _About:
    def apply(_: Expander, shape: Shape, __: Place, keywords: Schema, holds: bool) -> list[Shape]:
        return asserting.of_text(shape, name, keywords[name], holds=holds)

    return apply


def _size(kind: str, name: str) -> _About:
    def apply(_: Expander, shape: Shape, __: Place, keywords: Schema, holds: bool) -> list[Shape]:
        value = int(keywords[name])
        low, high = (value, None) if name.startswith("min") else (0, value)
        return asserting.of_size(shape, kind, low, high, holds=holds)

    return apply


def _items(to: Expander, shape: Shape, place: Place, keywords: Schema, holds: bool) -> list[Shape]:
    """prefixItems, items and additionalItems, whichever of them stands first."""
    if not isinstance(shape, Array):
        return [shape] if holds else []
    items = keywords.get("items", True)
    if isinstance(items, list):
        first, name, rest = items, "additionalItems", keywords.get("additionalItems", True)
        said = "additionalItems" in keywords
        prefix = [to.child(place, part, "items", str(number)) for number, part in enumerate(first)]
    else:
        name, rest, said = "items", items, "items" in keywords
        prefix = [
            to.child(place, part, "prefixItems", str(number))
            for number, part in enumerate(keywords.get("prefixItems", []))
        ]
    return asserting.of_items(shape, prefix, to.child(place, rest, name), said=said, holds=holds)


def _contains(to: Expander, shape: Shape, place: Place, keywords: Schema, holds: bool) -> list[Shape]:
    high = keywords.get("maxContains")
    return asserting.of_contains(
        shape,
        to.child(place, keywords["contains"], "contains"),
        int(keywords.get("minContains", 1)),
        None if high is None else int(high),
        holds=holds,
    )


def _unique(_: Expander, shape: Shape, place: Place, keywords: Schema, holds: bool) -> list[Shape]:
    if keywords["uniqueItems"] is not True:
        return [shape] if holds else []
    return asserting.of_unique(shape, place.path, holds=holds)


def _members(to: Expander, shape: Shape, place: Place, keywords: Schema, holds: bool) -> list[Shape]:
    """properties, patternProperties and additionalProperties, whichever of them stands first."""
    if not isinstance(shape, Object):
        return [shape] if holds else []
    properties = [
        (key, to.child(place, part, "properties", key)) for key, part in keywords.get("properties", {}).items()
    ]
    patterns = [
        (key, to.child(place, part, "patternProperties", key))
        for key, part in keywords.get("patternProperties", {}).items()
    ]
    others = None
    if "additionalProperties" in keywords:
        others = to.child(place, keywords["additionalProperties"], "additionalProperties")
    return asserting.of_members(shape, properties, patterns, others, holds=holds)


def _required(_: Expander, shape: Shape, __: Place, keywords: Schema, holds: bool) -> list[Shape]:
    return asserting.of_required(shape, keywords["required"], holds=holds)


def _names(to: Expander, shape: Shape, place: Place, keywords: Schema, holds: bool) -> list[Shape]:
    return asserting.of_names(shape, to.child(place, keywords["propertyNames"], "propertyNames"), holds=holds)


def _first_of(names: tuple[str, ...], apply: _About) -> Iterator[tuple[str, _About]]:
    """Keywords that are read together: the first that stands in a schema stands for all."""

    def once(name: str) -> _About:
        def read(to: Expander, shape: Shape, place: Place, keywords: Schema, holds: bool) -> list[Shape]:
            if name == next(one for one in names if one in keywords):
                return apply(to, shape, place, keywords, holds)
            return [shape] if holds else []

        return read

    return ((name, once(name)) for name in names)


_ABOUT_ONE: dict[str, _About] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    **{name: _bound(name) for name in ("minimum", "maximum")},
    **{name: _bound(name) for name in ("exclusiveMinimum", "exclusiveMaximum")},
    "multipleOf": _multiple,
    **{name: _text(name) for name in ("pattern", "format")},
    **{name: _size(kind, name) for kind, names in _SIZES.items() for name in names},
    **dict(_first_of(("items", "prefixItems"), _items)),
    "contains": _contains,
    "uniqueItems": _unique,
    **dict(_first_of(("properties", "patternProperties", "additionalProperties"), _members)),
    "required": _required,
    "propertyNames": _names,
}


def _referring(name: str) -> _Combine:
    def apply(to: Expander, shapes: list[Shape], place: Place, _: Schema, holds: bool) -> list[Shape]:
        return to.reference(shapes, place, name, holds)

    return apply


def _depending(name: str) -> _Combine:
    def apply(to: Expander, shapes: list[Shape], place: Place, keywords: Schema, holds: bool) -> list[Shape]:
        return to.dependencies(shapes, place, keywords, name, holds)

    return apply


_COMBINING: dict[str, _Combine] = {
    **{name: _referring(name) for name in ("$ref", "$dynamicRef", "$recursiveRef")},
    "allOf": Expander.all_of,
    "anyOf": Expander.any_of,
    "oneOf": Expander.one_of,
    "not": Expander.not_,
    "if": Expander.if_,
    **{name: _depending(name) for name in ("dependencies", "dependentRequired", "dependentSchemas")},
}
