"""Compiled tables and tries on disk, under a size limit.

A file's name is a hash of what went in: the schema and its policy, the vocabulary's bytes and
the format. What was used longest ago is removed first. A file that is damaged, or half
written by a process that was killed, is made again, and a warning says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from perstep._json import Json
from perstep.automata import storage
from perstep.automata.compiling import compile as compile_table
from perstep.automata.dfa import STATE_LIMIT, Dfa
from perstep.automata.rows import BUDGET_BYTES
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from perstep.automata.table import TokenTable
    from perstep.automata.trie import Trie
    from perstep.automata.vocabulary import Vocabulary

T = TypeVar("T")

LIMIT_BYTES = 512 * 2**20


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where tables are stored: $PERSTEP_CACHE_DIR, else $XDG_CACHE_HOME/perstep, else ~/.cache/perstep."""
    if environ.get("PERSTEP_CACHE_DIR"):
        return Path(environ["PERSTEP_CACHE_DIR"]).expanduser() / "automata"
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "perstep" / "automata"


class DiskCache:
    """A folder of compiled tables and tries.

    Args:
        folder: their location; created when the first file is written.
        limit_bytes: total size limit of the files.

    Examples:
        >>> cache = DiskCache(default_folder())
        >>> table = cache.schema_table({"type": "integer"}, vocabulary)  # doctest: +SKIP
    """

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    def schema_table(
        self,
        schema: str | bytes | Mapping[str, Json] | bool,
        vocabulary: Vocabulary,
        *,
        whitespace: str = "fixed",
        max_depth: int | None = None,
        undeclared: bool = False,
        key_order: str = "schema",
        state_limit: int = STATE_LIMIT,
        budget_bytes: int = BUDGET_BYTES,
        made: TokenTable | None = None,
    ) -> TokenTable:
        """`compile(json_schema(schema, ...), vocabulary)`, from disk if it is stored there.

        `made` is that table where it is there already: then it is only written.
        """
        from perstep.automata.schema import json_schema

        def build() -> TokenTable:
            if made is not None:
                return made
            dfa = json_schema(
                schema,
                whitespace=whitespace,
                max_depth=max_depth,
                undeclared=undeclared,
                key_order=key_order,
                state_limit=state_limit,
            )
            self.trie(vocabulary)
            return compile_table(dfa, vocabulary, budget_bytes=budget_bytes)

        text = schema if isinstance(schema, (str, bytes)) else json.dumps(schema)
        policy = json.dumps([whitespace, max_depth, undeclared, key_order, state_limit]).encode()
        data = text.encode() if isinstance(text, str) else text
        return self._table(_name("schema", policy, data, vocabulary.hash.encode()), vocabulary, build, budget_bytes)

    def table(self, dfa: Dfa, vocabulary: Vocabulary, budget_bytes: int = BUDGET_BYTES) -> TokenTable:
        """`compile(dfa, vocabulary)`, from disk if it is stored there."""

        def build() -> TokenTable:
            self.trie(vocabulary)
            return compile_table(dfa, vocabulary, budget_bytes=budget_bytes)

        return self._table(_name("dfa", dfa.hash.encode(), vocabulary.hash.encode()), vocabulary, build, budget_bytes)

    def trie(self, vocabulary: Vocabulary) -> Trie:
        """The vocabulary's trie, from disk if it is stored there; the vocabulary then uses it."""
        if "trie" not in vocabulary.__dict__:
            name = _name("trie", vocabulary.hash.encode())
            vocabulary.__dict__["trie"] = self._fetch(
                name,
                read=lambda data: storage.trie_from_bytes(data, name),
                build=lambda: vocabulary.trie,
                write=lambda trie: storage.trie_to_bytes(trie, name),
            )
        return vocabulary.trie

    def _table(
        self, name: str, vocabulary: Vocabulary, build: Callable[[], TokenTable], budget_bytes: int
    ) -> TokenTable:
        return self._fetch(
            name,
            read=lambda data: storage.table_from_bytes(data, name, vocabulary, budget_bytes),
            build=build,
            write=lambda table: storage.table_to_bytes(table, name),
        )

    def _fetch(self, name: str, read: Callable[[bytes], T], build: Callable[[], T], write: Callable[[T], bytes]) -> T:
        path = self.folder / f"{name}.npz"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            warnings.warn(f"the cached table {path} cannot be read and is rebuilt: {error}", stacklevel=4)
            data = b""
        if data:
            try:
                stored = read(data)
            except InputError as error:
                warnings.warn(f"the cached table {path} is damaged and is rebuilt: {error}", stacklevel=4)
            else:
                _touch(path)
                return stored
        built = build()
        self._store(path, write(built))
        return built

    def _store(self, path: Path, data: bytes) -> None:
        """Write a file whole or not at all, then remove the oldest beyond the limit; a full disk is only said."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as part:
                part.write(data)
            Path(part.name).replace(path)
            self._trim(keep=path)
        except OSError as error:
            warnings.warn(f"the table could not be stored in {self.folder}: {error}", stacklevel=5)

    def _trim(self, keep: Path) -> None:
        files = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self.folder.glob("*.npz"))
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self.limit_bytes:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size


def _name(kind: str, *parts: bytes) -> str:
    digest = hashlib.sha256(f"{kind} {storage.FORMAT} {[len(part) for part in parts]}".encode())
    for part in parts:
        digest.update(part)
    return f"{kind}-{digest.hexdigest()[:40]}"


def _touch(path: Path) -> None:
    """Mark a file as used just now; on a read-only disk it only ages."""
    try:
        path.touch()
    except OSError:
        return
