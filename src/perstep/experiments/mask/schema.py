"""The schema that is measured: read from a file, made more complex on request, and valid texts of it.

Texts come from a seeded walk of the byte automaton, or, where no automaton holds the schema, from one along the
masks of an engine; plain characters are preferred, because engines write rare ones differently.
"""

import copy
import json
import random
from collections.abc import Mapping
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perstep._files import read_given
from perstep._json import Json
from perstep._words import plural
from perstep.automata import Dfa, Engine, Vocabulary, unpack_bits
from perstep.data import conjugation_schema_path
from perstep.errors import InputError

WANDER_BYTES = 100
"""After this number of bytes a text goes for its nearest end."""
_PLAIN = frozenset(b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_SPACE = ord(" ")
_CLOSING = frozenset(b"\"]},:'")


def read_schema(path: Path | None) -> dict[str, Json]:
    """The schema in a file; the conjugation schema for None.

    Raises:
        InputError: the file cannot be read, is not JSON, or holds no object.
    """
    path = path or conjugation_schema_path()
    try:
        text = read_given(path).decode()
        schema = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
    except OSError as error:
        raise InputError(f"--schema {path}: {error.strerror}; give a file with a JSON schema") from error
    except ValueError as error:
        raise InputError(f"--schema {path} is not JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"--schema {path} is nested too deeply to be read") from error
    if not isinstance(schema, dict):
        raise InputError(f"--schema {path} holds a JSON {type(schema).__name__}; a schema is an object")
    return schema


def _finite(text: str) -> float:
    """A number of the schema; Python's NaN and Infinity are no JSON, and engines take numbers for doubles."""
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text[:20]}{'...' * (len(text) > 20)} is no number within the range of doubles")
    return value


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def complicate(schema: Mapping[str, Json], factor: int) -> dict[str, Json]:
    """The schema with `factor` times as many fields, and enums of strings `factor` times as long.

    Copies of a field are called `name_2`, `name_3` ... and are required where it is; new values of an enum are
    `value_2`, `value_3` ....

    Raises:
        InputError: the schema is no object with properties, so there is nothing to repeat.
    """
    if factor == 1:
        return dict(schema)
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        raise InputError(
            f"--complexity {factor} repeats the fields of an object; this schema has no `properties` at its top"
        )
    grown = copy.deepcopy(dict(schema))
    names = [(name, _numbered(name, copy_)) for copy_ in range(1, factor + 1) for name in properties]
    required = set(schema.get("required", ()))
    grown["properties"] = {new: _longer_enum(properties[old], factor) for old, new in names}
    grown["required"] = [new for old, new in names if old in required]
    return grown


def _numbered(word: str, number: int) -> str:
    return word if number == 1 else f"{word}_{number}"


def _longer_enum(schema: Json, factor: int) -> Json:
    if not isinstance(schema, Mapping) or not isinstance(schema.get("enum"), list):
        return schema
    words = [value for value in schema["enum"] if isinstance(value, str)]
    more = [_numbered(word, number) for number in range(2, factor + 1) for word in words]
    existing = set(words)
    return {**schema, "enum": [*schema["enum"], *(word for word in more if word not in existing)]}


class Writer:
    """Writes texts of an automaton's language.

    Args:
        dfa: the automaton; not empty.
        rng: chooses.
    """

    def __init__(self, dfa: Dfa, rng: random.Random) -> None:
        self._dfa, self._rng = dfa, rng
        self._rows, self._accepting = dfa.rows, dfa.accepting.tolist()
        self._distance: list[int] = _bytes_to_end(dfa).tolist()

    def text(self, wander: int = WANDER_BYTES) -> bytes:
        """One text; it ends where it may once nothing can follow, by chance, or after `wander` bytes."""
        state, out = self._dfa.start, bytearray()
        while True:
            row = self._rows[state]
            live = [byte for byte in range(256) if row[byte]]
            if self._accepting[state] and (not live or len(out) >= wander or self._rng.random() < 0.2):
                return bytes(out)
            byte = self._choose(live, row, home=len(out) >= wander)
            out.append(byte)
            state = row[byte]

    def _choose(self, live: list[int], row: list[int], *, home: bool) -> int:
        if home:
            nearest = min(self._distance[row[byte]] for byte in live)
            live = [byte for byte in live if self._distance[row[byte]] == nearest]
        plain = [byte for byte in live if byte in _PLAIN]
        closing = [byte for byte in live if byte in _CLOSING]
        if plain and closing:  # inside a string or a number about ten characters on average; of free whitespace little
            ends = self._rng.random() < (0.9 if plain == [_SPACE] else 0.1)
            return self._rng.choice(closing if ends else plain)
        return self._rng.choice(plain or closing or live)


class EngineWriter:
    """Writes texts that an engine allows, for schemas that no finite automaton holds.

    Args:
        engine: its masks are followed; it is left somewhere in a text.
        vocabulary: the tokens.
        rng: chooses.
    """

    def __init__(self, engine: Engine, vocabulary: Vocabulary, rng: random.Random) -> None:
        self._engine, self._vocabulary, self._rng = engine, vocabulary, rng
        allowed = _PLAIN | _CLOSING | frozenset(b"[{")
        tokens = vocabulary.tokens
        self._common = np.array([bool(data) and allowed.issuperset(data) for data in tokens])
        self._closing = np.array([bool(data) and data[0] in _CLOSING for data in tokens]) & self._common

    def text(self, wander: int = WANDER_BYTES) -> bytes:
        """One text.

        Raises:
            InputError: it has not ended after ten times the bytes it may wander.
        """
        out = bytearray()
        self._engine.reset()
        while len(out) < 10 * wander:
            allowed = unpack_bits(self._engine.fill(), self._vocabulary.size)
            ends = bool(allowed[list(self._vocabulary.eos_ids)].any())
            allowed[list(self._vocabulary.special_ids)] = False
            if ends and (not allowed.any() or len(out) >= wander or self._rng.random() < 0.2):
                return bytes(out)
            token = self._choose(allowed, home=len(out) >= wander)
            self._engine.accept(token)
            out += self._vocabulary.tokens[token]
        raise InputError(
            f"{self._engine.name} was followed for {plural(len(out), 'byte')} without reaching the end of a text"
        )

    def _choose(self, allowed: NDArray[np.bool_], *, home: bool) -> int:
        for wanted in ([self._closing] if home else []) + [self._common, allowed]:
            ids = np.flatnonzero(allowed & wanted)
            if len(ids):
                return int(ids[self._rng.randrange(len(ids))])
        raise InputError(f"{self._engine.name} allows no token and no end")


def _bytes_to_end(dfa: Dfa) -> NDArray[np.int64]:
    """The fewest bytes from each state to the end of a text."""
    far = np.int64(1 << 40)
    distance = np.where(dfa.accepting, 0, far)
    distance[0] = far
    while True:
        nearer = np.minimum(distance, distance[dfa.transitions].min(axis=1) + 1)
        nearer[0] = far
        if np.array_equal(nearer, distance):
            return distance
        distance = nearer
