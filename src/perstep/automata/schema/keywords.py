"""The keywords of JSON Schema: what each is about, in which drafts it means something, and which form its value has.

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

_LONGEST_PATH = 180

REFUSED = ("unevaluatedProperties", "unevaluatedItems")
"""Known and not held."""

HOLDERS = {
    **dict.fromkeys(("items", "additionalItems", "additionalProperties", "contains", "propertyNames"), "one"),
    **dict.fromkeys(("not", "if", "then", "else", "unevaluatedItems", "unevaluatedProperties"), "one"),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), "list"),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), "map"),
    **dict.fromkeys(("dependentSchemas", "dependencies"), "map"),
}
"""Keywords that hold a schema (`items` perhaps a list of them), a list of schemas, or schemas by name."""

_SINCE = {
    **dict.fromkeys(("const", "contains", "propertyNames", "exclusiveMinimum", "exclusiveMaximum"), 6),
    **dict.fromkeys(("if", "then", "else"), 7),
    **dict.fromkeys(("dependentRequired", "dependentSchemas", "minContains", "maxContains", "$anchor"), 2019),
    **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), 2019),
    **dict.fromkeys(("prefixItems", "$dynamicRef"), 2020),
}
_UNTIL = {"dependencies": 7, "additionalItems": 2019, "$recursiveRef": 2019}


def known_in(name: str, value: Json, draft: int | None) -> bool:
    """Whether a keyword means something in a draft; where no draft is said, every keyword does."""
    if draft is None:
        return True
    if name in ("exclusiveMinimum", "exclusiveMaximum") and isinstance(value, bool):
        return draft == 4
    return _SINCE.get(name, 0) <= draft <= _UNTIL.get(name, draft) and (name != "$recursiveRef" or draft == 2019)


def check_keywords(schema: Schema, path: str, draft: int | None) -> None:
    """Refuse what the automaton cannot hold, and keywords whose value is not of the form that JSON Schema gives it.

    The compiler calls this before it reads any keyword, and then relies on the forms.

    Raises:
        InputError: naming the keyword and what to do.
    """
    for name in REFUSED:
        if name in schema and known_in(name, schema[name], draft):
            raise InputError(
                f"{path}: {name!r} cannot be put into a finite automaton here: take it out, "
                "or use an engine that handles it (llguidance)"
            )
    for name, (has_form, form) in _FORMS.items():
        if name in schema and known_in(name, schema[name], draft) and not has_form(schema[name]):
            raise InputError(f"{path}: {name} must be {form}; got {_shown(schema[name])}")
    for name in ("exclusiveMinimum", "exclusiveMaximum"):
        if draft not in (None, 4) and isinstance(schema.get(name), bool):
            raise InputError(f"{path}: {name} as true or false is draft 4's spelling; write the number there")
    for at, part in _subschemas(schema, path):
        check_is_schema(part, at)


def _shown(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_is_schema(value: Json, path: str) -> None:
    """See that a value may be a schema at all.

    Raises:
        InputError: it is neither an object nor true or false.
    """
    if not isinstance(value, (dict, bool)):
        raise InputError(f"{path}: a schema is an object, true or false; got {value!r}")


def _subschemas(schema: Schema, path: str) -> Iterator[tuple[str, Json]]:
    """Where the subschemas that are read stand and what stands there, one level down."""
    for name, kind in HOLDERS.items():
        value: Json = schema.get(name)
        if name not in schema or name in ("$defs", "definitions", "dependencies"):
            continue
        if kind == "list" or isinstance(value, list):
            yield from ((f"{path}/{name}/{number}", part) for number, part in enumerate(value))
        elif kind == "map":
            yield from ((below(path, name, key), part) for key, part in value.items())
        else:
            yield f"{path}/{name}", value


def _is_type(value: Json) -> bool:
    return isinstance(value, str) and value in TYPES


def _is_list_of(value: Json, has_form: Callable[[Json], bool]) -> bool:
    return isinstance(value, list) and all(map(has_form, value))


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
        lambda value: _is_type(value) or (value != [] and _is_list_of(value, _is_type)),
        f"among {', '.join(TYPES)}, or a list of them",
    ),
    "enum": (lambda value: isinstance(value, list), "a list of values"),
    **dict.fromkeys(
        ("properties", "patternProperties", "dependentSchemas", "dependencies"),
        (lambda value: isinstance(value, dict), "an object"),
    ),
    "required": (lambda value: _is_list_of(value, _is_string), "a list of property names"),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(_is_list_of(names, _is_string) for names in value.values()),
        "an object of lists of property names",
    ),
    **dict.fromkeys(
        _LISTS_OF_SCHEMAS, (lambda value: isinstance(value, list) and bool(value), "a list of at least one schema")
    ),
    **dict.fromkeys(("minimum", "maximum"), _A_NUMBER),
    **dict.fromkeys(
        ("exclusiveMinimum", "exclusiveMaximum"),
        (
            lambda value: isinstance(value, bool) or _fits_a_double(value),
            f"{_A_NUMBER[1]}, or true or false in draft 4",
        ),
    ),
    "multipleOf": (lambda value: _fits_a_double(value) and value > 0, f"{_A_NUMBER[1]}, above 0"),
    **dict.fromkeys(
        (
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "minProperties",
            "maxProperties",
            "minContains",
            "maxContains",
        ),
        (_is_count, "a whole number from 0 on"),
    ),
    **dict.fromkeys(("pattern", "format"), (_is_string, "a string")),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
}
"""Keyword -> whether a JSON value has its form, and that form in words."""


def below(path: str, *names: str) -> str:
    """The JSON pointer of a place below `path`, in one line whatever the names are, and its ends if it is long."""
    parts = (name.replace("~", "~0").replace("/", "~1") for name in names)
    whole = "/".join([path, *(part if part.isprintable() else ascii(part)[1:-1] for part in parts)])
    return whole if len(whole) <= _LONGEST_PATH else f"{whole[: _LONGEST_PATH // 2]}...{whole[-_LONGEST_PATH // 3 :]}"


def same_value(left: Json, right: Json) -> bool:
    """Equality of JSON values: numbers by value, and true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_value, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_value(left[key], right[key]) for key in left)
    return (type(left) is type(right) or (_is_number(left) and _is_number(right))) and bool(left == right)
