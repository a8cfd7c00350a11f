"""JSON for every room: the type of what was read, and reading a kind of it.

What the facts mean is checked where they are known.
"""

from typing import Any, TypeVar

import msgspec

Json = Any
"""Numbers, words, lists and objects of them: which of these, the reader's checks say."""
Kind = TypeVar("Kind")


class DamagedError(ValueError):
    """It is not JSON, or not of the kind that was asked for."""


class _Version(msgspec.Struct):
    schema_version: int


def decode(content: bytes, kind: type[Kind]) -> Kind:
    """JSON of a kind, whoever wrote it.

    Raises:
        DamagedError: it is no JSON, not UTF-8, nested too deeply, or of another kind.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(str(error)) from error


def schema_version(content: bytes) -> int:
    """The `schema_version` of a JSON object, whatever else is in it: read first, because the rest depends on it.

    Raises:
        DamagedError: it has none.
    """
    return decode(content, _Version).schema_version
