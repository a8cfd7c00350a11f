"""Reading runs: what is newer, damaged or cut off is told by name, what is unknown is ignored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.errors import InputError
from perstep.runs import (
    MANIFEST,
    SAMPLES,
    SCHEMA_VERSION,
    Cut,
    Manifest,
    Status,
    encode_json,
    iter_samples,
    list_runs,
    open_run,
    read_manifest,
    read_samples,
)

WriteRun = Callable[..., Path]


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Change fields of a stored manifest; None takes one out."""
    stored = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps({name: value for name, value in stored.items() if value is not None}))


# Manifests


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Every field, through JSON."""
    manifest = Manifest(
        experiment="mask",
        plan={"model": "mini", "budget": None, "top_p": 0.9},
        status=Status.FAILED,
        seed=2**64 - 1,
        argv=["perstep", "mask"],
        workload={"batch": 1},
        boundaries={"mlp": "größer"},
        warnings=["one"],
        results_summary={"headline": "1 µs"},
        files=["a.png"],
        error="why",
    )
    (tmp_path / MANIFEST).write_bytes(encode_json(manifest))
    assert read_manifest(tmp_path) == manifest


def test_a_newer_schema_version_is_refused_by_name(tmp_path: Path, write_run: WriteRun) -> None:
    """Even where the rest of the manifest has changed beyond recognition."""
    folder = write_run(tmp_path / "run")
    edit_manifest(folder, schema_version=SCHEMA_VERSION + 1, experiment={"now": "an object"})
    with pytest.raises(InputError, match=f"schema_version {SCHEMA_VERSION + 1}, this perstep reads up to"):
        read_manifest(folder)


def test_unknown_fields_are_ignored(tmp_path: Path, write_run: WriteRun, sample_kind: Any) -> None:
    """In manifests and in samples."""
    folder = write_run(tmp_path / "run", rounds=1)
    edit_manifest(folder, colour="green")
    assert read_manifest(folder).experiment == "ledger"
    (folder / SAMPLES).write_text('{"round": 0, "step_ns": [1], "colour": "green"}\n')
    assert read_samples(folder, sample_kind)[0] == [sample_kind(0, [1])]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"plan": {}}', b"\xff\xfe", b'{"experiment": "\xff"}']
)
def test_what_is_no_manifest_is_told_in_one_line(content: bytes, tmp_path: Path) -> None:
    """By its path."""
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json is not a manifest") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_manifest_is_no_run(tmp_path: Path) -> None:
    """And neither is one that is not there."""
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"is not a run: cannot read manifest\.json"):
            read_manifest(folder)


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_reader_of_manifests(content: bytes) -> None:
    """They are a manifest, or an InputError."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(content)
        with pytest.raises(InputError):
            read_manifest(Path(folder))


# Samples


def test_samples_are_streamed_in_order(tmp_path: Path, write_run: WriteRun, sample_kind: Any) -> None:
    """One at a time."""
    stream = iter_samples(write_run(tmp_path / "run"), sample_kind)
    assert next(stream) == sample_kind(0, [0, 0])
    assert list(stream) == [sample_kind(1, [1, 10]), sample_kind(2, [2, 20])]


def test_a_last_line_that_was_cut_off_is_left_out_and_said(
    tmp_path: Path, write_run: WriteRun, sample_kind: Any
) -> None:
    """Wherever it was cut, even where what is left is valid JSON; the file is not touched."""
    folder = write_run(tmp_path / "run")
    whole = (folder / SAMPLES).read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last + 1, len(whole)):
        (folder / SAMPLES).write_bytes(whole[:cut])
        samples, notes = read_samples(folder, sample_kind)
        assert [sample.round for sample in samples] == [0, 1]
        assert notes == [f"line 3 of {SAMPLES} was cut off while it was written and is left out"]
        assert list(iter_samples(folder, sample_kind))[-1] == Cut(3)
    assert (folder / SAMPLES).read_bytes() == whole[:-1]
    (folder / SAMPLES).write_bytes(whole[:last])
    assert read_samples(folder, sample_kind)[1] == []


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b"",
        b"[]",
        b'{"round": 1}',
        b'{"round": 1, "step_ns": ["a"]}',
        b"\x00" * 20,
        b'{"round": 1, "step_ns": [1]}, {}',
    ],
)
def test_a_damaged_line_in_the_middle_is_refused_by_its_number(
    damage: bytes, tmp_path: Path, write_run: WriteRun, sample_kind: Any
) -> None:
    """Leaving it out would change the result without a word."""
    folder = write_run(tmp_path / "run")
    lines = (folder / SAMPLES).read_bytes().split(b"\n")
    (folder / SAMPLES).write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
    with pytest.raises(InputError, match=r"samples\.jsonl line 2 is damaged .*restore the file") as caught:
        read_samples(folder, sample_kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["[1.5]", '["1"]', "[9223372036854775808]", "7", "[[1]]", "null"])
def test_a_column_holds_whole_numbers_of_64_bits(column: str, tmp_path: Path, write_run: WriteRun) -> None:
    """Anything else is damage."""
    import msgspec

    from perstep.runs import Column

    class Columns(msgspec.Struct):
        step_ns: Column

    folder = write_run(tmp_path / "run")
    (folder / SAMPLES).write_text(f'{{"step_ns": {column}}}\n')
    with pytest.raises(InputError, match="line 1 is damaged"):
        read_samples(folder, Columns)


def test_a_run_without_samples_says_so(tmp_path: Path, write_run: WriteRun, sample_kind: Any) -> None:
    """A missing file is told, an empty one is no round."""
    folder = write_run(tmp_path / "run", rounds=0)
    assert read_samples(folder, sample_kind) == ([], [])
    (folder / SAMPLES).unlink()
    with pytest.raises(InputError, match="the run has no samples"):
        read_samples(folder, sample_kind)


# Finding runs


def test_a_run_is_found_by_path_name_and_number(tmp_path: Path, write_run: WriteRun) -> None:
    """The number with or without its zeros; a path wins."""
    folder = write_run(tmp_path / "runs" / "0007-ledger")
    write_run(tmp_path / "runs" / "0070-mask")
    for name in (folder, str(folder), "0007-ledger", "7", "0007"):
        assert open_run(name, tmp_path / "runs").folder == folder
    for name in ("8", "70-mask", "ledger", "", "0"):
        with pytest.raises(InputError, match=r"no run|is not a run"):
            open_run(name, tmp_path / "runs")


def test_a_number_of_two_runs_is_refused(tmp_path: Path, write_run: WriteRun) -> None:
    """Both are named."""
    write_run(tmp_path / "0007-ledger")
    write_run(tmp_path / "0007-mask")
    with pytest.raises(InputError, match="7 names 2 runs: 0007-ledger, 0007-mask; give the whole name"):
        open_run("7", tmp_path)
    assert open_run("0007-mask", tmp_path).folder.name == "0007-mask"


def test_runs_are_listed_oldest_first(tmp_path: Path, write_run: WriteRun) -> None:
    """By number, not by letters; folders that are no runs are passed over."""
    for name in ("10000-ledger", "0002-mask", "9999-ledger", "by hand"):
        write_run(tmp_path / name)
    (tmp_path / "0003-empty").mkdir()
    (tmp_path / "0004-file").write_text("")
    (tmp_path / "0005-broken").mkdir()
    (tmp_path / "0005-broken" / MANIFEST).write_text("{")
    listed = [run.folder.name for run in list_runs(tmp_path)]
    assert listed == ["0002-mask", "9999-ledger", "10000-ledger", "by hand"]
    assert list_runs(tmp_path / "missing") == []
