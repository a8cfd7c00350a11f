"""The keywords of JSON Schema: which mean something here, which are refused, and how two schemas become one.

Whatever is not known is ignored, as JSON Schema says; whatever is known and cannot be held by
the automaton is refused by name, so that nothing generated ever fails to validate in silence.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from perstep._json import Json
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Schema = dict[str, Json]

SCALARS = ("null", "boolean", "integer", "number", "string")
TYPES = (*SCALARS, "array", "object")

ABOUT = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""The assertions that are understood, by the type they are about."""

REFUSED = (
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "patternProperties"),
    *("propertyNames", "unevaluatedProperties", "unevaluatedItems", "contains", "minContains", "maxContains"),
    *("additionalItems", "$dynamicRef", "$recursiveRef"),
)

_LARGER = ("minLength", "minItems", "minimum", "exclusiveMinimum", "minProperties")
_SMALLER = ("maxLength", "maxItems", "maximum", "exclusiveMaximum", "maxProperties")
_JOINED_APART = ("properties", "additionalProperties", "prefixItems", "items")


def check_keywords(schema: Schema, path: str) -> None:
    """Refuse what the automaton cannot hold, and keywords whose value is not of the form that JSON Schema gives it.

    The compiler calls this before it reads any keyword, and then relies on the forms.

    Raises:
        InputError: naming the keyword and what to do.
    """
    _check_held(schema, path)
    for name, (has_form, form) in _FORMS.items():
        if name in schema and not has_form(schema[name]):
            raise InputError(f"{path}: {name} must be {form}; got {schema[name]!r}")
    for at, part in _subschemas(schema, path):
        check_is_schema(part, at)


def check_is_schema(value: Json, path: str) -> None:
    """See that a value may be a schema at all.

    Raises:
        InputError: it is neither an object nor true or false.
    """
    if not isinstance(value, (dict, bool)):
        raise InputError(f"{path}: a schema is an object, true or false; got {value!r}")


def _check_held(schema: Schema, path: str) -> None:
    for name in REFUSED:
        if name in schema and not (name == "propertyNames" and schema[name] is True):
            raise InputError(
                f"{path}: {name!r} is not supported by a finite automaton here: remove it, "
                "or use an engine that handles it (llguidance)"
            )
    if schema.get("uniqueItems") is True:
        raise InputError(
            f"{path}: 'uniqueItems' would need a state for every set of values seen: take it out, "
            "or check it afterwards"
        )
    if isinstance(schema.get("items"), list):
        raise InputError(f"{path}: a list of items is the syntax of an old draft; write prefixItems (and items: false)")
    for name in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(schema.get(name), bool):
            raise InputError(f"{path}: {name} as true or false is the syntax of an old draft; write the number there")


def _subschemas(schema: Schema, path: str) -> Iterator[tuple[str, Json]]:
    """Where the subschemas stand and what stands there, one level down."""
    for name in ("items", "additionalProperties"):
        if name in schema:
            yield f"{path}/{name}", schema[name]
    for key, part in schema.get("properties", {}).items():
        yield below(path, "properties", key), part
    for name in _LISTS_OF_SCHEMAS:
        for number, part in enumerate(schema.get(name, [])):
            yield f"{path}/{name}/{number}", part


def _is_type(value: Json) -> bool:
    return value in TYPES


def _is_list_of_different(value: Json, has_form: Callable[[Json], bool]) -> bool:
    return isinstance(value, list) and all(map(has_form, value)) and len(set(value)) == len(value)


def _is_string(value: Json) -> bool:
    return isinstance(value, str)


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _fits_a_double(value: Json) -> bool:
    return _is_number(value) and abs(value) < sys.float_info.max  # strictly, so that the next double is one too


def _is_count(value: Json) -> bool:
    return _fits_a_double(value) and value >= 0 and value == int(value)


_LISTS_OF_SCHEMAS = ("prefixItems", "allOf", "anyOf", "oneOf")
_A_NUMBER = (_fits_a_double, "a number within the range of doubles")

_FORMS: dict[str, tuple[Callable[[Json], bool], str]] = {
    "type": (
        lambda value: _is_type(value) or (value != [] and _is_list_of_different(value, _is_type)),
        f"among {', '.join(TYPES)}, or a list of different ones",
    ),
    "enum": (lambda value: isinstance(value, list), "a list of values"),
    "properties": (lambda value: isinstance(value, dict), "an object"),
    "required": (lambda value: _is_list_of_different(value, _is_string), "a list of different property names"),
    **dict.fromkeys(
        _LISTS_OF_SCHEMAS, (lambda value: isinstance(value, list) and bool(value), "a list of at least one schema")
    ),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _A_NUMBER),
    "multipleOf": (lambda value: _fits_a_double(value) and value > 0, f"{_A_NUMBER[1]}, above 0"),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        (_is_count, "a whole number from 0 on"),
    ),
    **dict.fromkeys(("pattern", "format"), (_is_string, "a string")),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
}
"""Keyword -> whether a JSON value has its form, and that form in words."""


def below(path: str, *names: str) -> str:
    """The JSON pointer of a place below `path`, in one line whatever the names are."""
    parts = (name.replace("~", "~0").replace("/", "~1") for name in names)
    return "/".join([path, *(part if part.isprintable() else ascii(part)[1:-1] for part in parts)])


def types_of(schema: Schema) -> tuple[str, ...]:
    """The types a schema allows: its `type`, or the ones its keywords are about, or all of them."""
    if "type" not in schema:
        about = tuple(kind for kind, names in ABOUT.items() if any(name in schema for name in names))
        return about or TYPES
    given = schema["type"]
    return tuple(given) if isinstance(given, list) else (given,)


def type_allows(name: str, value: Json) -> bool:
    """Whether a JSON value is of a type; 1.0 is an integer, as JSON Schema has it."""
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, (int, float)):
        return name == "number" or (name == "integer" and value == int(value))
    kinds: dict[str, type] = {"null": type(None), "string": str, "array": list, "object": dict}
    return name in kinds and isinstance(value, kinds[name])


def same_value(left: Json, right: Json) -> bool:
    """Equality of JSON values: numbers by value, and true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_value, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_value(left[key], right[key]) for key in left)
    return (type(left) is type(right) or (_is_number(left) and _is_number(right))) and bool(left == right)


def const_as_enum(schema: Schema) -> Schema:
    """The schema with `const` written as an enum of one value."""
    if "const" not in schema:
        return schema
    value = schema["const"]
    among = schema.get("enum", [value])
    rest = {name: other for name, other in schema.items() if name != "const"}
    return {**rest, "enum": [value] if any(same_value(value, other) for other in among) else []}


def conjunction(left: Json, right: Json, path: str) -> Json:
    """One schema that demands what both demand.

    Raises:
        InputError: if two keywords cannot be joined into one.
    """
    for schema in (left, right):
        check_is_schema(schema, path)
        if isinstance(schema, dict):
            check_keywords(schema, path)
    if left is True or right is True:
        return right if left is True else left
    if left is False or right is False:
        return False
    left, right = const_as_enum(left), const_as_enum(right)
    merged: Schema = {**left, **right}
    _join_properties(merged, left, right, path)
    _join_items(merged, left, right, path)
    for name in left.keys() & right.keys():
        if name not in _JOINED_APART and not same_value(left[name], right[name]):
            merged[name] = _join(name, left[name], right[name], path)
    return merged if merged.get("type") != [] else False


def _join(name: str, one: Json, other: Json, path: str) -> Json:
    if name in _LARGER:
        return max(one, other)
    if name in _SMALLER:
        return min(one, other)
    if name == "type":
        return _common_types(one, other)
    if name == "required":
        return [*one, *(key for key in other if key not in one)]
    if name == "enum":
        return [value for value in one if any(same_value(value, kept) for kept in other)]
    if name == "allOf":
        return [*one, *other]
    if name == "uniqueItems":
        return one or other
    if name == "anyOf":
        return [conjunction(a, b, path) for a in one for b in other]
    if name in {"pattern", "format", "multipleOf", "oneOf", "$ref"}:
        raise InputError(
            f"{path}: two different {name!r} apply to one value (by allOf or a $ref), and cannot be combined here"
        )
    return other  # annotations


def _common_types(one: Json, other: Json) -> list[str]:
    left = one if isinstance(one, list) else [one]
    right = other if isinstance(other, list) else [other]
    common = [name for name in left if name in right]
    if "integer" not in common and (
        ("integer" in left and "number" in right) or ("number" in left and "integer" in right)
    ):
        common.append("integer")
    return common


def _join_properties(merged: Schema, left: Schema, right: Schema, path: str) -> None:
    """Join properties key by key; a key that only one side names is under the other's additionalProperties."""
    if (
        "properties" not in left
        and "properties" not in right
        and "additionalProperties" not in left.keys() & right.keys()
    ):
        return
    ours, theirs = left.get("properties", {}), right.get("properties", {})
    properties = {}
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        one = ours[key] if key in ours else left.get("additionalProperties", True)
        other = theirs[key] if key in theirs else right.get("additionalProperties", True)
        properties[key] = conjunction(one, other, below(path, "properties", key))
    if properties:
        merged["properties"] = properties
    if "additionalProperties" in left and "additionalProperties" in right:
        merged["additionalProperties"] = conjunction(left["additionalProperties"], right["additionalProperties"], path)


def _join_items(merged: Schema, left: Schema, right: Schema, path: str) -> None:
    """Join items place by place; a place that only one side's prefix has is under the other's `items`."""
    ours, theirs = left.get("prefixItems", []), right.get("prefixItems", [])
    prefix = []
    for place in range(max(len(ours), len(theirs))):
        one = ours[place] if place < len(ours) else left.get("items", True)
        other = theirs[place] if place < len(theirs) else right.get("items", True)
        prefix.append(conjunction(one, other, f"{path}/prefixItems/{place}"))
    if prefix:
        merged["prefixItems"] = prefix
    if "items" in left and "items" in right:
        merged["items"] = conjunction(left["items"], right["items"], f"{path}/items")
