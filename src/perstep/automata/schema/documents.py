"""A schema document: its drafts, its resources (`$id`), its anchors, and where a `$ref` leads.

Places are subschemas with a number each; everything else names a subschema by the number of its place. A reference is
resolved against the resource it stands in, so `#/...` below an embedded `$id` means that resource. Nothing is fetched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urljoin

from perstep._json import Json
from perstep.automata.schema.keywords import HOLDERS, Schema, below, check_is_schema, check_keywords, known_in
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DRAFTS = {"draft-03": 4, "draft-04": 4, "draft-06": 6, "draft-07": 7, "2019-09": 2019, "2020-12": 2020}

TRUE_PLACE = 0
"""The place of the schema `true`."""


@dataclass(frozen=True, eq=False)
class Resource:
    """A schema with a name of its own.

    Attributes:
        url: what references in it are resolved against.
        root: the schema.
        draft: 4, 6, 7, 2019 or 2020; None where no `$schema` says.
    """

    url: str
    root: Json
    draft: int | None


@dataclass(frozen=True, eq=False)
class Place:
    """A subschema, where it stands, and the resource it stands in."""

    schema: Json
    path: str
    resource: Resource


class Document:
    """The places of one schema."""

    def __init__(self, root: Json) -> None:
        self._own_resource: dict[int, Resource] = {}
        self._by_url: dict[str, Resource] = {}
        self._anchors: dict[tuple[str, str], tuple[Json, Resource]] = {}
        self._aliases: dict[str, tuple[Json, Resource]] = {}
        self._num_dynamic = 0
        resource = Resource("", root, _draft(root, None))
        self._register(root, resource, is_root=True)
        resource = self._own_resource.get(id(root), resource)
        self._by_url.setdefault("", resource)
        self.places: list[Place] = [Place(True, "#", resource)]
        self._number: dict[int, int] = {}
        self._alike: dict[tuple[int, str], int] = {}
        self._constants: dict[str, int] = {}
        self.root = self.place(root, "#", resource)

    # Places

    def place(self, schema: Json, path: str, resource: Resource) -> int:
        """The number of the place of a subschema; a plain reference is the place that it leads to.

        Raises:
            InputError: if it is no schema, or a keyword has no form that JSON Schema gives it.
        """
        check_is_schema(schema, path)
        if schema is True:
            return TRUE_PLACE
        if schema is False:
            self.places.append(Place(schema, path, resource))
            return len(self.places) - 1
        number = self._number.get(id(schema))
        if number is None:
            resource = self._own_resource.get(id(schema), resource)
            alike = _simple(schema, resource)
            number = self._alike.get(alike) if alike else None
            if number is None:
                check_keywords(schema, path, resource.draft)
                number = len(self.places)
                self.places.append(Place(schema, path, resource))
                if alike:
                    self._alike[alike] = number
            self._number[id(schema)] = number
        return number

    def child(self, parent: Place, schema: Json, *names: str) -> int:
        """The place of a subschema of a place."""
        return self.place(schema, below(parent.path, *names), parent.resource)

    def constant(self, value: Json, parent: Place) -> int:
        """The place of a schema that allows one value alone."""
        key = json.dumps(value, sort_keys=False)
        if key not in self._constants:
            self._constants[key] = len(self.places)
            self.places.append(Place({"const": value}, parent.path, parent.resource))
        return self._constants[key]

    def keywords(self, place: Place) -> Schema:
        """The keywords of a place that mean something in its draft; beside a `$ref` none do before 2019."""
        schema, draft = place.schema, place.resource.draft
        if "$ref" in schema and draft is not None and draft <= 7:
            return {"$ref": schema["$ref"]}
        return {name: value for name, value in schema.items() if known_in(name, value, draft)}

    # References

    def target(self, place: Place, name: str) -> int:
        """The place that a reference leads to.

        Raises:
            InputError: if it leads out of the document, or to nothing.
        """
        reference = place.schema[name]
        if not isinstance(reference, str):
            raise InputError(f"{place.path}: {name} {reference!r} does not point into this schema: it is no text")
        if name == "$dynamicRef" and self._num_dynamic > 1:
            raise InputError(f"{place.path}: $dynamicRef {reference!r} could mean several schemas: write $ref")
        try:
            url, fragment = urldefrag(
                place.resource.url + reference if reference.startswith("#") else urljoin(place.resource.url, reference)
            )
        except ValueError as error:
            raise InputError(f"{place.path}: {name} {reference!r} is no reference: {error}") from error
        resource = self._by_url.get(url)
        if resource is None and url in self._aliases and not fragment:
            return self.place(self._aliases[url][0], url, self._aliases[url][1])
        if resource is None:
            raise InputError(
                f"{place.path}: {name} {reference!r} does not point into this schema, and nothing is fetched: copy "
                "what it means into $defs"
            )
        if fragment and not fragment.startswith("/"):
            anchor = self._anchors.get((url, unquote(fragment)))
            if anchor is None:
                raise InputError(f"{place.path}: {name} {reference!r} points to nothing: there is no such anchor")
            return self.place(anchor[0], f"{url}#{fragment}", anchor[1])
        return self._follow(place, name, resource, fragment)

    def _follow(self, place: Place, name: str, resource: Resource, fragment: str) -> int:
        """The place that a JSON pointer leads to."""
        node = resource.root
        for part in unquote(fragment).split("/")[1:]:
            step = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list):
                node = {str(number): entry for number, entry in enumerate(node)}
            if not isinstance(node, dict) or step not in node:
                raise InputError(f"{place.path}: {name} {place.schema[name]!r} points to nothing: there is no {step!r}")
            node = node[step]
            resource = self._own_resource.get(id(node), resource)
        return self.place(
            node,
            below(f"{'' if resource.url == self._first_url() else resource.url}#", *fragment.split("/")[1:]),
            resource,
        )

    def _first_url(self) -> str:
        return self.places[TRUE_PLACE].resource.url

    # Resources

    def _register(self, schema: Json, resource: Resource, *, is_root: bool = False) -> None:
        """Note the names of a schema and of all below it."""
        waiting = [(schema, resource, is_root)]
        while waiting:
            schema, resource, is_root = waiting.pop()
            if not isinstance(schema, dict):
                continue
            resource = self._named(schema, resource, is_root)
            waiting.extend((part, resource, False) for part in _below(schema))

    def _named(self, schema: Schema, resource: Resource, is_root: bool) -> Resource:
        draft = _draft(schema, resource.draft) if is_root or "$id" in schema else resource.draft
        ignored = "$ref" in schema and draft is not None and draft <= 7
        old_name = draft == 4 or (draft is None and "$id" not in schema)
        name = schema.get("id" if old_name else "$id")
        if isinstance(name, str) and not ignored:
            try:
                url, fragment = urldefrag(urljoin(resource.url, name))
            except ValueError:
                url, fragment = resource.url, ""
            if fragment:
                self._anchors[resource.url, fragment] = (schema, resource)
            elif old_name and draft is None and not is_root:
                self._aliases[url] = (schema, resource)  # where no draft is said, `id` names but is no base
            elif url != resource.url or is_root:
                resource = self._own_resource[id(schema)] = Resource(url, schema, draft)
                self._by_url[url] = resource
        for word in ("$anchor", "$dynamicAnchor"):
            if isinstance(schema.get(word), str):
                self._anchors[resource.url, schema[word]] = (schema, resource)
                self._num_dynamic += word == "$dynamicAnchor"
        return resource


_SIMPLE = (
    *("type", "enum", "const", "pattern", "format", "minLength", "maxLength", "minimum", "maximum"),
    *("exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
)
"""Keywords that hold no schema; one that has no others besides what says nothing of a value is one place wherever."""
_SAY_NOTHING = frozenset({"title", "description", "default", "examples", "example", "$comment", "deprecated"})


def _simple(schema: Schema, resource: Resource) -> tuple[int, str] | None:
    """What a schema says, where that does not depend on where it stands."""
    says = {name: schema[name] for name in _SIMPLE if name in schema}
    others = schema.keys() - says.keys()
    return None if others - _SAY_NOTHING else (id(resource), repr(says))


def _draft(schema: Json, otherwise: int | None) -> int | None:
    said = schema.get("$schema") if isinstance(schema, dict) else None
    drafts = [draft for name, draft in _DRAFTS.items() if isinstance(said, str) and name in said]
    return drafts[0] if drafts else otherwise


def _below(schema: Schema) -> Iterator[Json]:
    """What may be a schema below a schema, one level down."""
    for name, kind in HOLDERS.items():
        value = schema.get(name)
        if isinstance(value, dict) and kind != "map":
            yield value
        elif isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, list):
            yield from value
