"""Do the branches of a oneOf exclude each other? Then it is their union; if that cannot be shown, it is refused.

Scalars exclude each other if no text is in both. Objects need more, because two schemas may
order keys differently: a required key that the other cannot have, or one whose values
exclude each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from perstep._json import Json
from perstep.automata.determinise import determinise
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from perstep.automata.dfa import Dfa
    from perstep.automata.nfa import Block
    from perstep.automata.schema.keywords import Schema

    Build = Callable[[Json, str], Block]


@dataclass(frozen=True, eq=False)
class Branch:
    """A branch of oneOf: its schema, worked out, its texts, and where it stands."""

    schema: Json
    block: Block
    path: str


def never_both(branches: list[Branch], path: str, limit: int, build: Build) -> None:
    """Check that no value satisfies two branches.

    Args:
        branches: the branches of one oneOf.
        path: where it stands.
        limit: most states of an automaton.
        build: makes the texts of a subschema.

    Raises:
        InputError: if two branches overlap, or cannot be shown not to.
    """
    automata = [determinise(branch.block, limit, branch.path) for branch in branches]
    for (one, left), (other, right) in combinations(zip(branches, automata, strict=True), 2):
        if not _exclude(one.schema, left, other.schema, right, limit, build):
            raise InputError(
                f"{path}: oneOf allows exactly one branch, and {one.path} and {other.path} cannot be shown to exclude "
                "each other: write anyOf, or give both a required property with different constants"
            )


def _exclude(one: Json, left: Dfa, other: Json, right: Dfa, limit: int, build: Build) -> bool:
    if not (left & right).is_empty:
        return False
    if _begins(left, b"[") and _begins(right, b"["):
        return False
    if _begins(left, b"{") and _begins(right, b"{"):
        return _objects_exclude(one, other, limit, build) and _objects_exclude(other, one, limit, build)
    return True


def _begins(dfa: Dfa, byte: bytes) -> bool:
    return dfa.run(byte) != 0


def _objects_exclude(one: Schema, other: Schema, limit: int, build: Build) -> bool:
    """Whether no object written under `one` satisfies `other`."""
    for schema in (one, other):
        if not isinstance(schema, dict) or any(name in schema for name in ("anyOf", "oneOf", "enum", "const")):
            return False
    ours, theirs = one.get("properties", {}), other.get("properties", {})
    must, must_other = one.get("required", []), other.get("required", [])
    closed = one.get("additionalProperties", False) is False  # only keys in `properties` and `required` are written
    if closed and any(key not in ours and key not in must for key in must_other):
        return True
    if other.get("additionalProperties", True) is False and any(key not in theirs for key in must):
        return True
    for key in must:
        if key in ours and key in theirs:
            left = determinise(build(ours[key], key), limit, key)
            right = determinise(build(theirs[key], key), limit, key)
            if not left.is_empty and not right.is_empty and _scalars_exclude(left, right):
                return True
    return False


def _scalars_exclude(left: Dfa, right: Dfa) -> bool:
    both_nest = any(_begins(left, byte) and _begins(right, byte) for byte in (b"[", b"{"))
    return not both_nest and (left & right).is_empty
