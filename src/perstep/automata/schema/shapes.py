"""What a value of one type must keep: the form that keywords are worked into, and formulas of subschemas.

A formula is a conjunction of places (`documents.py`), each to be satisfied or not to be. A schema is worked out into
shapes (`asserting.py`), alternatives of one type each; what a shape says of members and items are formulas again. So
`not`, `oneOf` and `if` are decided on what validates, never on how it is written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from perstep._json import Json
from perstep.automata.schema.documents import TRUE_PLACE

if TYPE_CHECKING:
    from collections.abc import Callable

Formula = tuple[tuple[int, bool], ...]
"""Places that a value must satisfy (True) or must not (False), each once, in the order in which they came up."""

TRUE: Formula = ()
FALSE: Formula = ((TRUE_PLACE, False),)


def literal(place: int, holds: bool = True) -> Formula:
    """The formula of one place."""
    return TRUE if (place, holds) == (TRUE_PLACE, True) else ((place, holds),)


def both(*formulas: Formula) -> Formula:
    """The conjunction; FALSE where two parts contradict each other."""
    parts = dict.fromkeys(part for formula in formulas for part in formula)
    if FALSE[0] in parts or any((place, not holds) in parts for place, holds in parts):
        return FALSE
    return tuple(parts)


@dataclass(frozen=True)
class Shape:
    """A value of one type.

    Attributes:
        typed: whether `type`, `enum` or `const` said which types there may be.
        about: whether a keyword about this type stood in the schema.
        branch: which branches of anyOf, oneOf and if were taken to come here.
    """

    typed: bool = False
    about: bool = False
    branch: tuple[tuple[int, bool], ...] = ()

    kind: ClassVar[str] = ""

    def changed(self, **fields: Json) -> Shape:
        """The same with other fields."""
        return replace(self, **fields)


@dataclass(frozen=True)
class Null(Shape):
    """null."""

    kind = "null"


@dataclass(frozen=True)
class Boolean(Shape):
    """true or false."""

    values: tuple[bool, ...] = (True, False)
    kind = "boolean"


@dataclass(frozen=True)
class Number(Shape):
    """A number.

    Attributes:
        whole: True for integers, False for all others, None for both.
        bounds: the names and values of bounds, all of which hold.
        multiples: divisors, and whether they must divide it or must not.
        values: the values it may have; None for any.
    """

    whole: bool | None = None
    bounds: tuple[tuple[str, float], ...] = ()
    multiples: tuple[tuple[float, bool], ...] = ()
    values: tuple[float, ...] | None = None
    kind = "number"


@dataclass(frozen=True)
class String(Shape):
    """A string.

    Attributes:
        low: fewest characters.
        high: most characters; None for any number.
        rules: `pattern`, `format` or `values`, its argument, and whether it must hold or must not.
        values: the values it may have; None for any.
    """

    low: int = 0
    high: int | None = None
    rules: tuple[tuple[str, Json, bool], ...] = ()
    values: tuple[str, ...] | None = None
    kind = "string"

    def as_key(self, matching: tuple[tuple[str, bool], ...], but: tuple[str, ...]) -> String:
        """The same, matching some patterns and not others, and none of `but`."""
        rules = [*self.rules, *(("pattern", pattern, holds) for pattern, holds in matching)]
        return replace(self, rules=(*rules, *[("values", but, False)] * bool(but)))


@dataclass(frozen=True)
class Count:
    """Between `low` and `high` items must satisfy a formula (`contains`)."""

    formula: Formula
    low: int
    high: int | None


@dataclass(frozen=True)
class Array(Shape):
    """An array.

    Attributes:
        prefix: what its first items must satisfy.
        rest: what every further item must.
        low: fewest items.
        high: most items.
        counts: how many items must satisfy what.
        some: an item from this place on must satisfy this formula.
        unique: whether no two items may be equal.
        said: whether the schema says itself what further items are.
    """

    prefix: tuple[Formula, ...] = ()
    rest: Formula = TRUE
    low: int = 0
    high: int | None = None
    counts: tuple[Count, ...] = ()
    some: tuple[tuple[int, Formula], ...] = ()
    unique: bool = False
    said: bool = False
    kind = "array"

    def item(self, number: int) -> Formula:
        """What an item must satisfy."""
        return self.prefix[number] if number < len(self.prefix) else self.rest


@dataclass(frozen=True)
class Others:
    """Keys that a `properties` and its `patternProperties` do not cover.

    Attributes:
        named: keys that are covered.
        patterns: patterns whose keys are covered.
        formula: what the values of all other keys must satisfy.
    """

    named: frozenset[str]
    patterns: tuple[str, ...]
    formula: Formula

    def cover(self, key: str, matches: Callable[[str, str], bool]) -> bool:
        """Whether a key is one of the others."""
        return key not in self.named and not any(matches(pattern, key) for pattern in self.patterns)


@dataclass(frozen=True)
class Witness:
    """Some key must be there.

    Attributes:
        among: it is one that these do not cover; their formula is that of its value.
        pattern: it matches this pattern; None for any.
        name: the key itself satisfies this formula.
    """

    among: Others
    pattern: str | None = None
    name: Formula = TRUE


@dataclass(frozen=True)
class Object(Shape):
    """An object.

    Attributes:
        props: keys that the schema names and what their values must satisfy; FALSE: the key is absent.
        declared: those that `properties` names, in the order in which they are written.
        named: those that `required` and its like name; a key that only a `not` speaks of is not named.
        required: keys that must be there.
        patterns: what the values of keys that match must satisfy.
        others: what the values of keys that are not covered must satisfy.
        name: what every key must satisfy.
        low: fewest members.
        high: most members.
        some: keys that must be there without being known by name.
        said: whether the schema says itself what other keys hold.
    """

    props: tuple[tuple[str, Formula], ...] = ()
    declared: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    patterns: tuple[tuple[str, Formula], ...] = ()
    others: tuple[Others, ...] = ()
    name: Formula = TRUE
    low: int = 0
    high: int | None = None
    some: tuple[Witness, ...] = ()
    said: bool = False
    kind = "object"

    @property
    def keys(self) -> list[str]:
        """The keys that are spoken of: those of `properties` first."""
        return [*self.declared, *(key for key, _ in self.props if key not in self.declared)]

    def value_of(self, key: str, matches: Callable[[str, str], bool]) -> Formula:
        """What the value of a key must satisfy."""
        return both(
            dict(self.props).get(key, TRUE),
            *(formula for pattern, formula in self.patterns if matches(pattern, key)),
            *(others.formula for others in self.others if others.cover(key, matches)),
        )

    def with_prop(self, key: str, formula: Formula) -> Object:
        """The same with one more demand on the value of a key."""
        props = dict(self.props)
        props[key] = both(props.get(key, TRUE), formula)
        return replace(self, props=tuple(props.items()))

    def with_key(self, key: str) -> Object:
        """The same, and the key must be there; that alone does not name it."""
        shape = self if key in dict(self.props) else self.with_prop(key, TRUE)
        return shape if key in shape.required else replace(shape, required=(*shape.required, key))


EVERY: tuple[Shape, ...] = (Null(), Boolean(), Number(), String(), Array(), Object())
"""Any value: one shape a type."""
