"""JSON schema to byte automaton: one block for each subschema, joined as the schema says.

The texts accepted are those whose value validates, written under one policy: keys in the
schema's order, only keys that the schema names (or admits by an explicit
`additionalProperties`), whitespace as stated, constants and keys as
`json.dumps(ensure_ascii=False)` writes them, integers without fraction or exponent. Recursion
is cut at a stated depth or refused; nothing is ever dropped in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import unquote

from perstep._json import Json
from perstep.automata.determinise import determinise, too_many_states
from perstep.automata.dfa import STATE_LIMIT, Dfa
from perstep.automata.nfa import NEVER, Block, literal, union
from perstep.automata.schema.containers import Items, Member, array_block, object_block
from perstep.automata.schema.enums import enum_block
from perstep.automata.schema.exclusive import Branch, never_both
from perstep.automata.schema.keywords import (
    ABOUT,
    TYPES,
    Schema,
    below,
    check_is_schema,
    check_keywords,
    conjunction,
    const_as_enum,
    types_of,
)
from perstep.automata.schema.numbers import number_block
from perstep.automata.schema.spacing import Spacing, spacing
from perstep.automata.schema.strings import count, string_block
from perstep.errors import InputError

_BLOCK_FACTOR = 4  # a construction may have this many times the states of its result
_ANY_VALUE = "any JSON value"


def json_schema(
    schema: str | bytes | Mapping[str, Json] | bool,
    *,
    whitespace: str = "fixed",
    max_depth: int | None = None,
    state_limit: int = STATE_LIMIT,
) -> Dfa:
    r"""The automaton of the JSON texts that a schema allows.

    Args:
        schema: the schema, as JSON text or as parsed.
        whitespace: `fixed` (", " and ": " as json.dumps), `flexible` (any JSON whitespace), or a regex.
        max_depth: how many times a definition may contain itself, and how deep values of unknown shape
            (`{}`, `true`) may nest; None to refuse both.
        state_limit: most states of the automaton.

    Raises:
        InputError: if the schema is not JSON, malformed, has a broken reference, needs more than a finite automaton,
            recurs without `max_depth`, allows nothing, or exceeds the limit.

    Example:
        >>> dfa = json_schema({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
        >>> dfa.accepts(b'{"n": 12}'), dfa.accepts(b'{"n": 1.5}')
        (True, False)
    """
    root = _parse(schema)
    compiler = _Compiler(root, spacing(whitespace, state_limit), max_depth, state_limit)
    title = root.get("title") if isinstance(root, dict) else None
    depth = "" if max_depth is None else f", depth {max_depth}"
    source = f"the JSON schema{f' {title!r}' if isinstance(title, str) else ''} (whitespace {whitespace}{depth})"
    try:
        block = compiler.value(root, "#", ("#",))
    except RecursionError as error:
        raise InputError(f"{source} is nested too deeply to be compiled: lower max_depth, or flatten it") from error
    dfa = determinise(block, state_limit, source)
    if dfa.is_empty:
        raise InputError(f"no JSON value satisfies {source}{compiler.why_empty()}")
    return dfa


def _parse(schema: str | bytes | Mapping[str, Json] | bool) -> Schema | bool:
    """The schema as JSON gives it back: whatever was handed in, the compiler meets JSON values alone."""
    try:
        given = json.loads(schema) if isinstance(schema, (str, bytes)) else schema
        # NaN and numbers beyond a double, which json.loads lets through, are refused by json.dumps.
        parsed = json.loads(json.dumps(dict(given) if isinstance(given, Mapping) else given, allow_nan=False))
    except RecursionError as error:
        raise InputError("the schema is nested too deeply to be read") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"the schema is not JSON: {error}") from error
    if isinstance(parsed, (bool, dict)):
        return parsed
    raise InputError(f"a JSON schema is an object, true or false; got {parsed!r}")


class _Compiler:
    """Walks a schema; `open_refs` are the references entered on the way to the current subschema."""

    def __init__(self, root: Schema | bool, space: Spacing, max_depth: int | None, limit: int) -> None:
        self._root = root
        self._space = space
        self._max_depth = max_depth
        self._limit = limit
        self._block_limit = _BLOCK_FACTOR * limit
        self._empty: list[str] = []

    def why_empty(self) -> str:
        """Where the schema allows nothing, for the message; the first such place."""
        return f": nothing satisfies {self._empty[0]}" if self._empty else ""

    def value(self, schema: Json, path: str, open_refs: tuple[str, ...]) -> Block:
        """The texts that a subschema allows.

        Raises:
            InputError: if they make too many states; said at the first subschema that does.
        """
        block = self._value(schema, path, open_refs)
        if block.size > self._block_limit:
            raise too_many_states(path, self._limit)
        return block

    def _value(self, schema: Json, path: str, open_refs: tuple[str, ...]) -> Block:
        resolved = self._resolved(schema, path, open_refs)
        if resolved is None:
            return NEVER  # a recursion at its full depth
        schema, open_refs = resolved
        if schema is True:
            return self._anything(path, open_refs)
        if schema is False:
            return self._nothing(path)
        check_keywords(schema, path)
        schema = const_as_enum(schema)
        if "anyOf" in schema:
            return union(*(self.value(branch, at, open_refs) for branch, at in self._branches(schema, "anyOf", path)))
        if "oneOf" in schema:
            return self._one_of(schema, path, open_refs)
        if "enum" in schema:
            block = enum_block(schema, self._space, path, self._limit, self._block_limit)
            return block if len(block.edges) else self._nothing(path)
        types = types_of(schema)
        if set(types) >= set(TYPES) - {"integer"} and not any(n in schema for names in ABOUT.values() for n in names):
            return self._anything(path, open_refs)
        return union(*(self._typed(name, schema, path, open_refs) for name in dict.fromkeys(types)))

    def _nothing(self, path: str) -> Block:
        self._empty.append(path)
        return NEVER

    # References, allOf

    def _resolved(self, schema: Json, path: str, open_refs: tuple[str, ...]) -> tuple[Json, tuple[str, ...]] | None:
        """The schema with its references and allOf worked in; None where a recursion is at its full depth."""
        while isinstance(schema, dict) and ("$ref" in schema or "allOf" in schema):
            if "$ref" in schema:
                reference = schema["$ref"]
                rest = {name: value for name, value in schema.items() if name not in ("$ref", "$defs", "definitions")}
                target = self._target(reference, path)
                if not self._enter(reference, path, open_refs):
                    return None
                open_refs = (*open_refs, reference)
                schema = conjunction(target, rest, path) if rest else target
            else:
                check_keywords(schema, path)
                parts = schema["allOf"]
                merged: Json = {name: value for name, value in schema.items() if name != "allOf"}
                for number, part in enumerate(parts):
                    resolved = self._resolved(part, f"{path}/allOf/{number}", open_refs)
                    if resolved is None:
                        return None
                    merged = conjunction(merged, resolved[0], path)
                    open_refs = (*open_refs, *resolved[1][len(open_refs) :])
                schema = merged
        check_is_schema(schema, path)
        return schema, open_refs

    def _target(self, reference: Json, path: str) -> Json:
        """What a reference points to."""
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise InputError(
                f"{path}: $ref {reference!r} does not point into this schema; only '#/...' does: "
                "copy its definition into $defs"
            )
        found: Json = self._root
        for part in unquote(reference)[2:].split("/") if reference != "#" else []:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                found = {str(number): entry for number, entry in enumerate(found)}
            if isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise InputError(f"{path}: $ref {reference!r} points to nothing: there is no {name!r}")
        return found

    def _enter(self, reference: str, path: str, open_refs: tuple[str, ...]) -> bool:
        """Whether a reference may be entered once more."""
        times = open_refs.count(reference)
        if times and self._max_depth is None:
            raise InputError(
                f"{path}: $ref {reference!r} contains itself, and a finite automaton cannot nest without limit: give "
                "max_depth as the limit, or use an engine with a stack (llguidance)"
            )
        return not times or times <= (self._max_depth or 0)

    # Combinations

    def _branches(self, schema: Schema, name: str, path: str) -> list[tuple[Json, str]]:
        """The branches of anyOf or oneOf, each joined with what stands beside it."""
        rest = {key: value for key, value in schema.items() if key != name}
        found = []
        for number, branch in enumerate(schema[name]):
            at = f"{path}/{name}/{number}"
            found.append((conjunction(rest, {"allOf": [branch]}, at) if rest else branch, at))
        return found

    def _one_of(self, schema: Schema, path: str, open_refs: tuple[str, ...]) -> Block:
        """The union of branches that are shown to exclude each other; what that takes is in `exclusive.py`."""
        branches = []
        for branch, at in self._branches(schema, "oneOf", path):
            resolved = self._resolved(branch, at, open_refs)
            if resolved is not None:
                branches.append(Branch(resolved[0], self.value(resolved[0], at, resolved[1]), at))
        never_both(branches, path, self._limit, lambda part, at: self.value(part, at, open_refs))
        return union(*(branch.block for branch in branches))

    # Types

    def _typed(self, name: str, schema: Schema, path: str, open_refs: tuple[str, ...]) -> Block:
        """The texts of one type under the schema's keywords."""
        if name == "null":
            return literal(b"null")
        if name == "boolean":
            return union(literal(b"true"), literal(b"false"))
        if name in ("integer", "number"):
            return number_block(schema, path, whole=name == "integer", limit=self._block_limit)
        if name == "string":
            return string_block(schema, path, self._limit, self._block_limit)
        if name == "array":
            return self._array(schema, path, open_refs)
        return self._object(schema, path, open_refs)

    def _array(self, schema: Schema, path: str, open_refs: tuple[str, ...]) -> Block:
        first = [
            self.value(part, f"{path}/prefixItems/{i}", open_refs)
            for i, part in enumerate(schema.get("prefixItems", []))
        ]
        high = count(schema, "maxItems")
        # After a prefix further items are written only if `items` says so, as with properties.
        rest: Block | None = None
        if ("items" in schema or not first) and (high is None or high > len(first)):
            rest = self.value(schema.get("items", True), f"{path}/items", open_refs)
        items = Items(first, rest, count(schema, "minItems") or 0, high)
        return array_block(items, self._space, self._block_limit, path)

    def _object(self, schema: Schema, path: str, open_refs: tuple[str, ...]) -> Block:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        # Unnamed keys are written where the schema says so itself, or says nothing at all about keys.
        named_only = bool(properties) or bool(required)
        extra = schema.get("additionalProperties", not named_only)
        members = [
            Member(key, self.value(value, below(path, "properties", key), open_refs), key in required)
            for key, value in properties.items()
        ]
        for key in required:
            if key not in properties:
                unnamed = schema.get("additionalProperties", True)
                members.append(Member(key, self.value(unnamed, below(path, "properties", key), open_refs), True))
        self._check_counts(schema, path, len(required), len(members), extra)
        additional = None if extra is False else self.value(extra, f"{path}/additionalProperties", open_refs)
        return object_block(members, additional, self._space, self._limit)

    def _check_counts(self, schema: Schema, path: str, required: int, members: int, extra: Json) -> None:
        """Refuse minProperties and maxProperties unless they hold anyway."""
        low, high = count(schema, "minProperties") or 0, count(schema, "maxProperties")
        if low > required or (high is not None and (extra is not False or high < members)):
            raise InputError(
                f"{path}: minProperties and maxProperties are not counted here: make the properties required, "
                "or use an engine that counts them (llguidance)"
            )

    def _anything(self, path: str, open_refs: tuple[str, ...]) -> Block:
        """Any value: scalars, and containers of any values to the depth given."""
        if self._max_depth is None:
            raise InputError(
                f"{path}: any value is allowed here, and a finite automaton cannot nest without limit: give a type, or "
                "max_depth as the limit, or use an engine with a stack (llguidance)"
            )
        if open_refs.count(_ANY_VALUE) > self._max_depth:
            return NEVER
        deeper = (*open_refs, _ANY_VALUE)
        return union(*(self._typed(name, {}, path, deeper) for name in TYPES if name != "integer"))
