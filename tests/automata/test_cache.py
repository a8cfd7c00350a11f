"""Tables on disk: what comes back is what went in, or it is made again and said."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perstep.automata import DiskCache, TokenTable, Vocabulary, compile, default_folder, from_regex, json_schema  # noqa: A004
from perstep.automata import cache as cache_module
from perstep.automata.storage import table_from_bytes, table_to_bytes, trie_from_bytes, trie_to_bytes
from perstep.automata.trie import build_trie
from perstep.errors import InputError

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def _same(one: TokenTable, other: TokenTable) -> bool:
    return (
        np.array_equal(one.transitions, other.transitions)
        and np.array_equal(one.class_of_token, other.class_of_token)
        and np.array_equal(one.accepting, other.accepting)
        and (one.start, one.ended, one.source, one.num_rows) == (other.start, other.ended, other.source, other.num_rows)
    )


@given(
    st.sampled_from(["a*", "[a-z]{0,40}", "(a|bc){2,9}", "a|b", "(ab)*"]),
    st.lists(st.text("abc", min_size=1, max_size=4)),
)
@settings(max_examples=60, deadline=None)
def test_a_table_survives_the_disk(pattern: str, longer: list[str]) -> None:
    """Stored and read again, a table is the same array for array, and without a pickle."""
    letters = [bytes([byte]) for byte in range(97, 123)]
    vocabulary = Vocabulary([*letters, *(text.encode() for text in longer), None], eos_ids=[26 + len(longer)])
    table = compile(from_regex(pattern), vocabulary)
    data = table_to_bytes(table, "name")
    assert _same(table_from_bytes(data, "name", vocabulary, 1000), table)
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)


@given(st.lists(st.binary(max_size=6), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_trie_survives_the_disk(tokens: list[bytes]) -> None:
    """Stored and read again, a trie is the same array for array."""
    trie = build_trie(tokens)
    again = trie_from_bytes(trie_to_bytes(trie, "name"), "name")
    for name in ("parent", "symbol", "levels", "node_of_token"):
        assert np.array_equal(getattr(again, name), getattr(trie, name))


def test_the_second_time_nothing_is_built(
    tmp_path: Path, byte_vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schema's table comes from disk under the same policy, and is built under another."""
    cache = DiskCache(tmp_path)
    built = cache.schema_table(SCHEMA, byte_vocabulary)
    dfa_table = cache.table(from_regex("[0-9]+"), byte_vocabulary)
    assert _same(built, compile(json_schema(SCHEMA), byte_vocabulary))
    calls = []
    real = cache_module.compile_table
    monkeypatch.setattr(cache_module, "compile_table", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert _same(cache.schema_table(SCHEMA, byte_vocabulary), built)
    assert _same(cache.table(from_regex("[0-9]+"), byte_vocabulary), dfa_table)
    assert calls == []
    cache.schema_table(SCHEMA, byte_vocabulary, whitespace="flexible")
    cache.schema_table({**SCHEMA, "required": []}, byte_vocabulary)
    cache.schema_table(SCHEMA, byte_vocabulary, key_order="any")
    cache.schema_table(SCHEMA, Vocabulary([*byte_vocabulary.tokens[:256], None], eos_ids=[256]))
    assert len(calls) == 4


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty zip", "text", "other"])
def test_a_damaged_file_is_made_again_and_said(tmp_path: Path, byte_vocabulary: Vocabulary, damage: str) -> None:
    """A file that is cut, changed, foreign or another table's is replaced, with a warning."""
    cache = DiskCache(tmp_path)
    wanted = cache.schema_table(SCHEMA, byte_vocabulary)
    (path,) = tmp_path.glob("schema-*")
    data = path.read_bytes()
    other = table_to_bytes(compile(from_regex("a"), byte_vocabulary), "another name")
    middle = len(data) // 2
    changed = {
        "cut": data[:middle],
        "flipped": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
        "empty zip": b"PK\x05\x06" + bytes(18),
        "text": b"not a table",
        "other": other,
    }
    path.write_bytes(changed[damage])
    with pytest.warns(UserWarning, match="is damaged and is rebuilt"):
        again = cache.schema_table(SCHEMA, byte_vocabulary)
    assert _same(again, wanted)
    assert path.read_bytes() == data


@pytest.mark.parametrize("name", ["row", "class_of_token", "accepting", "distances"])
def test_arrays_that_do_not_fit_are_refused(byte_vocabulary: Vocabulary, name: str) -> None:
    """A file that is whole but wrong does not become a table."""
    data = table_to_bytes(compile(from_regex("ab*"), byte_vocabulary), "name")
    with np.load(io.BytesIO(data)) as stored:
        arrays = {key: stored[key] for key in stored.files}
    arrays[name] = arrays[name][:-1] if name != "distances" else np.full_like(arrays[name], 2)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with pytest.raises(InputError):
        table_from_bytes(buffer.getvalue(), "name", byte_vocabulary, 1000)


def test_a_pickle_is_never_loaded(byte_vocabulary: Vocabulary) -> None:
    """An array of objects is refused before it is looked into."""
    buffer = io.BytesIO()
    np.savez(buffer, about=np.array([{"format": 1}], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        table_from_bytes(buffer.getvalue(), "name", byte_vocabulary, 1000)


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, byte_vocabulary: Vocabulary) -> None:
    """Beyond the limit the oldest files are removed; one read lately stays, and so does the newest."""
    cache = DiskCache(tmp_path)
    for number, pattern in enumerate(["a", "bb", "ccc"]):
        cache.table(from_regex(pattern), byte_vocabulary)
        for path in tmp_path.glob("*.npz"):
            if path.stat().st_mtime > 10_000:
                os.utime(path, (number + 1, number + 1))
    cache.table(from_regex("a"), byte_vocabulary)  # used again: the newest of the three
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("dfa-*.npz"))
    small = DiskCache(tmp_path, limit_bytes=2 * sizes[-1] + 10)
    small.table(from_regex("dddd"), byte_vocabulary)
    left = {path.name for path in tmp_path.glob("*.npz")}
    kept = {
        cache_module._name("dfa", from_regex(p).hash.encode(), byte_vocabulary.hash.encode()) + ".npz"
        for p in ("a", "dddd")
    }
    assert left == kept
    DiskCache(tmp_path, limit_bytes=1).table(from_regex("e"), byte_vocabulary)
    assert len(list(tmp_path.glob("*.npz"))) == 1


def test_the_trie_comes_from_disk(tmp_path: Path, byte_vocabulary: Vocabulary) -> None:
    """A vocabulary made anew takes its trie from the file."""
    cache = DiskCache(tmp_path)
    first = cache.trie(byte_vocabulary)
    fresh = Vocabulary(byte_vocabulary.tokens, byte_vocabulary.special_ids, byte_vocabulary.eos_ids)
    stored = tmp_path / f"{cache_module._name('trie', fresh.hash.encode())}.npz"
    if not stored.exists():
        stored.write_bytes(trie_to_bytes(first, stored.stem))
    assert np.array_equal(cache.trie(fresh).parent, first.parent)
    assert fresh.trie is cache.trie(fresh)


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path: Path, byte_vocabulary: Vocabulary) -> None:
    """Without a place to keep it the table is still made, and a warning says why it is not kept."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.warns(UserWarning, match=r"cannot be read|could not be stored"):
        table = DiskCache(blocked / "cache").table(from_regex("a"), byte_vocabulary)
    assert table.num_states == 2


def test_where_the_cache_lies() -> None:
    """Our own variable first, then the desktop's convention, then the home folder."""
    assert default_folder({"PERSTEP_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a/automata")
    assert default_folder({"XDG_CACHE_HOME": "/b"}) == Path("/b/perstep/automata")
    assert default_folder({}) == Path.home() / ".cache" / "perstep" / "automata"
