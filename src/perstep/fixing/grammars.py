"""The schema or the regex behind a processor of a grammar engine, as a `TokenMask`.

What an engine compiled is not read: what it allows is. The schemas and expressions that the script names, or the
processor holds, are compiled with each way to place white space, and the mask must allow the same along the recorded
rows and along probes. Engines differ in small ways (numbers, escapes, white space), so what is nearly the same grammar
is refused, with the place where it differs.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Final

from perstep._json import Json
from perstep.errors import InputError
from perstep.fixing.capture import Part
from perstep.fixing.known import reachable

if TYPE_CHECKING:
    from perstep.automata import Dfa, TokenTable, Vocabulary

ENGINES: Final = ("xgrammar", "outlines", "outlines_core", "llguidance", "lmformatenforcer", "formatron", "kbnf")
SPACES: Final = ("fixed", "flexible", "[ ]?", "")
"""Ways to place white space: as json.dumps does, any, outlines', and none."""

TABLE: Final = "mask_table"
_KEYWORDS = ("$schema", "$ref", "type", "properties", "anyOf", "oneOf", "allOf", "enum", "const", "items")
_DEEPEST = 4
_MOST = 2000  # objects looked at
_LONGEST = 400  # characters of a schema that is written out
_MOST_TEXTS = 12  # texts that are tried as expressions


@dataclass(frozen=True)
class Grammar:
    """A grammar that may be the processor's.

    Attributes:
        table: compiled over the vocabulary.
        source: how the table is written.
        of: what it is about: the grammars of one schema differ by their white space alone.
    """

    table: "TokenTable"
    source: str
    of: str


def engine_of(part: Part) -> str:
    """The grammar engine that a processor is of, holds something of or names in its code; empty if there is none."""
    return next((root for value in _held(part) for root in [_root(value)] if root in ENGINES), "")


def grammars(
    part: Part, names: Mapping[str, object], vocabulary: "tuple[Vocabulary, str]", reasons: list[str]
) -> Iterator[Grammar]:
    """The grammars that a processor may enforce; why some could not be compiled is added to the reasons.

    Args:
        part: the processor.
        names: what the line can see.
        vocabulary: the bytes of the tokens, and how the script names them.
        reasons: to add to.
    """
    from perstep.automata import from_regex, json_schema

    spelled, name = vocabulary
    if not spelled.eos_ids:
        reasons.append("TokenMask: the vocabulary has no end-of-sequence id")
        return
    over = name if type(names.get(name)).__name__ == "Vocabulary" else f"perstep.automata.Vocabulary.of({name})"
    has_grammar = False
    for written, schema in _schemas(part, names):
        has_grammar = True
        for space in SPACES:
            more = "" if space == "fixed" else f", whitespace={space!r}"
            source = f"perstep.automata.json_schema({written}{more})"
            build = partial(json_schema, schema, whitespace=space)
            yield from _compiled(build, source, written, (spelled, over), reasons)
    for written, pattern in _expressions(part, names):
        has_grammar = True
        source = f"perstep.automata.from_regex({written})"
        yield from _compiled(partial(from_regex, pattern), source, written, (spelled, over), reasons)
    if not has_grammar:
        reasons.append("no schema and no regex that the line can name or the processor holds")


def _compiled(
    make: "Callable[[], Dfa]", source: str, of: str, vocabulary: "tuple[Vocabulary, str]", reasons: list[str]
) -> Iterator[Grammar]:
    from perstep.automata import compile as compile_table

    try:
        table = compile_table(make(), vocabulary[0])
    except InputError as error:
        reasons.append(f"TokenMask: {error}")
        return
    yield Grammar(table, f"perstep.automata.compile({source}, {vocabulary[1]})", of)


def _schemas(part: Part, names: Mapping[str, object]) -> Iterator[tuple[str, dict[str, Json]]]:
    """JSON schemas with how they are written: those that the line can name first, then those that are held."""
    seen: list[object] = []
    for written, value in [*reachable(names), *_classes(names)]:
        schema = _as_schema(value)
        if schema is not None and schema not in seen:
            seen.append(schema)
            yield (f"{written}.model_json_schema()" if isinstance(value, type) else written), schema
    for value in _held(part):
        schema = _as_schema(value)
        if schema is not None and schema not in seen and len(repr(schema)) <= _LONGEST:
            seen.append(schema)
            yield repr(schema), schema


def _classes(names: Mapping[str, object]) -> list[tuple[str, object]]:
    return [(name, value) for name, value in names.items() if isinstance(value, type) and not name.startswith("_")]


def _as_schema(value: object) -> dict[str, Json] | None:
    """The schema that a value is or spells; None if it does not."""
    if isinstance(value, type):
        method = getattr(value, "model_json_schema", None)
        try:
            value = method() if callable(method) else None
        except Exception:  # pydantic's own base classes have no schema
            return None
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, dict) and isinstance(value.get("grammars"), list):  # llguidance's form
        value = next((one["json_schema"] for one in value["grammars"] if "json_schema" in one), None)
    return value if isinstance(value, dict) and any(word in value for word in _KEYWORDS) else None


def _expressions(part: Part, names: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Texts that may be regular expressions, with how they are written."""
    named = [(name, value) for name, value in names.items() if isinstance(value, str) and not name.startswith("__")]
    stored = [(repr(value), value) for value in _held(part) if isinstance(value, str) and len(value) <= _LONGEST]
    seen: set[str] = set()
    for written, value in [*named, *stored]:
        if value and value not in seen and len(seen) < _MOST_TEXTS and not value.lstrip().startswith("{"):
            seen.add(value)
            yield written, value


def _held(part: Part) -> Iterator[object]:
    """A processor, what it holds, and what the code of its class names, the nearest first."""
    todo: deque[tuple[object, int]] = deque([(part, 0)])
    seen: set[int] = set()
    kept = []  # so that no `id` is given twice
    while todo and len(seen) < _MOST:
        value, depth = todo.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        kept.append(value)
        yield value
        if depth < _DEEPEST:
            todo.extend((one, depth + 1) for one in _inside(value))


def _inside(value: object) -> list[object]:
    if isinstance(value, (list, tuple)):
        return list(value[:64])
    if isinstance(value, dict):
        return list(value.values())[:64]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_set(cell)]
        return [*cells, *(value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__)]
    if isinstance(value, (type, ModuleType, str, bytes)) or hasattr(value, "get_vocab"):
        return []
    methods = [one for one in vars(type(value)).values() if isinstance(one, FunctionType)]
    return [*getattr(value, "__dict__", {}).values(), *(methods if _root(value) not in _LIBRARIES else [])]


_LIBRARIES = ("builtins", "torch", "transformers", "numpy", "perstep", *ENGINES)


def _is_set(cell: Part) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _root(value: object) -> str:
    """The package that a value is of: its own, where it is a module, a class or a function; else that of its class."""
    if isinstance(value, ModuleType):
        return value.__name__.split(".")[0]
    kind = value if isinstance(value, (type, FunctionType)) else type(value)
    return str(getattr(kind, "__module__", "") or "").split(".")[0]
